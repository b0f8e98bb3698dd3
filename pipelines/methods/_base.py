"""What a method is: bags in, losses and scores out. It knows no dataset, no file and no encoder.

Module-level contract of a method file: `NAME`, `SUMMARY`, `DEFAULT_FEATURES` (what its paper or we take: a tuple of
encoder names to try in order), `KIND` ("features" | "frames" | "tubes"), `Config` (a MethodConfig), `PRESETS` (name -> nested
dict of config values), `RESULTS` (the paper's table as data), and `build(config, shape, resources) -> Method`.
`build` draws its initial weights from torch's global generator, which the train stage seeds just before. Without
`--preset`, training takes the preset named like the dataset, else `DEFAULT_PRESET` (a str) where the file states one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from pipelines.errors import UsageError
from pipelines.recipe import Config
from pipelines.records import Bag, Scores

Length = Literal["bins", "bins-pad", "pick-pad", "window", "full"]


class OptimConfig(Config):
    """The optimiser of a phase and its schedule, both in steps."""

    name: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    lr: float = 1e-4
    weight_decay: float = 0.0
    momentum: float = 0.0  # of sgd
    clip_norm: float | None = None  # gradients are cut to this global L2 norm
    schedule: Literal["constant", "cosine", "step", "onecycle", "plateau"] = "constant"
    warmup: int = 0  # steps of linear rise before the schedule proper (cosine, step and constant)
    milestones: tuple[int, ...] = ()  # of `step`: the factor is multiplied by gamma at each
    gamma: float = 0.1
    patience: int = Field(
        3, ge=1
    )  # of `plateau`: epochs without a lower validation loss before the factor is multiplied


class DataConfig(Config):
    """How videos become a batch (reference: length policies, pair loaders)."""

    length: Length = "bins"
    size: int = Field(32, ge=1)  # S for bins, bins-pad, pick-pad and window
    pairing: Literal["pairs", "mixed"] = "pairs"  # pairs: normals first, then abnormals
    batch_normal: int = Field(30, ge=1)  # of `pairs`; never more than the list holds
    batch_abnormal: int = Field(30, ge=1)
    batch: int = Field(64, ge=1)  # of `mixed`
    crops: Literal["samples", "inside", "first"] = "samples"
    normalise: Literal["none", "l2-clips", "l2-segments"] = "none"  # of each stream; before or after the length policy
    standardise: bool = False  # per-dimension mean and deviation of the training clips, stored with the weights


class MethodConfig(Config):
    """Base of every method's configuration: what all of them share. Budgets count steps, never epochs."""

    steps: int = Field(2000, ge=1)
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a method is built for: width D, streams, classes (normal first), crop count of training."""

    dim: int
    streams: dict[str, slice]
    classes: tuple[str, ...]
    crops: tuple[str, ...]
    clip_len: int
    stride: int


@dataclass(frozen=True, slots=True)
class Resources:
    """What the train stage hands a method that is not in the bags; empty for most methods.

    `text` maps a prompt set's name to (Y or more, D_text) float32 (saved with the run, so that a loaded run needs
    nothing else); `pseudo` maps video ids to (T,) labels in [0, 1], which reach the method cut and pooled like the
    clips, as `bag.extras["pseudo"]` (B, S); `extras` holds what a method asks for by name (a text tower).
    """

    text: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    pseudo: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimisation: which parameters, on which data, with which losses, for how many steps.

    `losses(bag)` returns named, already weighted terms; their sum is minimised and each is logged. The bag's
    `extras` hold "step" and "steps" of the phase (for annealing), "crop_index" (B,) of each row, "starts" (B,) the
    first clip of each row's window, and "pseudo" (B, S) where pseudo labels exist. Rows of a `pairs` batch are normals
    first; `bag.y` says which. `parameters` are torch parameter groups: each may carry its own `lr` and `weight_decay`.
    `schedule` maps a step in [0, steps) to a factor on every group's learning rate; `optim.schedule` unless given.
    """

    name: str
    parameters: Sequence[dict[str, Any]]
    data: Any  # DataConfig, or WindowSpec for frames
    losses: Callable[[Any], dict[str, Tensor]]
    steps: int
    optim: OptimConfig
    schedule: Callable[[int], float] | None = None
    before: Callable[[], None] | None = None  # once, when the phase starts (never again on resume)
    after_step: Callable[[], None] | None = None  # clamps and the like
    epochs: float | None = None  # in place of `steps`: passes over the training list
    validate: Callable[[Any], Tensor] | None = None  # loss of one batch of the held-out videos; what `plateau` watches


@dataclass(frozen=True, slots=True)
class Fit:
    """A closed-form step among the phases: `run(batches)` once, over the whole training list in order, unaugmented.

    Batches are full-length bags of one video each, or windows. It runs in eval mode without gradients; what it learns
    are buffers, and a stopped run does not repeat it.
    """

    name: str
    data: Any
    run: Callable[[Iterable[Any]], None]


