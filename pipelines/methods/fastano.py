"""FastAno: the next frame from five, some of whose patches were turned or mixed in time (Park et al., WACV 2022).

[code] codnjsqkr/FastAno_official, the released generator; its training code is not public, so the loss is the predicted
frame's MSE [ours]. Left out of that code: instance norm at batch 1 in place of the trained batch norm, min-max within each test
video, five frames a video without a score (here they take the first window's).
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.methods._base import OptimConfig, Phase, Resources, Shape
from pipelines.methods._frames import FrameMethod, FramesConfig, WindowConfig, WindowSpec
from pipelines.records import Windows

NAME = "fastano"
SUMMARY = "error of the next grey frame, predicted from five with transformed patches"
KIND = "frames"
DEFAULT_FEATURES = ("frames",)
EPS = 1e-8


class Config(FramesConfig):
    """Values from its code where it has them; epochs and rate are [ours]."""

    epochs: float = 60
    widths: tuple[int, int, int] = (64, 128, 256)
    patch: float = Field(
        0.25, gt=0, le=1, description="side of the transformed patch, share of the height [code] 60 of 240"
    )
    data: WindowConfig = WindowConfig(size=(240, 360), colour="grey", augment="none", batch=4, score_batch=8)
    optim: OptimConfig = OptimConfig(lr=2e-4)


PRESETS: dict[str, dict[str, Any]] = {
    "reduced": {
        "widths": [24, 48, 96],
        "epochs": 6,
        "data": {"size": [120, 176], "batch": 8, "stride": 2},
        "optim": {"lr": 1e-3},
    }
}


class Generator(nn.Module):
    """A 3-D U-Net of three strided convolutions: (B, 1, 5, h, w) -> (B, 1, h, w) in [-1, 1]; h and w are multiples of 8."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.down1 = nn.Conv3d(1, a, 3, 2, 1)
        self.down2 = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv3d(a, b, 3, 2, 1), nn.BatchNorm3d(b))
        self.down3 = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv3d(b, c, 3, 2, 1), nn.BatchNorm3d(c))
        self.up3 = nn.Sequential(nn.ReLU(), nn.ConvTranspose3d(c, b, 2, 2), nn.BatchNorm3d(b))
        self.up2 = nn.Sequential(nn.ReLU(), nn.ConvTranspose3d(2 * b, a, (3, 4, 4), 2, 1), nn.BatchNorm3d(a))
        self.up1 = nn.Sequential(nn.ReLU(), nn.ConvTranspose3d(2 * a, 1, (1, 2, 2), (1, 2, 2), (1, 0, 0)), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)  # depth 5 -> 3
        two = self.down2(one)  # -> 2
        three = self.down3(two)  # -> 1
        up = self.up2(torch.cat([two, self.up3(three)], dim=1))  # -> 2 -> 3
        found: Tensor = self.up1(torch.cat([one, up], dim=1))  # -> 1
        return found[:, :, 0]


class FastAno(FrameMethod):
    """One phase; the score is the logarithm of the predicted frame's MSE, minus its PSNR up to a constant."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.spec = WindowSpec(config.data, (-5, -4, -3, -2, -1, 0), "shift")
        self.generator = Generator(config.widths)

    def phases(self) -> list[Phase]:
        """All parameters."""
        c = self.config
        groups = [{"params": list(self.parameters())}]
        return [Phase("train", groups, self.spec, self.losses, 0, c.optim, epochs=c.epochs)]

    def losses(self, windows: Windows) -> dict[str, Tensor]:
        """MSE of the frame after five transformed ones."""
        past, target = windows.x[:, :5, 0], windows.x[:, 5]
        made = torch.stack([transform(clip, self.config.patch) for clip in past])
        return {"mse": (self.generator(made[:, None]) - target).square().mean()}

    def score_windows(self, windows: Windows) -> tuple[Tensor, Tensor | None]:
        """Half the decimal logarithm of the frame's MSE; the map is the squared error."""
        past, target = windows.x[:, :5].transpose(1, 2), windows.x[:, 5]
        error = (self.generator(past) - target).square()[:, 0]  # (B, h, w)
        return 0.5 * (error.mean((1, 2)) + EPS).log10(), F.avg_pool2d(error, 4)


def transform(clip: Tensor, side: float) -> Tensor:
    """One square of the clip (5, h, w), in every frame turned by its own quarter turns, or its frames in another order."""
    h, w = clip.shape[1:]
    n = max(2, round(side * h))
    top, left = int(torch.randint(h - n + 1, ())), int(torch.randint(w - n + 1, ()))
    patch = clip[:, top : top + n, left : left + n]
    if bool(torch.rand(()) < 0.5):
        patch = patch[torch.randperm(len(clip), device="cpu").to(clip.device)]
    else:
        turns = torch.randint(4, (len(clip),)).tolist()
        patch = torch.stack([torch.rot90(frame, k, dims=(0, 1)) for frame, k in zip(patch, turns, strict=True)])
    made = clip.clone()
    made[:, top : top + n, left : left + n] = patch
    return made


def build(config: Config, shape: Shape, resources: Resources) -> FastAno:
    """The method on frames."""
    return FastAno(config)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ped2", "features": "frames", "metric": "auc", "value": 96.3},
    {"dataset": "avenue", "features": "frames", "metric": "auc", "value": 85.3},
    {"dataset": "shanghaitech", "features": "frames", "metric": "auc", "value": 72.2},
)
