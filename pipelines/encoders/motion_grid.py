"""How much each cell of a fixed grid changes: mean absolute grey difference of neighbouring frames; no weights.

With `knn` it is the one-class reference's `motion-grid` floor (12 x 20 cells): it knows one camera's picture and
nothing of objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.encoders._base import Encoder, EncoderConfig, Precision, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

NAME = "motion-grid"
SUMMARY = "mean absolute frame difference in the cells of a grid, in grey levels; no weights"
LUMA = (0.299, 0.587, 0.114)


class Config(EncoderConfig):
    """Options of motion-grid."""

    rows: int = Field(12, ge=1)
    columns: int = Field(20, ge=1)


class MotionGrid(Encoder):
    """(rows x columns) mean differences, row by row from the top left, averaged over the clip's neighbouring frames."""

    revision = 1

    def __init__(self, name: str, config: Config) -> None:
        self.name, self.config = name, config
        self.dim = config.rows * config.columns
        self.preprocess = Preprocess(resize=None, crop_px=None)

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """All frames."""
        return tuple(range(clip_len))

    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Nothing to read; the arithmetic is float32 whatever the precision."""

    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, h, w, 3) -> float32 (B, K, rows * columns) in grey levels; zeros where P is 1."""
        import torch
        import torch.nn.functional as F

        b, k, p, h, w, _ = crops.shape
        if p == 1:
            return torch.zeros((b, k, self.dim), device=crops.device)
        with torch.inference_mode():
            grey = crops.float() @ torch.tensor(LUMA, device=crops.device)  # (B, K, P, h, w)
            change = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean(dim=2).reshape(b * k, 1, h, w)
            cells = F.adaptive_avg_pool2d(change, (self.config.rows, self.config.columns))
            return cells.reshape(b, k, self.dim)


def build(variant: str, config: Config) -> MotionGrid:
    """The encoder `motion-grid`."""
    return MotionGrid(NAME, config)
