"""Processor time of `vad --help` and every `ls` against `import typer`, taken in turn: medians and ratios.

    python benchmarks/startup.py [ROUNDS]

Run it in a folder without a manifest or a cache, once to write the byte code and once to measure.
"""

from __future__ import annotations

import os
import statistics
import sys

VERBS = ("--help", "runs ls", "methods ls", "cache ls", "encoders ls", "data ls", "weights ls", "metrics ls")


def processor_s(command: list[str]) -> float:
    """User and system seconds of a process whose output nobody reads."""
    null = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    pid = os.posix_spawn(command[0], command, dict(os.environ), file_actions=null)
    usage = os.wait4(pid, 0)[2]
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    commands = {"import typer": [sys.executable, "-c", "import typer"]}
    commands |= {verb: [sys.executable, "-m", "vadcli", *verb.split()] for verb in VERBS}
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(processor_s(command))
    base = found.pop("import typer")
    print(f"import typer   {statistics.median(base):.3f} s")
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(f"{name:14} {statistics.median(values):.3f} s  {ratio:.2f}")


if __name__ == "__main__":
    main()
