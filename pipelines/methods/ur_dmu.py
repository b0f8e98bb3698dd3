"""UR-DMU: dual memory units with uncertainty regulation (AAAI 2023; [code] henrryzh1/UR-DMU)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.errors import UsageError
from pipelines.methods._base import DataConfig, Method, MethodConfig, OptimConfig, Phase, Resources, Shape, scores_of
from pipelines.methods._blocks import ALL, RowBlocks, require_no_padding
from pipelines.records import Bag, Scores

NAME = "ur-dmu"
SUMMARY = "UR-DMU: a normal and an abnormal memory with uncertainty regulation"
KIND = "features"
DEFAULT_FEATURES = ("i3d", "import:ur-dmu", "import:xd", "effnet:lite0+motion")
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own


class Config(MethodConfig):
    """UR-DMU's published settings."""

    steps: int = 3000
    data: DataConfig = DataConfig(length="bins", size=200, batch_normal=64, batch_abnormal=64)
    optim: OptimConfig = OptimConfig(name="adam", lr=1e-4, weight_decay=5e-5)
    width: int = 512
    layers: int = 2
    heads: int = 4
    head_dim: int = 128
    dropout: float = 0.5
    memory: int = 60
    memory_weight: float = 0.1
    triplet_weight: float = 0.1
    kl_weight: float = 1e-3
    kl_axis: Literal["time", "channels"] = "time"  # the public code sums over time
    distance_weight: float = 1e-4
    margin: float = 100.0


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {},
    "small-data": {
        "steps": 400,
        "width": 128,
        "head_dim": 32,
        "data": {"size": 32, "batch_normal": 30, "batch_abnormal": 30, "crops": "first", "standardise": True},
    },
}


