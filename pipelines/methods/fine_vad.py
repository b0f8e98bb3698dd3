"""Fine-VAD: progressive cross-granularity learning, from binary over pseudo-macro to fine classes (CVPR 2026).

No public code exists. What the paper leaves open is completed as the docstrings say; `[paper]` marks what it states,
`[ours]` what we chose.
"""

from __future__ import annotations

import re
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
    top_count,
)
from pipelines.methods._blocks import (
    InputProjection,
    LgtConfig,
    QuickGelu,
    Trunk,
    build_trunk,
    check_lengths,
    cosine_map,
    mlp,
    text_vectors,
    unwindow,
    windows,
)
from pipelines.recipe import Config as BaseConfig
from pipelines.records import Bag, Scores

NAME = "fine-vad"
SUMMARY = "Fine-VAD: coarse, pseudo-macro and fine alignment with text, on cached features"
KIND = "features"
DEFAULT_FEATURES = ("clip:vit-b-16", "import:vadclip", "effnet:lite0+motion")
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own


class LossConfig(BaseConfig):
    """Which losses act on which level; the defaults are the paper's full form."""

    coarse: Literal["bce", "bce+cts"] = "bce+cts"
    inter: Literal["none", "mce", "mce+cts"] = "none"  # the paper omits it: supervision here hurts (table of losses)
    fine: Literal["refine", "mce", "mce+cts", "cts+refine"] = "refine"
    cts_weight: float = 1.0  # lambda 1: UCF-Crime 1, XD-Violence 1e-4 [paper]
    fine_weight: float = 1.0  # lambda 2: 1 [paper]
    omega: float = 2.0  # eq. 9, not given [ours]
    refine: Literal["paper", "denominator"] = "paper"  # eq. 9 read literally, or what its text describes [ours]
    anchors: Literal["abnormal", "both"] = "abnormal"  # of InfoNCE [ours]


class Config(MethodConfig):
    """Fine-VAD's configuration (reference section 2)."""

    steps: int = 1250  # 10 epochs of 125 steps [paper]
    data: DataConfig = DataConfig(length="bins-pad", size=256, batch_normal=64, batch_abnormal=64)
    optim: OptimConfig = OptimConfig(name="adamw", lr=1e-5, weight_decay=0.01)  # lr [paper], decay [ours]
    lr_new: float | None = None  # rate of everything but the trunk; None: optim.lr [ours]
    lr_guide: float | None = None  # rate of the guides, which can learn small data by heart; None: as lr_new [ours]
    width: int = 512
    trunk: Trunk = "lgt"
    lgt: LgtConfig = LgtConfig()
    levels: Literal["fine", "coarse+fine", "inter+fine", "all"] = "all"
    macro: int = 4  # K, at most the number of anomaly classes [paper]
    top: float = Field(16, gt=0)  # T of top-T pooling [paper]; a share of the valid length when below 1 [ours]
    select: Literal["column", "joint"] = "column"  # `joint`: one set of clips for both coarse columns [ours]
    tau: float = 0.07  # the paper puts cosines into log(); VadCLIP's temperature [ours]
    guide: Literal["window", "video"] = "window"  # scope of the guide vectors at test [ours]
    losses: LossConfig = LossConfig()


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {"losses": {"cts_weight": 1e-4}, "lgt": {"layers": 1, "attn_window": 64}},
    "small-data": {
        "steps": 400,
        "width": 128,
        "optim": {"lr": 3e-4},
        "lgt": {"layers": 1, "heads": 4},
        "data": {"batch_normal": 30, "batch_abnormal": 30, "crops": "first", "standardise": True},
    },
}


