"""From frame scores and truth to what a metric takes: checks, post-processing, labels of the same frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VerificationError
from pipelines.metrics._base import PROTOCOLS, TIOUS, Boxes, Detections, MetricInput, MetricOptions, refuse_nonfinite
from pipelines.records import NORMAL, Event, VideoTruth
from pipelines.scoring.expand import FrameScores
from pipelines.scoring.presets import PostProcess, post_process, resize
from pipelines.scoring.smooth import Smooth


@dataclass(frozen=True, slots=True)
class EvalData:
    """Scores and truth of one dataset's split, video by video in the same order.

    Attributes:
        frames: frame scores before any post-processing.
        truths: truth of the real length; under `truncate` its labels are cut to the scores' length here, and an
            event that is cut off is counted.
        classes: names of the classes, normal first (class scores stand in this order).
        dataset: its name; only presets whose steps differ by dataset look at it.
        kind: "weak" or "one-class"; decides what `all` means.
        cameras, fps: per video, or () where unknown.
        areas: per video, per event (in the order in which events are evaluated): mean share of the picture it fills; or ().
        annotated: per video its events before they were cut at its end, for detection (`vadclip` never clips its truth;
            it matters where lengths come from features); the truths' events without it.
        segments: ready detections in place of proposals.
        pixel_scores, pixel_masks, tracks, boxes, no_classes, tracks_from: see `MetricInput`.
    """

    frames: Sequence[FrameScores]
    truths: Sequence[VideoTruth]
    classes: tuple[str, ...] = ()
    dataset: str = ""
    kind: Literal["weak", "one-class"] = "weak"
    cameras: Sequence[str | None] = ()
    fps: Sequence[float | None] = ()
    areas: Sequence[Sequence[float]] = ()
    annotated: Sequence[tuple[Event, ...]] = ()
    segments: Detections | None = None
    pixel_scores: Sequence[NDArray[np.float32]] | None = None
    pixel_masks: Sequence[NDArray[np.bool_]] | None = None
    tracks: Boxes | None = None
    boxes: Boxes | None = None
    no_classes: str = ""
    tracks_from: str = ""


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """How scores become numbers; all of it is recorded in metrics.json.

    Attributes:
        smooth: after expansion, inside each video (`parse_smooth("gaussian:3")`).
        normalise: "none" or "minmax" per video, after smoothing.
        drop_first, drop_last: frames left out of each video, labels too.
        preset: name of a compatibility preset that replaces the three above.
        protocols, tious, detection_videos, video_score, map_resize: see `MetricOptions`.
        threshold, threshold_source, thresholds_by_camera: operating point, learnt elsewhere.
        by: breakdowns to add (`duration`, `area`, `class`, `camera`, `video-length`; `duration:1:10` states its edges).
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
    map_resize: Literal["nearest", "bilinear"] = "bilinear"
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
class Prepared:
    """Post-processed input with the steps that made it and what they met on the way; `areas` in the order of its events."""

    data: MetricInput
    process: PostProcess
    covered: tuple[int, ...]
    options: MetricOptions
    constant_videos: tuple[str, ...]
    cut_events: int
    areas: tuple[tuple[float, ...], ...] = ()


