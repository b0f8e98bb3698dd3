"""A file that somebody may still be writing, as a file object that waits at its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

POLL_S = 0.1


class GrowingFile:
    """Reads as `tail -f` does: at the end it waits for more, and is over after `idle_s` seconds without any.

    A file that was last written longer ago than that is taken as whole. `tick` is called while it waits.
    """

    def __init__(self, path: Path, *, idle_s: float, tick: Callable[[], None]) -> None:
        self._file = path.open("rb")
        self.name = str(path)
        self._idle_s, self._tick = idle_s, tick

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; none at the end."""
        while not (data := self._file.read(size)):
            if time.time() - os.fstat(self._file.fileno()).st_mtime > self._idle_s:
                return b""
            self._tick()
            time.sleep(POLL_S)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self._file.tell()

    def close(self) -> None:
        """Close it."""
        self._file.close()
