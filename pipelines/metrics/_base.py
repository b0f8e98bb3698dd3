"""What every metric takes and gives: post-processed scores beside the truth, in; a number with its definition, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError, VerificationError
from pipelines.records import Event

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

PROTOCOLS = ("vadclip", "abnormal-only", "activitynet")
TIOUS = (0.1, 0.2, 0.3, 0.4, 0.5)
NO_CLASSES = "the scores hold no class probabilities"
NO_CLASSES_HINT = (
    "bring class probabilities (`<video>|classes`, normal first) or ready intervals (--segments FILE), or take a method "
    "with classes; on another dataset --class-map FILE maps them"
)


class UndefinedMetricError(UsageError):
    """The data cannot answer this metric (one class of labels, no class scores, ...); the message is the reason."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Scored intervals of all videos as columns of equal length P.

    `video` and `label` index `MetricInput.video_ids` and `.classes`; `start`, `end` are frames, half-open.
    """

    video: Ints
    label: Ints
    start: Floats
    end: Floats
    score: Floats

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: Ints | Bools) -> Detections:
        """The chosen rows, in the order of `index`."""
        return Detections(self.video[index], self.label[index], self.start[index], self.end[index], self.score[index])

    @staticmethod
    def join(parts: Sequence[Detections]) -> Detections:
        """All rows of `parts`, one after another."""
        if not parts:
            none, nowhere = np.zeros(0, np.int64), np.zeros(0)
            return Detections(none, none, nowhere, nowhere, nowhere)
        return Detections(
            *(np.concatenate([getattr(p, n) for p in parts]) for n in ("video", "label", "start", "end", "score"))
        )


@dataclass(frozen=True, slots=True)
class Boxes:
    """Scored or tracked boxes of all videos as columns: inclusive pixels, 0-based frames.

    `box` (P, 4) is x1, y1, x2, y2; `value` is the detection's score, or the track's number in truth.
    """

    video: Ints
    frame: Ints
    box: Floats
    value: Floats


@dataclass(frozen=True, slots=True)
class MetricInput:
    """Post-processed scores of V videos beside their truth. Nothing here knows a dataset.

    Attributes:
        video_ids: V unique ids; every other per-video sequence stands in this order.
        scores: per video (N,) float64, higher is more abnormal.
        labels: per video (N,) bool.
        abnormal: (V,) bool, the video's own label (an abnormal video keeps it even where its event was cut off).
        events: per video the labelled intervals as annotated, never clipped to N.
        classes: names of the classes, normal first; empty where the truth names none.
        class_scores: per video (N, Y) float32 probabilities per frame, or None; `no_classes` says then why, where known.
        fps: per video frames per second, None where unknown; () when none is known.
        segments: ready-made detections that replace the proposals made from class scores.
        pixel_scores, pixel_masks: per video maps (N, h, w) and masks (N, H, W), or None; smaller maps are enlarged.
        tracks, boxes: region truth (value = track number) and region detections (value = score), or None;
            `tracks_from` names what the truth was made of.
    """

    video_ids: tuple[str, ...]
    scores: tuple[Floats, ...]
    labels: tuple[Bools, ...]
    abnormal: Bools
    events: tuple[tuple[Event, ...], ...] = ()
    classes: tuple[str, ...] = ()
    class_scores: tuple[NDArray[np.float32], ...] | None = None
    fps: tuple[float | None, ...] = ()
    segments: Detections | None = None
    pixel_scores: tuple[NDArray[np.float32], ...] | None = None
    pixel_masks: tuple[Bools, ...] | None = None
    tracks: Boxes | None = None
    boxes: Boxes | None = None
    no_classes: str = ""
    tracks_from: str = ""
    memo: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)  # curves sorted once

    def __len__(self) -> int:
        return len(self.video_ids)

    @property
    def lengths(self) -> Ints:
        """(V,) number of evaluated frames of every video."""
        return np.array([len(s) for s in self.scores], dtype=np.int64)

    def check(self) -> MetricInput:
        """Itself, after refusing wrong lengths and NaN or infinite scores.

        Raises:
            VerificationError: names the video and the two numbers, or the first bad frame.
        """
        for index, video in enumerate(self.video_ids):
            scores, labels = self.scores[index], self.labels[index]
            if len(scores) != len(labels):
                raise VerificationError(f"video {video!r}: {len(scores)} frame scores but {len(labels)} frame labels")
            refuse_nonfinite(video, scores)
            if self.class_scores is not None:
                self._check_classes(video, self.class_scores[index], len(labels))
        return self

    def _check_classes(self, video: str, values: NDArray[np.float32], n_frames: int) -> None:
        if values.shape != (n_frames, len(self.classes)):
            raise VerificationError(
                f"video {video!r}: class scores of shape {values.shape}, expected {(n_frames, len(self.classes))}"
            )
        refuse_nonfinite(video, values)

    def subset(self, keep: Bools | Ints) -> MetricInput:
        """Only the chosen videos (boolean mask or indices), detections and boxes renumbered.

        A video chosen twice is not supported here; bootstrapping reweights instead.
        """
        index = np.flatnonzero(keep) if np.asarray(keep).dtype == bool else np.asarray(keep, dtype=np.int64)
        place = np.full(len(self), -1, dtype=np.int64)
        place[index] = np.arange(len(index))
        pick = [int(i) for i in index]
        return replace(
            self,
            video_ids=tuple(self.video_ids[i] for i in pick),
            scores=tuple(self.scores[i] for i in pick),
            labels=tuple(self.labels[i] for i in pick),
            abnormal=self.abnormal[index],
            events=tuple(self.events[i] for i in pick) if self.events else (),
            class_scores=None if self.class_scores is None else tuple(self.class_scores[i] for i in pick),
            fps=tuple(self.fps[i] for i in pick) if self.fps else (),
            segments=None if self.segments is None else _renumber_detections(self.segments, place),
            pixel_scores=None if self.pixel_scores is None else tuple(self.pixel_scores[i] for i in pick),
            pixel_masks=None if self.pixel_masks is None else tuple(self.pixel_masks[i] for i in pick),
            tracks=None if self.tracks is None else _renumber_boxes(self.tracks, place),
            boxes=None if self.boxes is None else _renumber_boxes(self.boxes, place),
        )


@dataclass(frozen=True, slots=True)
class MetricOptions:
    """The choices a metric may depend on; each is written beside the number it changes.

    Attributes:
        protocols: which of PROTOCOLS `map-iou` computes.
        tious: the IoU thresholds.
        detection_videos: `activitynet` over abnormal videos, or all.
        video_score: a video's score from its frames: "max", or "topk" (mean of the N//16 + 1 largest).
        threshold: theta of operating figures and `video-acc`, None where none was learnt.
        threshold_source: where theta comes from, in words.
        thresholds_by_video: (V,) theta per video, for policies learnt per camera; goes before `threshold`.
        map_resize: how score maps smaller than the masks are enlarged.
    """

    protocols: tuple[str, ...] = PROTOCOLS
    tious: tuple[float, ...] = TIOUS
    detection_videos: Literal["abnormal", "all"] = "abnormal"
    video_score: Literal["max", "topk"] = "max"
    threshold: float | None = None
    threshold_source: str | None = None
    thresholds_by_video: Floats | None = None
    map_resize: Literal["nearest", "bilinear"] = "bilinear"


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric's answer. `value` is a fraction of 1; `n` says how many frames or videos it used; `extra` is JSON-ready."""

    value: float
    definition: str
    n: int
    extra: Mapping[str, Any] = field(default_factory=dict)


