"""Proposers without weights: what changes between frames, and a fixed grid of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.recipe import Config
from pipelines.regions._base import UNKNOWN
from pipelines.regions.boxes import Boxes

MARGIN = 2  # pixels around a detected box that are erased before motion is looked for [code] AI-VAD
ASPECT = 10.0
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class MotionConfig(Config):
    """Motion boxes after Reiss and Hoshen (one-class reference, section 3); the values of Ped2."""

    blur: int = Field(3, ge=1, description="side in pixels of the mean filter before the difference")
    threshold: float = Field(18.0, gt=0, description="grey levels that a changed pixel differs by")
    min_area_px: float = Field(100.0, ge=0, description="smaller boxes are dropped")


class Motion:
    """Boxes around what changes against the frame before (the frame after, in the first frame).

    The change is closed by one pixel, its connected components become boxes; what stands in `taken` (grown by 2 px) is
    erased first. The score is the mean change inside the box, divided by 255.
    """

    name = "motion"
    classes: tuple[str, ...] = ()

    def __init__(self, config: MotionConfig) -> None:
        self.config = config

    @property
    def recipe(self) -> dict[str, object]:
        return {"proposer": self.name, "revision": 1, **self.config.model_dump(mode="json")}

    def frame(
        self, window: NDArray[np.uint8], at: int, taken: Boxes
    ) -> tuple[Boxes, NDArray[np.float32], NDArray[np.int64]]:
        """See `Proposer.frame`; a window of one frame has no motion."""
        from scipy import ndimage

        change = _change(window, at, self.config.blur)
        high = change > self.config.threshold
        for x1, y1, x2, y2 in taken:
            high[_outer(y1 - MARGIN) : max(0, int(y2) + MARGIN), _outer(x1 - MARGIN) : max(0, int(x2) + MARGIN)] = False
        labels, _ = ndimage.label(ndimage.binary_dilation(high, iterations=1), structure=np.ones((3, 3)))
        found = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
        boxes = np.array(found, dtype=np.float32).reshape(-1, 4)
        sides = boxes[:, 2:] - boxes[:, :2]
        fits = (sides.prod(axis=1) > self.config.min_area_px) & (
            sides.max(axis=1) < ASPECT * np.maximum(sides.min(axis=1), 1e-6)
        )
        boxes = boxes[fits]
        inside = [change[int(b) : int(d), int(a) : int(c)].mean() / 255.0 for a, b, c, d in boxes]
        return boxes, np.array(inside, dtype=np.float32), np.full(len(boxes), UNKNOWN, dtype=np.int64)


class GridConfig(Config):
    """Cells of the grid."""

    rows: int = Field(4, ge=1)
    columns: int = Field(6, ge=1)


class Grid:
    """The cells of a fixed grid in every frame, score 1: regions for scenes in which nothing can be detected."""

    name = "grid"
    classes: tuple[str, ...] = ()

    def __init__(self, config: GridConfig) -> None:
        self.config = config

    @property
    def recipe(self) -> dict[str, object]:
        return {"proposer": self.name, "revision": 1, **self.config.model_dump(mode="json")}

    def frame(
        self, window: NDArray[np.uint8], at: int, taken: Boxes
    ) -> tuple[Boxes, NDArray[np.float32], NDArray[np.int64]]:
        """See `Proposer.frame`; row by row from the top left."""
        height, width = window.shape[1:3]
        ys, xs = np.linspace(0, height, self.config.rows + 1), np.linspace(0, width, self.config.columns + 1)
        cells = [
            (xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(self.config.rows) for c in range(self.config.columns)
        ]
        count = len(cells)
        return np.array(cells, np.float32), np.ones(count, np.float32), np.full(count, UNKNOWN, dtype=np.int64)


def _change(window: NDArray[np.uint8], at: int, blur: int) -> NDArray[np.float32]:
    """(H, W) absolute grey difference of the blurred frame and its neighbour; zeros without one."""
    from scipy import ndimage

    other = at - 1 if at else at + 1
    if other >= len(window):
        return np.zeros(window.shape[1:3], np.float32)
    grey = [ndimage.uniform_filter(window[index].astype(np.float32) @ LUMA, size=blur) for index in (at, other)]
    return np.asarray(np.abs(grey[0] - grey[1]), dtype=np.float32)


def _outer(value: float) -> int:
    return max(0, int(value))