class Guide(nn.Module):
    """One step of attention guidance: a map asks the clips, the answer refines text vectors (eq. 4 and 5).

    Query Linear(columns -> d) of M/tau, key and value Linear(d -> d) of the clips, one head, output Linear; the mean over
    valid clips is concatenated to each text vector and added through a two-layer network [ours where the paper is silent].
    """

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(columns, width)
        self.key, self.value, self.out = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.fuse = mlp(2 * width, 4 * width, QuickGelu(), width)

    def read(self, scaled_map: Tensor, clips: Tensor, mask: Tensor) -> Tensor:
        """scaled_map (B, S, columns), clips (B, S, d), mask (B, S) -> the guide vector (B, d)."""
        q, k, v = self.query(scaled_map), self.key(clips), self.value(clips)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.unsqueeze(1) | _eye(mask))
        valid = mask.unsqueeze(-1)
        return (self.out(y) * valid).sum(1) / valid.sum(1).clamp(min=1)  # type: ignore[no-any-return]

    def refine(self, text: Tensor, guide: Tensor) -> Tensor:
        """text (Y, d), guide (B, d) -> (B, Y, d)."""
        rows = text.unsqueeze(0).expand(len(guide), -1, -1)
        spread = guide.unsqueeze(1).expand(-1, len(text), -1)
        return self.fuse(torch.cat([rows, spread], dim=-1)) + rows  # type: ignore[no-any-return]


