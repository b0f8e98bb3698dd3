"""The metrics block: post-process, measure, floors, intervals. The one way from frame scores to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.metrics._base import PROTOCOLS, TIOUS, Boxes, Detections
from pipelines.records import VideoTruth
from pipelines.scoring.expand import FrameScores
from pipelines.scoring.smooth import Smooth


@dataclass(frozen=True, slots=True)
class EvalData:
    """Scores and truth of one dataset's split, video by video in the same order.

    Attributes:
        frames: frame scores before any post-processing.
        truths: truth of the real length; under `truncate` its labels are cut to the scores' length here, and an
            event that is cut off is counted.
        classes: names of the classes, normal first (class scores stand in this order).
        kind: "weak" or "one-class"; decides what `all` means.
        cameras, fps: per video, or () where unknown.
        areas: per video, per event (in the order of `truth.events`): mean share of the picture it fills; or ().
        segments: ready detections in place of proposals.
        pixel_scores, pixel_masks, tracks, boxes: see `MetricInput`.
    """

    frames: Sequence[FrameScores]
    truths: Sequence[VideoTruth]
    classes: tuple[str, ...] = ()
    kind: Literal["weak", "one-class"] = "weak"
    cameras: Sequence[str | None] = ()
    fps: Sequence[float | None] = ()
    areas: Sequence[Sequence[float]] = ()
    segments: Detections | None = None
    pixel_scores: Sequence[NDArray[np.float32]] | None = None
    pixel_masks: Sequence[NDArray[np.bool_]] | None = None
    tracks: Boxes | None = None
    boxes: Boxes | None = None


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How scores become numbers; all of it is recorded in metrics.json.

    Attributes:
        smooth: after expansion, inside each video (`parse_smooth("gaussian:3")`).
        normalise: "none" or "minmax" per video, after smoothing.
        drop_first, drop_last: frames left out of each video, labels too.
        preset: name of a compatibility preset that replaces the three above.
        protocols, tious, detection_videos, video_score: see `MetricOptions`.
        threshold, threshold_source, thresholds_by_camera: operating point, learnt elsewhere.
        by: breakdowns to add (`duration`, `area`, `class`, `camera`, `video-length`).
        floors: "all" or "none"; `floor_seeds` random floors are averaged.
        rounds: bootstrap rounds, 0 for no interval; `seed` makes them reproducible.
        undefined: "raise" where the user asked by name, "null" for `--metric all`.
    """

    smooth: Smooth = field(default_factory=Smooth)
    normalise: Literal["none", "minmax"] = "none"
    drop_first: int = 0
    drop_last: int = 0
    preset: str | None = None
    protocols: tuple[str, ...] = PROTOCOLS
    tious: tuple[float, ...] = TIOUS
    detection_videos: Literal["abnormal", "all"] = "abnormal"
    video_score: Literal["max", "topk"] = "max"
    threshold: float | None = None
    threshold_source: str | None = None
    thresholds_by_camera: Mapping[str, float] = field(default_factory=dict)
    by: tuple[str, ...] = ()
    floors: Literal["all", "none"] = "all"
    floor_seeds: int = 20
    rounds: int = 1000
    seed: int = 0
    undefined: Literal["raise", "null"] = "raise"


@dataclass(frozen=True, slots=True)
class EvalBlock:
    """What an evaluation found; everything but `processed` and `detections` is JSON-ready.

    Attributes:
        metrics: the `metrics` object of metrics.json, keyed by the command line's names.
        floors: metric -> floor name -> value (and `random_sd`), the same numbers that stand in `metrics`.
        breakdown: kind of `by` -> group -> metric -> value or null with its reason.
        per_video: one row a video: id, frames, positives, abnormal, auc or None, reason, max score, classes.
        per_class: one row a class: frames, positives, videos, auc, ap, events, and AP per protocol (mean over IoU).
        detections: protocol -> proposals (score order); indices are into `video_ids` and `classes`.
        counts: videos, abnormal, frames, positives, events, real frames, cut events, tied share, ...
        recipe: smoothing, normalisation, dropped frames, preset, protocols, threshold and their sources.
        warnings: sentences that a user must see (polarity, ties, floors within the interval, ...).
        processed: per video (N,) post-processed scores; `labels` per video (N,) bool.
    """

    metrics: dict[str, Any]
    floors: dict[str, dict[str, float | None]]
    breakdown: dict[str, Any]
    per_video: list[dict[str, Any]]
    per_class: list[dict[str, Any]]
    detections: dict[str, Detections]
    video_ids: tuple[str, ...]
    classes: tuple[str, ...]
    counts: dict[str, Any]
    recipe: dict[str, Any]
    warnings: list[str]
    processed: tuple[NDArray[np.float64], ...]
    labels: tuple[NDArray[np.bool_], ...]


def metric_names(kind: Literal["weak", "one-class"] | None = None) -> tuple[str, ...]:
    """The names that `--metric` takes: every one, or (with `kind`) what `all` means there."""
    raise UsageError("not yet")


def evaluate_scores(data: EvalData, metrics: Sequence[str], options: EvalOptions | None = None) -> EvalBlock:
    """Post-process, measure each metric, put its floor and its interval beside it.

    Args:
        data: frame scores and truth.
        metrics: names as on the command line, or `("all",)`.
        options: see `EvalOptions`.

    Raises:
        UsageError: an unknown metric, preset or protocol; an undefined metric asked for by name (exit 2).
        VerificationError: scores that fail a check, naming the video (exit 5).
    """
    raise UsageError("not yet")
