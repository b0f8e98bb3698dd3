"""RTFM: robust temporal feature magnitude learning (ICCV 2021; [code] tianyu0207/RTFM)."""

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

NAME = "rtfm"
SUMMARY = "RTFM: top-3 feature magnitudes with a multi-scale temporal network"
KIND = "features"
DEFAULT_FEATURES = ("i3d:r50", "import:rtfm", "import:mgfn", "i3d", "import:xd", "import:ur-dmu", "effnet:lite0+motion")
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own


class Config(MethodConfig):
    """RTFM's published settings; one width D for input and trunk (2048 in the public code, which hard-codes it)."""

    steps: int = 15_000
    data: DataConfig = DataConfig(length="bins", size=32, batch_normal=32, batch_abnormal=32, crops="inside")
    optim: OptimConfig = OptimConfig(name="adam", lr=1e-3, weight_decay=5e-3)
    width: int | None = None  # None: D; another width puts a Linear in front [ours]
    branch: int = 512
    topk: int = 3
    dropout: float = 0.7
    margin: float = 100.0
    magnitude_weight: float = 1e-4
    smooth_weight: float = 8e-4
    sparse_weight: float = 8e-3
    compat: Literal["ours", "code"] = "ours"  # `code`: smoothness runs across concatenated videos


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {},
    "shanghaitech": {},
    "small-data": {
        "steps": 400,
        "width": 128,
        "branch": 32,
        "optim": {"lr": 5e-4},
        "data": {"crops": "first", "standardise": True, "batch_normal": 30, "batch_abnormal": 30},
    },
}


class NonLocal(nn.Module):
    """Dot product divided by the number of clips, output batch norm initialised to 0, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = max(1, width // 2)
        self.g, self.theta, self.phi = (nn.Conv1d(width, inner, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv1d(inner, width, 1), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, S) -> (B, C, S)."""
        theta, phi, g = self.theta(x).transpose(1, 2), self.phi(x), self.g(x).transpose(1, 2)
        # No softmax stands between the products, so a video longer than the width never needs its (S, S) matrix.
        y = (theta @ phi) @ g if x.shape[-1] <= phi.shape[1] else theta @ (phi @ g)
        return self.W((y / x.shape[-1]).transpose(1, 2)) + x  # type: ignore[no-any-return]


