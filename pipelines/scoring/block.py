"""The metrics block: post-process, measure, floors, intervals. The one way from frame scores to numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError, VerificationError
from pipelines.metrics import detection, frame, operating, pixel, region, video
from pipelines.metrics._base import (
    PROTOCOLS,
    TIOUS,
    Boxes,
    Detections,
    Measure,
    MetricInput,
    MetricOptions,
    UndefinedMetricError,
    refuse_nonfinite,
)
from pipelines.recipe import suggest
from pipelines.records import NORMAL, Event, VideoTruth
from pipelines.scoring import bootstrap, breakdown
from pipelines.scoring.expand import FrameScores
from pipelines.scoring.floors import floors
from pipelines.scoring.presets import PostProcess, post_process, resize
from pipelines.scoring.smooth import Smooth

MODULES = (frame, video, detection, operating, pixel, region)
COMPAT_ONLY = ("macro-auc-pad-missing",)
ALL = {
    "weak": (
        "auc", "ap", "ap-trapezoid", "ano-auc", "ano-ap", "video-auc", "video-ap", "video-acc", "class-auc", "class-ap",
        "map-iou", "proposal-recall", "operating",
    ),
    "one-class": (
        "auc", "auc-minmax", "macro-auc", "macro-auc-pad", "ap", "ap-trapezoid", "pixel-auc", "operating", "rbdc", "tbdc",
    ),
}  # fmt: skip
FLOORED = (*frame.METRICS[:9], "video-auc", "video-ap")  # what a score without classes, maps or boxes can answer


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
        areas: per video, per event (in the order of `truth.events`): mean share of the picture it fills; or ().
        segments: ready detections in place of proposals.
        pixel_scores, pixel_masks, tracks, boxes: see `MetricInput`.
    """

    frames: Sequence[FrameScores]
    truths: Sequence[VideoTruth]
    classes: tuple[str, ...] = ()
    dataset: str = ""
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


@dataclass(frozen=True, slots=True)
class Prepared:
    """Post-processed input with the steps that made it and what they met on the way."""

    data: MetricInput
    process: PostProcess
    covered: tuple[int, ...]
    options: MetricOptions
    constant_videos: tuple[str, ...]
    cut_events: int


def metric_names(kind: Literal["weak", "one-class"] | None = None) -> tuple[str, ...]:
    """The names that `--metric` takes: every one, or (with `kind`) what `all` means there."""
    return ALL[kind] if kind else tuple(name for module in MODULES for name in module.METRICS)


def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
    """One metric of post-processed data, from the family that has it.

    Raises:
        UsageError: no such metric.
        UndefinedMetricError: the data cannot answer it; the message is the reason.
    """
    for module in MODULES:
        if name in module.METRICS:
            found: Measure = module.measure(name, data, options)
            return found
    raise UsageError(f"unknown metric {name!r}{suggest(name, metric_names())}", hint="vad metrics ls")


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
    options = options or EvalOptions()
    names, strict = _names(metrics, data.kind, options)
    ready = prepare(data, options)
    weights = _weights(ready.data, options)
    found: dict[str, Any] = {}
    results: dict[str, detection.Result] = {}
    for name in names:
        try:
            found[name] = _entry(name, ready, weights, results)
        except UndefinedMetricError as error:
            if name in strict and options.undefined == "raise":
                raise UndefinedMetricError(f"{name}: {error.message}", hint=error.hint) from error
            found[name] = {"value": None, "reason": error.message, "definition": _definition(name)}
    below = _floors(ready, [n for n in names if found[n].get("value") is not None], options)
    for name, values in below.items():
        found[name]["floor"] = values
    return EvalBlock(
        metrics=found,
        floors=below,
        breakdown=_breakdowns(data, ready, names, options),
        per_video=_per_video(data, ready),
        per_class=_per_class(ready, results),
        detections={protocol: by_score(result.proposals) for protocol, result in results.items()},
        video_ids=ready.data.video_ids,
        classes=ready.data.classes,
        counts=_counts(data, ready),
        recipe=_recipe(ready, options),
        warnings=_warnings(found, results, ready),
        processed=ready.data.scores,
        labels=ready.data.labels,
    )