class Method(nn.Module, ABC):
    """One method. Its parameters and buffers are its whole learnt state (saved as safetensors).

    Randomness comes from torch's global generator alone (seeded, and saved with a stopped run). Losses and scores
    must not change with what stands in padding (`bag.mask`), nor with the other videos of a batch at scoring.
    """

    supervision: Literal["weak", "one-class", "none"] = "weak"  # weak: needs normal and abnormal training videos
    takes_anomalies: bool = False  # of a one-class method: it sorts out itself which part learns from what
    needs_class_labels: bool = False  # every anomaly class needs a training video
    needs_text: bool = False
    takes_prompt_tower: bool = False  # learns its prompts where the text encoder is CLIP's (`extras["prompt_tower"]`)
    class_words: str = ""  # the buffer of class vectors (Y, width), where other words may stand in it (zero-shot)
    needs_pseudo: bool = False  # trains on pseudo labels (`vad train --pseudo`)
    live_clips: int | None = None  # clips up to a clip that its score needs: 1 is the clip alone, None the whole video
    expand: Literal["repeat", "linear", "bins32"] = "repeat"  # how its clip scores become frames unless asked otherwise
    notes: tuple[str, ...] = ()  # what a user should know of this build ("one anomaly class: the middle level is off")
    grown: tuple[str, ...] = ()  # buffers that begin empty and are as long as the training data makes them

    def phases(self) -> Sequence[Phase | Fit]:
        """The optimisations and closed-form steps in order; empty for methods that need only `fit`, or nothing."""
        return []

    def fit(self, bags: Callable[[], Iterable[Bag]]) -> None:
        """Closed-form fitting, before the first phase: `bags()` iterates full-length labelled bags, one video each."""

    @abstractmethod
    def score(self, bag: Any) -> Scores:
        """Scores of one full-length video: a Bag with B = 1 and all crops in K, or a WindowedVideo for frames.

        Runs under no_grad in eval mode. `spans`, `stride` and `n_frames` come from `bag.extras` (`scores_of` reads them).
        """

    def stages(self, bag: Any) -> dict[str, NDArray[np.float32]]:
        """Named inner features, each (T, D'), for pictures; the input alone unless a method says more."""
        return {"input": bag.x[0].mean(0).float().cpu().numpy()}

    def complexity(self, clips: int) -> dict[str, float]:
        """Parameters (total, trainable); methods may add MACs for a video of `clips` clips."""
        parameters = list(self.parameters())
        return {
            "parameters": float(sum(p.numel() for p in parameters)),
            "trainable": float(sum(p.numel() for p in parameters if p.requires_grad)),
        }


def live_clips_of(module: Any) -> int | None:
    """What the method of a method file declares as `live_clips`, without building it."""
    classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    return next((one.live_clips for one in classes if issubclass(one, Method)), None)


def stream_slice(shape: Shape, prefix: str, *, method: str) -> slice:
    """The slice of D that the stream `prefix` (an encoder name, or its part before the colon) fills.

    Raises:
        UsageError: the features hold no such stream.
    """
    for name, where in shape.streams.items():
        if name == prefix or name.partition(":")[0] == prefix:
            return where
    raise UsageError(
        f"{method} needs the features of {prefix!r}, these are {'+'.join(shape.streams)}",
        hint=f"vad extract DATASET --encoder {prefix}, then --features {prefix} (or A+{prefix})",
    )


def scores_of(bag: Bag, clips: Tensor, classes: Tensor | None = None, **fields: Any) -> Scores:
    """A Scores record from clips (K, T) and classes (K, T, Y) tensors of a one-video bag."""
    return Scores(
        video_id=bag.video_ids[0],
        clips=clips.detach().float().cpu().numpy(),
        classes=None if classes is None else classes.detach().float().cpu().numpy(),
        spans=bag.extras["spans"],
        n_frames=bag.extras["n_frames"],
        stride=bag.extras["stride"],
        crops=bag.crops,
        **fields,
    )


def masked_topk_mean(values: Tensor, mask: Tensor, k: Tensor) -> Tensor:
    """Mean of the k largest valid values along S.

    values (B, S) or (B, S, Y); mask (B, S) bool; k (B,) int, at least 1 and at most the valid length -> (B,) or (B, Y).
    """
    squeeze = values.dim() == 2
    v = values.unsqueeze(-1) if squeeze else values  # (B, S, Y)
    ordered = v.masked_fill(~mask.unsqueeze(-1), float("-inf")).sort(dim=1, descending=True).values
    rank = torch.arange(v.shape[1], device=v.device)
    keep = (rank.unsqueeze(0) < k.clamp(min=1).unsqueeze(1)) & (rank.unsqueeze(0) < mask.sum(1, keepdim=True))  # (B, S)
    kept = torch.where(keep.unsqueeze(-1), ordered, torch.zeros_like(ordered)).sum(1)
    mean = kept / keep.sum(1, keepdim=True).clamp(min=1)
    return mean.squeeze(-1) if squeeze else mean


def top_count(lengths: Tensor, top: float) -> Tensor:
    """How many clips a video's score is the mean of: `top` of them, or that share of the valid length when below 1,
    rounded up; at least 1 and at most the length. lengths (B,) int -> (B,) int.
    """
    count = torch.ceil(lengths * top - 1e-6).long() if top < 1 else torch.full_like(lengths, int(top))
    return count.clamp(min=1).minimum(lengths)


def one_video(bags: Callable[[], Iterable[Bag]]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(video id, (K*T, D) float32) of every bag, for closed-form methods."""
    for bag in bags():
        yield bag.video_ids[0], bag.x[0].flatten(0, 1).float().cpu().numpy()
