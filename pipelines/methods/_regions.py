"""From objects to frames: what methods over region features share (one-class reference, 2.7 and section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.methods._base import scores_of
from pipelines.records import Bag, Scores

MAP_STRIDE = 4  # pixels of the frame that a cell of a score map stands for


def has_regions(bag: Bag) -> bool:
    """Whether the bag's rows are regions of frames, not clips."""
    return "regions" in bag.extras


def frame_max(values: Tensor, bag: Bag, empty: float) -> Tensor:
    """The highest object score of each frame: values (M,) -> (N,); a frame without objects gets `empty`."""
    regions = bag.extras["regions"]
    lines = torch.full((int(regions["n_frames"]),), float("-inf"), device=values.device)
    frame = torch.as_tensor(regions["frame"], device=values.device)
    lines = lines.scatter_reduce(0, frame, values.float(), "amax")
    return torch.where(torch.isinf(lines), torch.full_like(lines, empty), lines)


def frame_scores(values: Tensor, bag: Bag, empty: float, *, lines: Tensor | None = None) -> Scores:
    """Scores of a video from its objects' (M,), or of its clips from values (K, T) where the rows are clips.

    Objects give one score a frame (`lines` (N,) where the method combines them itself, else their maximum) and a map
    that shows each box at its score; everything else in the map is at the lowest score of the video.
    """
    if not has_regions(bag):
        return scores_of(bag, values)
    line = frame_max(values, bag, empty) if lines is None else lines
    regions = bag.extras["regions"]
    painted = paint(values.float().cpu().numpy(), regions, low=min(empty, float(line.min())))
    spans = regions["spans"]
    return Scores(
        video_id=bag.video_ids[0],
        clips=line[None].float().cpu().numpy(),
        spans=spans,
        n_frames=bag.extras["n_frames"],
        stride=bag.extras["stride"],
        crops=bag.crops,
        maps={"score": painted},
    )


def paint(values: NDArray[np.float32], regions: dict[str, Any], *, low: float) -> NDArray[np.float32]:
    """A map of every frame (N, h, w), a quarter of its size: the highest score of the boxes over each cell, else `low`."""
    height, width = (-(-side // MAP_STRIDE) for side in regions["size"])
    maps = np.full((int(regions["n_frames"]), height, width), low, dtype=np.float32)
    cells = regions["boxes"] / MAP_STRIDE
    low_cells = np.floor(cells[:, :2]).astype(int).clip(0, [width - 1, height - 1])
    high_cells = np.ceil(cells[:, 2:]).astype(int).clip(1, [width, height])
    for row, frame in enumerate(regions["frame"]):
        (x1, y1), (x2, y2) = low_cells[row], high_cells[row]
        view = maps[frame, y1:y2, x1:x2]
        np.maximum(view, values[row], out=view)
    return maps