def compare_scores(
    first: EvalData, second: EvalData, metrics: Sequence[str], options: EvalOptions | None = None
) -> dict[str, Any]:
    """Metric -> both values, their difference, its interval and the share of rounds above 0, on the same resamples.

    `map-iou` gives one entry a protocol. A metric that either side cannot answer is null with its reason.

    Raises:
        VerificationError: the two do not hold the same videos, or a truth differs.
        UsageError: no rounds.
    """
    options = options or EvalOptions()
    if options.rounds < 1:
        raise UsageError("a paired test needs bootstrap rounds", hint="--rounds 1000")
    second = _in_order_of(first, second)
    pair = prepare(first, options), prepare(second, options)
    weights = bootstrap.multiplicities(pair[0].data.abnormal, rounds=options.rounds, seed=options.seed)
    names, _ = _names(metrics, first.kind, options)
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = _paired(name, pair, weights)
        except UndefinedMetricError as error:
            found[name] = {"value": None, "reason": error.message}
    return found


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
    labels = tuple(process.labels(t.labels[:n]) for t, n in zip(data.truths, covered, strict=True))
    abnormal = np.array([_is_abnormal(t, data.classes) for t in data.truths], dtype=bool)
    classes = None
    if data.frames and all(f.classes is not None for f in data.frames):
        classes = tuple(process.crop(resize(f.classes, process.length)) for f in data.frames if f.classes is not None)
    ready = MetricInput(
        video_ids=tuple(f.video_id for f in data.frames),
        scores=tuple(scores),
        labels=labels,
        abnormal=abnormal,
        events=tuple(_shifted(t.events, process.drop_first) for t in data.truths),
        classes=data.classes,
        class_scores=classes,
        fps=tuple(data.fps),
        segments=data.segments,
        pixel_scores=None if data.pixel_scores is None else tuple(data.pixel_scores),
        pixel_masks=None if data.pixel_masks is None else tuple(data.pixel_masks),
        tracks=data.tracks,
        boxes=data.boxes,
    ).check()
    cut = sum(e.end_frames > n for t, n in zip(data.truths, covered, strict=True) for e in t.events)
    return Prepared(ready, process, covered, _metric_options(data, options), tuple(constant), cut)


def by_score(rows: Detections) -> Detections:
    """Rows by falling score; ties by video position, start, then class."""
    return rows.take(np.lexsort((rows.label, rows.start, rows.video, -rows.score)))


def _names(metrics: Sequence[str], kind: str, options: EvalOptions) -> tuple[list[str], set[str]]:
    """Metrics without repetition, and those asked for by name."""
    named = [m for m in metrics if m != "all"]
    for name in named:
        if name not in metric_names():
            raise UsageError(f"unknown metric {name!r}{suggest(name, metric_names())}", hint="vad metrics ls")
    for protocol in options.protocols:
        if protocol not in PROTOCOLS:
            raise UsageError(
                f"unknown protocol {protocol!r}{suggest(protocol, PROTOCOLS)}", hint="one of " + ", ".join(PROTOCOLS)
            )
    expanded = [n for m in metrics for n in (ALL[kind] if m == "all" else (m,))]
    return list(dict.fromkeys(expanded)), set(named)


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


def _shifted(events: Iterable[Event], dropped: int) -> tuple[Event, ...]:
    moved = (Event(max(0, e.start_frames - dropped), e.end_frames - dropped, e.label) for e in events)
    return tuple(e for e in moved if e.end_frames > e.start_frames)


def _weights(data: MetricInput, options: EvalOptions) -> NDArray[np.int64] | None:
    if options.rounds < 1:
        return None
    return bootstrap.multiplicities(data.abnormal, rounds=options.rounds, seed=options.seed)


def _entry(
    name: str, ready: Prepared, weights: NDArray[np.int64] | None, results: dict[str, detection.Result]
) -> dict[str, Any]:
    if name == "map-iou":
        return _map_entry(ready, weights, results)
    found = measure(name, ready.data, ready.options)
    entry = {"value": found.value, "ci": None, "n": found.n, "definition": found.definition, **found.extra}
    drawn = None if weights is None else bootstrap.samples(name, ready.data, ready.options, weights)
    if drawn is not None:
        entry["ci"] = bootstrap.interval(drawn)
    return entry


