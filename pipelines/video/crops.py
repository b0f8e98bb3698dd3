"""Named crops: resize once in uint8, slice, mirror; on whatever device the frames are.

Names: `center`, the corners `tl`, `tr`, `bl`, `br`, and each mirrored left to right, `<name>_m`: the mirror image of
that very crop (not the crop of a mirrored frame; the two differ in which corner they call left).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pipelines.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

_FIVE = ("center", "tl", "tr", "bl", "br")
CROPS: dict[str, tuple[str, ...]] = {
    "center": ("center",),
    "five": _FIVE,
    "ten": (*_FIVE, *(f"{name}_m" for name in _FIVE)),
}

Interpolation = Literal["bilinear", "bicubic"]


def cut(
    frames: Tensor,
    *,
    names: Sequence[str],
    resize: int | tuple[int, int] | None,
    crop_px: tuple[int, int] | None,
    interpolation: Interpolation | str = "bilinear",
) -> Tensor:
    """uint8 (B, P, H, W, 3) -> uint8 (B, K, P, h, w, 3), K = len(names), contiguous; the resize happens once.

    `resize` is the short side in pixels (the long side keeps the ratio, rounded down) or an exact (height, width);
    None keeps native size. `crop_px` is the (height, width) of each crop; None takes the whole frame, and then only
    "center" and "center_m" exist. An odd margin leaves the larger part right of and below the centre crop.

    Raises:
        UsageError: an unknown crop name, an unknown interpolation, or a resized frame smaller than the crop.
    """
    import torch

    _check_names(names, crop_px)
    resized = resize_frames(frames, resize, interpolation=interpolation)
    height, width = resized.shape[2:4]
    crop = crop_px or (height, width)
    if crop[0] > height or crop[1] > width:
        raise UsageError(
            f"a crop of {crop[0]}x{crop[1]} (height x width) does not fit a frame of {height}x{width}",
            hint="resize to a short side of at least the crop, or take smaller crops",
        )
    return torch.stack([_one_crop(resized, name, crop) for name in names], dim=1)


def resize_frames(
    frames: Tensor, resize: int | tuple[int, int] | None, *, interpolation: Interpolation | str = "bilinear"
) -> Tensor:
    """uint8 (B, P, H, W, 3) -> uint8 (B, P, h, w, 3) by torch's antialiased interpolation; the input if nothing is to do.

    On the CPU the arithmetic is torch's uint8 kernel, elsewhere float32 rounded to the nearest: results may differ by
    one grey level between the two.
    """
    if interpolation not in ("bilinear", "bicubic"):
        raise UsageError(f"unknown interpolation {interpolation!r}", hint="bilinear or bicubic")
    size = resized_size(frames.shape[2], frames.shape[3], resize)
    if size == tuple(frames.shape[2:4]):
        return frames
    flat = frames.flatten(0, 1).permute(0, 3, 1, 2)  # channels last in memory: torch's fast path
    resized = _interpolate(flat, size, interpolation).permute(0, 2, 3, 1)
    return resized.reshape(*frames.shape[:2], *size, 3)


def resized_size(height: int, width: int, resize: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) after `resize`; the long side is rounded down, as torchvision and CLIP's processors do."""
    if resize is None:
        return height, width
    if not isinstance(resize, int):
        return resize[0], resize[1]
    if height <= width:
        return resize, max(1, resize * width // height)
    return max(1, resize * height // width), resize


def _interpolate(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    from torch.nn.functional import interpolate

    if images.device.type == "cpu":
        return interpolate(images, size=size, mode=mode, antialias=True, align_corners=False)
    resized = interpolate(images.float(), size=size, mode=mode, antialias=True, align_corners=False)
    return resized.round_().clamp_(0, 255).to(images.dtype)


def _check_names(names: Sequence[str], crop_px: tuple[int, int] | None) -> None:
    known = CROPS["ten"] if crop_px else ("center", "center_m")
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise UsageError(
            f"unknown crop {', '.join(map(repr, wrong)) or '(none)'}", hint=f"known here: {', '.join(known)}"
        )


def _one_crop(frames: Tensor, name: str, crop: tuple[int, int]) -> Tensor:
    place, _, mirrored = name.partition("_")
    top, left = _origin(place, tuple(frames.shape[2:4]), crop)
    part = frames[:, :, top : top + crop[0], left : left + crop[1]]
    return part.flip(3) if mirrored else part


def _origin(place: str, size: tuple[int, ...], crop: tuple[int, int]) -> tuple[int, int]:
    down, right = size[0] - crop[0], size[1] - crop[1]
    if place == "center":
        return down // 2, right // 2
    return (down if place[0] == "b" else 0), (right if place[1] == "r" else 0)
