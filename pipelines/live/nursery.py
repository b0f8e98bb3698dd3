"""Where camera processes come from: one small process that has imported the decoder and forks a child a connection.

Forty cameras then share the memory of the libraries and begin at once. It runs no decoder and no thread itself, so
forking is safe, and it ends with its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import Any

from pipelines.live.child import Settings, main

BOOTSTRAP = (
    "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "settings = json.loads(sys.argv[1]); sys.path[:] = settings['path']; "
    "from pipelines.live.nursery import serve; serve(settings['socket'])"
)
MOST_BYTES = 1 << 16


class Nursery:
    """The parent's end; a context manager."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = mine
        settings = {"path": sys.path, "socket": theirs.fileno()}
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            process_group=0,  # Ctrl-C goes to the parent alone
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()

    def start(self, settings: Settings) -> tuple[int, Connection]:
        """A new child for one connection: its process id and the pipe to it."""
        mine, theirs = socket.socketpair()
        try:
            self._ask({"do": "start", "settings": settings.to_json()}, [theirs.fileno()])
        finally:
            theirs.close()
        return int(self._socket.recv(MOST_BYTES)), Connection(mine.detach())

    def kill(self, pid: int) -> None:
        """End a child at once, wherever it hangs."""
        with contextlib.suppress(OSError):
            self._ask({"do": "kill", "pid": pid}, [])

    def close(self) -> None:
        """End it and all its children."""
        self._socket.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, message: dict[str, Any], descriptors: list[int]) -> None:
        socket.send_fds(self._socket, [json.dumps(message).encode()], descriptors)


def serve(descriptor: int) -> None:
    """The loop of the nursery process: fork on demand until the parent is gone, then end every child."""
    import av
    import PIL.Image

    assert av and PIL.Image  # imported for the children
    av.logging.set_level(av.logging.PANIC)
    # a child that was killed stays a zombie until it is waited for here, so its id is nobody else's
    parent = socket.socket(fileno=descriptor)
    children: set[int] = set()
    while True:
        data, descriptors, _, _ = socket.recv_fds(parent, MOST_BYTES, 1)
        children -= _ended(children)
        if not data:
            break
        message = json.loads(data)
        if message["do"] == "kill" and message["pid"] in children:
            os.kill(message["pid"], signal.SIGKILL)
        elif message["do"] == "start":
            pid = os.fork()
            if pid == 0:
                parent.close()
                _child(descriptors[0], message["settings"])
            os.close(descriptors[0])
            children.add(pid)
            parent.send(str(pid).encode())
    for pid in children - _ended(children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _child(descriptor: int, settings: str) -> None:
    """Never returns: whatever happens, the copy of the nursery ends here."""
    code = 1
    try:
        main(Connection(descriptor), Settings.from_json(settings))
        code = 0
    finally:
        os._exit(code)


def _ended(children: set[int]) -> set[int]:
    return {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0] == pid}
