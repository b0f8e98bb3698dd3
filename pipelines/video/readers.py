"""The one interface of the frame readers, and resampling in time over any of them.

Frames come in presentation order at native size, rotation applied. Converting a frame to RGB is left to
`Frame.write`, so that frames nobody wants cost no conversion and wanted ones are copied once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.video.probe import Probe
from pipelines.video.sources import DecodeError, Tick, quiet

Array = NDArray[np.uint8]


class Frame(Protocol):
    """One decoded frame; stays valid until its reader is closed."""

    @property
    def time_s(self) -> float | None:
        """Presentation time in seconds, or None where unknown."""

    def write(self, out: Array) -> None:
        """Convert to RGB into `out`, uint8 (H, W, 3)."""


class Reader(ABC):
    """The frames of one source, once and in order.

    `decoded` counts what `read` returned; `height`, `width` are the size of every frame; `notes` say what a user
    should know of the result. Closing is idempotent.
    """

    name: str
    version: str

    def __init__(self, path: Path, facts: Probe, *, tick: Tick = quiet) -> None:
        self.path, self.facts, self.tick = path, facts, tick
        self.height, self.width = facts.height, facts.width
        self.decoded = 0
        self.notes: list[str] = list(facts.notes)

    def read(self) -> Frame | None:
        """The next frame, or None at the end.

        Raises:
            DecodeError: this decoder cannot go on.
        """
        frame = self._next()
        self.decoded += frame is not None
        self.tick()
        return frame

    @abstractmethod
    def _next(self) -> Frame | None: ...

    @abstractmethod
    def close(self) -> None:
        """Free the decoder."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Resampled:
    """Frames of a reader at another rate: output frame j is the source frame nearest to time j / fps.

    Time counts from the first frame; a tie takes the earlier frame; the last frame is shown for one source frame
    duration. `count` is what came out so far.

    Raises:
        DecodeError: the source has no times.
    """

    def __init__(self, reader: Reader, fps: float) -> None:
        self._reader, self._fps = reader, fps
        self.count = 0

    def __iter__(self) -> Iterator[Frame]:
        before: Frame | None = None
        origin = time = step = 0.0
        for frame in self._reader:
            now = self._time(frame)
            if before is None:
                origin, now = now, 0.0
            else:
                now -= origin
                step = max(now - time, 0.0)
                yield from self._repeat(before, until=(time + now) / 2, inclusive=True)
            before, time = frame, now
        if before is not None:
            rate = self._reader.facts.fps
            end = time + (1 / rate if rate else step)
            yield from self._repeat(before, until=end, inclusive=False)

    def _repeat(self, frame: Frame, *, until: float, inclusive: bool) -> Iterator[Frame]:
        slack = 1e-6 if inclusive else -1e-6  # times are ratios of integers: a tie must not hang on rounding
        while self.count == 0 or self.count / self._fps < until + slack:
            self.count += 1
            yield frame

    def _time(self, frame: Frame) -> float:
        time = frame.time_s
        if time is None:
            raise DecodeError(f"{self._reader.path.name} has no frame times: it cannot be resampled to {self._fps} fps")
        return time