class DualAttention(nn.Module):
    """Four projections q, k, v, t: content attention on v beside a fixed distance adjacency on t."""

    def __init__(self, width: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(width, 4 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(2 * heads * head_dim, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, D) -> (B, S, D)."""
        b, s, _ = x.shape
        q, k, v, t = (p.reshape(b, s, self.heads, -1).transpose(1, 2) for p in self.to_qkv(x).chunk(4, dim=-1))
        near = RowBlocks(partial(distance_weights, s, x), s)
        y = torch.cat([F.scaled_dot_product_attention(q, k, v), near @ t], dim=-1)  # (B, heads, S, 2 d)
        return self.to_out(y.transpose(1, 2).reshape(b, s, -1))  # type: ignore[no-any-return]


def distance_weights(s: int, like: Tensor, rows: slice = ALL) -> Tensor:
    """exp(-|i-j|/e) divided by the sum of column j (the public code's broadcast): (S or the `rows` of it, S)."""
    index = torch.arange(s, device=like.device, dtype=like.dtype)
    near = torch.exp(-(index[rows, None] - index[None, :]).abs() / math.e)
    side = torch.exp(-index / math.e).cumsum(0)  # of column j: itself and everything before it
    return near / (side + side.flip(0) - 1)


class PreNorm(nn.Module):
    """fn(LayerNorm(x)); named as in the public state dict."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """width -> width -> width with GELU and dropout."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        drop = nn.Dropout(dropout)
        self.net = nn.Sequential(nn.Linear(width, width), nn.GELU(), drop, nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """Pre-LN blocks of dual attention and feed-forward, both residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(c.width, DualAttention(c.width, c.heads, c.head_dim, c.dropout)),
                    PreNorm(c.width, FeedForward(c.width, c.dropout)),
                ]
            )
            for _ in range(c.layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for pair in self.layers:
            assert isinstance(pair, nn.ModuleList)
            for block in pair:
                x = block(x) + x
        return x


class Memory(nn.Module):
    """A bank of slots read by sigmoid attention; the clip score is the mean of the largest 1/16 + 1 of them."""

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.memory_block = nn.Parameter(torch.empty(slots, width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, S, D) -> (clip score (B, S), read-out (B, S, D))."""
        attention = torch.sigmoid(x @ self.memory_block.T / math.sqrt(x.shape[-1]))  # (B, S, slots)
        top = attention.topk(len(self.memory_block) // 16 + 1, dim=-1).values.mean(-1)
        return top, attention @ self.memory_block


class Embedding(nn.Module):
    """Conv1d of kernel 3 and ReLU over time."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.conv_1 = nn.Sequential(nn.Conv1d(dim, width, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_1(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


class Head(nn.Module):
    """2 D -> 128 -> 1, sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * width, 128), nn.ReLU(), nn.Linear(128, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x).squeeze(-1)  # type: ignore[no-any-return]


class UrDmu(Method):
    """Embedding, dual-attention trunk, two memories, and a head on the clip and its memory read-out."""

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = Embedding(shape.dim, c.width)
        self.selfatt = Trunk(c)
        self.abnormal, self.normal = Memory(c.memory, c.width), Memory(c.memory, c.width)
        self.encoder_mu = nn.Sequential(nn.Linear(c.width, c.width))
        self.encoder_var = nn.Sequential(nn.Linear(c.width, c.width))
        self.cls_head = Head(c.width)

    def trunk(self, x: Tensor) -> Tensor:
        """x (B, S, D) -> (B, S, width)."""
        return self.selfatt(self.embedding(x))  # type: ignore[no-any-return]

    def phases(self) -> list[Phase]:
        c = self.config
        return [Phase("train", [{"params": list(self.parameters())}], c.data, self.losses, c.steps, c.optim)]

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """The published sum; n and a are the normal and abnormal parts of the batch."""
        require_no_padding(bag, NAME)
        c, k_crops = self.config, bag.x.shape[1]
        y = bag.y.repeat_interleave(k_crops)
        if not 0 < int(y.sum()) < len(y) or 2 * int(y.sum()) != len(y):
            raise UsageError(
                f"ur-dmu pairs videos: {int(y.sum())} abnormal of {len(y)} in a batch",
                hint="--set data.pairing=pairs, equal batch_normal and batch_abnormal",
            )
        x = self.trunk(bag.x.flatten(0, 1))
        n, a = x[y == 0], x[y > 0]
        k = x.shape[1] // 16 + 1
        (a_own, a_read), (a_other, a_other_read) = self.abnormal(a), self.normal(a)
        (n_other, n_other_read), (n_own, n_read) = self.abnormal(n), self.normal(n)
        mu, log_var = self.encoder_mu(n_read), self.encoder_var(n_read)
        sampled = mu + torch.randn_like(mu) * torch.exp(log_var).sqrt()
        a_code = self.encoder_mu(a_read)
        read = torch.cat([sampled + self.encoder_mu(n_other_read), a_code + self.encoder_mu(a_other_read)])
        score = self.cls_head(torch.cat([torch.cat([n, a]), read], dim=-1))
        label = torch.cat([torch.zeros(len(n), device=x.device), torch.ones(len(a), device=x.device)])
        top = score.topk(k, dim=1).values.mean(1)
        anchor, positive, negative = _gather(n, n_own, k), _gather(a, a_other, k), _gather(a, a_own, k)
        memory = (
            _bce(a_own.topk(k, dim=1).values.mean(1), 1)
            + _bce((1 - a_other).topk(k, dim=1).values.mean(1), 1)
            + _bce(n_own, 1)
            + _bce(n_other, 0)
        )
        far = F.relu(c.margin - _gather(a_code, a_own, k).norm(dim=-1) + _gather(sampled, n_own, k).norm(dim=-1))
        a_unit, p_unit, n_unit = (F.normalize(v, dim=-1) for v in (anchor, positive, negative))
        return {
            "bce": F.binary_cross_entropy(top.clamp(1e-7, 1 - 1e-7), label),
            "memory": c.memory_weight * memory,
            "triplet": c.triplet_weight * F.triplet_margin_loss(a_unit, p_unit, n_unit, margin=1.0),
            "kl": c.kl_weight * latent_loss(mu, log_var, c.kl_axis),
            "distance": c.distance_weight * far.mean(),
        }

    def score(self, bag: Bag) -> Scores:
        """Clips: the head on the clip with mu of both read-outs, no sampling."""
        x = self.trunk(bag.x[0])  # (K, T, D)
        read = self.encoder_mu(self.abnormal(x)[1]) + self.encoder_mu(self.normal(x)[1])
        return scores_of(bag, self.cls_head(torch.cat([x, read], dim=-1)))

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input, trunk, and the read-outs of both memories, each (T, D')."""
        x = self.trunk(bag.x[0])
        found = {"input": bag.x[0], "trunk": x, "abnormal": self.abnormal(x)[1], "normal": self.normal(x)[1]}
        return {name: value.mean(0).float().cpu().numpy() for name, value in found.items()}


def latent_loss(mu: Tensor, log_var: Tensor, axis: Literal["time", "channels"]) -> Tensor:
    """KL of N(mu, var) from N(0, 1), summed over time (`time`, the public code) or channels, mean over the rest."""
    terms = -0.5 * (1 + log_var - mu**2 - log_var.exp())
    return terms.sum(1 if axis == "time" else 2).mean()


def build(config: Config, shape: Shape, resources: Resources) -> UrDmu:
    """The method for features of `shape`."""
    return UrDmu(config, shape, resources)


def rename_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict's keys in our names ([code]: Amemory and Nmemory; the rest are the same)."""
    return {k.replace("Amemory.", "abnormal.").replace("Nmemory.", "normal."): v for k, v in state.items()}


def _gather(values: Tensor, by: Tensor, k: int) -> Tensor:
    """Mean of `values` (B, S, D) at the k largest of `by` (B, S): (B, D)."""
    index = by.topk(k, dim=1).indices.unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, index).mean(1)


def _bce(p: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy(p.clamp(1e-7, 1 - 1e-7), torch.full_like(p, target))


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ucf-crime", "features": "i3d", "metric": "auc", "value": 86.97},
    {"dataset": "xd-violence", "features": "i3d", "metric": "ap", "value": 81.66},
    {"dataset": "ucf-crime", "features": "i3d", "metric": "auc", "value": 85.7, "source": "users' re-trainings"},
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-b-16",
        "metric": "auc",
        "value": 86.75,
        "source": "re-run by VadCLIP",
    },
    {
        "dataset": "xd-violence",
        "features": "clip:vit-b-16",
        "metric": "ap",
        "value": 82.41,
        "source": "re-run by VadCLIP",
    },
)
