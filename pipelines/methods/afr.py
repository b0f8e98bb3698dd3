"""AFR: adaptive feature refinement (SCAM and SAM) in CMSIL's temporal feature pyramid (preprint 202503.2351).

No public code. AFR changes the neck of CMSIL (ICME 2024); what it leaves open is taken from casperZB/CMSIL [code], except
two of that code's faults: here the triplet loss enters the sum and the loss weights are optimised.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.errors import MissingArtifactError, UsageError
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
from pipelines.recipe import Config as BaseConfig
from pipelines.records import Bag, Scores

NAME = "afr"
SUMMARY = "AFR: channel and position attention in a temporal pyramid, trained on pseudo labels"
KIND = "features"
DEFAULT_FEATURES = ("i3d", "import:ur-dmu", "import:xd", "effnet:lite0+motion")
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own
WINDOW = 4  # clips on each side that a clip attends to ("8" in the public configuration)


class NeckConfig(BaseConfig):
    """The attention between pyramid and head; the rows of the paper's ablation."""

    attn: Literal["scam+sam", "scam", "scam+sam_ca", "scam+sam_sa", "scam+nonlocal", "se", "none"] = "scam+sam"
    reduction: int = 4
    kernel: int = 7  # of SAM's f over time


class LossConfig(BaseConfig):
    """L_cls / b1^2 + L_pse / b2^2 + L_trip / b3^2 + sum log(b + 1), b learnable (eq. 14)."""

    alpha: float = 0.2  # of the focal loss: weighs positives [code]; XD-Violence 0.4
    gamma: float = 1.0  # XD-Violence 2.5
    adaptive: Literal["fixed", "balance"] = (
        "fixed"  # `balance`: alpha = share of negatives; AFR gives no formula [ours]
    )
    reduction: Literal["concat", "sum"] = "concat"  # over levels: mean of all positions [code], or sum of means [paper]
    positive: float = 0.45  # pseudo labels above it are positive [code]
    topk: float = 10.0  # alpha of k = ceil(t / alpha); not given in AFR, CMSIL's value
    margin: float = 1.0
    beta_lr: float = 1e-3  # at the model's rate beta would hardly move [ours]
    beta_min: float = 0.3


class Config(MethodConfig):
    """AFR's configuration; defaults are for UCF-Crime."""

    steps: int = 2000
    data: DataConfig = DataConfig(length="window", size=128, batch_normal=30, batch_abnormal=30)
    optim: OptimConfig = OptimConfig(name="adamw", lr=1.0307e-5, weight_decay=0.01, schedule="onecycle", clip_norm=1.0)
    width: int = 1024
    embed: int = Field(1, ge=1)  # XD-Violence 2
    stem: int = Field(2, ge=0)  # XD-Violence 1
    levels: int = Field(5, ge=1)
    heads: int = 4  # XD-Violence 8
    neck: NeckConfig = NeckConfig()
    losses: LossConfig = LossConfig()


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {
        "optim": {"lr": 4.9869e-5},
        "data": {"size": 256},
        "embed": 2,
        "stem": 1,
        "heads": 8,
        "losses": {"alpha": 0.4, "gamma": 2.5},
    },
    "small-data": {
        "steps": 400,
        "width": 128,
        "levels": 4,
        "optim": {"lr": 5e-4, "schedule": "constant"},
        "data": {"size": 64, "crops": "first", "standardise": True},
    },
}


def _conv(conv: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
    """A convolution over time of (B, S, C), reading zeros for padding."""
    return conv((x * mask.unsqueeze(-1)).transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


class ConvAttention(nn.Module):
    """Windowed multi-head attention whose q, k, v pass a depthwise convolution of kernel 3 and the block's stride."""

    def __init__(self, width: int, heads: int, stride: int) -> None:
        super().__init__()
        self.heads = heads
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, 3, stride=stride, padding=1, groups=width, bias=False) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.projections = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor, mask_out: Tensor) -> Tensor:
        """x (B, S, C), mask (B, S), mask_out (B, S') -> (B, S', C)."""
        parts = zip(self.convs, self.norms, self.projections, strict=True)
        q, k, v = (proj(norm(_conv(conv, x, mask))) for conv, norm, proj in parts)
        return self.out(local_attention(q, k, v, mask_out, heads=self.heads))  # type: ignore[no-any-return]


