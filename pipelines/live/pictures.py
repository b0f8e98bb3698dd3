"""Is there a picture at all: how dark it is and how much it changed, from the brightness of a few hundred pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = 24  # rows and columns that are looked at
BLACK = 28.0  # grey levels: brighter than what the brightest pixels of a covered or dead camera show [ours]
FROZEN = 0.75  # grey levels: the noise of a sensor moves some pixel more than that from frame to frame [ours]


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame's brightness (98th percentile, 0 to 255) and its largest change since the frame before."""

    bright: float
    change: float

    @property
    def is_black(self) -> bool:
        """Whether nothing is to be seen."""
        return self.bright < BLACK

    @property
    def is_frozen(self) -> bool:
        """Whether it is the frame before again."""
        return self.change < FROZEN


class PictureCheck:
    """Looks at the frames of one connection in order."""

    def __init__(self) -> None:
        self._before: NDArray[np.float32] | None = None

    def look(self, frame: Any) -> Picture:
        """`frame` is PyAV's; its first plane is brightness, alone or (yuyv422) in every second byte."""
        plane = frame.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        rows = rows[: frame.height, :: 2 if frame.format.name.startswith("yuyv") else 1][:, : frame.width]
        now = rows[:: max(1, frame.height // GRID), :: max(1, frame.width // GRID)].astype(np.float32)
        before, self._before = self._before, now
        same = before is not None and before.shape == now.shape
        change = float(np.abs(now - before).max()) if same and before is not None else 255.0
        return Picture(float(np.quantile(now, 0.98)), change)
