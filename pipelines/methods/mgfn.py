"""MGFN: magnitude-contrastive glance-and-focus network (AAAI 2023; [code] carolchenyx/MGFN.)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.errors import UsageError
from pipelines.methods._base import DataConfig, Method, MethodConfig, OptimConfig, Phase, Resources, Shape, scores_of
from pipelines.methods._blocks import require_no_padding
from pipelines.records import Bag, Scores

NAME = "mgfn"
SUMMARY = "MGFN: glance and focus blocks with a magnitude contrastive loss"
KIND = "features"
DEFAULT_FEATURES = ("i3d:r50", "import:mgfn", "import:rtfm", "i3d", "import:xd", "import:ur-dmu", "effnet:lite0+motion")
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own


class Config(MethodConfig):
    """MGFN's published settings."""

    steps: int = 50_000  # 1,000 epochs of about 50 steps on UCF-Crime
    data: DataConfig = DataConfig(length="bins", size=32, batch_normal=16, batch_abnormal=16, crops="inside")
    optim: OptimConfig = OptimConfig(name="adam", lr=1e-3, weight_decay=5e-4)
    dims: tuple[int, int, int] = (64, 128, 1024)
    depths: tuple[int, int, int] = (3, 3, 2)
    head_dim: int = 64
    kernel: int = 5
    magnitude_ratio: float = 0.1  # of the clip's L2 norm, which enters as one more channel
    topk: int = 3
    dropout: float = 0.7  # of the mask that chooses clips in training
    margin: float = 200.0
    contrast_weight: float = 1e-3
    smooth_weight: float = 8e-4
    sparse_weight: float = 8e-3
    sparse_on: Literal["abnormal", "normal"] = "abnormal"  # the public code's term hits the normal half


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {},
    "small-data": {
        "steps": 400,
        "dims": (64, 64, 128),
        "depths": (1, 1, 1),
        "optim": {"lr": 5e-4},
        "data": {"crops": "first", "standardise": True, "batch_normal": 30, "batch_abnormal": 30},
    },
}


class ChannelNorm(nn.Module):
    """(x - mean) / (std + eps) over channels of (B, C, S): eps is added to the deviation, as in the public code."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.g = nn.Parameter(torch.ones(1, width, 1))
        self.b = nn.Parameter(torch.zeros(1, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        deviation = x.var(dim=1, unbiased=False, keepdim=True).clamp(min=1e-12).sqrt()
        return (x - x.mean(1, keepdim=True)) / (deviation + self.eps) * self.g + self.b


class Glance(nn.Module):
    """Multi-head self-attention over all clips."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.heads = max(1, width // head_dim)
        inner = self.heads * head_dim
        self.norm = ChannelNorm(width)
        self.to_qkv = nn.Conv1d(width, 3 * inner, 1, bias=False)
        self.to_out = nn.Conv1d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, S) -> (B, C, S)."""
        b, _, s = x.shape
        parts = self.to_qkv(self.norm(x)).chunk(3, dim=1)
        # contiguous, or the attention falls back to a kernel that makes the (S, S) matrix
        q, k, v = (t.reshape(b, self.heads, -1, s).transpose(2, 3).contiguous() for t in parts)
        y = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, -1, s)
        return self.to_out(y)  # type: ignore[no-any-return]


class Focus(nn.Module):
    """A convolution over time shared by the channels of a head."""

    def __init__(self, width: int, head_dim: int, kernel: int) -> None:
        super().__init__()
        self.heads = max(1, width // head_dim)
        inner = self.heads * head_dim
        self.norm = nn.BatchNorm1d(width)
        self.to_v = nn.Conv1d(width, inner, 1, bias=False)
        self.rel_pos = nn.Conv1d(self.heads, self.heads, kernel, padding=kernel // 2, groups=self.heads)
        self.to_out = nn.Conv1d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, S) -> (B, C, S)."""
        b, _, s = x.shape
        v = self.to_v(self.norm(x)).reshape(b, -1, self.heads, s)  # channels before heads, as in the public code
        y = self.rel_pos(v.reshape(-1, self.heads, s)).reshape(b, -1, s)
        return self.to_out(y)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """`depth` times: convolution of kernel 3, attention, feed-forward of four times the width, all residual."""

    def __init__(self, width: int, depth: int, kind: Literal["glance", "focus"], config: Config) -> None:
        super().__init__()

        def attention() -> nn.Module:
            if kind == "glance":
                return Glance(width, config.head_dim)
            return Focus(width, config.head_dim, config.kernel)

        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Conv1d(width, width, 3, padding=1), attention(), _feed_forward(width)])
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            for part in layer:
                x = part(x) + x
        return x


def _feed_forward(width: int) -> nn.Sequential:
    up, down = nn.Conv1d(width, 4 * width, 1), nn.Conv1d(4 * width, width, 1)
    return nn.Sequential(ChannelNorm(width), up, nn.GELU(), nn.Dropout(0.0), down)


