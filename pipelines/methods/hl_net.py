"""HL-Net: holistic, localised and score branches with an online approximator (ECCV 2020; [code] Roc-Ng/XDVioDet)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.methods._base import (
    DataConfig,
    Method,
    MethodConfig,
    OptimConfig,
    Phase,
    Resources,
    Shape,
    masked_topk_mean,
    scores_of,
)
from pipelines.methods._blocks import ALL, GraphConv, RowBlocks, distance_adjacency, similarity_adjacency
from pipelines.records import Bag, Scores

NAME = "hl-net"
SUMMARY = "HL-Net: three graph branches, with an optional audio stream"
KIND = "features"
DEFAULT_FEATURES = (
    "i3d+import:vggish",
    "import:xd+import:vggish",
    "i3d",
    "import:xd",
    "import:ur-dmu",
    "effnet:lite0+motion",
)
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own


class Config(MethodConfig):
    """HL-Net's published settings; joined streams are simply wider features."""

    steps: int = 1550  # 50 epochs of 31 steps on XD-Violence
    data: DataConfig = DataConfig(length="pick-pad", size=200, pairing="mixed", batch=128)
    optim: OptimConfig = OptimConfig(name="adam", lr=1e-4, schedule="step", milestones=(310,), gamma=0.1)
    dropout: float = 0.6
    approximator_weight: float = 5.0
    online: bool = False  # score with the approximator alone, which sees no later clip


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {},
    "small-data": {
        "steps": 400,
        "optim": {"lr": 5e-4, "schedule": "constant"},
        "data": {"batch": 60, "crops": "first", "standardise": True},
    },
}


class HlNet(Method):
    """Two pointwise convolutions, then holistic (similarity), localised (distance) and score graphs."""

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        self.config = config
        self.conv1d1, self.conv1d2 = nn.Conv1d(shape.dim, 512, 1), nn.Conv1d(512, 128, 1)
        self.gc1, self.gc2 = GraphConv(128, 32), GraphConv(32, 32)  # holistic
        self.gc3, self.gc4 = GraphConv(128, 32), GraphConv(32, 32)  # localised
        self.gc5, self.gc6 = GraphConv(128, 32), GraphConv(32, 32)  # score
        self.classifier = nn.Linear(96, 1)
        self.approximator = nn.Sequential(nn.Conv1d(128, 64, 1), nn.ReLU(), nn.Conv1d(64, 32, 1), nn.ReLU())
        self.conv1d_approximator = nn.Conv1d(32, 1, 5)
        self.dropout = nn.Dropout(config.dropout)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)

    def branches(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, D), mask (B, S) -> (graph features (B, S, 96), logits (B, S), approximator's logits (B, S))."""
        h = self.dropout(F.relu(self.conv1d1((x * mask.unsqueeze(-1)).transpose(1, 2))))
        h = self.dropout(F.relu(self.conv1d2(h)))
        h = h * mask.unsqueeze(1)
        online = self.conv1d_approximator(F.pad(self.approximator(h), (4, 0))).squeeze(1)  # no later clip
        h = h.transpose(1, 2)
        size, seen = x.shape[1], online.detach().sigmoid()
        holistic = RowBlocks(partial(similarity_adjacency, x, mask), size)
        local = RowBlocks(partial(distance_adjacency, size, "code", x, mask), size)
        score = RowBlocks(partial(score_adjacency, seen, mask), size)
        pairs = ((self.gc1, self.gc2, holistic), (self.gc3, self.gc4, local), (self.gc5, self.gc6, score))
        parts = []
        for first, second, adjacency in pairs:
            inner = self.dropout(F.relu(first(h, adjacency)))
            parts.append(self.dropout(F.relu(second(inner, adjacency))))
        features = torch.cat(parts, dim=-1)
        return features, self.classifier(features).squeeze(-1), online

    def phases(self) -> list[Phase]:
        c = self.config
        return [Phase("train", [{"params": list(self.parameters())}], c.data, self.losses, c.steps, c.optim)]

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """BCE of both branches' top-k mean (of logits, then sigmoid) and 5 times their cross-entropy [code]."""
        k_crops = bag.x.shape[1]
        x, mask = bag.x.flatten(0, 1), bag.mask.repeat_interleave(k_crops, 0)
        y = bag.y.repeat_interleave(k_crops)
        _, logits, online = self.branches(x, mask)
        k = mask.sum(1) // 16 + 1
        follow = -(logits.sigmoid().detach() * F.logsigmoid(online)) * mask
        return {
            "bce": F.binary_cross_entropy_with_logits(masked_topk_mean(logits, mask, k), y),
            "bce_online": F.binary_cross_entropy_with_logits(masked_topk_mean(online, mask, k), y),
            "follow": self.config.approximator_weight * (follow.sum(1) / mask.sum(1)).mean(),
        }

    def score(self, bag: Bag) -> Scores:
        """Clips: sigmoid of the graph branches, or of the approximator with `online=true`."""
        x = bag.x[0]
        _, logits, online = self.branches(x, bag.mask.expand(len(x), -1))
        return scores_of(bag, (online if self.config.online else logits).sigmoid())

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input and the joined graph features, each (T, D')."""
        x = bag.x[0]
        features, _, _ = self.branches(x, bag.mask.expand(len(x), -1))
        return {"input": x.mean(0).float().cpu().numpy(), "trunk": features.mean(0).float().cpu().numpy()}


def score_adjacency(scores: Tensor, mask: Tensor, rows: slice = ALL) -> Tensor:
    """softmax over valid clips of sigmoid((1 - |s_i - s_j| - 0.5) / 0.1): (B, S) -> (B, S or `rows`, S), zero outside."""
    near = torch.sigmoid((0.5 - (scores[:, rows].unsqueeze(2) - scores.unsqueeze(1)).abs()) / 0.1)
    weights = near.masked_fill(~mask.unsqueeze(1), float("-inf")).softmax(-1)
    return weights * mask[:, rows].unsqueeze(2)


def build(config: Config, shape: Shape, resources: Resources) -> HlNet:
    """The method for features of `shape`."""
    return HlNet(config, shape, resources)


def rename_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict without its unused parts ([code]: simAdj.*, disAdj.sigma)."""
    return {k: v for k, v in state.items() if not k.startswith(("simAdj.", "disAdj."))}


RESULTS: tuple[dict[str, Any], ...] = (
    {
        "dataset": "xd-violence",
        "features": "clip:vit-b-16",
        "metric": "ap",
        "value": 80.00,
        "source": "re-run by VadCLIP",
    },
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-b-16",
        "metric": "auc",
        "value": 84.57,
        "source": "re-run by VadCLIP",
    },
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-b-16",
        "metric": "ano-auc",
        "value": 62.21,
        "source": "re-run by VadCLIP",
    },
)