def _map_entry(
    ready: Prepared, weights: NDArray[np.int64] | None, results: dict[str, detection.Result]
) -> dict[str, Any]:
    """One object a protocol; undefined only where every protocol is."""
    entry: dict[str, Any] = {}
    reasons = []
    for protocol in ready.options.protocols:
        try:
            result = _detect(ready, protocol)
        except UndefinedMetricError as error:
            reasons.append(error.message)
            entry[protocol] = {"value": None, "reason": error.message}
            continue
        results[protocol] = result
        entry[protocol] = detection.as_json(result, ready.data.classes) | {
            "ci": None,
            "definition": f"map_iou:{protocol}",
        }
        if weights is not None:
            drawn = bootstrap.map_samples(result, weights)
            entry[protocol]["ci"] = bootstrap.interval(drawn[:, -1])
            entry[protocol]["ci_at"] = {f"{t:g}": bootstrap.interval(drawn[:, i]) for i, t in enumerate(result.tious)}
    if len(reasons) == len(ready.options.protocols):
        raise UndefinedMetricError(reasons[0] if reasons else "no protocol was asked for")
    return entry


def _detect(ready: Prepared, protocol: str) -> detection.Result:
    options = ready.options
    return detection.evaluate(ready.data, protocol, tious=options.tious, videos=options.detection_videos)


def _definition(name: str) -> str:
    return next(str(m.DEFINITIONS[name]) for m in MODULES if name in m.METRICS)


def _floors(ready: Prepared, names: Sequence[str], options: EvalOptions) -> dict[str, dict[str, float | None]]:
    wanted = [n for n in names if n in FLOORED]
    if options.floors == "none" or not wanted:
        return {}
    return floors(
        ready.data,
        ready.covered,
        wanted,
        ready.process,
        lambda name, data, chosen: measure(name, data, chosen).value,
        options=ready.options,
        seeds=options.floor_seeds,
    )


def floors_alone(data: EvalData, metrics: Sequence[str], options: EvalOptions | None = None) -> EvalBlock:
    """The block of a constant score: what `vad floors` prints. `data.frames` only lend their lengths."""
    options = options or EvalOptions()
    constant = [FrameScores(f.video_id, np.ones(f.covered), f.n_frames) for f in data.frames]
    blank = EvalData(constant, data.truths, data.classes, data.dataset, data.kind, data.cameras, data.fps)
    names, _ = _names(metrics, data.kind, options)
    chosen = [n for n in names if n in FLOORED]
    bare = EvalOptions(
        smooth=options.smooth,
        normalise=options.normalise,
        drop_first=options.drop_first,
        drop_last=options.drop_last,
        preset=options.preset,
        video_score=options.video_score,
        floor_seeds=options.floor_seeds,
        rounds=0,
        undefined="null",
    )
    return evaluate_scores(blank, chosen, bare)


def _breakdowns(data: EvalData, ready: Prepared, names: Sequence[str], options: EvalOptions) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for by in options.by:
        parts = breakdown.groups(ready.data, by, cameras=data.cameras, areas=data.areas)
        if not parts:
            found[by] = {"value": None, "reason": f"the data does not know {by}"}
            continue
        found[by] = {g.name: _group_entry(g, by, ready, names) for g in parts}
    return found


def _group_entry(group: breakdown.Group, by: str, ready: Prepared, names: Sequence[str]) -> dict[str, Any]:
    of_events = by not in ("camera", "video-length")
    entry: dict[str, Any] = {"description": group.description, "videos": group.videos, "events": group.events}
    options = ready.options
    if options.thresholds_by_video is not None:
        place = {v: i for i, v in enumerate(ready.data.video_ids)}
        mine = options.thresholds_by_video[[place[v] for v in group.data.video_ids]]
        options = MetricOptions(**{f: getattr(options, f) for f in options.__slots__} | {"thresholds_by_video": mine})
    metrics: dict[str, Any] = {}
    for name in names:
        whole = name in ("map-iou", "proposal-recall") and of_events
        metrics[name] = _group_value(
            name, breakdown.detection_input(ready.data, group) if whole else group.data, options
        )
    return entry | {"metrics": metrics}


