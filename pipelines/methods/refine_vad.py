"""RefineVAD: motion-aware temporal shift (MoTAR) and category-oriented refinement (CORE) (AAAI 2026, arXiv 2511.13204).

No usable public code. `[paper]` marks what the abstract and public summaries state; everything else is `[ours]` and a
configuration key.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.errors import UsageError
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
from pipelines.methods._blocks import CrossAttention, ResidualBlock, sinusoid
from pipelines.recipe import Config as BaseConfig
from pipelines.records import Bag, Scores

NAME = "refine-vad"
SUMMARY = "RefineVAD: motion-gated temporal shift and category prototypes"
KIND = "features"
DEFAULT_FEATURES = ("clip:vit-l-14", "effnet:lite0+motion")
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own


class MotarConfig(BaseConfig):
    """The motion-aware shift; `mode` is an ablation switch."""

    mode: Literal["ste", "soft", "fixed", "hard", "off"] = "ste"
    fold: int = 8  # K of floor(r D / K), the usual TSM fold; not given in the paper
    ratio: float = 0.5  # r of `fixed`
    sharpness: float = 4.0  # channels, of `soft`; falls linearly to 1 over the run
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1


class CoreConfig(BaseConfig):
    """Category-oriented refinement."""

    inject: Literal["soft", "hard", "off"] = "soft"  # soft classification, one-hot of the best class, or no CORE
    attend: Literal["broadcast", "swap"] = "broadcast"  # one refined vector for all clips, or clips ask the prototypes
    inject_gt: bool = True  # v_train = v + e_y [paper]; leaks the label in training: report both
    weight_tau: float = 0.1  # of softmax over p_c; 1.0 is the paper's, almost flat
    freeze: bool = False  # keep prototypes and category head of `init_core`
    categories: tuple[str, ...] = ()  # the prototypes' classes after a transfer; else the dataset's own
    class_map: dict[str, str] = Field(default_factory=dict)  # this dataset's class -> the transferred run's class


class LossConfig(BaseConfig):
    """L = L_MIL + gmm L_GMM + cat L_cat [paper]."""

    mil: Literal["rank", "bce"] = "rank"
    gmm: float = 0.1
    cat: float = 0.2


class Config(MethodConfig):
    """RefineVAD's configuration (reference section 3)."""

    steps: int = 1500  # up to 30 epochs [paper]
    data: DataConfig = DataConfig(length="pick-pad", size=200, batch_normal=32, batch_abnormal=32)
    optim: OptimConfig = OptimConfig(name="adamw", lr=5e-5, weight_decay=0.01)
    width: int = 512
    streams: Literal["both", "visual", "text"] = "both"  # ablation; `text` needs a second stream
    motar: MotarConfig = MotarConfig()
    core: CoreConfig = CoreConfig()
    losses: LossConfig = LossConfig()
    fine: Literal["weights", "proto"] = "weights"  # class scores: s_t w_c, or s_t softmax_c(cos(x_t, e_c) / 0.07)
    init_core: str | None = None  # a trained run whose CORE is taken over


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {},
    "small-data": {
        "steps": 400,
        "width": 128,
        "optim": {"lr": 5e-4},
        "motar": {"layers": 1},
        "data": {"batch_normal": 30, "batch_abnormal": 30, "crops": "first", "standardise": True},
    },
}


