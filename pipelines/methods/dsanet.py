"""DSANet: VadCLIP's trunk with normal prototypes and event / background alignment (AAAI 2026; lessiYin/DSANet).

Re-implemented from the description of its settings; departures: the text adapter acts on the frozen class vectors instead of
inside CLIP's first layers, and one AdamW optimises everything (the public code uses StableAdamW for the prototypes).
"""

from __future__ import annotations

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
from pipelines.methods._blocks import (
    CrossAttention,
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
from pipelines.records import Bag, Scores

NAME = "dsanet"
SUMMARY = "DSANet: normal prototypes and event / background alignment on VadCLIP's trunk"
KIND = "features"
DEFAULT_FEATURES = ("clip:vit-b-16", "import:vadclip", "effnet:lite0+motion")
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own


class Config(MethodConfig):
    """DSANet's settings for UCF-Crime."""

    steps: int = 1250
    data: DataConfig = DataConfig(length="bins-pad", size=256, batch_normal=64, batch_abnormal=64)
    optim: OptimConfig = OptimConfig(name="adamw", lr=7e-5, weight_decay=0.01, schedule="cosine")
    width: int = 512
    trunk: Trunk = "lgt"
    lgt: LgtConfig = LgtConfig()
    tau: float = 0.07
    adapter_mix: float = 0.1  # share of the adapted text; XD-Violence 0.6
    prototypes: int = 16
    quiet_share: float = 0.8  # share of lowest-scoring clips that the prototypes read
    decoder_blocks: int = 8
    align_weight: float = 1.1  # XD-Violence 5
    text_weight: float = 1.0
    smoothing: float = 0.1  # of the labels of event and background alignment
    score_tau: float = 5.0  # XD-Violence 1


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {
        "optim": {"lr": 1e-5},
        "data": {"pairing": "mixed", "batch": 96},
        "lgt": {"layers": 1, "attn_window": 64},
        "adapter_mix": 0.6,
        "align_weight": 5.0,
        "score_tau": 1.0,
    },
    "small-data": {
        "steps": 400,
        "width": 128,
        "decoder_blocks": 1,
        "score_tau": 1.0,
        "optim": {"lr": 3e-4, "schedule": "constant"},
        "lgt": {"layers": 1, "heads": 4},
        "data": {"batch_normal": 30, "batch_abnormal": 30, "crops": "first", "standardise": True},
    },
}