class FineVad(Method):
    """Maps of three granularities over the clips of a video; see `maps`."""

    needs_class_labels = True
    needs_text = True
    class_words = "fine_text"  # the macro classes stay: the guide has learned their columns
    coarse_text: Tensor
    fine_text: Tensor
    macro_text: Tensor
    group_of: Tensor

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        check_lengths(config.trunk, config.lgt, size=config.data.size, top=config.top)
        self.config, self.classes = config, shape.classes
        if len(shape.classes) < 2:
            raise UsageError(f"fine-vad needs a normal class and an anomaly class, the dataset has {shape.classes}")
        coarse = text_vectors(resources, "coarse", config.width, rows=2)
        fine = text_vectors(resources, "classes", config.width, rows=len(shape.classes))
        macro, group_of = macro_classes(fine.numpy(), config.macro)
        # One anomaly class has nothing to group: the middle level would repeat the fine one, and is skipped.
        self.levels = _levels(config.levels) - ({"inter"} if len(shape.classes) == 2 else set())
        if len(shape.classes) == 2 and "inter" in _levels(config.levels):
            self.notes = ("one anomaly class has no macro classes: the middle level is skipped",)
        else:
            self.notes = (describe_groups(shape.classes, group_of),)
        for name, value in (
            ("coarse_text", coarse),
            ("fine_text", fine),
            ("macro_text", macro),
            ("group_of", group_of),
        ):
            self.register_buffer(name, value)
        self.project = InputProjection(shape.dim, config.width)
        self.trunk = build_trunk(config.trunk, config.width, config.lgt)
        self.head = mlp(config.width, 4 * config.width, QuickGelu())
        first = 2 if "coarse" in self.levels else 0
        second = len(macro) if "inter" in self.levels else first
        self.guide_inter = Guide(2, config.width) if {"coarse", "inter"} <= self.levels else None
        self.guide_fine = Guide(second, config.width) if second else None

    def features(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, S, D) -> (trunk output, f_video), both (B, S, d)."""
        trunk = self.trunk(self.project(x), mask)
        return trunk, trunk + self.head(trunk)

    def maps(self, clips: Tensor, mask: Tensor, *, groups: int = 1) -> dict[str, Tensor]:
        """The cosine maps of f_video with each level's text: coarse (B, S, 2), inter (B, S, K+1), fine (B, S, Y).

        `groups` consecutive rows of the batch share their guide vectors (`guide: video`; 1 = each row its own).
        """
        out = {"coarse": cosine_map(clips, self.coarse_text)}
        last = "coarse" if "coarse" in self.levels else None
        if "inter" in self.levels:
            text: Tensor = self.macro_text
            if self.guide_inter is not None:
                guide = _shared(self.guide_inter.read(out["coarse"] / self.config.tau, clips, mask), mask, groups)
                text = self.guide_inter.refine(self.macro_text, guide)
            out["inter"], last = cosine_map(clips, text), "inter"
        text = self.fine_text
        if self.guide_fine is not None and last is not None:
            guide = _shared(self.guide_fine.read(out[last] / self.config.tau, clips, mask), mask, groups)
            text = self.guide_fine.refine(self.fine_text, guide)
        out["fine"] = cosine_map(clips, text)
        return out

    def phases(self) -> list[Phase]:
        rate = self.config.lr_new or self.config.optim.lr
        rates = {"trunk": self.config.optim.lr, "guide": self.config.lr_guide or rate}
        parts: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            parts.setdefault(rates.get(re.split("[._]", name)[0], rate), []).append(parameter)
        groups = [{"params": parameters, "lr": lr} for lr, parameters in parts.items()]
        return [Phase("train", groups, self.config.data, self.losses, self.config.steps, self.config.optim)]

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """L_bce + lambda1 L_cts + lambda2 L_refine, with the switches of the loss table (eq. 8, 9)."""
        c = self.config.losses
        x, mask = bag.x.flatten(0, 1), bag.mask.repeat_interleave(bag.x.shape[1], 0)  # (B*K, S, D)
        y, classes = (v.repeat_interleave(bag.x.shape[1], 0) for v in (bag.y, bag.classes))
        _, clips = self.features(x, mask)
        maps = self.maps(clips, mask)
        terms: dict[str, Tensor] = {}
        if "coarse" in self.levels:
            terms["bce"] = self._bce(maps["coarse"], mask, y)
            if c.coarse == "bce+cts":
                z = self._pooled(clips, maps["coarse"], mask)
                labels = torch.where(y > 0, 1, 0)
                terms["cts"] = c.cts_weight * info_nce(z, labels[:, None] == labels, self._anchors(y), self.config.tau)
        if "inter" in self.levels and c.inter != "none":
            terms |= self._supervised("inter", clips, maps, mask, y, self._macro_target(classes), c.inter)
        terms |= self._supervised("fine", clips, maps, mask, y, classes / classes.sum(1, keepdim=True), c.fine)
        return terms

    def _supervised(
        self, level: str, clips: Tensor, maps: dict[str, Tensor], mask: Tensor, y: Tensor, target: Tensor, parts: str
    ) -> dict[str, Tensor]:
        logits = self._pool(maps[level], mask) / self.config.tau  # (B, columns)
        weight = self.config.losses.fine_weight
        terms = {}
        if "mce" in parts:
            terms[f"{level}_mce"] = weight * -(target * logits.log_softmax(-1)).sum(1).mean()
        if "refine" in parts:
            terms[f"{level}_refine"] = weight * self._refine(logits, target, y)
        if "cts" in parts:
            same = (target > 0).float() @ (target > 0).float().T > 0
            z = self._pooled(clips, maps[level], mask)
            terms[f"{level}_cts"] = self.config.losses.cts_weight * info_nce(z, same, self._anchors(y), self.config.tau)
        return terms

    def _refine(self, logits: Tensor, target: Tensor, y: Tensor) -> Tensor:
        """Eq. 9: alpha = omega for classes of the video's macro group.

        `paper`: the literal sum; with a one-hot target only the true class survives, so each abnormal video is scaled by
        omega. `denominator`: log omega is added to the logits of the group's other classes, which is what the text
        describes.
        """
        omega = self.config.losses.omega
        group = self._group_mask(target) & (y > 0).unsqueeze(1)  # (B, Y)
        if self.config.losses.refine == "denominator":
            logits = logits + (group & (target == 0)) * float(np.log(omega))
            return -(target * logits.log_softmax(-1)).sum(1).mean()
        alpha = torch.where(group, omega, 1.0)
        return -(alpha * target * logits.log_softmax(-1)).sum(1).mean()

    def _group_mask(self, target: Tensor) -> Tensor:
        """True where a class is in the union of the groups of the video's anomaly classes: (B, Y)."""
        member = F.one_hot(self.group_of, int(self.group_of.max()) + 1).float()  # (Y, K+1), row 0 is the normal group
        return ((target > 0).float() @ member) @ member.T > 0

    def _macro_target(self, classes: Tensor) -> Tensor:
        member = F.one_hot(self.group_of, len(self.macro_text)).float()
        groups = ((classes @ member) > 0).float()
        return groups / groups.sum(1, keepdim=True)

    def _bce(self, coarse: Tensor, mask: Tensor, y: Tensor) -> Tensor:
        if self.config.select == "joint":
            margin = (coarse[..., 1] - coarse[..., 0]).masked_fill(~mask, float("-inf"))
            order = margin.argsort(dim=1, descending=True)
            coarse, mask = (
                coarse.gather(1, order.unsqueeze(-1).expand_as(coarse)),
                mask.gather(1, order),
            )
            keep = torch.arange(mask.shape[1], device=mask.device) < top_count(mask.sum(1), self.config.top).unsqueeze(
                1
            )
            pooled = masked_topk_mean(coarse, mask & keep, mask.sum(1))
        else:
            pooled = self._pool(coarse, mask)
        log_p = (pooled / self.config.tau).log_softmax(-1)  # (B, 2)
        return -(y * log_p[:, 1] + (1 - y) * log_p[:, 0]).mean()

    def _pool(self, values: Tensor, mask: Tensor) -> Tensor:
        """Mean of the T largest valid values of each column: (B, S, Y) -> (B, Y)."""
        return masked_topk_mean(values, mask, top_count(mask.sum(1), self.config.top))

    def _pooled(self, clips: Tensor, level_map: Tensor, mask: Tensor) -> Tensor:
        """Attention-pooled unit vector of a video (B, d): weights from the anomaly margin of the map [ours]."""
        margin = (level_map[..., 1:].amax(-1) - level_map[..., 0]) / self.config.tau
        weights = margin.masked_fill(~mask, float("-inf")).softmax(1).unsqueeze(-1)
        return F.normalize((weights * clips).sum(1), dim=-1)

    def _anchors(self, y: Tensor) -> Tensor:
        return torch.ones_like(y, dtype=torch.bool) if self.config.losses.anchors == "both" else y > 0

    def score(self, bag: Bag) -> Scores:
        """Clips: softmax(M_coarse / tau)[anomalous]; classes: softmax(M_fine / tau) [ours: the paper prints no AUC].

        Without the coarse level the anomaly score is 1 - P(normal).
        """
        maps = self._full_maps(bag)
        classes = (maps["fine"] / self.config.tau).softmax(-1)
        clips = (
            (maps["coarse"] / self.config.tau).softmax(-1)[..., 1] if "coarse" in self.levels else 1 - classes[..., 0]
        )
        return scores_of(bag, clips, classes)

    def _full_maps(self, bag: Bag) -> dict[str, Tensor]:
        x = bag.x[0]  # (K, T, D)
        parts, mask = windows(x, self.config.lgt.max_clips)
        _, clips = self.features(parts, mask)
        shared = len(parts) // len(x) if self.config.guide == "video" else 1
        maps = self.maps(clips, mask, groups=shared)
        return {name: unwindow(value, len(x), x.shape[1]) for name, value in maps.items()}

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input, trunk, f_video and the maps of each level, each (T, D')."""
        x = bag.x[0]
        parts, mask = windows(x, self.config.lgt.max_clips)
        trunk, clips = self.features(parts, mask)
        found = {"trunk": trunk, "f_video": clips} | {f"map_{k}": v for k, v in self.maps(clips, mask).items()}
        whole = {name: unwindow(value, len(x), x.shape[1]).mean(0) for name, value in found.items()}
        return {"input": x.mean(0).float().cpu().numpy()} | {k: v.float().cpu().numpy() for k, v in whole.items()}


def build(config: Config, shape: Shape, resources: Resources) -> FineVad:
    """The method for features of `shape`; `resources.text` holds "coarse" (2, D_t) and "classes" (Y, D_t)."""
    return FineVad(config, shape, resources)


def macro_classes(fine: NDArray[np.float32], k: int) -> tuple[Tensor, Tensor]:
    """K-means of the anomaly classes' unit text vectors into min(k, M) groups (eq. 3).

    fine (Y, d) with normal first -> ([e_0; mu_1..mu_K] (K+1, d) float32, group of each class (Y,) int64 with normal
    0). float64, k-means++, 50 restarts, seed 0 whatever the run's seed [ours]; groups are numbered by their first class.
    """
    from sklearn.cluster import KMeans

    unit = fine / np.linalg.norm(fine, axis=1, keepdims=True)
    anomalies = unit[1:].astype(np.float64)
    fitted = KMeans(min(k, len(anomalies)), n_init=50, random_state=0).fit(anomalies)
    order = list(dict.fromkeys(fitted.labels_.tolist()))  # first appearance first
    groups = np.array([0] + [order.index(label) + 1 for label in fitted.labels_.tolist()])
    centres = fitted.cluster_centers_[order]
    text = np.concatenate([unit[:1], centres]).astype(np.float32)
    return torch.from_numpy(text), torch.from_numpy(groups.astype(np.int64))


def describe_groups(classes: tuple[str, ...], group_of: Tensor) -> str:
    """The macro classes in words, for the log."""
    groups: dict[int, list[str]] = {}
    for name, group in zip(classes[1:], group_of.tolist()[1:], strict=True):
        groups.setdefault(int(group), []).append(name)
    return "macro classes: " + " | ".join(", ".join(names) for names in groups.values())


def info_nce(z: Tensor, same: Tensor, anchors: Tensor, tau: float) -> Tensor:
    """InfoNCE of unit vectors z (B, d): mean over anchors of the mean over positives (same class, not itself).

    Each term is -log(e^(z.p/tau) / (e^(z.p/tau) + sum over the others' e^(z.q/tau))); 0 where no anchor has both a
    positive and a negative.
    """
    similarity = z @ z.T / tau
    eye = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive, negative = same & ~eye, ~same
    against = similarity.masked_fill(~negative, float("-inf")).logsumexp(1, keepdim=True)  # (B, 1)
    terms = F.softplus(against - similarity)  # (B, B)
    usable = anchors & positive.any(1) & negative.any(1)
    if not bool(usable.any()):
        return z.sum() * 0.0
    per_anchor = torch.where(positive, terms, torch.zeros_like(terms)).sum(1) / positive.sum(1).clamp(min=1)
    return per_anchor[usable].mean()


def _levels(name: str) -> set[str]:
    return {"coarse", "inter", "fine"} if name == "all" else set(name.split("+"))


def _eye(mask: Tensor) -> Tensor:
    return torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)