def _group_value(name: str, data: MetricInput, options: MetricOptions) -> dict[str, Any]:
    try:
        found = measure(name, data, options)
    except UndefinedMetricError as error:
        return {"value": None, "reason": error.message}
    if name != "map-iou":
        return {"value": found.value, "n": found.n}
    return {"value": found.value, "n": found.n} | {p: found.extra[p]["avg"] for p in options.protocols}


def _per_video(data: EvalData, ready: Prepared) -> list[dict[str, Any]]:
    rows = []
    aucs = frame.video_aucs(ready.data)
    for index, name in enumerate(ready.data.video_ids):
        labels, scores = ready.data.labels[index], ready.data.scores[index]
        defined = not np.isnan(aucs[index])
        rows.append(
            {
                "video": name,
                "frames": len(labels),
                "real_frames": data.truths[index].n_frames,
                "positives": int(labels.sum()),
                "abnormal": bool(ready.data.abnormal[index]),
                "classes": list(data.truths[index].classes),
                "events": len(data.truths[index].events),
                "auc": float(aucs[index]) if defined else None,
                "reason": "" if defined else ("no normal frame" if labels.any() else "no abnormal frame"),
                "max_score": float(scores.max()),
                "mean_score": float(scores.mean()),
            }
        )
    return rows


def _per_class(ready: Prepared, results: Mapping[str, detection.Result]) -> list[dict[str, Any]]:
    """One row a class with labelled frames or events (and class 0); AUC and AP only where there are class scores."""
    data = ready.data
    curves: dict[str, frame.Curve] = {}
    if data.class_scores is not None and len(data.classes) > 1:
        try:
            curves = frame.class_curves(data)
        except UndefinedMetricError:
            curves = {}
    rows = []
    for column, label in enumerate(data.classes):
        events = [e for ev in data.events for e in ev if e.label == label]
        row: dict[str, Any] = {
            "class": label,
            "events": len(events),
            "videos": sum(any(e.label == label for e in ev) for ev in data.events),
            "positives": sum(int(line.sum()) for line in frame.class_labels(data, label)) if events else 0,
            "auc": curves[label].auc() if label in curves else None,
            "ap": curves[label].ap_step() if label in curves else None,
        }
        for protocol, result in results.items():
            value = float(result.per_class[:, column].mean())
            row[f"map-iou {protocol}"] = None if np.isnan(value) else value
        rows.append(row)
    return rows


def _counts(data: EvalData, ready: Prepared) -> dict[str, Any]:
    given = ready.data
    return {
        "videos": len(given),
        "abnormal": int(given.abnormal.sum()),
        "normal": int((~given.abnormal).sum()),
        "frames": int(given.lengths.sum()),
        "real_frames": sum(t.n_frames for t in data.truths),
        "positives": sum(int(y.sum()) for y in given.labels),
        "real_positives": sum(int(t.labels.sum()) for t in data.truths),
        "events": sum(len(t.events) for t in data.truths),
        "clamped_events": sum(t.clamped for t in data.truths),
        "events_past_scores": ready.cut_events,
        "tied_share": tied_share(given.scores),
        "constant_videos": list(ready.constant_videos),
    }


def tied_share(scores: Sequence[NDArray[np.float64]]) -> float:
    """Share of the distinct (video, score) pairs whose score also occurs in another video."""
    values = np.concatenate([np.unique(s) for s in scores])
    _, times = np.unique(values, return_counts=True)
    return float(times[times > 1].sum() / max(len(values), 1))


