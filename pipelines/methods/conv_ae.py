"""Conv-AE: a 3-D convolutional auto-encoder of 16 grey frames; MemAE's network without its memory.

[code] donggong1/memae-anomaly-detection (the auto-encoder variant), after Hasan et al., CVPR 2016. Left out of that code:
scores of the first 8 and last 7 frames that are missing (here the nearest whole clip's), min-max within each test video.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.methods._base import OptimConfig, Phase, Resources, Shape
from pipelines.methods._frames import FrameMethod, FramesConfig, WindowConfig, WindowSpec
from pipelines.records import Windows

NAME = "conv-ae"
SUMMARY = "reconstruction error of a 3-D auto-encoder over 16 grey frames"
KIND = "frames"
DEFAULT_FEATURES = ("frames",)
CLIP = 16
CENTRE = 8  # the frame of a clip that its score is assigned to [code]


class Config(FramesConfig):
    """Values from the code of MemAE."""

    epochs: float = 100
    widths: tuple[int, int, int, int] = (96, 128, 256, 256)
    data: WindowConfig = WindowConfig(colour="grey", augment="none", batch=14, score_batch=4)
    optim: OptimConfig = OptimConfig(lr=1e-4)


REDUCED: dict[str, Any] = {
    "widths": [16, 24, 48, 48],
    "epochs": 6,
    "data": {"size": 96, "batch": 8, "stride": 4},
    "optim": {"lr": 1e-3},
}
PRESETS: dict[str, dict[str, Any]] = {"reduced": REDUCED}


class ClipEncoder(nn.Module):
    """Four strided Conv3d 3x3x3 with BN and LeakyReLU: (B, 1, 16, h, w) -> (B, widths[3], 2, h/16, w/16)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        strides = ((1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
        layers: list[nn.Module] = []
        for (a, b), stride in zip(pairwise((1, *widths)), strides, strict=True):
            layers += [nn.Conv3d(a, b, 3, stride=stride, padding=1), nn.BatchNorm3d(b), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


class ClipDecoder(nn.Module):
    """The encoder mirrored by transposed convolutions: back to (B, 1, 16, h, w)."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        down = (widths[3], widths[2], widths[1], widths[0])
        layers: list[nn.Module] = []
        for a, b in pairwise(down):
            layers += [_up(a, b, (2, 2, 2)), nn.BatchNorm3d(b), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, _up(widths[0], 1, (1, 2, 2)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


class ConvAe(FrameMethod):
    """One phase of MSE; the score is the mean error of a clip, assigned to its frame 8."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.spec = WindowSpec(config.data, tuple(range(-CENTRE, CLIP - CENTRE)), "shift")
        self.encoder, self.decoder = ClipEncoder(config.widths), ClipDecoder(config.widths)

    def phases(self) -> list[Phase]:
        """All parameters."""
        c = self.config
        groups = [{"params": list(self.parameters())}]
        return [Phase("train", groups, self.spec, self.losses, 0, c.optim, epochs=c.epochs)]

    def losses(self, windows: Windows) -> dict[str, Tensor]:
        """MSE over the clip."""
        x = clip_of(windows)
        return {"mse": (self.rebuilt(x) - x).square().mean()}

    def rebuilt(self, x: Tensor) -> Tensor:
        """x (B, 1, 16, h, w) -> the same shape."""
        found: Tensor = self.decoder(self.encoder(x))
        return found

    def score_windows(self, windows: Windows) -> tuple[Tensor, Tensor | None]:
        """Mean over pixels of the absolute error (one channel: the root of its square); the map is that of frame 8."""
        x = clip_of(windows)
        error = (self.rebuilt(x) - x).abs()[:, 0]  # (B, 16, h, w)
        return error.mean((1, 2, 3)), F.avg_pool2d(error[:, CENTRE], 4)


def clip_of(windows: Windows) -> Tensor:
    """(B, L, 1, h, w) -> (B, 1, L, h, w)."""
    return windows.x.transpose(1, 2)


def build(config: Config, shape: Shape, resources: Resources) -> ConvAe:
    """The method on frames."""
    return ConvAe(config)


def _up(a: int, b: int, stride: tuple[int, int, int]) -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(a, b, 3, stride=stride, padding=1, output_padding=(stride[0] - 1, 1, 1))


RESULTS: tuple[dict[str, Any], ...] = (
    {
        "dataset": "avenue",
        "features": "frames",
        "metric": "auc",
        "value": 80.0,
        "source": "as quoted, Hasan et al. 2016",
    },
    {"dataset": "shanghaitech", "features": "frames", "metric": "auc", "value": 60.9, "source": "as quoted"},
)
