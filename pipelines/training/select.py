"""Which weights a run keeps, on which videos that is decided, and the thresholds learnt on normal videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from pipelines.errors import UsageError
from pipelines.methods._base import Method
from pipelines.recipe import Config
from pipelines.records import Scores, Video, VideoFacts, VideoTruth
from pipelines.scoring.expand import expand
from pipelines.scoring.smooth import parse_smooth, smooth

Mode = Literal["last", "val", "best-on-test"]
QUANTILES = (0.95, 0.99, 0.995, 0.999)
QUANTILE = 0.99  # of the threshold in use, unless a method's configuration says another
TOP_SHARE = 16  # a video's score is the mean of its n // 16 + 1 highest clips (reference 1.3)


class SelectionConfig(Config):
    """How the weights of a run are chosen (part of the run's id)."""

    mode: Mode = "last"
    every: int = Field(100, ge=1)  # steps between checks
    patience: int = Field(0, ge=0)  # checks without a better value before training stops; 0 never stops
    metric: Literal["video-auc", "frame-auc"] = "video-auc"  # frame-auc needs temporal truth of these videos
    share: float = Field(0.1, gt=0, lt=1)  # of the training groups, where the split has no val part


class Scorer(Protocol):
    """Scores stored videos with the weights a method has right now; what checks and thresholds are made of."""

    def __call__(self, method: Method, video_id: str) -> Scores:
        """Scores of one video."""

    def facts(self, video_id: str) -> VideoFacts:
        """What is stored beside it."""


class Keeper:
    """Checks on held-out videos during training, and the best weights so far.

    Called by the loop every `every` steps: returns the value to log and whether patience ran out. The first of equal
    values is kept. Its state is part of a saved training.
    """

    def __init__(self, measure: Callable[[Method], float], name: str, config: SelectionConfig) -> None:
        self.measure, self.name, self.config = measure, name, config
        self.best: float | None = None
        self.best_step = 0
        self.weights: dict[str, torch.Tensor] = {}
        self.waited = 0

    def __call__(self, done: int, method: Method) -> tuple[dict[str, float], bool]:
        value = self.measure(method)
        if self.best is None or value > self.best:
            self.best, self.best_step, self.waited = value, done, 0
            self.weights = {key: tensor.detach().cpu().clone() for key, tensor in method.state_dict().items()}
        else:
            self.waited += 1
        return {self.name: value}, self.exhausted

    @property
    def exhausted(self) -> bool:
        """Whether `patience` checks brought nothing better."""
        return bool(self.config.patience) and self.waited >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.best, self.best_step = state["best"], int(state["best_step"])
        self.waited, self.weights = int(state["waited"]), dict(state["weights"])


def video_measure(scorer: Scorer, videos: Sequence[Video], abnormal: Sequence[bool]) -> Callable[[Method], float]:
    """Video-level AUC: each video's score is the mean of its highest clips, crops averaged.

    Raises:
        UsageError: the videos are all normal or all abnormal.
    """
    _need_both(sum(abnormal), len(abnormal) - sum(abnormal))

    def measure(method: Method) -> float:
        return auc(np.array([video_score(scorer(method, v.id)) for v in videos]), np.array(abnormal))

    return measure


def frame_measure(
    scorer: Scorer, videos: Sequence[Video], truth: Callable[[Video, int], VideoTruth]
) -> Callable[[Method], float]:
    """Frame-level AUC over all frames of the videos, against their temporal truth.

    Raises:
        UsageError: the truth has no abnormal or no normal frame.
    """
    labels = [truth(video, scorer.facts(video.id).n_frames).labels for video in videos]
    joined = np.concatenate(labels)
    _need_both(int(joined.sum()), int((~joined).sum()), what="frames")

    def measure(method: Method) -> float:
        return auc(
            np.concatenate([expand(scorer(method, video.id), how=method.expand).scores for video in videos]), joined
        )

    return measure


def video_score(scores: Scores) -> float:
    """Mean of a video's n // 16 + 1 highest clip scores, crops averaged first."""
    clips = np.sort(scores.clips.mean(axis=0, dtype=np.float64))[::-1]
    return float(clips[: len(clips) // TOP_SHARE + 1].mean())


def auc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """ROC-AUC by ranks, ties at their mean rank."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def learn_thresholds(
    method: Method,
    scorer: Callable[[Method, str], Scores],
    normal_ids: Sequence[str],
    *,
    filters: Sequence[str] = ("none",),
    quantiles: Sequence[float] = QUANTILES,
) -> dict[str, dict[str, float]]:
    """Quantiles of the frame scores of normal videos, for each filter: filter text -> quantile -> score.

    Crops are averaged and scores expanded as the method declares first. Empty without normal videos.
    """
    if not normal_ids:
        return {}
    frames = [expand(scorer(method, video), how=method.expand).scores for video in normal_ids]
    found: dict[str, dict[str, float]] = {}
    for text in filters:
        pooled = np.concatenate([smooth(line, parse_smooth(text)) for line in frames])
        found[text] = {str(q): float(np.quantile(pooled, q)) for q in quantiles}
    return found


def _need_both(abnormal: int, normal: int, *, what: str = "videos") -> None:
    if not abnormal or not normal:
        raise UsageError(
            f"the held-out {what} are {normal} normal and {abnormal} abnormal: an AUC needs both",
            hint="--selection last",
        )