class Aggregate(nn.Module):
    """Three dilated convolutions and a non-local branch, fused and added to the input."""

    def __init__(self, width: int, branch: int) -> None:
        super().__init__()

        def dilated(dilation: int) -> nn.Sequential:
            conv = nn.Conv1d(width, branch, 3, dilation=dilation, padding=dilation)
            return nn.Sequential(conv, nn.ReLU(), nn.BatchNorm1d(branch))

        self.conv_1, self.conv_2, self.conv_3 = dilated(1), dilated(2), dilated(4)
        self.conv_4 = nn.Sequential(nn.Conv1d(width, branch, 1, bias=False), nn.ReLU())
        fuse = nn.Conv1d(4 * branch, width, 3, padding=1, bias=False)
        self.conv_5 = nn.Sequential(fuse, nn.ReLU(), nn.BatchNorm1d(width))
        self.non_local = NonLocal(branch)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, S, D) -> (B, S, D)."""
        x = x.transpose(1, 2)
        parts = [self.conv_1(x), self.conv_2(x), self.conv_3(x), self.non_local(self.conv_4(x))]
        return (self.conv_5(torch.cat(parts, dim=1)) + x).transpose(1, 2)  # type: ignore[no-any-return]


class Rtfm(Method):
    """Trunk, magnitude selection and a three-layer head; scores are averaged over crops inside."""

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        self.config = config
        width = config.width or shape.dim
        self.project = nn.Identity() if width == shape.dim else nn.Linear(shape.dim, width)
        self.aggregate = Aggregate(width, config.branch)
        self.fc1, self.fc2, self.fc3 = nn.Linear(width, 512), nn.Linear(512, 128), nn.Linear(128, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.apply(_initialise)
        norm = self.aggregate.non_local.W[1]
        assert isinstance(norm, nn.BatchNorm1d)
        nn.init.zeros_(norm.weight)

    def features(self, x: Tensor) -> Tensor:
        """x (B, K, S, D) -> trunk features (B, K, S, width), after dropout."""
        b, k, s, _ = x.shape
        y = self.dropout(self.aggregate(self.project(x.flatten(0, 1))))
        return y.reshape(b, k, s, -1)  # type: ignore[no-any-return]

    def head(self, features: Tensor) -> Tensor:
        """(B, K, S, width) -> probabilities (B, K, S)."""
        y = self.dropout(F.relu(self.fc1(features)))
        y = self.dropout(F.relu(self.fc2(y)))
        return torch.sigmoid(self.fc3(y)).squeeze(-1)

    def phases(self) -> list[Phase]:
        c = self.config
        groups = [{"params": [p for p in self.parameters() if p.requires_grad]}]
        return [Phase("train", groups, c.data, self.losses, c.steps, c.optim)]

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """BCE of the selected scores, magnitude margin, smoothness and sparsity of abnormal scores [code]."""
        require_no_padding(bag, NAME)
        c = self.config
        features = self.features(bag.x)
        scores = self.head(features).mean(1)  # (B, S)
        index = self._select(features)  # (B, k), the same for all crops
        video = scores.gather(1, index).mean(1)
        chosen = features.gather(2, index[:, None, :, None].expand(-1, features.shape[1], -1, features.shape[3]))
        length = chosen.mean(2).norm(dim=-1)  # (B, K): norm of the mean of the selected features
        abnormal, normal = length[bag.y > 0], length[bag.y == 0]
        if len(abnormal) != len(normal):
            raise UsageError(
                f"rtfm pairs videos: {len(normal)} normal and {len(abnormal)} abnormal ones in a batch",
                hint="--set data.pairing=pairs, equal batch_normal and batch_abnormal",
            )
        hot = scores[bag.y > 0]
        return {
            "bce": F.binary_cross_entropy(video.clamp(1e-7, 1 - 1e-7), bag.y),
            "magnitude": c.magnitude_weight * (((c.margin - abnormal).abs() + normal) ** 2).mean(),
            "smooth": c.smooth_weight * smoothness(hot, c.compat),
            "sparse": c.sparse_weight * hot.norm(),
        }

    def _select(self, features: Tensor) -> Tensor:
        """Indices of the k largest L2 magnitudes, mean over crops, under a dropout mask of ones in training."""
        magnitude = features.norm(dim=-1).mean(1)  # (B, S)
        magnitude = magnitude * self.dropout(torch.ones_like(magnitude))
        index: Tensor = magnitude.topk(min(self.config.topk, magnitude.shape[1]), dim=1).indices
        return index

    def score(self, bag: Bag) -> Scores:
        """Clips: the head's probability, averaged over crops as in training (one line)."""
        return scores_of(bag, self.head(self.features(bag.x))[0])

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input and trunk, each (T, D')."""
        found = {"input": bag.x[0], "trunk": self.features(bag.x)[0]}
        return {name: value.mean(0).float().cpu().numpy() for name, value in found.items()}


def smoothness(scores: Tensor, compat: Literal["ours", "code"]) -> Tensor:
    """Sum of squared differences of neighbours (B, S), inside each video or (`code`) across the concatenation."""
    line = scores.reshape(1, -1) if compat == "code" else scores
    steps: Tensor = line[:, 1:] - line[:, :-1]
    return torch.sum(steps * steps)


def build(config: Config, shape: Shape, resources: Resources) -> Rtfm:
    """The method for features of `shape`."""
    return Rtfm(config, shape, resources)


def rename_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict's keys in our names ([code]: Aggregate.*, fc1, fc2, fc3)."""
    return {key.replace("Aggregate.", "aggregate."): value for key, value in state.items()}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv1d, nn.Linear)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ucf-crime", "features": "i3d:r50", "metric": "auc", "value": 84.30},
    {"dataset": "xd-violence", "features": "i3d", "metric": "ap", "value": 77.81},
    {"dataset": "shanghaitech", "features": "i3d:r50", "metric": "auc", "value": 97.21},
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-b-16",
        "metric": "auc",
        "value": 85.66,
        "source": "re-run by VadCLIP",
    },
    {
        "dataset": "xd-violence",
        "features": "clip:vit-b-16",
        "metric": "ap",
        "value": 78.27,
        "source": "re-run by VadCLIP",
    },
)
