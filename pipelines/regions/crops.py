"""Crops of regions, cut when they are needed and never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.regions.boxes import Boxes

if TYPE_CHECKING:
    from torch import Tensor


def cut_regions(frames: NDArray[np.uint8], boxes: Boxes, *, size: tuple[int, int]) -> Tensor:
    """The same boxes' pictures in each frame: uint8 (M, P, h, w, 3).

    What sticks out of the frame repeats its edge. Resizing is torch's antialiased bilinear interpolation.

    Args:
        frames: uint8 (P, H, W, 3).
        boxes: (M, P, 4), one box a frame; rounded outwards to whole pixels, at least one.
        size: (h, w).
    """
    import torch

    crops = torch.empty((len(boxes), len(frames), *size, 3), dtype=torch.uint8)
    for at, frame in enumerate(frames):
        picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)  # (3, H, W)
        for row in range(len(boxes)):
            crops[row, at] = _one(picture, boxes[row, at], size).permute(1, 2, 0)
    return crops


def _one(picture: Tensor, box: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """picture (3, H, W) -> (3, h, w)."""
    import torch.nn.functional as F

    height, width = picture.shape[1:]
    x1, y1 = int(np.floor(box[0])), int(np.floor(box[1]))
    x2, y2 = max(x1 + 1, int(np.ceil(box[2]))), max(y1 + 1, int(np.ceil(box[3])))
    inside = picture[
        :, max(0, min(y1, height - 1)) : max(1, min(y2, height)), max(0, min(x1, width - 1)) : max(1, min(x2, width))
    ]
    out = (max(0, -x1), max(0, x2 - width), max(0, -y1), max(0, y2 - height))
    if any(out):
        inside = F.pad(inside[None].float(), out, mode="replicate")[0].to(inside.dtype)
    if tuple(inside.shape[1:]) == size:
        return inside
    return F.interpolate(inside[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
