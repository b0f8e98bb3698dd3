"""Pseudo-anomalies of known mask, made of normal windows alone: no footage from elsewhere, so a method stays one-class.

Sources of the ideas: CutPaste (Li et al., CVPR 2021), rotated and time-mixed patches (FastAno, WACV 2022). [ours] the sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

Area = tuple[float, float]


def paste(x: Tensor, partner: Tensor, *, area: Area = (0.02, 0.15)) -> tuple[Tensor, Tensor]:
    """One pseudo-anomaly in each window, the same place in all its frames.

    Each row draws one of: `cut_paste`, `cut_mix`, `rotate`, `time_mix`. Random numbers come from torch's global generator.

    Args:
        x: (B, L, C, h, w) normal windows; the others of the batch lend their content.
        partner: the same shape: another moment of each window's video.
        area: least and greatest share of the picture.

    Returns:
        the windows with the anomaly, and its mask (B, 1, h, w) float, 1 inside.
    """
    kinds = torch.randint(len(KINDS), (len(x),)).tolist()
    made = [
        KINDS[kind](x[row], x[row - 1], partner[row], draw_area(area)) for row, kind in enumerate(kinds)
    ]  # row - 1 is another window where B > 1
    return torch.stack([window for window, _ in made]), torch.stack([mask for _, mask in made])


def draw_area(area: Area) -> float:
    """A share of the picture, its logarithm uniform: small ones are as usual as large ones."""
    low, high = (math.log(value) for value in area)
    return math.exp(low + (high - low) * float(torch.rand(())))


def cut_paste(x: Tensor, other: Tensor, partner: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """A rectangle of another window: resized, rotated, its brightness and contrast changed. x (L, C, h, w)."""
    top, left, high, wide = _rectangle(x, share)
    angle, scale = _between(-math.pi, math.pi), _between(0.6, 1.6)
    source = _turned(other, _centre(other), angle, scale, (high, wide))
    jittered = (source - source.mean()) * _between(0.7, 1.4) + source.mean() + _between(-0.3, 0.3)
    return _put(x, jittered.clamp(-1, 1), top, left)


def cut_mix(x: Tensor, other: Tensor, partner: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Another window's content where smooth noise is high, in an irregular shape."""
    h, w = x.shape[-2:]
    noise = interpolate(torch.randn(1, 1, 6, 6, device=x.device), size=(h, w), mode="bicubic", align_corners=True)[0]
    level = noise.flatten().kthvalue(max(1, round((1 - share) * noise.numel()))).values
    mask = (noise > level).to(x.dtype)  # (1, h, w)
    return x * (1 - mask) + other * mask, mask


def rotate(x: Tensor, other: Tensor, partner: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """A square patch turned by 90, 180 or 270 degrees in its place."""
    side = min(*x.shape[-2:], max(4, round(math.sqrt(share * x.shape[-1] * x.shape[-2]))))
    top, left = (int(torch.randint(n - side + 1, ())) for n in x.shape[-2:])
    patch = x[..., top : top + side, left : left + side]
    return _put(x, torch.rot90(patch, int(torch.randint(1, 4, ())), dims=(-2, -1)), top, left)


def time_mix(x: Tensor, other: Tensor, partner: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """A rectangle of another moment of the same video, at its own place."""
    top, left, high, wide = _rectangle(x, share)
    return _put(x, partner[..., top : top + high, left : left + wide], top, left)


KINDS: tuple[Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]], ...] = (
    cut_paste,
    cut_mix,
    rotate,
    time_mix,
)


def _rectangle(x: Tensor, share: float) -> tuple[int, int, int, int]:
    """top, left, height, width of a rectangle of this share of the picture, its sides up to 1 : 2."""
    h, w = x.shape[-2:]
    aspect = 2 ** _between(-1, 1)
    high = min(h, max(4, round(math.sqrt(share * h * w * aspect))))
    wide = min(w, max(4, round(math.sqrt(share * h * w / aspect))))
    return int(torch.randint(h - high + 1, ())), int(torch.randint(w - wide + 1, ())), high, wide


def _put(x: Tensor, patch: Tensor, top: int, left: int) -> tuple[Tensor, Tensor]:
    high, wide = patch.shape[-2:]
    pasted, mask = x.clone(), torch.zeros_like(x[0, :1])
    pasted[..., top : top + high, left : left + wide] = patch
    mask[..., top : top + high, left : left + wide] = 1.0
    return pasted, mask


def _turned(x: Tensor, centre: tuple[float, float], angle: float, scale: float, size: tuple[int, int]) -> Tensor:
    """What stands around `centre` ((x, y) in [-1, 1]), turned and scaled, as (L, C, *size); edges are mirrored."""
    h, w = x.shape[-2:]
    high, wide = size
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    rows = [[c * wide / w, -s * high / w, centre[0]], [s * wide / h, c * high / h, centre[1]]]
    theta = torch.tensor([rows], device=x.device, dtype=x.dtype).expand(len(x), -1, -1)
    grid = affine_grid(theta, [len(x), x.shape[1], high, wide], align_corners=False)
    return grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _centre(x: Tensor) -> tuple[float, float]:
    return _between(-0.8, 0.8), _between(-0.8, 0.8)


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
