"""Local Patterns Generalize Better for Novel Anomalies (Jiang and Mao): ITAM on regions, SMM on their tubes.

Two branches learn to align crops with captions (what is done; how and where it looks); frozen, they describe every region
of every frame; a state machine predicts the next description, and its error is the score. What the paper leaves open or
breaks is completed by the one-class reference, section 2, and is a setting here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pipelines.errors import UsageError, VadError
from pipelines.methods._base import Fit, Method, OptimConfig, Phase, Resources, Shape
from pipelines.methods._density import Nearest
from pipelines.methods._itam import Branch, Fusion, ItamConfig, tokens, vocabulary
from pipelines.methods._regions import paint
from pipelines.methods._smm import SmmConfig, StateMachine
from pipelines.methods._tubes import Crops, TubeConfig, Tubes, TubeSpec, TubeVideo
from pipelines.methods._words import NAMES, sentences
from pipelines.recipe import Config as BaseConfig
from pipelines.records import Scores

NAME = "local-patterns"
SUMMARY = "regions, image-text alignment on crops, and a state machine that predicts each region's next description"
KIND = "tubes"
DEFAULT_FEATURES = ()
DEFAULT_PRESET = "small"

BRANCHES: tuple[tuple[int, ...], ...] = ((0,), (1, 2, 3))  # caption slots: actions; clothes, place, object
COLLAPSE = 0.1  # of the fused feature's first deviation: below it the target can be met by a constant
PROJECTED = 256  # dimensions that the ridge baseline sees of a vector
KINDS = ("smm", "persistence", "ridge", "knn")


class Config(BaseConfig):
    """Local Patterns."""

    data: TubeConfig = TubeConfig()
    itam: ItamConfig = ItamConfig()
    smm: SmmConfig = SmmConfig()
    spatial_steps: int = Field(4000, ge=1, description="steps of each branch; the paper gives no total, 40k at `paper`")
    temporal_epochs: float = Field(20.0, gt=0, description="passes over the tubes [paper]")
    spatial: OptimConfig = OptimConfig(name="adamw", lr=1e-4, weight_decay=0.05)
    temporal: OptimConfig = OptimConfig(name="adam", lr=5e-5)
    decay: float = Field(
        0.99, gt=0, le=1, description="of the temporal learning rate, per epoch [paper: unit unstated]"
    )
    warmup: int = Field(5000, ge=0, description="steps from 1e-6, at most a tenth of all [paper: 5000]")
    targets: Literal["multi_positive", "onehot"] = "multi_positive"
    target: Literal["mean", "concat"] = Field("mean", description="what SMM predicts of the two frozen branches")
    error: Literal["mse", "cosine"] = "mse"
    score: Literal["smm", "persistence", "ridge"] = Field("smm", description="whose prediction error is the score")
    spatial_score: Literal["none", "knn"] = Field(
        "none", description="adds the distance to the nearest training vector"
    )
    branches: Literal["both", "action", "appearance"] = Field(
        "both", description="an ablation: one branch in both places"
    )
    maps: Literal["boxes", "cam"] = Field("boxes", description="boxes at their score, or Grad-CAM inside each box")
    val_fraction: float = Field(0.2, ge=0, lt=1, description="of the normal videos: scores are z-scored there")
    theta_quantile: float = Field(0.99, gt=0, lt=1)


SMALL: dict[str, Any] = {
    "data": {"max_boxes": 8, "tubes": "tracked", "size_px": 112, "batch": 32, "tube_batch": 64, "score_batch": 32},
    "itam": {"base": 16, "grid": 7, "visual": 64, "queries": 8, "hidden": 64, "heads": 4, "layers": 2, "embed": 32,
             "text_layers": 1, "text_length": 8},
    "smm": {"channels": 32},
    "spatial_steps": 300,
    "temporal_epochs": 20.0,
    "spatial": {"lr": 5e-4},
    "temporal": {"lr": 1e-3},
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "paper": {
        "itam": {"visual": 1408, "hidden": 768, "heads": 12, "layers": 12, "text_layers": 12},
        "spatial_steps": 40_000,
    },
}


class LocalPatterns(Method):
    """Object score = z-scored prediction error; frame = highest object; first frames and empty frames by rule.

    `centre`, `spread` (4,) are of held-out normal objects for each of KINDS, `empty` (4,) the lowest normal frame score.
    Without learning, SMM's baselines are kept beside it: persistence v(t+1) = v(t), and ridge regression on the inputs.
    """

    supervision = "one-class"
    takes_anomalies = True  # the spatial part learns from every video, the temporal part from normal ones [paper]
    grown = tuple(f"known.{name}" for name in Nearest.grown)
    centre: Tensor
    spread: Tensor
    empty: Tensor
    ridge: Tensor
    project: Tensor
    start_std: Tensor
    temporal_steps: Tensor
    sentences: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        texts = [sentence for slot in range(4) for sentence in sentences(slot)]
        known = vocabulary(texts)
        self.branches = torch.nn.ModuleList(Branch(config.itam, len(known) + 2) for _ in BRANCHES)
        length = config.itam.text_length
        longest = max(len(names) for names in NAMES)
        table = torch.zeros(4, longest, length, dtype=torch.int64)
        for slot in range(4):
            for word, sentence in enumerate(sentences(slot)):
                table[slot, word] = torch.tensor(tokens(sentence, known, length))
        self.register_buffer("sentences", table)
        n = config.itam.queries * config.itam.embed
        self.width, self.out = n, n if config.target == "mean" else 2 * n
        self.fusion = Fusion(config.itam.embed, min(config.itam.heads, config.itam.embed))
        self.machine = StateMachine(n, config.smm, out=self.out)
        self.known = Nearest(limit=20_000)
        small = min(PROJECTED, self.out)
        basis = torch.linalg.qr(torch.randn(self.out, small, generator=torch.Generator().manual_seed(0))).Q
        self.register_buffer("project", basis)
        self.register_buffer("ridge", torch.zeros(config.smm.window * small + 1, self.out))
        for name, value in (("centre", 0.0), ("spread", 1.0), ("empty", 0.0)):
            self.register_buffer(name, torch.full((len(KINDS),), value))
        self.register_buffer("start_std", torch.zeros(()))
        self.register_buffer("temporal_steps", torch.ones((), dtype=torch.int64))

    @property
    def length(self) -> int:
        """P, frames of a tube: L inputs and the predicted one."""
        return self.config.smm.window + self.config.smm.dt

    def phases(self) -> Sequence[Phase | Fit]:
        """Branch 1, branch 2, the baselines in closed form, SMM with the fusion, and the scale of normal scores."""
        c = self.config
        crops = TubeSpec("crops", c.data)
        tubes = TubeSpec("tubes", c.data, self.length, self.describe)
        held = TubeSpec("tubes", c.data, self.length, self.describe, part="held")
        names = ("action", "appearance")
        temporal = [{"params": [*self.fusion.parameters(), *self.machine.parameters()]}]
        spatial: list[Phase | Fit] = [
            Phase(
                name,
                [{"params": list(self.branches[index].parameters())}],
                crops,
                partial(self._align, index),
                c.spatial_steps,
                c.spatial,
                schedule=self._warm,
            )
            for index, name in enumerate(names)
        ]
        smm = Phase(
            "smm", temporal, tubes, self._predict_loss, 1, c.temporal, before=self._begin, epochs=c.temporal_epochs,
            schedule=self._decayed,
        )  # fmt: skip
        return [*spatial, Fit("baselines", tubes, self._fit_ridge), smm, Fit("scale", held, self._fit_scale)]

    def _warm(self, step: int) -> float:
        """Linear from 1e-6, then cosine to a tenth: factors on lr [paper: 1e-6 -> 1e-4 -> 1e-5]."""
        steps = self.config.spatial_steps
        warm = min(self.config.warmup, steps // 10)
        if step < warm:
            return 0.01 + 0.99 * step / warm
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    def _decayed(self, step: int) -> float:
        """`decay` an epoch."""
        steps = max(1, int(self.temporal_steps))  # a buffer, so that a stopped run goes on alike
        return float(self.config.decay ** (self.config.temporal_epochs * step / steps))

    def _align(self, index: int, bag: Crops) -> dict[str, Tensor]:
        branch, slots = self._branch(index), BRANCHES[index]
        words = torch.stack([self.sentences[slot][bag.words[:, slot]] for slot in slots], dim=1)  # (B, N_s, S_t)
        image = branch.image(bag.x)
        caption = bag.words[:, list(slots)]
        return {"contrast": branch.loss(image, words, caption, onehot=self.config.targets)}

    def _branch(self, index: int) -> Branch:
        branch = self.branches[index]
        assert isinstance(branch, Branch)
        return branch

    def describe(self, crops: Tensor) -> Tensor:
        """crops (B, 3, h, w) in [-1, 1] -> both frozen branches (B, 2, N_q, E_d), in eval mode, without gradients."""
        before = self.branches.training
        self.branches.eval()
        with torch.no_grad():
            pair = [self._branch(index).image(crops) for index in range(len(BRANCHES))]
        self.branches.train(before)
        chosen = {"both": (0, 1), "action": (0, 0), "appearance": (1, 1)}[self.config.branches]
        return torch.stack([pair[index] for index in chosen], dim=1)

    def fused(self, v: Tensor) -> Tensor:
        """v (B, L, 2, N_q, E_d) -> SMM's input (B, L, N)."""
        b, length = v.shape[:2]
        first, second = v.flatten(0, 1).unbind(1)
        return self.fusion(first, second).reshape(b, length, self.width)  # type: ignore[no-any-return]

    def target(self, v: Tensor) -> Tensor:
        """v (..., 2, N_q, E_d) -> what is predicted (..., N'), LayerNorm over all of it; no gradient."""
        flat = v.mean(dim=-3).flatten(-2) if self.config.target == "mean" else v.flatten(-3)
        return F.layer_norm(flat, flat.shape[-1:]).detach()

    def _begin(self) -> None:
        """The collapse guard takes the deviation of the first batch."""
        self.start_std.zero_()

    def _predict_loss(self, bag: Tubes) -> dict[str, Tensor]:
        window = self.config.smm.window
        self.temporal_steps.fill_(bag.extras["steps"])
        fused = self.fused(bag.v[:, :window])
        self._guard(fused)
        return {"predict": self._error(self.machine(fused), self.target(bag.v[:, -1])).mean()}

    def _guard(self, fused: Tensor) -> None:
        """Stop where the fused feature has become nearly constant over a batch.

        Raises:
            VadError: its deviation fell below a tenth of its start.
        """
        now = fused[:, -1].detach().std(dim=0).mean()
        if not bool(self.start_std):
            self.start_std.copy_(now)
        if bool(now < COLLAPSE * self.start_std):
            raise VadError(
                f"the fused feature has collapsed: its deviation over a batch is {float(now):.3g}, it began at "
                f"{float(self.start_std):.3g}; a constant would meet any target made of it",
                hint="--set target=mean (frozen branches), a lower --set temporal.lr",
            )

    def _error(self, predicted: Tensor, target: Tensor) -> Tensor:
        """(B, N') twice -> (B,)."""
        if self.config.error == "cosine":
            return 1 - F.cosine_similarity(predicted, target, dim=-1)
        return (predicted - target).square().mean(-1)

    def _lags(self, v: Tensor) -> Tensor:
        """v (B, P, 2, N_q, E_d) -> the ridge's inputs (B, L * d + 1)."""
        known = self.target(v[:, : self.config.smm.window]) @ self.project
        return F.pad(known.flatten(1), (0, 1), value=1.0)

    def _fit_ridge(self, batches: Iterable[Tubes]) -> None:
        """Ridge regression on the L inputs (each projected to 256 dimensions where it is wider), and known vectors."""
        size = self.ridge.shape[0]
        left, right = torch.zeros(size, size).double(), torch.zeros(size, self.out).double()
        vectors: dict[str, list[Tensor]] = {}
        for bag in batches:
            x, y = self._lags(bag.v).double().cpu(), self.target(bag.v[:, -1]).double().cpu()
            left += x.T @ x
            right += x.T @ y
            if self.config.spatial_score == "knn":
                for row, name in enumerate(bag.video_ids):
                    vectors.setdefault(name, []).append(y[row].float())
        damping = 1e-2 * left.diagonal().mean().clamp(min=1e-6)
        self.ridge.copy_(torch.linalg.solve(left + damping * torch.eye(size).double(), right).float())
        if vectors:
            self.known.fit((name, torch.stack(found)) for name, found in vectors.items())

    def errors(self, v: Tensor, video_id: str) -> Tensor:
        """v (B, P, 2, N_q, E_d) -> raw scores of each of KINDS, (B, 4)."""
        wanted, window = self.target(v[:, -1]), self.config.smm.window
        machine = self._error(self.machine(self.fused(v[:, :window])), wanted)
        still = self._error(self.target(v[:, window - 1]), wanted)
        ridge = self._error(self._lags(v) @ self.ridge, wanted)
        near = self.known(wanted, video_id) if self.config.spatial_score == "knn" else torch.zeros_like(still)
        return torch.stack([machine, still, ridge, near], dim=1)

    def _fit_scale(self, batches: Iterable[Tubes]) -> None:
        """Mean and deviation of normal objects' errors, then the lowest frame score."""
        found, at = [], []
        for bag in batches:
            found.append(self.errors(bag.v, bag.video_ids[0]))
            at += list(zip(bag.video_ids, bag.frame.tolist(), strict=True))
        if not found:
            return
        raw = torch.cat(found)
        self.centre.copy_(raw.mean(0))
        self.spread.copy_(raw.std(0, unbiased=False).clamp(min=1e-8))
        frames: dict[tuple[str, int], Tensor] = {}
        for key, value in zip(at, self._scaled(raw), strict=True):
            frames[key] = torch.maximum(frames[key], value) if key in frames else value
        self.empty.copy_(torch.stack(list(frames.values())).min(0).values)

    def _scaled(self, raw: Tensor) -> Tensor:
        return (raw - self.centre) / self.spread

    def score(self, bag: TubeVideo) -> Scores:
        """A score a frame: highest tube; no tube -> the lowest normal score; the first L frames copy the first one."""
        v = self._described(bag)
        objects, usable = self._objects(bag, v)
        line, first = self._line(bag, objects, usable)
        shown = torch.where(usable, objects, torch.full_like(objects, self._floor()))
        maps = self._maps(bag, shown.cpu().numpy(), low=min(self._floor(), float(line.min())))
        spans = bag.regions["spans"]
        line[:first] = line[first] if first < len(line) else self._floor()
        return Scores(bag.video_id, line[None].cpu().numpy(), spans, bag.n_frames, 1, maps={"score": maps})

    def _floor(self) -> float:
        floor = self.empty[KINDS.index(self.config.score)]
        return float(floor + (self.empty[3] if self.config.spatial_score == "knn" else 0.0))

    def _objects(self, bag: TubeVideo, v: Tensor) -> tuple[Tensor, Tensor]:
        """Each region's score (M,), and whether it has a whole tube."""
        usable = torch.from_numpy((bag.rows >= 0).all(axis=1))
        scores = torch.full((len(bag.rows),), float("-inf"))
        for part in torch.split(usable.nonzero().flatten(), self.config.data.tube_batch):
            tubes = v[torch.from_numpy(bag.rows[part.numpy()])].float().to(self.centre.device)
            scaled = self._scaled(self.errors(tubes, bag.video_id))
            chosen = scaled[:, KINDS.index(self.config.score)]
            scores[part] = (chosen + (scaled[:, 3] if self.config.spatial_score == "knn" else 0.0)).cpu()
        return scores, usable

    def _line(self, bag: TubeVideo, objects: Tensor, usable: Tensor) -> tuple[Tensor, int]:
        """The frames' scores, held from one frame with regions to the next, and the first frame that a tube could reach."""
        n, every = int(bag.regions["n_frames"]), bag.every
        line = torch.full((n,), float("-inf"))
        line = line.scatter_reduce(0, torch.from_numpy(bag.regions["frame"]), objects, "amax")
        line = line[::every].repeat_interleave(every)[:n]
        first = min((self.length - 1) * every, n)
        return torch.where(torch.isinf(line), torch.full_like(line, self._floor()), line), first

    def _described(self, bag: TubeVideo) -> Tensor:
        """Every crop's vectors once, float16: (count, 2, N_q, E_d)."""
        c = self.config.itam
        v = torch.zeros(bag.count, 2, c.queries, c.embed, dtype=torch.float16)
        for rows, crops in bag.crops():
            v[torch.from_numpy(rows)] = self.describe(crops.to(self.centre.device)).half().cpu()
        return v

    def _maps(self, bag: TubeVideo, values: NDArray[np.float32], *, low: float) -> NDArray[np.float32]:
        values = np.where(np.isfinite(values), values, low).astype(np.float32)
        maps = paint(values, bag.regions, low=low)
        if self.config.maps == "cam":
            self._shade(maps, values, bag, low)
        return maps[:: bag.every].repeat(bag.every, axis=0)[: len(maps)]

    def _shade(self, maps: NDArray[np.float32], values: NDArray[np.float32], bag: TubeVideo, low: float) -> None:
        """Inside each box the score is weighted by where branch 2 looks (Grad-CAM), in place."""
        maps[:] = low
        last = {int(row): index for index, row in enumerate(bag.rows[:, -1]) if row >= 0}
        for rows, crops in bag.crops():
            cams = self.cam(crops.to(self.centre.device)).cpu()
            for row, cam in zip(rows, cams, strict=True):
                if int(row) in last:
                    index = last[int(row)]
                    one = {
                        **bag.regions,
                        "frame": bag.regions["frame"][[index]],
                        "boxes": bag.regions["boxes"][[index]],
                    }
                    _stamp(maps[int(one["frame"][0])], one["boxes"][0], cam, float(values[index]), low)

    def cam(self, crops: Tensor, *, branch: int = 1) -> Tensor:
        """Grad-CAM on ITAM's tokens: crops (B, 3, h, w) -> (B, grid, grid) in [0, 1].

        What is explained is the similarity of a crop's best query to the branch's nearest sentence.
        """
        net, grid = self._branch(branch), self.config.itam.grid
        with torch.no_grad():
            text = torch.cat([net.captions(self.sentences[slot][: len(NAMES[slot])]) for slot in BRANCHES[branch]])
        with torch.enable_grad():
            found = net.backbone(crops).detach().requires_grad_(True)
            similar = torch.einsum("bqe,ce->bqc", net.attend(found), text).flatten(1).amax(1)
            (gradient,) = torch.autograd.grad(similar.sum(), found)
        weights = gradient[:, 1:].mean(1, keepdim=True)  # (B, 1, V_d)
        heat = F.relu((found.detach()[:, 1:] * weights).sum(2)).reshape(-1, grid, grid)
        return heat / heat.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]

    def stages(self, bag: TubeVideo) -> dict[str, NDArray[np.float32]]:
        """Both branches' mean descriptions of each region, and the fused ones: (M, D)."""
        v = self._described(bag).float()
        latest = v[torch.from_numpy(bag.rows[:, -1].clip(0))] if len(v) and len(bag.rows) else v
        names = ("action", "appearance")
        return {name: latest[:, index].flatten(1).numpy() for index, name in enumerate(names)}

    def complexity(self, clips: int) -> dict[str, float]:
        """Parameters, and multiply-accumulates of one crop through both branches (image path)."""
        return super().complexity(clips) | {"macs_per_crop": float(macs_per_crop(self.config))}


