"""The metrics block: post-process, measure, floors, intervals. The one way from frame scores to numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics import detection
from pipelines.metrics._base import Detections, MetricInput, MetricOptions, UndefinedMetricError
from pipelines.scoring import bootstrap, breakdown
from pipelines.scoring.expand import FrameScores
from pipelines.scoring.floors import floors, map_floors
from pipelines.scoring.measures import FLOORED, definition, detect, measure, metric_names, names_of
from pipelines.scoring.paired import compare_scores
from pipelines.scoring.prepare import EvalData, EvalOptions, Prepared, prepare
from pipelines.scoring.tables import counts, per_class, per_video, recipe
from pipelines.scoring.tables import warnings as warnings_of

__all__ = [
    "EvalBlock",
    "EvalData",
    "EvalOptions",
    "compare_scores",
    "evaluate_scores",
    "floors_alone",
    "measure",
    "metric_names",
]


MAP_FLOOR_SEEDS = 3  # random class scores vary little, and each seed costs a whole detection


@dataclass(frozen=True, slots=True)
class EvalBlock:
    """What an evaluation found; everything but `processed`, `labels`, `draws` and `detections` is JSON-ready.

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
        draws: metric (`map-iou:<protocol>`) -> (B,) its value in every bootstrap round; equal video lists, rounds and
            seeds give the same resamples.
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
    draws: dict[str, NDArray[np.float64]] = field(default_factory=dict)


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
    names, strict = names_of(metrics, data.kind, options)
    ready = prepare(data, options)
    weights = _weights(ready.data, options)
    found: dict[str, Any] = {}
    results: dict[str, detection.Result] = {}
    draws: dict[str, NDArray[np.float64]] = {}
    for name in names:
        try:
            found[name] = _entry(name, ready, weights, results, draws)
        except UndefinedMetricError as error:
            if name in strict and options.undefined == "raise":
                raise UndefinedMetricError(f"{name}: {error.message}", hint=error.hint) from error
            found[name] = {"value": None, "reason": error.message, "definition": definition(name)}
    below = _floors(ready, [n for n in names if found[n].get("value") is not None], options)
    for name, values in below.items():
        found[name]["floor"] = values
    for protocol in results if options.floors == "all" else ():
        seeds = min(options.floor_seeds, MAP_FLOOR_SEEDS)
        found["map-iou"][protocol]["floor"] = map_floors(ready.data, protocol, ready.options, seeds=seeds)
    return EvalBlock(
        metrics=found,
        floors=below,
        breakdown=_breakdowns(data, ready, names, options),
        per_video=per_video(data, ready),
        per_class=per_class(ready, results),
        detections={protocol: by_score(result.proposals) for protocol, result in results.items()},
        video_ids=ready.data.video_ids,
        classes=ready.data.classes,
        counts=counts(data, ready),
        recipe=recipe(ready, options),
        warnings=warnings_of(found, results, ready),
        processed=ready.data.scores,
        labels=ready.data.labels,
        draws=draws,
    )


def by_score(rows: Detections) -> Detections:
    """Rows by falling score; ties by video position, start, then class."""
    return rows.take(np.lexsort((rows.label, rows.start, rows.video, -rows.score)))


def _weights(data: MetricInput, options: EvalOptions) -> NDArray[np.int64] | None:
    if options.rounds < 1:
        return None
    return bootstrap.multiplicities(data.abnormal, rounds=options.rounds, seed=options.seed)


def _entry(
    name: str,
    ready: Prepared,
    weights: NDArray[np.int64] | None,
    results: dict[str, detection.Result],
    draws: dict[str, NDArray[np.float64]],
) -> dict[str, Any]:
    if name == "map-iou":
        return _map_entry(ready, weights, results, draws)
    found = measure(name, ready.data, ready.options)
    entry = {"value": found.value, "ci": None, "n": found.n, "definition": found.definition, **found.extra}
    drawn = None if weights is None else bootstrap.samples(name, ready.data, ready.options, weights)
    if drawn is not None:
        entry["ci"] = bootstrap.interval(drawn)
        draws[name] = drawn
    return entry


def _map_entry(
    ready: Prepared,
    weights: NDArray[np.int64] | None,
    results: dict[str, detection.Result],
    draws: dict[str, NDArray[np.float64]],
) -> dict[str, Any]:
    """One object a protocol; undefined only where every protocol is."""
    entry: dict[str, Any] = {}
    reasons = []
    for protocol in ready.options.protocols:
        try:
            result = detect(ready, protocol)
        except UndefinedMetricError as error:
            reasons.append(error)
            entry[protocol] = {"value": None, "reason": error.message}
            continue
        results[protocol] = result
        entry[protocol] = detection.as_json(result, ready.data.classes) | {
            "ci": None,
            "definition": f"map_iou:{protocol}",
        }
        if weights is not None:
            drawn = bootstrap.map_samples(result, weights)
            draws[f"map-iou:{protocol}"] = drawn[:, -1]
            entry[protocol]["ci"] = bootstrap.interval(drawn[:, -1])
            entry[protocol]["ci_at"] = {f"{t:g}": bootstrap.interval(drawn[:, i]) for i, t in enumerate(result.tious)}
    if len(reasons) == len(ready.options.protocols):
        raise reasons[0] if reasons else UndefinedMetricError("no protocol was asked for")
    return entry


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
    names, _ = names_of(metrics, data.kind, options)
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
        parts = breakdown.groups(ready.data, by, cameras=data.cameras, areas=ready.areas)
        if not parts:
            found[by] = {"value": None, "reason": f"the data does not know {by}"}
            continue
        found[by] = {g.name: _group_entry(g, by, ready, names) for g in parts}
    return found


def _group_entry(group: breakdown.Group, by: str, ready: Prepared, names: Sequence[str]) -> dict[str, Any]:
    of_events = breakdown.parse_by(by)[0] not in ("camera", "video-length")
    entry: dict[str, Any] = {"description": group.description, "videos": group.videos, "events": group.events}
    options = ready.options
    if options.thresholds_by_video is not None:
        place = {v: i for i, v in enumerate(ready.data.video_ids)}
        mine = options.thresholds_by_video[[place[v] for v in group.data.video_ids]]
        options = replace(options, thresholds_by_video=mine)
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
