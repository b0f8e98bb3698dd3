"""SD-MAE: a masked auto-encoder with a teacher and a student decoder (Ristea et al., CVPR 2024), the base that MDSF builds on.

Written anew from the description; the public code (ristea/aed-mae, CC BY-NC-SA) was read for sizes alone. Its defects are left
out: unseeded masks at test; kept tokens put into a grid in shuffled order before 3x3 convolutions; no positions; a class
token that skips the MLP; weights that divide by a frame's motion (0/0 in a still one); BatchNorm of the frozen trunk that goes on
moving; weights picked by test AUC; another score formula a dataset. Its pasted anomalies come from UBnormal's abnormal tracks,
ours from normal frames.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.methods._base import OptimConfig, Phase, Resources, Shape
from pipelines.methods._frames import FrameMethod, FramesConfig, WindowConfig, WindowSpec
from pipelines.methods._pasted import paste
from pipelines.records import Windows

NAME = "sd-mae"
SUMMARY = "masked auto-encoder, teacher against student decoder"
KIND = "frames"
DEFAULT_FEATURES = ("frames",)
EPS = 1e-6
PARTNER = (5, 30)
STEP = 3


class Config(FramesConfig):
    """Sizes from its code; the masks at test and the source of pasted anomalies are [ours]."""

    epochs: float = Field(100, description="of the teacher")
    student_epochs: float = 40
    patch: int = Field(16, ge=2)
    width: int = 256
    decoder_width: int = 128
    depth: int = Field(3, ge=1)
    decoder_depth: int = Field(3, ge=2)
    heads: int = 4
    mask_ratio: float = Field(0.5, gt=0, lt=1)
    paste_share: float = Field(0.25, ge=0, le=1, description="of a batch that gets a pseudo-anomaly")
    data: WindowConfig = WindowConfig(size=(320, 640), augment="none", batch=32, score_batch=16)
    optim: OptimConfig = OptimConfig(lr=1e-4)


PRESETS: dict[str, dict[str, Any]] = {
    "reduced": {
        "patch": 8,
        "width": 96,
        "decoder_width": 64,
        "epochs": 8,
        "student_epochs": 4,
        "data": {"size": [96, 144], "batch": 16, "stride": 2},
        "optim": {"lr": 1e-3},
    }
}


class Attention(nn.Module):
    """Self-attention whose queries, keys and values first pass a depthwise 3x3 convolution with BN on the true grid."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.local = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width))
            for _ in range(3)
        )
        self.linear = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, kept: Tensor, grid: tuple[int, int]) -> Tensor:
        """x (B, 1 + M, C), the class token first; kept (B, M) places in the grid -> the same shape."""
        b, _, c = x.shape
        at = kept[:, :, None].expand(-1, -1, c)
        plane = x.new_zeros(b, grid[0] * grid[1], c).scatter(1, at, x[:, 1:])
        plane = plane.transpose(1, 2).reshape(b, c, *grid)
        parts = []
        for local, linear in zip(self.local, self.linear, strict=True):
            tokens = local(plane).flatten(2).transpose(1, 2).gather(1, at)
            mixed = linear(torch.cat([x[:, :1], tokens], dim=1))
            parts.append(mixed.view(b, -1, self.heads, c // self.heads).transpose(1, 2))
        q, k, v = parts
        found = F.scaled_dot_product_attention(q, k, v, scale=c**-0.5)  # [code] the scale is of the whole width
        mixed_back: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return mixed_back


class Block(nn.Module):
    """Attention and a pointwise MLP of ratio 2, each after LayerNorm and added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, kept: Tensor, grid: tuple[int, int]) -> Tensor:
        x = x + self.attention(self.norm1(x), kept, grid)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Trunk(nn.Module):
    """The encoder of visible patches."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        width = config.width
        self.embed = nn.Conv2d(channels, width, config.patch, stride=config.patch)
        self.embed_norm, self.norm = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """x (B, C, h, w), kept (B, M) -> (B, 1 + M, width) and the grid."""
        planes = self.embed(x)
        grid = (planes.shape[2], planes.shape[3])
        tokens = self.embed_norm(planes.flatten(2).transpose(1, 2)) + positions(grid, planes.shape[1]).to(x.device)
        tokens = tokens.gather(1, kept[:, :, None].expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, kept, grid)
        return self.norm(tokens), grid


class Head(nn.Module):
    """LayerNorm and a linear layer to the pixels of a patch: three colours and the anomaly mask."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.decoder_width, eps=EPS)
        self.pixels = nn.Linear(config.decoder_width, config.patch**2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.pixels(self.norm(x)[:, 1:])
        return found


class SdMae(FrameMethod):
    """Teacher, then student; the score is (T - S)^2 + (x - T)^2, every patch hidden in one of two masks."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.spec = WindowSpec(config.data, (-STEP, 0, STEP), "repeat")
        channels, width = config.data.channels, config.decoder_width
        self.out = channels + 1
        self.trunk = Trunk(config, 3 * channels)
        self.decoder_embed = nn.Linear(config.width, width)
        self.hidden = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder = nn.ModuleList(Block(width, config.heads) for _ in range(config.decoder_depth))
        self.teacher_head = Head(config, self.out)
        self.student = Block(width, config.heads)
        self.student_head = Head(config, self.out)

    def phases(self) -> list[Phase]:
        """The teacher with the trunk, then the student's block and head alone."""
        c = self.config
        student = [*self.student.parameters(), *self.student_head.parameters()]
        own = {id(p) for p in student}
        first = [p for p in self.parameters() if id(p) not in own]
        spec = WindowSpec(c.data, (-STEP, -1, 0, 1, STEP), "repeat", PARTNER)
        return [
            Phase("teacher", [{"params": first}], spec, self.teacher_losses, 0, c.optim, epochs=c.epochs),
            Phase("student", [{"params": student}], spec, self.student_losses, 0, c.optim, epochs=c.student_epochs),
        ]

    def teacher_losses(self, windows: Windows) -> dict[str, Tensor]:
        """Squared error of each patch of the clean frame and of the mask, weighed by its share of the frame's motion."""
        frames, target, motion = self._made(windows)
        kept, _ = self._mask(frames)
        teacher, _ = self.decode(frames, kept, student=False)
        error = (teacher - self.patches(target)).square().mean(2)  # (B, N)
        weight = F.max_pool2d(motion, self.config.patch).flatten(1) + EPS
        return {"reconstruct": (error * weight / weight.sum(1, keepdim=True)).sum(1).mean()}

    def student_losses(self, windows: Windows) -> dict[str, Tensor]:
        """Squared error to the frozen teacher on hidden patches."""
        for module in (self.trunk, self.decoder_embed, self.decoder, self.teacher_head):
            module.eval()
        frames, _, _ = self._made(windows)
        kept, hidden = self._mask(frames)
        teacher, student = self.decode(frames, kept, student=True)
        assert student is not None
        error = (student - teacher.detach()).square().mean(2).gather(1, hidden)
        return {"distill": error.mean()}

    def decode(self, frames: Tensor, kept: Tensor, *, student: bool) -> tuple[Tensor, Tensor | None]:
        """The teacher's and the student's patches, each (B, N, patch * patch * out)."""
        tokens, grid = self.trunk(frames, kept)
        x = self.decoder_embed(tokens)
        n = grid[0] * grid[1]
        everywhere = torch.arange(n, device=x.device).expand(len(x), -1)
        full = self.hidden.expand(len(x), n, -1).scatter(1, kept[:, :, None].expand(-1, -1, x.shape[2]), x[:, 1:])
        x = torch.cat([x[:, :1], full + positions(grid, x.shape[2]).to(x.device)], dim=1)
        found = None
        for index, block in enumerate(self.decoder):
            x = block(x, everywhere, grid)
            if index == 0 and student:
                found = self.student_head(self.student(x.detach(), everywhere, grid))
        return self.teacher_head(x), found

    def score_windows(self, windows: Windows) -> tuple[Tensor, Tensor | None]:
        """Mean over patches of both squared differences on the frame's colours; the map has a value a patch."""
        frames, target = windows.x.flatten(1, 2), windows.x[:, 1]
        padded = self.patches(torch.cat([target, torch.zeros_like(target[:, :1])], dim=1))
        halves = self._halves(frames)
        total = torch.zeros(padded.shape[:2], device=frames.device)
        for kept, hidden in (halves, halves[::-1]):
            teacher, student = self.decode(frames, kept, student=True)
            assert student is not None
            colours = (teacher - student).square() + (padded - teacher).square()
            colours = colours.view(*colours.shape[:2], -1, self.out)[..., :-1].mean((2, 3))  # (B, N)
            total = total.scatter(1, hidden, colours.gather(1, hidden))
        grid = tuple(n // self.config.patch for n in frames.shape[2:])
        return total.mean(1), total.view(len(frames), *grid)

    def patches(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, N, patch * patch * C), the channels of a pixel last."""
        p = self.config.patch
        b, c, h, w = x.shape
        return x.view(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, p * p * c)

    def _made(self, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """Input, target (clean frame and mask) and motion: some windows with a pasted pseudo-anomaly."""
        x = windows.x
        made, mask = paste(x, windows.extras["partner"])
        chosen = (torch.rand(len(x), 1, 1, 1) < self.config.paste_share).to(x.device)
        made, mask = torch.where(chosen[:, None], made, x), torch.where(chosen, mask, torch.zeros_like(mask))
        motion = (x[:, 1] - x[:, 3]).abs().mean(1, keepdim=True)
        motion = torch.maximum(motion, mask * motion.amax((2, 3), keepdim=True))
        return made[:, [0, 2, 4]].flatten(1, 2), torch.cat([x[:, 2], mask], dim=1), motion

    def _mask(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Visible and hidden places of each row, in the grid's order."""
        n = (frames.shape[2] // self.config.patch) * (frames.shape[3] // self.config.patch)
        return self._split(torch.rand(len(frames), n).to(frames.device))

    def _halves(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Two halves of the places by a fixed seed, the same for every frame."""
        n = (frames.shape[2] // self.config.patch) * (frames.shape[3] // self.config.patch)
        noise = torch.rand(1, n, generator=torch.Generator().manual_seed(0)).expand(len(frames), -1)
        order = noise.argsort(1).to(frames.device)
        return order[:, : n // 2].sort(1).values, order[:, n // 2 :].sort(1).values

    def _split(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        visible = math.floor(noise.shape[1] * (1 - self.config.mask_ratio))
        order = noise.argsort(1)
        return order[:, :visible].sort(1).values, order[:, visible:].sort(1).values


def positions(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed sines and cosines of row and column, (1, N, width); width is a multiple of 4."""
    quarter = width // 4
    rates = 1 / 10000 ** (torch.arange(quarter) / quarter)
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in (rows, columns)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)[None]


def build(config: Config, shape: Shape, resources: Resources) -> SdMae:
    """The method on frames."""
    return SdMae(config)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ped2", "features": "frames", "metric": "auc", "value": 95.4, "source": "as quoted"},
    {"dataset": "avenue", "features": "frames", "metric": "auc", "value": 91.3, "source": "as quoted"},
    {"dataset": "shanghaitech", "features": "frames", "metric": "auc", "value": 79.1, "source": "as quoted"},
)
