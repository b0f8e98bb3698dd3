"""Runs `vad` as its users do: a process of its own, its streams, its exit code."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

SMALL = 36  # videos of the demo that tests share
COMMAND = (sys.executable, "-m", "vadcli")


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment without anything that would change where vad looks; None removes a variable."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VAD_") and key != "NO_COLOR"}
    kept |= {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "100"}
    kept |= {key: value for key, value in changes.items() if value is not None}
    return {key: value for key, value in kept.items() if changes.get(key, "") is not None}


def vad(
    *arguments: object, cwd: Path | None = None, timeout: float = 240, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run `vad ARGUMENTS` off a tty and wait."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def start(*arguments: object, cwd: Path | None = None, **env: str | None) -> subprocess.Popen[str]:
    """Start `vad ARGUMENTS` off a tty; the caller ends it."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def on_a_tty(*arguments: object, cwd: Path | None = None, timeout: float = 120, **env: str | None) -> tuple[int, str]:
    """Run `vad ARGUMENTS` with both streams on one pseudo terminal: (exit code, everything that it showed)."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**env),
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    shown, ends = b"", time.monotonic() + timeout
    while time.monotonic() < ends:
        ready, _, _ = select.select([leader], [], [], 0.2)
        if ready:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        elif process.poll() is not None:
            break
    os.close(leader)
    return process.wait(timeout=30), shown.decode(errors="replace")
