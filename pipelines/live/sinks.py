"""Where events go on this machine: a file of JSON lines, and a program of the user's."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import MissingArtifactError

PROGRAM_S = 60.0  # a program that takes longer is ended
MOST_WAITING = 200


class EventLog:
    """Appends one JSON object a line; a line is on the disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: Mapping[str, Any]) -> None:
        """One line."""
        self._file.write(json.dumps(event, ensure_ascii=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Program:
    """Runs a program for each event, one after the other, with the event as JSON on its standard input.

    It is started directly, never through a shell. One that fails or takes longer than a minute is said and passed
    over; when 200 events wait for it, new ones are said and left out.

    Args:
        argv: the program and its arguments.
        say: told what a user should know.

    Raises:
        MissingArtifactError: there is no such program.
    """

    def __init__(self, argv: list[str], *, say: Callable[[str], None]) -> None:
        if not argv or shutil.which(argv[0]) is None:
            raise MissingArtifactError(f"--on-event: there is no program {argv[0] if argv else ''!r}")
        self._argv, self._say = argv, say
        self._queue: queue.Queue[str | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="on-event", daemon=True)
        self._thread.start()

    def put(self, event: Mapping[str, Any]) -> None:
        """Run it for this event, soon."""
        try:
            self._queue.put_nowait(json.dumps(event, ensure_ascii=False))
        except queue.Full:
            self._say(f"{self._argv[0]} is too slow: it is not run for event {event.get('id')}")

    def close(self, *, wait_s: float = 5.0) -> None:
        """Run it for what waits, at most `wait_s` seconds longer."""
        try:
            self._queue.put(None, timeout=wait_s)
        except queue.Full:
            return
        self._thread.join(timeout=wait_s)

    def _work(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                done = subprocess.run(
                    self._argv, input=text, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                    timeout=PROGRAM_S,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                self._say(f"{self._argv[0]} took longer than {PROGRAM_S:g} s for an event and was ended")
            except OSError as error:
                self._say(f"{self._argv[0]} cannot be started: {error}")
            else:
                if done.returncode:
                    words = (done.stderr.strip().splitlines() or [""])[-1][:200]
                    self._say(f"{self._argv[0]} left with {done.returncode} for an event{': ' if words else ''}{words}")