class Decoder(nn.Module):
    """Clips ask the video's prototypes, `blocks` times; the answer is the normal reconstruction of each clip."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.attend = nn.ModuleList(CrossAttention(width) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.mlps = nn.ModuleList(mlp(width, 2 * width, QuickGelu()) for _ in range(blocks))

    def forward(self, x: Tensor, prototypes: Tensor) -> Tensor:
        """x (B, S, d), prototypes (B, P, d) -> (B, S, d): no residual of x itself, or copying would be perfect."""
        y = x
        for attend, norm, net in zip(self.attend, self.norms, self.mlps, strict=True):
            y = attend(norm(y), prototypes, prototypes, None)
            y = y + net(y)
        return y


class DsaNet(Method):
    """Binary branch, alignment branch, prototypes and decoder over the adapter's output."""

    needs_class_labels = True
    needs_text = True
    class_words = "class_text"
    class_text: Tensor

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        self.config = c = config
        check_lengths(c.trunk, c.lgt, size=c.data.size)
        self.register_buffer("class_text", text_vectors(resources, "classes", c.width, rows=len(shape.classes)))
        self.project = InputProjection(shape.dim, c.width)
        self.trunk = build_trunk(c.trunk, c.width, c.lgt)
        self.adapter = mlp(c.width, c.width // 4, QuickGelu(), c.width)
        self.mlp1, self.mlp2 = (mlp(c.width, 4 * c.width, QuickGelu()) for _ in range(2))
        self.classifier = nn.Linear(c.width, 1)
        self.prototypes = nn.Parameter(torch.randn(c.prototypes, c.width) * 0.02)
        self.read = CrossAttention(c.width)
        self.decoder = Decoder(c.width, c.decoder_blocks)

    def text(self) -> Tensor:
        """Class vectors (Y, d), mixed with their adapted form."""
        mix = self.config.adapter_mix
        return torch.lerp(self.class_text, self.adapter(self.class_text), mix)

    def branches(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, D) -> (trunk (B, S, d), binary logits (B, S), class logits (B, S, Y))."""
        trunk = self.trunk(self.project(x), mask)
        binary = self.classifier(trunk + self.mlp2(trunk)).squeeze(-1)
        visual = F.normalize(((binary * mask).unsqueeze(-1) * trunk).sum(1), dim=-1)
        text = self.text().unsqueeze(0) + visual.unsqueeze(1)
        return trunk, binary, cosine_map(trunk, text + self.mlp1(text)) / self.config.tau

    def normality(self, trunk: Tensor, binary: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(deviation (B, S) in [0, 1], prototypes (B, P, d), quiet clips (B, S) bool)."""
        quiet = lowest(binary, mask, self.config.quiet_share)
        queries = self.prototypes.expand(len(trunk), -1, -1)
        prototypes = queries + self.read(queries, trunk, trunk, quiet)
        deviation = (1 - F.cosine_similarity(trunk, self.decoder(trunk, prototypes), dim=-1)) / 2
        return deviation, prototypes, quiet

    def phases(self) -> list[Phase]:
        c = self.config
        groups = [{"params": [p for p in self.parameters() if p.requires_grad]}]
        return [Phase("train", groups, c.data, self.losses, c.steps, c.optim)]

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """VadCLIP's terms, event and background alignment, agreement of score and deviation, compactness."""
        c, k_crops = self.config, bag.x.shape[1]
        x, mask = bag.x.flatten(0, 1), bag.mask.repeat_interleave(k_crops, 0)
        y, classes = bag.y.repeat_interleave(k_crops), bag.classes.repeat_interleave(k_crops, 0)
        trunk, binary, logits = self.branches(x, mask)
        score, k = binary.sigmoid(), mask.sum(1) // 16 + 1
        target = classes / classes.sum(1, keepdim=True)
        text = F.normalize(self.text(), dim=-1)
        deviation, prototypes, quiet = self.normality(trunk, binary, mask)
        aligned = masked_topk_mean(logits, mask, k).log_softmax(-1)
        near = (1 - F.normalize(trunk, dim=-1) @ F.normalize(prototypes, dim=-1).transpose(1, 2)).amin(-1)
        return {
            "bce": F.binary_cross_entropy(masked_topk_mean(score, mask, k).clamp(1e-7, 1 - 1e-7), y),
            "align": c.align_weight * -(target * aligned).sum(1).mean(),
            "text": c.text_weight * (text[:1] @ text[1:].T).abs().mean(),
            "event": self._events(trunk, score, mask, target),
            "agree": _masked_mean((score - deviation) ** 2, mask),
            "compact": _masked_mean(near, quiet),
        }

    def _events(self, trunk: Tensor, score: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """The most abnormal clip against the video's class, the quietest against normal; smoothed labels."""
        peak = score.masked_fill(~mask, -1).argmax(1)
        calm = score.masked_fill(~mask, 2).argmin(1)
        rows = torch.arange(len(trunk), device=trunk.device)
        normal = F.one_hot(torch.zeros_like(peak), target.shape[1]).to(target)
        loss = trunk.new_zeros(())
        for index, truth in ((peak, target), (calm, normal)):
            logits = cosine_map(trunk[rows, index].unsqueeze(1), self.text()).squeeze(1) / self.config.tau
            smooth = truth * (1 - self.config.smoothing) + self.config.smoothing / target.shape[1]
            loss = loss - (smooth * logits.log_softmax(-1)).sum(1).mean()
        return loss

    def score(self, bag: Bag) -> Scores:
        """Clips: sigma(binary); classes: its share sigma(logit / tau) times the softmax over anomaly classes."""
        x, tau = bag.x[0], self.config.score_tau
        parts, mask = windows(x, self.config.lgt.max_clips)
        _, binary, logits = self.branches(parts, mask)
        binary, logits = unwindow(binary, len(x), x.shape[1]), unwindow(logits, len(x), x.shape[1])
        share = (logits / tau).softmax(-1)[..., 1:]
        share = share / share.sum(-1, keepdim=True)
        abnormal = (binary / tau).sigmoid().unsqueeze(-1)
        return scores_of(bag, binary.sigmoid(), torch.cat([1 - abnormal, abnormal * share], dim=-1))

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input, trunk and class logits, each (T, D')."""
        x = bag.x[0]
        parts, mask = windows(x, self.config.lgt.max_clips)
        trunk, _, logits = self.branches(parts, mask)
        found = {"trunk": trunk, "class_logits": logits}
        whole = {name: unwindow(v, len(x), x.shape[1]).mean(0).float().cpu().numpy() for name, v in found.items()}
        return {"input": x.mean(0).float().cpu().numpy()} | whole


def lowest(values: Tensor, mask: Tensor, share: float) -> Tensor:
    """True at the ceil(share * valid) lowest valid values of each row: (B, S) bool."""
    k = torch.ceil(mask.sum(1) * share).long().clamp(min=1)
    order = values.masked_fill(~mask, float("inf")).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < k.unsqueeze(1)) & mask


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return ((values * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


def build(config: Config, shape: Shape, resources: Resources) -> DsaNet:
    """The method; `resources.text["classes"]` (Y, D_t)."""
    return DsaNet(config, shape, resources)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ucf-crime", "features": "clip:vit-b-16", "metric": "auc", "value": 89.44},
    {"dataset": "xd-violence", "features": "clip:vit-b-16", "metric": "ap", "value": 86.95},
    {"dataset": "ucf-crime", "features": "clip:vit-b-16", "metric": "map-iou", "avg": 13.01, "doubt": "second-hand"},
)