def prepare(data: EvalData, options: EvalOptions) -> Prepared:
    """Check lengths and values, then post-process every video.

    Raises:
        VerificationError: names the video and what disagrees.
    """
    _check(data)
    process = _process(data.dataset, options)
    scores, constant = [], []
    for one in data.frames:
        processed, flat = process.scores(np.asarray(one.scores, dtype=np.float64))
        if not len(processed):
            raise VerificationError(
                f"video {one.video_id!r}: nothing is left of its {one.covered} frames after post-processing"
            )
        scores.append(processed)
        constant += [one.video_id] if flat else []
    covered = tuple(f.covered for f in data.frames)
    uncut = data.annotated or [t.events for t in data.truths]
    labels = tuple(process.labels(t.labels[:n], e) for t, n, e in zip(data.truths, covered, uncut, strict=True))
    abnormal = np.array([_is_abnormal(t, data.classes) for t in data.truths], dtype=bool)
    classes = None
    if data.frames and all(f.classes is not None for f in data.frames):
        classes = tuple(process.crop(resize(f.classes, process.length)) for f in data.frames if f.classes is not None)
    ready = MetricInput(
        video_ids=tuple(f.video_id for f in data.frames),
        scores=tuple(scores),
        labels=labels,
        abnormal=abnormal,
        events=tuple(_shifted(e, process.drop_first) for e in uncut),
        classes=data.classes,
        class_scores=classes,
        fps=tuple(data.fps),
        segments=data.segments,
        pixel_scores=None if data.pixel_scores is None else tuple(process.crop(m) for m in data.pixel_scores),
        pixel_masks=None if data.pixel_masks is None else tuple(process.crop(m) for m in data.pixel_masks),
        tracks=data.tracks,
        boxes=data.boxes,
        no_classes=data.no_classes,
        tracks_from=data.tracks_from,
    ).check()
    cut = sum(e.end_frames > n for t, n in zip(data.truths, covered, strict=True) for e in t.events)
    areas = tuple(_left(a, e, process.drop_first) for a, e in zip(data.areas, uncut, strict=True)) if data.areas else ()
    return Prepared(ready, process, covered, _metric_options(data, options), tuple(constant), cut, areas)


def _process(dataset: str, options: EvalOptions) -> PostProcess:
    if options.preset is not None:
        return post_process(options.preset, dataset)
    return PostProcess(options.smooth, options.normalise, "real", options.drop_first, options.drop_last)


def _metric_options(data: EvalData, options: EvalOptions) -> MetricOptions:
    by_video = None
    if options.thresholds_by_camera and data.cameras:
        default = options.threshold if options.threshold is not None else float("inf")
        by_video = np.array([options.thresholds_by_camera.get(c or "", default) for c in data.cameras])
    return MetricOptions(
        protocols=options.protocols,
        tious=options.tious,
        detection_videos=options.detection_videos,
        video_score=options.video_score,
        threshold=options.threshold,
        threshold_source=options.threshold_source,
        thresholds_by_video=by_video,
        map_resize=options.map_resize,
    )


def _check(data: EvalData) -> None:
    if not data.frames:
        raise VerificationError("there is no video to evaluate")
    if len(data.frames) != len(data.truths):
        raise VerificationError(f"{len(data.frames)} videos have scores but {len(data.truths)} have a truth")
    seen: set[str] = set()
    for one, truth in zip(data.frames, data.truths, strict=True):
        if one.video_id != truth.video_id:
            raise VerificationError(f"scores of video {one.video_id!r} stand beside the truth of {truth.video_id!r}")
        if one.video_id in seen:
            raise VerificationError(f"video {one.video_id!r} occurs twice")
        seen.add(one.video_id)
        if one.n_frames != truth.n_frames or one.covered > truth.n_frames:
            raise VerificationError(
                f"video {one.video_id!r}: {one.covered} scores of {one.n_frames} frames, but its truth has "
                f"{truth.n_frames} frames"
            )
        refuse_nonfinite(one.video_id, one.scores)


def _is_abnormal(truth: VideoTruth, classes: Sequence[str]) -> bool:
    normal = {NORMAL, *classes[:1]}
    return truth.is_abnormal or any(c not in normal for c in truth.classes)


def _left(areas: Sequence[float], events: Sequence[Event], dropped: int) -> tuple[float, ...]:
    """The areas of the events that `_shifted` leaves."""
    return tuple(a for a, e in zip(areas, events, strict=True) if e.end_frames > dropped)


def _shifted(events: Iterable[Event], dropped: int) -> tuple[Event, ...]:
    moved = (Event(max(0, e.start_frames - dropped), e.end_frames - dropped, e.label) for e in events)
    return tuple(e for e in moved if e.end_frames > e.start_frames)
