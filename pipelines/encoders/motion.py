"""Absolute frame differences of a clip, pooled on a grid and as quantiles, at several lags: no weights.

Everything is computed on 80x60 grey frames in [0, 1]. Index 0 of the descriptor is the motion scalar.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.encoders._base import Encoder, EncoderConfig, Precision, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

NAME = "motion"
SUMMARY = "absolute frame differences at several lags on a grid with quantiles; no weights"

HEIGHT, WIDTH = 60, 80
# ITU-R BT.601 luma
LUMA = (0.299, 0.587, 0.114)
QUANTILES = (0.5, 0.75, 0.9, 0.97, 1.0)


class Config(EncoderConfig):
    """Options of motion."""

    lags: tuple[int, ...] = Field((1, 2, 3), description="frame distances at which differences are taken")
    grid: tuple[int, int] = Field((3, 4), description="rows and columns of the pooling grid")


class Motion(Encoder):
    """The descriptor: [scalar] + per lag [mean, deviation over pairs, quantiles over pixels, grid]."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.preprocess = Preprocess(resize=(HEIGHT, WIDTH), crop_px=None)
        self.dim = 1 + len(config.lags) * (2 + len(QUANTILES) + config.grid[0] * config.grid[1])

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """All frames."""
        return tuple(range(clip_len))

    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Nothing to read; sums are float32 whatever the precision."""

    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, 60, 80, 3) -> float32 (B, K, D)."""
        import torch

        b, k, p, h, w, _ = crops.shape
        grey = luma(crops.reshape(b * k, p, h, w, 3))  # (B*K, P, h, w)
        with torch.inference_mode():
            parts = [scalar(grey)] + [self._lag(grey, lag) for lag in self.config.lags]
            return torch.cat(parts, dim=1).reshape(b, k, self.dim)

    def _lag(self, grey: Tensor, lag: int) -> Tensor:
        import torch
        import torch.nn.functional as F

        change = differences(grey, lag)  # (N, pairs, h, w)
        level = change.mean(dim=(2, 3))
        image = change.mean(dim=1)  # (N, h, w)
        spread = level.std(dim=1, correction=0, keepdim=True)
        ordered = image.flatten(1).sort(dim=1).values
        picks = [round(q * (ordered.shape[1] - 1)) for q in QUANTILES]
        grid = F.adaptive_avg_pool2d(image[:, None], self.config.grid).flatten(1)
        return torch.cat([level.mean(dim=1, keepdim=True), spread, ordered[:, picks], grid], dim=1)


def luma(frames: Tensor) -> Tensor:
    """uint8 (..., 3) -> float32 (...) grey in [0, 1]."""
    import torch

    weights = torch.tensor(LUMA, device=frames.device) / 255.0
    return frames.float() @ weights


def differences(grey: Tensor, lag: int) -> Tensor:
    """(N, P, h, w) -> (N, max(P - lag, 1), h, w) absolute differences; zeros where the clip is too short."""
    if grey.shape[1] <= lag:
        return (grey[:, :1] - grey[:, :1]).abs()
    return (grey[:, lag:] - grey[:, :-lag]).abs()


def scalar(grey: Tensor) -> Tensor:
    """(N, P, h, w) -> (N, 1): the median over neighbouring pairs of the mean absolute difference, in [0, 1].

    The median of an even count is the mean of the two middle values.
    """
    level = differences(grey, 1).mean(dim=(2, 3)).sort(dim=1).values
    pairs = level.shape[1]
    return (level[:, (pairs - 1) // 2 : (pairs - 1) // 2 + 1] + level[:, pairs // 2 : pairs // 2 + 1]) / 2


def build(variant: str, config: Config) -> Motion:
    """The encoder `motion`."""
    return Motion(NAME, config)