def macs_per_crop(config: Config) -> int:
    """Multiply-accumulates of one crop through both image branches, by formula."""
    c, side = config.itam, config.data.size_px
    half, quarter, eighth = (side // 2) ** 2, (side // 4) ** 2, (side // 8) ** 2
    base = c.base
    net = 3 * base * 49 * half + 4 * base * base * 9 * quarter
    net += (2 * base * base * 9 + 3 * (2 * base) ** 2 * 9 + 2 * base * base) * eighth + 2 * base * c.visual * eighth
    s, q, h = c.grid**2 + 1, c.queries, c.hidden
    own = 4 * q * h * h + 2 * q * q * h + 8 * q * h * h
    cross = 2 * q * h * h + 2 * s * c.visual * h + 2 * q * s * h
    former = c.layers * own + -(-c.layers // 2) * cross + q * h * c.embed
    return 2 * (net + former)


def _stamp(picture: NDArray[np.float32], box: NDArray[np.float32], cam: Tensor, value: float, low: float) -> None:
    """The cam of one box, at low + cam * (value - low), into a map a quarter of the frame's size, in place."""
    height, width = picture.shape
    x1, y1, x2, y2 = (box / 4).round().astype(int)
    w, h = max(1, x2 - x1), max(1, y2 - y1)
    big = F.interpolate(cam[None, None], size=(h, w), mode="bilinear", align_corners=False)[0, 0].numpy()
    top, left = max(0, -y1), max(0, -x1)
    y1, x1, y2, x2 = max(0, y1), max(0, x1), min(height, y1 + h), min(width, x1 + w)
    if y2 > y1 and x2 > x1:
        shade = low + big[top : top + y2 - y1, left : left + x2 - x1] * (value - low)
        np.maximum(picture[y1:y2, x1:x2], shade, out=picture[y1:y2, x1:x2])


def build(config: Config, shape: Shape, resources: Resources) -> LocalPatterns:
    """The method on boxes and stored frames.

    Raises:
        UsageError: a literal basis beyond 8 orders, or heads that do not divide the widths.
    """
    c = config.itam
    if c.hidden % c.heads or c.embed % min(c.heads, c.embed):
        raise UsageError(f"itam.heads={c.heads} must divide itam.hidden={c.hidden} and itam.embed={c.embed}")
    return LocalPatterns(config)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "avenue", "features": "paper", "metric": "auc", "value": 93.7},
    {"dataset": "shanghaitech", "features": "paper", "metric": "auc", "value": 88.6},
)