def _recipe(ready: Prepared, options: EvalOptions) -> dict[str, Any]:
    process = ready.process
    return {
        "preset": options.preset,
        "smooth": str(process.smooth),
        "clip_filter": f"{process.clip_filter.kind}:{process.clip_filter.width}" if process.clip_filter else None,
        "normalise": process.normalise,
        "length": process.length,
        "drop_first": process.drop_first,
        "drop_last": process.drop_last,
        "protocols": list(options.protocols),
        "tious": list(options.tious),
        "detection_videos": options.detection_videos,
        "video_score": options.video_score,
        "threshold": options.threshold,
        "threshold_source": options.threshold_source,
        "thresholds_by_camera": dict(options.thresholds_by_camera),
        "bootstrap": {"rounds": options.rounds, "seed": options.seed, "level": bootstrap.LEVEL, "unit": "video"},
        "floor_seeds": options.floor_seeds if options.floors == "all" else 0,
    }


def _warnings(found: Mapping[str, Any], results: Mapping[str, detection.Result], ready: Prepared) -> list[str]:
    said = []
    auc = found.get("auc", {}).get("value")
    if auc is not None and auc < 0.5:
        said.append(f"pooled AUC {auc:.3f} is below 0.5: do these scores mean regularity instead of abnormality?")
    for name, entry in found.items():
        low = (entry.get("ci") or [None])[0]
        for floor, value in (entry.get("floor") or {}).items():
            if low is not None and value is not None and floor != "random_sd" and value >= low:
                said.append(f"{name} {entry['value']:.3f} is within its interval of the floor {floor!r} ({value:.3f})")
    for protocol, result in results.items():
        if result.counters["tied_share"] > detection.TIE_WARNING:
            share = 100 * result.counters["tied_share"]
            said.append(
                f"map-iou {protocol}: {share:.1f} % of the proposals' scores are tied (order: video, then start)"
            )
    if ready.constant_videos:
        said.append(f"{len(ready.constant_videos)} videos have a constant score and were set to 0 by min-max")
    return said


def _in_order_of(first: EvalData, second: EvalData) -> EvalData:
    """The second with its videos in the first's order.

    Raises:
        VerificationError: other videos or another truth.
    """
    place = {f.video_id: i for i, f in enumerate(second.frames)}
    wanted = [f.video_id for f in first.frames]
    if sorted(place) != sorted(wanted):
        missing = sorted(set(wanted) ^ set(place))
        raise VerificationError(f"the two do not hold the same videos: {len(missing)} differ, first {missing[0]!r}")
    order = [place[v] for v in wanted]
    for one, index in zip(first.truths, order, strict=True):
        if not np.array_equal(one.labels, second.truths[index].labels):
            raise VerificationError(f"video {one.video_id!r}: the two were evaluated against different truths")
    if second.segments is not None:
        back = np.argsort(np.array(order))
        rows = second.segments
        segments = Detections(back[rows.video], rows.label, rows.start, rows.end, rows.score)
    else:
        segments = None
    return EvalData(
        [second.frames[i] for i in order],
        [second.truths[i] for i in order],
        second.classes,
        second.dataset,
        second.kind,
        [second.cameras[i] for i in order] if second.cameras else (),
        [second.fps[i] for i in order] if second.fps else (),
        segments=segments,
    )


def _paired(name: str, pair: tuple[Prepared, Prepared], weights: NDArray[np.int64]) -> dict[str, Any]:
    if name == "map-iou":
        return {protocol: _paired_map(protocol, pair, weights) for protocol in pair[0].options.protocols}
    values = [measure(name, p.data, p.options).value for p in pair]
    drawn = [bootstrap.samples(name, p.data, p.options, weights) for p in pair]
    entry = {"values": values, "difference": values[0] - values[1]}
    if drawn[0] is None or drawn[1] is None:
        return entry | {"ci": None, "reason": "no interval is defined for this metric"}
    return entry | bootstrap.paired(drawn[0], drawn[1])


def _paired_map(protocol: str, pair: tuple[Prepared, Prepared], weights: NDArray[np.int64]) -> dict[str, Any]:
    try:
        results = [_detect(p, protocol) for p in pair]
    except UndefinedMetricError as error:
        return {"value": None, "reason": error.message}
    values = [r.average for r in results]
    drawn = [bootstrap.map_samples(r, weights)[:, -1] for r in results]
    return {"values": values, "difference": values[0] - values[1]} | bootstrap.paired(drawn[0], drawn[1])
