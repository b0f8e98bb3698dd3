"""MemAE: the auto-encoder's code is rebuilt from a memory of normal patterns (Gong et al., ICCV 2019).

[code] donggong1/memae-anomaly-detection. Left out of that code: min-max within each test video, the 15 frames a video without
a score, picking weights by test AUC. Kept, and worth knowing (its users ask about it): with 2000 slots a softmax near uniform
lies below the shrink threshold, so that the memory learns only from slots that stand out.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.methods._base import OptimConfig, Resources, Shape
from pipelines.methods.conv_ae import REDUCED, ClipDecoder, ClipEncoder, ConvAe, clip_of
from pipelines.methods.conv_ae import Config as ConvAeConfig
from pipelines.records import Windows

NAME = "memae"
SUMMARY = "reconstruction of 16 grey frames from a memory of normal patterns"
KIND = "frames"
DEFAULT_FEATURES = ("frames",)
EPS = 1e-12


class Config(ConvAeConfig):
    """Values from its code."""

    slots: int = Field(2000, ge=1)
    shrink: float = Field(0.0025, ge=0)
    entropy_weight: float = 2e-4
    optim: OptimConfig = OptimConfig(lr=1e-4)


PRESETS: dict[str, dict[str, Any]] = {"reduced": REDUCED | {"slots": 200, "shrink": 0.01}}


class Memory(nn.Module):
    """Codes addressed by similarity: softmax over slots, hard shrinkage, L1 re-normalised, mixed."""

    def __init__(self, slots: int, width: int, shrink: float) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.empty(slots, width).uniform_(-(width**-0.5), width**-0.5))
        self.shrink = shrink

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (R, C) -> the rebuilt codes (R, C) and their weights (R, slots), each row summing to 1 (or all 0)."""
        weight = F.softmax(z @ self.slots.t(), dim=1)
        weight = hard_shrink(weight, self.shrink)
        return weight @ self.slots, weight


class MemAe(ConvAe):
    """Conv-AE with a memory between its halves."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.encoder, self.decoder = ClipEncoder(config.widths), ClipDecoder(config.widths)
        self.memory = Memory(config.slots, config.widths[3], config.shrink)

    def remembered(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rebuilt clip, and the memory's weights (R, slots) of each place of the code."""
        code = self.encoder(x)  # (B, C, 2, h/16, w/16)
        flat = code.movedim(1, -1)
        mixed, weight = self.memory(flat.reshape(-1, flat.shape[-1]))
        return self.decoder(mixed.view(flat.shape).movedim(-1, 1)), weight

    def rebuilt(self, x: Tensor) -> Tensor:
        return self.remembered(x)[0]

    def losses(self, windows: Windows) -> dict[str, Tensor]:
        """MSE over the clip, and the entropy of the memory's weights."""
        x = clip_of(windows)
        found, weight = self.remembered(x)
        entropy = -(weight * (weight + EPS).log()).sum(1).mean()
        return {"mse": (found - x).square().mean(), "entropy": self.config.entropy_weight * entropy}


def hard_shrink(weight: Tensor, threshold: float) -> Tensor:
    """max(w - t, 0) * w / (|w - t| + eps), each row divided by its sum."""
    if not threshold:
        return weight
    shrunk = F.relu(weight - threshold) * weight / ((weight - threshold).abs() + EPS)
    return F.normalize(shrunk, p=1, dim=1)


def build(config: Config, shape: Shape, resources: Resources) -> MemAe:
    """The method on frames."""
    return MemAe(config)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ped2", "features": "frames", "metric": "auc", "value": 94.1},
    {"dataset": "avenue", "features": "frames", "metric": "auc", "value": 83.3},
    {"dataset": "shanghaitech", "features": "frames", "metric": "auc", "value": 71.2},
)
