"""How fast and in which direction the pixels of a region move: mean optical-flow magnitude per direction; no weights.

After Reiss and Hoshen's velocity attribute (arXiv:2212.00789): flow, its magnitude |u| + |v| averaged per orientation
bin. Their flow network is replaced by least squares in windows (Lucas and Kanade, IJCAI 1981) over a pyramid, which needs
no weights and runs on whatever device the crops are on. [ours]
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipelines.encoders._base import Encoder, EncoderConfig, Precision, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

NAME = "velocity"
SUMMARY = "optical-flow speed per direction of a region or a frame; no weights"

LEVELS = 3  # of the pyramid, each half the size of the one before
ROUNDS = 3  # Gauss-Newton steps a level
WINDOW = 7  # pixels: the side of the least-squares window
DAMPING = 1e-3  # keeps the flow near zero where the picture has no gradient, in squared grey levels of [0, 1]
LUMA = (0.299, 0.587, 0.114)


class Config(EncoderConfig):
    """Options of velocity."""

    bins: int = Field(8, ge=1, le=36, description="orientation bins; the reference takes 1 on Ped2 and 8 elsewhere")
    size: int = Field(64, ge=16, description="side in pixels that a region is resized to")
    quantile: float = Field(
        1.0, gt=0, le=1, description="share of the region's fastest pixels that are averaged; 1: all of them"
    )


class Velocity(Encoder):
    """Mean |u| + |v| of each orientation bin over all pixels: in pixels a frame of its input, or of the frame for regions."""

    lengths: ClassVar[bool] = True
    revision = 1

    def __init__(self, name: str, config: Config) -> None:
        self.name, self.config = name, config
        self.dim = config.bins
        self.preprocess = Preprocess(resize=(config.size, config.size), crop_px=None)

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """All frames: flow is taken between neighbours and averaged."""
        return tuple(range(clip_len))

    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Nothing to read; the arithmetic is float32 whatever the precision."""

    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, h, w, 3) -> float32 (B, K, bins); zeros where P is 1."""
        import torch

        b, k, p, h, w, _ = crops.shape
        if p == 1:
            return torch.zeros((b, k, self.dim), device=crops.device)
        with torch.inference_mode():
            grey = crops.float() @ (torch.tensor(LUMA, device=crops.device) / 255.0)  # (B, K, P, h, w)
            first, second = grey[:, :, :-1].reshape(-1, h, w), grey[:, :, 1:].reshape(-1, h, w)
            flow = optical_flow(first, second).reshape(b * k, p - 1, 2, h, w).mean(dim=1)
            return self._binned(flow).reshape(b, k, self.dim)

    def _binned(self, flow: Tensor) -> Tensor:
        """flow (N, 2, h, w) -> (N, bins): the magnitude |u| + |v| summed per bin, over the number of pixels."""
        import torch

        u, v = flow[:, 0].flatten(1), flow[:, 1].flatten(1)
        magnitude = u.abs() + v.abs()
        if self.config.quantile < 1:
            count = max(1, round(self.config.quantile * magnitude.shape[1]))
            top = magnitude.topk(count, dim=1).indices
            u, v, magnitude = (z.gather(1, top) for z in (u, v, magnitude))
        turn = torch.atan2(v, u) / (2 * math.pi) % 1.0  # [0, 1)
        index = (turn * self.dim).long().clamp(max=self.dim - 1)
        sums = torch.zeros((len(flow), self.dim), device=flow.device)
        return sums.scatter_add_(1, index, magnitude) / magnitude.shape[1]


def optical_flow(first: Tensor, second: Tensor) -> Tensor:
    """first, second (N, h, w) in [0, 1] -> flow (N, 2, h, w) in pixels: first(x) = second(x + flow(x))."""
    import torch
    import torch.nn.functional as F

    pyramid = [(first[:, None], second[:, None])]
    for _ in range(LEVELS - 1):
        pyramid.append((F.avg_pool2d(pyramid[-1][0], 2), F.avg_pool2d(pyramid[-1][1], 2)))
    flow = torch.zeros((len(first), 2, *pyramid[-1][0].shape[2:]), device=first.device)
    for a, b in reversed(pyramid):
        if flow.shape[2:] != a.shape[2:]:
            flow = 2 * F.interpolate(flow, size=a.shape[2:], mode="bilinear", align_corners=False)
        for _ in range(ROUNDS):
            flow = flow + _step(a, _warp(b, flow))
    return flow


def _step(a: Tensor, b: Tensor) -> Tensor:
    """The least-squares displacement between two pictures (N, 1, h, w) in windows: (N, 2, h, w), at most one pixel."""
    import torch
    import torch.nn.functional as F

    mean = F.pad((a + b) / 2, (1, 1, 1, 1), mode="replicate")
    gx, gy = (mean[..., 1:-1, 2:] - mean[..., 1:-1, :-2]) / 2, (mean[..., 2:, 1:-1] - mean[..., :-2, 1:-1]) / 2
    gt = b - a
    products = torch.cat([gx * gx, gy * gy, gx * gy, gx * gt, gy * gt], dim=1)
    windowed = _box_mean(products)
    xx, yy, xy, xt, yt = torch.split(windowed, 1, dim=1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    u, v = (xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant
    return torch.cat([u, v], dim=1).clamp(-1.0, 1.0)


def _box_mean(x: Tensor) -> Tensor:
    """(N, C, h, w) -> the mean over WINDOW x WINDOW pixels around each, zeros beyond the edge.

    Shifted sums, one axis at a time: about four times as fast on a CPU as torch's pooling.
    """
    import torch
    import torch.nn.functional as F

    padded = F.pad(x, (WINDOW // 2,) * 4)
    rows, total = torch.zeros_like(padded[..., : x.shape[3]]), torch.zeros_like(x)
    for shift in range(WINDOW):
        rows += padded[..., shift : shift + x.shape[3]]
    for shift in range(WINDOW):
        total += rows[..., shift : shift + x.shape[2], :]
    return total / WINDOW**2


def _warp(picture: Tensor, flow: Tensor) -> Tensor:
    """picture (N, 1, h, w) read at x + flow (N, 2, h, w)."""
    import torch
    import torch.nn.functional as F

    h, w = picture.shape[2:]
    y, x = torch.meshgrid(torch.arange(h, device=flow.device), torch.arange(w, device=flow.device), indexing="ij")
    grid = torch.stack([(x + flow[:, 0] + 0.5) * (2 / w) - 1, (y + flow[:, 1] + 0.5) * (2 / h) - 1], dim=-1)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)


def build(variant: str, config: Config) -> Velocity:
    """The encoder `velocity`."""
    return Velocity(NAME, config)
