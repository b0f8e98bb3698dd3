"""VadCLIP: a binary branch and a text-alignment branch on one temporal adapter (AAAI 2024; [code] nwpu-zxr/VadCLIP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from pipelines.methods._blocks import (
    InputProjection,
    LgtConfig,
    QuickGelu,
    Trunk,
    build_trunk,
    check_lengths,
    cosine_map,
    mlp,
    public_padding,
    text_vectors,
    unwindow,
    windows,
)
from pipelines.records import Bag, Scores

NAME = "vadclip"
SUMMARY = "VadCLIP: binary and text-alignment branches with learned prompts"
KIND = "features"
DEFAULT_FEATURES = ("clip:vit-b-16", "import:vadclip", "effnet:lite0+motion")
DEFAULT_PRESET = "small-data"  # for data sets without a preset of their own


class Config(MethodConfig):
    """VadCLIP's configuration; defaults are its code's for UCF-Crime (the paper prints lr 1e-5, batch 64)."""

    steps: int = 1250  # 10 epochs of 125
    data: DataConfig = DataConfig(length="bins-pad", size=256, batch_normal=64, batch_abnormal=64)
    optim: OptimConfig = OptimConfig(
        name="adamw", lr=2e-5, weight_decay=0.01, schedule="step", milestones=(500, 1000), gamma=0.1
    )
    width: int = 512
    trunk: Trunk = "lgt"
    lgt: LgtConfig = LgtConfig()
    tau: float = 0.07
    text_weight: float = 0.1  # of the term that keeps classes away from normal; XD-Violence 1e-4 [code]
    context: int = 77  # rows of the learned prompt, used where the text tower is at hand
    primary: str = "c-branch"  # which score is the clip score: "c-branch" (UCF-Crime) or "a-branch" (XD-Violence)


PRESETS: dict[str, dict[str, Any]] = {
    "ucf-crime": {},
    "xd-violence": {
        "steps": 4120,
        "optim": {"lr": 1e-5, "milestones": (1236, 2472, 4120)},
        "data": {"pairing": "mixed", "batch": 96},
        "lgt": {"layers": 1, "attn_window": 64},
        "text_weight": 1e-4,
        "primary": "a-branch",
    },
    "small-data": {
        "steps": 400,
        "width": 128,
        "optim": {"lr": 3e-4, "schedule": "constant"},
        "lgt": {"layers": 1, "heads": 4},
        "data": {"batch_normal": 30, "batch_abnormal": 30, "crops": "first", "standardise": True},
    },
}


class VadClip(Method):
    """Two branches over the adapter's output X; parameter names map one to one to the public state dict (`rename_public`)."""

    needs_class_labels = True
    needs_text = True
    class_words = "class_text"
    takes_prompt_tower = True
    class_text: Tensor  # of a trained run with learned prompts: what the tower made of them

    def __init__(self, config: Config, shape: Shape, resources: Resources) -> None:
        super().__init__()
        if config.primary not in ("c-branch", "a-branch"):
            raise UsageError(f"primary={config.primary!r} is neither 'c-branch' nor 'a-branch'")
        check_lengths(config.trunk, config.lgt, size=config.data.size)
        self.config, self.classes = config, shape.classes
        self.register_buffer("class_text", text_vectors(resources, "classes", config.width, rows=len(shape.classes)))
        self.tower: Any = resources.extras.get("prompt_tower")  # (context, d) -> (Y, d); not a parameter of ours
        learned = self.tower is not None or "prompt" in resources.extras.get("stored", ())
        self.prompt = nn.Parameter(torch.randn(config.context, config.width) * 0.01) if learned else None
        self._settled: Tensor | None = None  # the prompt that class_text was made of
        if self.tower is not None:
            _check_tower(self.tower, config)
            self.register_state_dict_pre_hook(lambda *_: self._settle())  # type: ignore[no-untyped-call]
        self.project = InputProjection(shape.dim, config.width)
        self.trunk = build_trunk(config.trunk, config.width, config.lgt)
        self.mlp1 = mlp(config.width, 4 * config.width, QuickGelu())  # of the text
        self.mlp2 = mlp(config.width, 4 * config.width, QuickGelu())  # of the clips
        self.classifier = nn.Linear(config.width, 1)

    def text(self) -> Tensor:
        """Class text (Y, d): through the tower with the learned prompt while training, else the vectors at hand."""
        if self.tower is None:
            return self.class_text
        if self.training and torch.is_grad_enabled():
            return self.tower(self.prompt)  # type: ignore[no-any-return]
        self._settle()
        return self.class_text

    def _settle(self) -> None:
        """Bring class_text up to the learned prompt; it is saved, so that a loaded run needs no tower."""
        assert self.prompt is not None
        if self._settled is None or not torch.equal(self._settled, self.prompt):
            with torch.no_grad():
                self.class_text = self.tower(self.prompt).detach()
            self._settled = self.prompt.detach().clone()

    def branches(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, S, D), mask (B, S) -> (trunk (B, S, d), binary logits (B, S), class logits (B, S, Y)).

        The public code pools with raw logits over padding too; padding counts only with `lgt.mask: code`.
        """
        s = x.shape[1]
        x, mask = public_padding(x, mask, self.config.lgt)
        trunk = self.trunk(self.project(x), mask)
        binary = self.classifier(trunk + self.mlp2(trunk)).squeeze(-1)  # (B, S)
        weights = binary if self.config.lgt.mask == "code" else binary * mask
        visual = F.normalize((weights.unsqueeze(-1) * trunk).sum(1), dim=-1)  # (B, d)
        text = self.text().unsqueeze(0) + visual.unsqueeze(1)  # (B, Y, d)
        text = text + self.mlp1(text)
        return trunk[:, :s], binary[:, :s], cosine_map(trunk[:, :s], text) / self.config.tau

    def phases(self) -> list[Phase]:
        parameters = [p for p in self.parameters() if p.requires_grad]
        c = self.config
        return [Phase("train", [{"params": parameters}], c.data, self.losses, c.steps, c.optim)]

    def losses(self, bag: Bag) -> dict[str, Tensor]:
        """BCE of the top-k binary score, cross-entropy of the top-k class logits, the text term [code]."""
        k_crops = bag.x.shape[1]
        x, mask = bag.x.flatten(0, 1), bag.mask.repeat_interleave(k_crops, 0)
        y, classes = bag.y.repeat_interleave(k_crops), bag.classes.repeat_interleave(k_crops, 0)
        _, binary, logits = self.branches(x, mask)
        k = mask.sum(1) // 16 + 1
        score = masked_topk_mean(binary.sigmoid(), mask, k).clamp(1e-7, 1 - 1e-7)
        aligned = masked_topk_mean(logits, mask, k)  # (B, Y)
        target = classes / classes.sum(1, keepdim=True)
        text = F.normalize(self.text(), dim=-1)
        away = (text[:1] @ text[1:].T).abs().mean()
        return {
            "bce": F.binary_cross_entropy(score, y),
            "align": -(target * aligned.log_softmax(-1)).sum(1).mean(),
            # A constant where the text is frozen; kept so that the logged sum is the published loss.
            "text": self.config.text_weight * away,
        }

    def score(self, bag: Bag) -> Scores:
        """Clips: sigma(binary) or 1 - P(normal) by `primary`; classes: softmax of the alignment branch."""
        x = bag.x[0]
        parts, mask = windows(x, self.config.lgt.max_clips)
        _, binary, logits = self.branches(parts, mask)
        classes = unwindow(logits, len(x), x.shape[1]).softmax(-1)
        c_branch = unwindow(binary, len(x), x.shape[1]).sigmoid()
        clips = c_branch if self.config.primary == "c-branch" else 1 - classes[..., 0]
        return scores_of(bag, clips, classes)

    def stages(self, bag: Bag) -> dict[str, NDArray[np.float32]]:
        """input, trunk and class logits, each (T, D')."""
        x = bag.x[0]
        parts, mask = windows(x, self.config.lgt.max_clips)
        trunk, _, logits = self.branches(parts, mask)
        found = {"trunk": trunk, "class_logits": logits}
        whole = {name: unwindow(v, len(x), x.shape[1]).mean(0).float().cpu().numpy() for name, v in found.items()}
        return {"input": x.mean(0).float().cpu().numpy()} | whole


def _check_tower(tower: Any, config: Config) -> None:
    width, rows = getattr(tower, "width", config.width), getattr(tower, "rows", config.context)
    if (rows, width) != (config.context, config.width):
        raise UsageError(
            f"the text tower takes prompts of {rows} rows of {width}, the configuration has context={config.context}, "
            f"width={config.width}",
            hint=f"--set width={width} --set context={rows}",
        )


def build(config: Config, shape: Shape, resources: Resources) -> VadClip:
    """The method; `resources.text["classes"]` (Y, D_t), and `resources.extras["prompt_tower"]` for learned prompts.

    `resources.extras["stored"]` names the tensors of a run that is loaded: its learned prompt is kept without a tower.
    """
    return VadClip(config, shape, resources)


def rename_public(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict's keys in our names; the frozen CLIP tower and the unused sigma are left out.

    [code] nwpu-zxr/VadCLIP: temporal.resblocks.N, gc1-gc4, linear, mlp1, mlp2, classifier, frame_position_embeddings,
    text_prompt_embeddings, disAdj.sigma, clipmodel.
    """
    renames = {
        "temporal.resblocks.": "trunk.local_part.blocks.",
        "frame_position_embeddings.": "trunk.local_part.positions.",
        "gc1.": "trunk.global_part.sim_1.",
        "gc2.": "trunk.global_part.sim_2.",
        "gc3.": "trunk.global_part.dis_1.",
        "gc4.": "trunk.global_part.dis_2.",
        "linear.": "trunk.global_part.out.",
        "text_prompt_embeddings.weight": "prompt",
    }
    renamed = {}
    for key, value in state.items():
        if key.startswith("clipmodel.") or key == "disAdj.sigma":
            continue
        for old, new in renames.items():
            if key.startswith(old):
                key = new + key[len(old) :]
                break
        renamed[key.replace("mlp.c_fc.", "mlp.0.").replace("mlp.c_proj.", "mlp.2.")] = value
    for name in ("mlp1", "mlp2"):
        for old, new in (("c_fc", "0"), ("c_proj", "2")):
            for part in ("weight", "bias"):
                if (value_ := renamed.pop(f"{name}.{old}.{part}", None)) is not None:
                    renamed[f"{name}.{new}.{part}"] = value_
    return renamed


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ucf-crime", "features": "clip:vit-b-16", "metric": "auc", "value": 88.02},
    {"dataset": "ucf-crime", "features": "clip:vit-b-16", "metric": "ano-auc", "value": 70.23},
    {"dataset": "xd-violence", "features": "clip:vit-b-16", "metric": "ap", "value": 84.51},
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-b-16",
        "metric": "map-iou",
        "values": (11.72, 7.83, 6.40, 4.53, 2.93),
        "avg": 6.68,
    },
    {
        "dataset": "xd-violence",
        "features": "clip:vit-b-16",
        "metric": "map-iou",
        "values": (37.03, 30.84, 23.38, 17.90, 14.31),
        "avg": 24.70,
    },
    {
        "dataset": "ucf-crime",
        "features": "clip:vit-b-16",
        "metric": "auc",
        "value": 87.3,
        "source": "users' re-trainings",
    },
    {
        "dataset": "xd-violence",
        "features": "clip:vit-b-16",
        "metric": "ap",
        "value": 83.2,
        "source": "users' re-trainings",
    },
)
