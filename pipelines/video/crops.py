"""Named crops: resize once, slice, mirror; on whatever device the frames are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_FIVE = ("center", "tl", "tr", "bl", "br")
CROPS: dict[str, tuple[str, ...]] = {
    "center": ("center",),
    "five": _FIVE,
    "ten": (*_FIVE, *(f"{name}_m" for name in _FIVE)),
}


def cut(
    frames: Tensor,
    *,
    names: Sequence[str],
    resize: int | tuple[int, int] | None,
    crop_px: tuple[int, int] | None,
    interpolation: str = "bilinear",
) -> Tensor:
    """uint8 (B, P, H, W, 3) -> uint8 (B, K, P, h, w, 3), K = len(names); the resize happens once, in uint8.

    `resize` is the short side in pixels or an exact (height, width), None keeps native size; `crop_px` (height, width)
    of each crop, None the whole frame (then only "center" and "center_m" exist).

    Raises:
        UsageError: an unknown crop name, or a resized frame smaller than the crop.
    """
    raise RuntimeError("not available yet")