class MaskedNorm(nn.Module):
    """Batch normalisation of one scalar per clip over valid clips only; running statistics at test."""

    mean: Tensor
    var: Tensor

    def __init__(self, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("var", torch.ones(()))

    def forward(self, v: Tensor, mask: Tensor) -> Tensor:
        """v (B, S), mask (B, S) -> (B, S)."""
        mean, var = self.mean, self.var
        if self.training:
            valid = v[mask]
            mean, var = valid.mean(), valid.var(unbiased=False)
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.var.lerp_(var, self.momentum)
        return (v - mean) / torch.sqrt(var + self.eps)


def neighbours(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The clip before and the clip after each clip, (B, S, D) each; the first and the last valid one take themselves."""
    before = torch.cat([x[:, :1], x[:, :-1]], dim=1)
    after = torch.cat([x[:, 1:], x[:, -1:]], dim=1)
    has_next = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1).unsqueeze(-1)
    return before, torch.where(has_next, after, x)


def motion_variance(x: Tensor) -> Tensor:
    """v_t = Var over channels of x_t - x_(t-1), 0 for the first clip: (B, S, D) -> (B, S)."""
    delta = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=1)
    return delta.var(dim=-1, unbiased=False)


def shift_masks(ratio: Tensor, dim: int, config: MotarConfig, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """Channel masks F (from the clip before) and C (up to the clip after) for s_t = floor(r_t D / K).

    ratio (B, S) in (0, 1) -> two (B, S, D): y = F x_(t-1) + (C - F) x_(t+1) + (1 - C) x_t. `ste`: hard values, the
    gradient of clamp(u - c, 0, 1) and clamp(2u - c, 0, 1) with u = r D / K. `soft`: sigmoids. `hard`, `fixed`: no gradient.
    """
    u = (ratio * (dim / config.fold)).unsqueeze(-1)  # (B, S, 1)
    channel = torch.arange(dim, device=ratio.device, dtype=ratio.dtype)
    if config.mode == "soft":
        return torch.sigmoid((u - channel) / sharpness), torch.sigmoid((2 * u - channel) / sharpness)
    s = u.detach().floor()
    hard = (channel < s).to(ratio.dtype), (channel < 2 * s).to(ratio.dtype)
    if config.mode in ("hard", "fixed"):
        return hard
    soft = (u - channel).clamp(0, 1), (2 * u - channel).clamp(0, 1)
    return soft[0] + (hard[0] - soft[0]).detach(), soft[1] + (hard[1] - soft[1]).detach()


class Motar(nn.Module):
    """Shift ratio from motion, shift, projection, and a small transformer [paper]; sizes and norm [ours]."""

    progress: Tensor

    def __init__(self, dim: int, width: int, config: MotarConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = MaskedNorm()
        self.gate = nn.Sequential(nn.Linear(1, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 1))
        self.project = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.heads, "gelu", dropout=config.dropout) for _ in range(config.layers)
        )
        self.register_buffer("progress", torch.zeros(()))  # of training, 0 to 1
        if config.mode in ("fixed", "hard"):
            self.gate.requires_grad_(False)

    def ratio(self, x: Tensor, mask: Tensor) -> Tensor:
        """r_t (B, S) in (0, 1)."""
        if self.config.mode == "fixed":
            return torch.full(x.shape[:2], self.config.ratio, device=x.device, dtype=x.dtype)
        v = self.norm(torch.log(motion_variance(x) + 1e-6), mask)
        return torch.sigmoid(self.gate(v.unsqueeze(-1))).squeeze(-1)

    def shift(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, S, D) with the first channels taken from neighbours in time."""
        sharpness = self.config.sharpness + (1 - self.config.sharpness) * self.progress
        forward, both = shift_masks(self.ratio(x, mask), x.shape[-1], self.config, sharpness)
        before, after = neighbours(x, mask)
        return forward * before + (both - forward) * after + (1 - both) * x

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, S, D), mask (B, S) -> (B, S, width)."""
        y = self.project(self.shift(x, mask))
        y = y + sinusoid(y.shape[1], y.shape[2], y)
        for block in self.blocks:
            y = block(y, keys=mask)
        return y  # type: ignore[no-any-return]


class Core(nn.Module):
    """Category weights from the video, prototypes, and their injection into the clips (reference 3.3)."""

    def __init__(self, width: int, categories: int, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.coarse = nn.Linear(width, 1)
        self.category = nn.Linear(width, 2 * categories)
        self.prototypes = nn.Parameter(torch.randn(categories, width) * 0.02)
        self.attend = CrossAttention(width)
        self.mix = nn.Linear(2 * width, 1) if config.attend == "broadcast" else None
        self.norm = nn.LayerNorm(width)

    def classify(self, x: Tensor, mask: Tensor) -> Tensor:
        """p_c, the anomaly probability of each category: (B, S, d) -> (B, C)."""
        attention = self.coarse(x).squeeze(-1).masked_fill(~mask, float("-inf")).softmax(1)
        video = (attention.unsqueeze(-1) * x).sum(1)
        z = self.category(video).reshape(len(x), -1, 2)  # (B, C, 2): normal, anomalous
        return z.softmax(-1)[..., 1]  # type: ignore[no-any-return]

    def weights(self, p: Tensor) -> Tensor:
        """w_c: softmax(p / tau), or the one-hot of the best category where it reaches 0.5 (`hard`)."""
        if self.config.inject == "hard":
            best = F.one_hot(p.argmax(1), p.shape[1]).to(p.dtype)
            return best * (p.amax(1, keepdim=True) >= 0.5)
        return (p / self.config.weight_tau).softmax(1)

    def forward(self, x: Tensor, mask: Tensor, truth: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, S, d), truth (B, C) rows that sum to 0 or 1 or None -> (refined x, p (B, C), w (B, C), v (B, d))."""
        p = self.classify(x, mask)
        w = self.weights(p)
        v = w @ self.prototypes
        if truth is not None:
            v = v + truth @ self.prototypes
        if self.mix is None:  # swap: each clip asks the weighted prototypes
            keys = self.prototypes.expand(len(x), -1, -1)
            return self.norm(x + self.attend(x, keys, w.unsqueeze(-1) * keys, None)), p, w, v
        h = self.attend(v.unsqueeze(1), x, x, mask).expand(-1, x.shape[1], -1)  # one vector, for every clip
        gate = torch.sigmoid(self.mix(torch.cat([x, h], dim=-1)))
        return self.norm(x + gate * h), p, w, v


class RefineVad(Method):
    """MoTAR, CORE and a small classifier over one or two joined streams."""

    needs_class_labels = True

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        self.config, self.classes = config, shape.classes
        self.used = _stream(shape, config.streams)
        dim = self.used.stop - self.used.start
        names = config.core.categories or shape.classes[1:]
        self.categories = names
        self.motar = Motar(dim, config.width, config.motar) if config.motar.mode != "off" else None
        self.project = None if self.motar else nn.Linear(dim, config.width)
        self.core = Core(config.width, len(names), config.core) if config.core.inject != "off" else None
        self.classifier = nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, 128), nn.GELU(), nn.Dropout(0.1), nn.Linear(128, 1)
        )
        with_gmm = self.core is not None and config.losses.gmm > 0
        self.spread = nn.Sequential(nn.Linear(2 * config.width, 64), nn.GELU(), nn.Linear(64, 1)) if with_gmm else None
        self.to_category = _category_map(shape.classes, names, config.core.class_map, transferred=config.init_core)
        self._take_over(resources)

    def _take_over(self, resources: Resources) -> None:
        state = resources.extras.get("core")
        if self.core is None or state is None:
            return
        self.core.load_state_dict(state)
        if self.config.core.freeze:
            self.core.prototypes.requires_grad_(False)
            self.core.category.requires_grad_(False)

    def refine(self, x: Tensor, mask: Tensor, truth: Tensor | None) -> dict[str, Tensor]:
        """x (B, S, D) -> clip logits (B, S) and the inner features by name."""
        x = x[..., self.used]
        out = {"temporal": self.motar(x, mask) if self.motar else self.project(x)}  # type: ignore[misc]
        out["refined"] = out["temporal"]
        if self.core is not None:
            out["refined"], out["p"], out["w"], out["v"] = self.core(out["temporal"], mask, truth)
        return out | {"logits": self.classifier(out["refined"]).squeeze(-1)}

    def phases(self) -> list[Phase]:
        parameters = [p for p in self.parameters() if p.requires_grad]
        c = self.config
        groups = [{"params": parameters}]
        return [Phase("train", groups, c.data, self.losses, c.steps, c.optim, after_step=self._advance)]

    def _advance(self) -> None:
        if self.motar is not None:
            self.motar.progress.add_(1 / self.config.steps).clamp_(max=1.0)

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """L_MIL + lambda1 L_GMM + lambda2 L_cat."""
        k_crops = bag.x.shape[1]
        x, mask = bag.x.flatten(0, 1), bag.mask.repeat_interleave(k_crops, 0)
        y, classes = bag.y.repeat_interleave(k_crops), bag.classes.repeat_interleave(k_crops, 0)
        target = self._target(classes)  # (B, C) multi-hot, or None where no class maps
        truth = None
        if target is not None and self.config.core.inject_gt:
            truth = target / target.sum(1, keepdim=True).clamp(min=1)
        out = self.refine(x, mask, truth)
        score = out["logits"].sigmoid()
        terms = {"mil": self._mil(masked_topk_mean(score, mask, mask.sum(1) // 16 + 1), y)}
        if self.core is not None:
            if self.spread is not None and bool((y > 0).any()):
                terms["gmm"] = self.config.losses.gmm * self._smoothness(out, score, mask)[y > 0].mean()
            if target is not None:
                p = out["p"].clamp(1e-6, 1 - 1e-6)
                terms["cat"] = self.config.losses.cat * F.binary_cross_entropy(p, target)
        return terms

    def _target(self, classes: Tensor) -> Tensor | None:
        """Multi-hot over the prototypes' categories; normal videos are all zero."""
        if self.core is None or (self.config.init_core and not self.config.core.class_map):
            return None
        return (classes @ self.to_category.to(classes)).clamp(max=1)

    def _mil(self, video: Tensor, y: Tensor) -> Tensor:
        """`rank`: max(0, 1 - abnormal + normal) over all pairs; `bce`: cross-entropy of the top-k mean. video (B,)."""
        abnormal, normal = video[y > 0], video[y == 0]
        if self.config.losses.mil == "bce" or not len(abnormal) or not len(normal):
            return F.binary_cross_entropy(video.clamp(1e-6, 1 - 1e-6), y)
        return F.relu(1 - abnormal[:, None] + normal[None, :]).mean()

    def _smoothness(self, out: dict[str, Tensor], score: Tensor, mask: Tensor) -> Tensor:
        """(s_t - sum_j W_tj s_j)^2 with W_tj ~ exp(-(t-j)^2 / 2 sigma_j^2) s_j, mean over valid t: (B,) [ours].

        sigma_t = 1 + 7 sigmoid(MLP([x_t; v])) clips; the lower bound matters, since sigma -> 0 makes any scores smooth.
        """
        assert self.spread is not None
        both = torch.cat([out["refined"], out["v"].unsqueeze(1).expand_as(out["refined"])], dim=-1)
        sigma = 1 + 7 * torch.sigmoid(self.spread(both)).squeeze(-1)  # (B, S)
        index = torch.arange(score.shape[1], device=score.device, dtype=score.dtype)
        square = (index[:, None] - index[None, :]) ** 2
        weight = torch.exp(-square / (2 * sigma.unsqueeze(1) ** 2)) * (score * mask).unsqueeze(1)  # (B, S, S)
        smooth = (weight @ score.unsqueeze(-1)).squeeze(-1) / weight.sum(-1).clamp(min=1e-8)
        return ((score - smooth) ** 2 * mask).sum(1) / mask.sum(1)

    def score(self, bag: Bag) -> Scores:
        """Clips: s_t; classes: 1 - s_t for normal, s_t times the category weight for each anomaly class."""
        x = bag.x[0]  # (K, T, D)
        out = self.refine(x, bag.mask.expand(len(x), -1), None)
        s = out["logits"].sigmoid()
        if self.core is None:
            return scores_of(bag, s)
        share = out["w"].unsqueeze(1).expand(-1, x.shape[1], -1)
        if self.config.fine == "proto":
            unit = F.normalize(out["refined"], dim=-1) @ F.normalize(self.core.prototypes, dim=-1).T
            share = (unit / 0.07).softmax(-1)
        here = share @ self.to_category[1:].T.to(share)  # categories -> this dataset's anomaly classes
        return scores_of(bag, s, torch.cat([(1 - s).unsqueeze(-1), s.unsqueeze(-1) * here], dim=-1))

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input, after MoTAR, after CORE, and the shift ratio, each (T, D')."""
        x = bag.x[0]
        mask = bag.mask.expand(len(x), -1)
        out = self.refine(x, mask, None)
        found = {"input": x, "temporal": out["temporal"], "refined": out["refined"]}
        if self.motar is not None:
            found["shift_ratio"] = self.motar.ratio(x[..., self.used], mask).unsqueeze(-1)
        return {name: value.mean(0).float().cpu().numpy() for name, value in found.items()}


def build(config: Config, shape: Shape, resources: Resources) -> RefineVad:
    """The method; `resources.extras["core"]` carries the weights of a transferred CORE (see `take_over`)."""
    return RefineVad(config, shape, resources)


def take_over(config: Config, trained: Method, classes: tuple[str, ...]) -> tuple[Config, dict[str, Any]]:
    """The configuration and the extras for a training that starts from the CORE of a trained run (`init_core`).

    Raises:
        UsageError: the run is no RefineVAD with a CORE, its CORE has another form, or `core.class_map` has unknown names.
    """
    if not isinstance(trained, RefineVad) or trained.core is None:
        raise UsageError(f"init_core={config.init_core!r} is not a refine-vad run with a CORE")
    ours, theirs = (config.width, config.core.attend), (trained.config.width, trained.config.core.attend)
    if ours != theirs:
        raise UsageError(
            f"the CORE of {config.init_core!r} has width={theirs[0]}, core.attend={theirs[1]}; the configuration has "
            f"{ours[0]}, {ours[1]}",
            hint=f"--set width={theirs[0]} --set core.attend={theirs[1]}",
        )
    for key, value in config.core.class_map.items():
        if key not in classes or value not in trained.categories:
            raise UsageError(
                f"core.class_map: {key!r} -> {value!r} must lead from one of {', '.join(classes[1:])} to one of "
                f"{', '.join(trained.categories)}"
            )
    core = config.core.model_copy(update={"categories": trained.categories})
    return config.model_copy(update={"core": core}), {"core": trained.core.state_dict()}


def _stream(shape: Shape, which: str) -> slice:
    streams = list(shape.streams.values())
    if which == "both" or (which == "visual" and len(streams) == 1):
        return slice(0, shape.dim)
    if len(streams) < 2:
        raise UsageError(
            f"streams={which!r} needs a visual and a text stream, the features have {', '.join(shape.streams) or 'one'}",
            hint="vad extract DATASET --captions FILE makes a text stream",
        )
    return slice(0, streams[-1].start) if which == "visual" else streams[-1]


def _category_map(
    classes: tuple[str, ...], categories: tuple[str, ...], class_map: dict[str, str], *, transferred: str | None
) -> Tensor:
    """(Y, C): which category each class of this dataset is; by name, or by `class_map` after a transfer."""
    table = torch.zeros(len(classes), len(categories))
    for row, name in enumerate(classes):
        partner = class_map.get(name, name if transferred is None or not class_map else "")
        if row and partner in categories:
            table[row, categories.index(partner)] = 1
    return table


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ucf-crime", "features": "clip:vit-l-14+text", "metric": "auc", "value": 88.92},
    {"dataset": "xd-violence", "features": "clip:vit-l-14+text", "metric": "ap", "value": 88.66},
    {"dataset": "ucf-crime", "features": "clip:vit-l-14+text", "metric": "map-iou@0.1", "value": 20.90},
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-l-14+text",
        "metric": "auc",
        "value": 84.60,
        "set": "motar.mode=off core.inject=off",
    },
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-l-14+text",
        "metric": "auc",
        "value": 85.43,
        "set": "core.inject=off",
    },
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-l-14+text",
        "metric": "auc",
        "value": 87.28,
        "set": "motar.mode=off core.inject=hard",
    },
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-l-14+text",
        "metric": "auc",
        "value": 87.85,
        "set": "motar.mode=off",
    },
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-l-14+text",
        "metric": "auc",
        "value": 88.89,
        "source": "ablation table",
    },
    {
        "dataset": "xd-violence",
        "features": "clip:vit-l-14+text",
        "metric": "ap",
        "value": 87.52,
        "set": "init_core=ucf-crime core.freeze=true",
    },
    {
        "dataset": "xd-violence",
        "features": "clip:vit-l-14+text",
        "metric": "ap",
        "value": 77.56,
        "source": "zero-shot from ucf-crime",
    },
)