class Mgfn(Method):
    """Three stages (glance, focus, focus) on features and their magnitude; scores averaged over crops inside."""

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        self.config = c = config
        self.to_tokens = nn.Conv1d(shape.dim, c.dims[0], 3, padding=1)
        self.to_mag = nn.Conv1d(1, c.dims[0], 3, padding=1)
        kinds: tuple[Literal["glance", "focus"], ...] = ("glance", "focus", "focus")
        self.stages_ = nn.ModuleList(Stage(w, d, k, c) for w, d, k in zip(c.dims, c.depths, kinds, strict=True))
        self.steps_ = nn.ModuleList(
            nn.Sequential(ChannelNorm(a), nn.Conv1d(a, b, 1))
            for a, b in ((c.dims[0], c.dims[1]), (c.dims[1], c.dims[2]))
        )
        self.to_logits = nn.Sequential(nn.LayerNorm(c.dims[-1]))
        self.fc = nn.Linear(c.dims[-1], 1)
        self.dropout = nn.Dropout(c.dropout)

    def features(self, x: Tensor) -> Tensor:
        """x (B, K, S, D) -> (B, K, S, width of the last stage)."""
        b, k, s, _ = x.shape
        flat = x.flatten(0, 1).transpose(1, 2)  # (B*K, D, S)
        magnitude = flat.norm(dim=1, keepdim=True)
        y = self.to_tokens(flat) + self.config.magnitude_ratio * self.to_mag(magnitude)
        for index, stage in enumerate(self.stages_):
            y = stage(y)
            if index < len(self.steps_):
                y = self.steps_[index](y)
        return self.to_logits(y.transpose(1, 2)).reshape(b, k, s, -1)  # type: ignore[no-any-return]

    def phases(self) -> list[Phase]:
        c = self.config
        return [Phase("train", [{"params": list(self.parameters())}], c.data, self.losses, c.steps, c.optim)]

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """BCE of the selected clips, magnitude contrast on L1 norms, smoothness, sparsity."""
        require_no_padding(bag, NAME)
        c = self.config
        features = self.features(bag.x)
        scores = torch.sigmoid(self.fc(features)).squeeze(-1).mean(1)  # (B, S)
        index = self._select(features)
        video = scores.gather(1, index).mean(1)
        chosen = features.gather(2, index[:, None, :, None].expand(-1, features.shape[1], -1, features.shape[3]))
        size = chosen.norm(p=1, dim=-1)  # (B, K, k)
        abnormal, normal = size[bag.y > 0].flatten(0, 1), size[bag.y == 0].flatten(0, 1)
        if len(abnormal) != len(normal):
            raise UsageError(
                f"mgfn pairs videos: {len(normal)} normal and {len(abnormal)} abnormal rows in a batch",
                hint="--set data.pairing=pairs, equal batch_normal and batch_abnormal",
            )
        contrast = 1e-3 * apart(abnormal, normal, c.margin) + together(abnormal) + together(normal)
        lines = scores[bag.y > 0] if c.sparse_on == "abnormal" else scores[bag.y == 0]
        return {
            "bce": F.binary_cross_entropy(video.clamp(1e-7, 1 - 1e-7), bag.y),
            "contrast": c.contrast_weight * contrast,
            "smooth": c.smooth_weight * (scores[:, 1:] - scores[:, :-1]).square().sum(),
            "sparse": c.sparse_weight * lines.norm(),
        }

    def _select(self, features: Tensor) -> Tensor:
        magnitude = features.norm(dim=-1).mean(1)  # (B, S)
        magnitude = magnitude * self.dropout(torch.ones_like(magnitude))
        index: Tensor = magnitude.topk(min(self.config.topk, magnitude.shape[1]), dim=1).indices
        return index

    def score(self, bag: Bag) -> Scores:
        """Clips: the probability of each crop."""
        return scores_of(bag, torch.sigmoid(self.fc(self.features(bag.x)[0])).squeeze(-1))

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input and the last stage, each (T, D')."""
        found = {"input": bag.x[0], "trunk": self.features(bag.x)[0]}
        return {name: value.mean(0).float().cpu().numpy() for name, value in found.items()}


def apart(a: Tensor, b: Tensor, margin: float) -> Tensor:
    """Mean squared shortfall of the distance of rows from `margin`: a, b (n, k)."""
    return torch.mean(F.relu(margin - F.pairwise_distance(a, b)) ** 2)


def together(a: Tensor) -> Tensor:
    """Mean squared distance between the two halves of the rows of a (n, k); 0 for fewer than two rows."""
    half = len(a) // 2
    return torch.mean(F.pairwise_distance(a[half : 2 * half], a[:half]) ** 2) if half else a.sum() * 0.0


def build(config: Config, shape: Shape, resources: Resources) -> Mgfn:
    """The method; the magnitude channel is computed here, so plain features go in."""
    return Mgfn(config, shape, resources)


def rename_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict's keys in our names ([code]: stages.N.0.layers and stages.N.1)."""
    renamed = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head == "stages":
            number, _, rest = rest.partition(".")
            part, _, rest = rest.partition(".")
            key = f"stages_.{number}.{rest}" if part == "0" else f"steps_.{number}.{rest}"
        renamed[key] = value
    return renamed


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ucf-crime", "features": "i3d:r50", "metric": "auc", "value": 86.98},
    {"dataset": "xd-violence", "features": "i3d", "metric": "ap", "value": 79.19},
    {
        "dataset": "ucf-crime",
        "features": "i3d",
        "metric": "map-iou",
        "values": (2.88, 2.69, 1.67, 1.55, 1.49),
        "avg": 2.06,
        "source": "re-run by Fine-VAD",
    },
)