def _shared(guide: Tensor, mask: Tensor, groups: int) -> Tensor:
    """Guide vectors averaged over `groups` consecutive rows, weighted by their valid clips: (B, d) -> (B, d)."""
    if groups == 1:
        return guide
    weight = mask.sum(1, keepdim=True).float().reshape(-1, groups, 1)  # (videos, groups, 1)
    total = (guide.reshape(len(weight), groups, -1) * weight).sum(1) / weight.sum(1)
    return total.repeat_interleave(groups, 0)


RESULTS: tuple[dict[str, Any], ...] = (
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-b-16",
        "metric": "map-iou",
        "values": (21.43, 18.62, 16.25, 11.41, 7.26),
        "avg": 14.99,
    },
    {
        "dataset": "xd-violence",
        "features": "clip:vit-b-16",
        "metric": "map-iou",
        "values": (44.06, 36.69, 31.22, 25.80, 21.58),
        "avg": 31.87,
    },
    {"dataset": "ucf-crime", "features": "i3d", "metric": "map-iou", "avg": 6.21},
    {"dataset": "xd-violence", "features": "i3d", "metric": "map-iou", "avg": 13.58},
    {"dataset": "ucf-crime", "features": "qwen2.5-vl:7b (progressive prompting)", "metric": "map-iou", "avg": 12.97},
    {"dataset": "xd-violence", "features": "qwen2.5-vl:7b (progressive prompting)", "metric": "map-iou", "avg": 28.02},
    *(
        {"dataset": "ucf-crime", "features": "clip:vit-b-16", "metric": "map-iou", "avg": avg, "set": switch}
        for switch, avg in (
            ("levels=fine", 8.64),
            ("levels=coarse+fine", 10.93),
            ("levels=inter+fine", 11.60),
            ("trunk=none", 5.62),
            ("trunk=transformer", 12.01),
            ("trunk=gcn", 12.13),
            ("trunk=axial", 13.88),
            ("trunk=ta", 14.56),
            ("macro=2", 9.14),
            ("macro=3", 12.96),
            ("macro=5", 12.37),
            ("losses.coarse=bce losses.fine=mce", 10.93),
            ("losses.fine=mce", 12.90),
            ("losses.fine=mce+cts", 12.93),
            ("losses.inter=mce losses.fine=mce+cts", 13.84),
            ("losses.inter=mce+cts losses.fine=mce+cts", 13.92),
            ("losses.inter=mce", 12.58),
            ("losses.inter=mce+cts", 11.96),
            ("losses.fine=cts+refine", 14.86),
            ("losses.coarse=bce", 12.07),
        )
    ),
    *(
        {"dataset": "xd-violence", "features": "clip:vit-b-16", "metric": "map-iou", "avg": avg, "set": f"macro={k}"}
        for k, avg in ((2, 27.74), (3, 30.92), (5, 25.88))
    ),
)