def local_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, *, heads: int, window: int = WINDOW) -> Tensor:
    """Softmax attention of each position over itself and `window` neighbours on each side, cost linear in S.

    q, k, v (B, S, C), mask (B, S) -> (B, S, C); an invalid query attends to itself alone.
    """
    b, s, c = q.shape
    d, span = c // heads, 2 * window + 1

    def neighbourhood(t: Tensor) -> Tensor:  # (B, S, C) -> (B, S, heads, d, span)
        return F.pad(t, (0, 0, window, window)).unfold(1, span, 1).reshape(b, s, heads, d, span)

    keys = F.pad(mask, (window, window)).unfold(1, span, 1).clone()  # (B, S, span)
    keys[..., window] = True
    logits = torch.einsum("bshd,bshdw->bshw", q.reshape(b, s, heads, d) / math.sqrt(d), neighbourhood(k))
    weights = logits.masked_fill(~keys.unsqueeze(2), float("-inf")).softmax(-1)
    return torch.einsum("bshw,bshdw->bshd", weights, neighbourhood(v)).reshape(b, s, c)


class PyramidBlock(nn.Module):
    """Pre-LN: conv attention (stride 1 or 2) with identity or max-pool skip, then an MLP; outputs are masked [code]."""

    def __init__(self, width: int, heads: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = ConvAttention(width, heads, stride)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, S, C), mask (B, S) -> (B, S/stride, C), its mask."""
        out_mask = mask[:, :: self.stride]
        skip = x if self.stride == 1 else self._pool(x, mask)
        keep = out_mask.unsqueeze(-1)
        x = (skip + self.attn(self.ln_1(x), mask, out_mask)) * keep
        return (x + self.mlp(self.ln_2(x))) * keep, out_mask

    def _pool(self, x: Tensor, mask: Tensor) -> Tensor:
        low = x.masked_fill(~mask.unsqueeze(-1), float("-inf")).transpose(1, 2)  # padding never wins
        pooled = F.max_pool1d(low, 3, stride=self.stride, padding=1).transpose(1, 2)
        return pooled.masked_fill(~mask[:, :: self.stride].unsqueeze(-1), 0.0)


class ChannelAttention(nn.Module):
    """x * sigmoid(MLP(max over time + mean over time)): the two pools are summed before one MLP (eq. 2, 5)."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        inner = width // reduction
        self.mlp = nn.Sequential(nn.Linear(width, inner, bias=False), nn.ReLU(), nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        keep = mask.unsqueeze(-1)
        largest = x.masked_fill(~keep, float("-inf")).amax(1)
        mean = (x * keep).sum(1) / keep.sum(1)
        return x * torch.sigmoid(self.mlp(largest + mean)).unsqueeze(1)


class Scam(nn.Module):
    """Local features phi (depthwise-separable convolution, LN, GELU [ours]), then channel attention (eq. 1 to 4)."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width, bias=False)
        self.pointwise = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.channel = ChannelAttention(width, reduction)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        local = F.gelu(self.norm(self.pointwise(_conv(self.depthwise, x, mask))))
        return self.channel(local, mask)  # type: ignore[no-any-return]


class Sam(nn.Module):
    """Channel attention (eq. 5, 6), then a gate per position, f = Conv1d over [mean, max] of channels (eq. 7, 8)."""

    def __init__(
        self, width: int, config: NeckConfig, *, channel: Literal["on", "off"], position: Literal["on", "off"]
    ) -> None:
        super().__init__()
        self.channel = ChannelAttention(width, config.reduction) if channel == "on" else None
        self.f = nn.Conv1d(2, 1, config.kernel, padding=config.kernel // 2, bias=False) if position == "on" else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.channel is not None:
            x = self.channel(x, mask)
        return x if self.f is None else x * self.gate(x, mask)

    def gate(self, x: Tensor, mask: Tensor) -> Tensor:
        """S (B, S, 1) in (0, 1)."""
        assert self.f is not None
        return torch.sigmoid(_conv(self.f, torch.stack([x.mean(-1), x.amax(-1)], dim=-1), mask))


class NonLocal(nn.Module):
    """Embedded-Gaussian non-local block of inner width C/2, zero-initialised output, residual [ours]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width // 2) for _ in range(3))
        self.out = nn.Linear(width // 2, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        logits = self.query(x) @ self.key(x).transpose(1, 2)
        weights = logits.masked_fill(~mask.unsqueeze(1), float("-inf")).softmax(-1)
        return x + self.out(weights @ self.value(x))  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """CMSIL's gate, applied at each time step: C -> C/4 -> C without bias [code]."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        inner = width // reduction
        self.net = nn.Sequential(nn.Linear(width, inner, bias=False), nn.ReLU(), nn.Linear(inner, width, bias=False))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * torch.sigmoid(self.net(x))


class Neck(nn.Module):
    """LN of each level, then the attention, whose weights all levels share; no top-down path."""

    def __init__(self, width: int, levels: int, config: NeckConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(levels))
        self.first = Scam(width, config.reduction) if "scam" in config.attn else None
        self.second: nn.Module | None = None
        if "sam" in config.attn.split("+", 1)[-1] and config.attn != "scam":
            channel: Literal["on", "off"] = "off" if config.attn.endswith("sam_sa") else "on"
            position: Literal["on", "off"] = "off" if config.attn.endswith("sam_ca") else "on"
            self.second = Sam(width, config, channel=channel, position=position)
        elif config.attn.endswith("nonlocal"):
            self.second = NonLocal(width)
        elif config.attn == "se":
            self.second = SqueezeExcite(width, config.reduction)

    def forward(self, x: Tensor, mask: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """x (B, S, C) of one level -> (before SAM, after SAM), masked."""
        x = self.norms[level](x)
        before = self.first(x, mask) if self.first is not None else x
        after = self.second(before, mask) if self.second is not None else before
        keep = mask.unsqueeze(-1)
        return before * keep, after * keep


class Head(nn.Module):
    """Two masked convolutions (kernel 3, no bias, LN, ReLU) and one to a logit; last bias -log 99 (eq. 9)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.out = nn.Conv1d(width, 1, 3, padding=1)
        nn.init.constant_(self.out.bias, -math.log(99.0))  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, S, C) -> logits (B, S)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(_conv(conv, x, mask)))
        return _conv(self.out, x, mask).squeeze(-1)


