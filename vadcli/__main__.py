"""`python -m vadcli`."""

from vadcli.app import main

if __name__ == "__main__":
    main()