class MetricModule(Protocol):
    """What a file in this folder offers: the command line's names it answers, and one function."""

    NAME: str
    SUMMARY: str
    METRICS: tuple[str, ...]
    DEFINITIONS: Mapping[str, str]

    @staticmethod
    def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
        """The metric `name` of `data`.

        Raises:
            UndefinedMetricError: with the reason, where the data cannot answer it.
        """


def refuse_nonfinite(video: str, values: NDArray[np.floating[Any]]) -> None:
    """Raise when a score is NaN or infinite.

    Raises:
        VerificationError: names the video and its first bad frame.
    """
    bad = ~np.isfinite(values)
    if bad.any():
        first = int(np.argwhere(bad)[0][0])
        raise VerificationError(
            f"video {video!r}: the score of frame {first} is {values[first]} ({int(bad.sum())} such values)",
            hint="`--nan zero` or `--nan hold` replaces and counts them",
        )


def _renumber_detections(rows: Detections, place: Ints) -> Detections:
    kept = rows.take(place[rows.video] >= 0)
    return replace(kept, video=place[kept.video])


def _renumber_boxes(rows: Boxes, place: Ints) -> Boxes:
    keep = place[rows.video] >= 0
    return Boxes(place[rows.video[keep]], rows.frame[keep], rows.box[keep], rows.value[keep])