class Afr(Method):
    """Pyramid, neck and shared head; each level scores its own clips."""

    needs_pseudo = True
    expand = "linear"  # how clip scores become frames: each level interpolated, mean over levels [code]

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        self.config = config
        if config.width % config.heads or config.width % config.neck.reduction:
            raise UsageError(
                f"width={config.width} is no multiple of heads={config.heads} and neck.reduction={config.neck.reduction}"
            )
        widths = [shape.dim, *[config.width] * config.embed]
        self.embed = nn.ModuleList(nn.Conv1d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths))
        self.embed_norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(config.embed))
        self.stem = nn.ModuleList(PyramidBlock(config.width, config.heads, 1) for _ in range(config.stem))
        self.branch = nn.ModuleList(PyramidBlock(config.width, config.heads, 2) for _ in range(config.levels - 1))
        self.neck = Neck(config.width, config.levels, config.neck)
        self.head = Head(config.width)
        self.log_weights = nn.Parameter(torch.ones(3))  # beta of eq. 14: cls, pse, trip

    @property
    def multiple(self) -> int:
        """Lengths are padded to a multiple of this: every level then is a whole number of windows [code]."""
        return int(2 ** (self.config.levels - 1) * 2 * WINDOW)

    def pyramid(self, x: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """x (B, S, D), mask (B, S) -> per level (before SAM, after SAM (B, S_l, C), mask (B, S_l)); S_l = ceil(S / 2^l)."""
        pad = -x.shape[1] % self.multiple
        x, mask = F.pad(x, (0, 0, 0, pad)), F.pad(mask, (0, pad))
        for conv, norm in zip(self.embed, self.embed_norms, strict=True):
            x = F.relu(norm(_conv(conv, x, mask))) * mask.unsqueeze(-1)
        for block in self.stem:
            x, mask = block(x, mask)
        found = [(*self.neck(x, mask, 0), mask)]
        for level, block in enumerate(self.branch, start=1):
            x, mask = block(x, mask)
            found.append((*self.neck(x, mask, level), mask))
        return found

    def phases(self) -> list[Phase]:
        """One phase; weight decay on convolution and linear weights only, the loss weights at their own rate."""
        c = self.config
        decay: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if name != "log_weights" and parameter.requires_grad:
                (decay if parameter.dim() > 1 else plain).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": decay},
            {"params": plain, "weight_decay": 0.0},
            {"params": [self.log_weights], "weight_decay": 0.0, "lr": c.losses.beta_lr},
        ]
        return [Phase("train", groups, c.data, self.losses, c.steps, c.optim, after_step=self._clamp)]

    def _clamp(self) -> None:
        with torch.no_grad():
            self.log_weights.clamp_(min=self.config.losses.beta_min)

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """The terms of eq. 14, already weighted by 1 / beta^2, and the sum of log(beta + 1)."""
        pseudo = bag.extras.get("pseudo")
        if pseudo is None:
            raise MissingArtifactError(
                "afr trains on pseudo labels and none were given",
                hint="--pseudo RUN takes a trained run's scores, --pseudo clip:... those of image-text pairs",
            )
        k_crops = bag.x.shape[1]
        x, mask = bag.x.flatten(0, 1), bag.mask.repeat_interleave(k_crops, 0)
        y, pseudo = bag.y.repeat_interleave(k_crops), pseudo.repeat_interleave(k_crops, 0)
        levels = self.pyramid(x, mask)
        logits = [self.head(after, m) for _, after, m in levels]
        labels = pool_labels(F.pad(pseudo, (0, levels[0][2].shape[1] - pseudo.shape[1])), len(levels))
        raw = {
            "cls": self._classification(logits, levels, y),
            "pse": self._pseudo(logits, labels, levels, y),
            "trip": self._triplet(logits, labels, levels, y),
        }
        beta = self.log_weights
        terms = {name: value / beta[i] ** 2 for i, (name, value) in enumerate(raw.items())}
        return terms | {"beta": torch.log(beta + 1).sum()}

    def _classification(self, logits: list[Tensor], levels: list[tuple[Tensor, Tensor, Tensor]], y: Tensor) -> Tensor:
        """BCE of the mean over levels of the top-k mean, k = ceil(t / alpha) (eq. 12)."""
        pooled = [
            masked_topk_mean(z.sigmoid(), m, torch.ceil(m.sum(1) / self.config.losses.topk).long())
            for z, (_, _, m) in zip(logits, levels, strict=True)
        ]
        return F.binary_cross_entropy(torch.stack(pooled).mean(0).clamp(1e-6, 1 - 1e-6), y)

    def _pseudo(
        self, logits: list[Tensor], labels: list[Tensor], levels: list[tuple[Tensor, Tensor, Tensor]], y: Tensor
    ) -> Tensor:
        """Focal loss of abnormal videos against the pooled pseudo labels (eq. 11)."""
        if not bool((y > 0).any()):
            return logits[0].sum() * 0.0
        per_level, counts = [], []
        for z, n, (_, _, m) in zip(logits, labels, levels, strict=True):
            valid = m & (y > 0).unsqueeze(1)
            positive = (n > self.config.losses.positive).float()
            per_level.append(focal(z[valid], positive[valid], self.config.losses))
            counts.append(valid.sum())
        means = torch.stack([level.mean() for level in per_level])
        if self.config.losses.reduction == "sum":
            return means.sum()
        weight = torch.stack(counts).to(means)
        return (means * weight).sum() / weight.sum()

    def _triplet(
        self, logits: list[Tensor], labels: list[Tensor], levels: list[tuple[Tensor, Tensor, Tensor]], y: Tensor
    ) -> Tensor:
        """Triplet margin on unit vectors: anchor f_c, positive f_r, negative f_d; per video and masked, mean over levels.

        The shares U(0.1, 0.3) of an abnormal and U(0.2, 0.4) of a normal video are drawn at every step.
        """
        abnormal, normal = (y > 0).nonzero().squeeze(1), (y == 0).nonzero().squeeze(1)
        if not len(abnormal) or not len(normal):
            return logits[0].sum() * 0.0
        share_a, share_n = 0.1 + 0.2 * float(torch.rand(())), 0.2 + 0.2 * float(torch.rand(()))
        partner = normal[torch.arange(len(abnormal), device=y.device) % len(normal)]
        terms = []
        for z, n, (_, after, m) in zip(logits, labels, levels, strict=True):
            centre = top_features(after[abnormal], z[abnormal], m[abnormal], share_a)
            relevant = top_features(after[abnormal], n[abnormal], m[abnormal], share_a)
            distractor = top_features(after[partner], z[partner], m[partner], share_n)
            terms.append(F.triplet_margin_loss(centre, relevant, distractor, margin=self.config.losses.margin))
        return torch.stack(terms).mean()

    def score(self, bag: Bag) -> Scores:
        """Clips: level 0; `levels`: the coarser ones with their spans. Frames interpolate each level, then average."""
        x = bag.x[0]
        t, spans, n_frames = x.shape[1], bag.extras["spans"], int(bag.extras["n_frames"])
        lines = [self.head(after, m).sigmoid() for _, after, m in self.pyramid(x, bag.mask.expand(len(x), -1))]
        levels, level_spans = [], []
        for level, line in enumerate(lines[1:], start=1):
            count = -(-t // 2**level)
            levels.append(line[:, :count].float().cpu().numpy())
            starts = spans[:: 2**level, 0]
            ends = np.minimum(np.append(spans[2**level :: 2**level, 0], max(n_frames, int(spans[-1, 1]))), n_frames)
            level_spans.append(np.stack([starts, ends], axis=1))
        return scores_of(bag, lines[0][:, :t], levels=tuple(levels), level_spans=tuple(level_spans))

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input, each level before and after SAM, and the level-by-time map of feature norms before and after."""
        x = bag.x[0]
        t = x.shape[1]
        found = {"input": x.mean(0)}
        maps: dict[str, list[Tensor]] = {"before": [], "after": []}
        for level, (before, after, _) in enumerate(self.pyramid(x, bag.mask.expand(len(x), -1))):
            for name, value in (("before", before), ("after", after)):
                rows = value.mean(0)[: -(-t // 2**level)]
                found[f"level{level}_{name}_sam"] = rows
                maps[name].append(rows.norm(dim=-1).repeat_interleave(2**level)[:t])
        found |= {f"map_{name}_sam": torch.stack(rows, dim=1) for name, rows in maps.items()}
        return {name: value.float().cpu().numpy() for name, value in found.items()}


def focal(logits: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    """Sigmoid focal loss per element; alpha weighs positives, 1 - alpha negatives (so alpha 0.2 lowers positives)."""
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p_true = p * target + (1 - p) * (1 - target)
    alpha: float | Tensor = 1 - target.mean() if config.adaptive == "balance" else config.alpha
    return (alpha * target + (1 - alpha) * (1 - target)) * (1 - p_true) ** config.gamma * ce


def pool_labels(pseudo: Tensor, levels: int) -> list[Tensor]:
    """Pseudo labels (B, S) at every level: the maximum over 2^l clips (eq. 10)."""
    return [
        pseudo,
        *(F.max_pool1d(pseudo.unsqueeze(1), 2**level, ceil_mode=True).squeeze(1) for level in range(1, levels)),
    ]


def top_features(features: Tensor, by: Tensor, mask: Tensor, share: float) -> Tensor:
    """Unit mean of the features at the ceil(share * valid) largest valid values of `by`: (B, S, C) -> (B, C)."""
    k = torch.ceil(mask.sum(1) * share).long().clamp(min=1)
    order = by.masked_fill(~mask, float("-inf")).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(by.shape[1], device=by.device).expand_as(order))
    chosen = ((rank < k.unsqueeze(1)) & mask).unsqueeze(-1)
    return F.normalize((features * chosen).sum(1) / chosen.sum(1), dim=-1)


def build(config: Config, shape: Shape, resources: Resources) -> Afr:
    """The method; pseudo labels come with the bags (`bag.extras["pseudo"]`)."""
    return Afr(config, shape, resources)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ucf-crime", "features": "i3d", "metric": "auc", "value": 92.73, "doubt": "unverified"},
    {"dataset": "xd-violence", "features": "i3d", "metric": "ap", "value": 81.74},
    *(
        {"dataset": dataset, "features": "i3d", "metric": metric, "value": value, "set": f"neck.attn={attn}"}
        for attn, xd, ucf in (
            ("scam", 80.91, 87.57),
            ("scam+sam_ca", 79.02, 84.11),
            ("scam+sam_sa", 80.88, 85.64),
            ("scam+nonlocal", 78.19, 84.47),
        )
        for dataset, metric, value in (("xd-violence", "ap", xd), ("ucf-crime", "auc", ucf))
    ),
)
