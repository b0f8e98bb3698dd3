"""Temporal detection: mAP at temporal IoU under three named protocols, and recall of the best proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.metrics._base import (
    NO_CLASSES,
    NO_CLASSES_HINT,
    PROTOCOLS,
    Detections,
    Floats,
    Ints,
    Measure,
    MetricInput,
    MetricOptions,
    UndefinedMetricError,
    refuse_nonfinite,
)
from pipelines.metrics._matching import Matched, Truths, average_precisions, match, rank
from pipelines.recipe import suggest

NAME = "detection"
SUMMARY = "mAP at temporal IoU under named protocols, and recall of the best proposals"
METRICS = ("map-iou", "proposal-recall")
DEFINITIONS = {"map-iou": "map_iou", "proposal-recall": "recall_at_k_iou_0.5"}
UNIT = 16  # frames of a snippet in the protocol `vadclip` [code] nwpu-zxr/VadCLIP
DEPTH = 0.6  # a proposal is where a class stays above max - 0.6 (max - min) [code]
VIDEO_WEIGHT = 0.7  # of the video's class score in a proposal's score [code]
MIN_FRAMES = 2
NORMAL_SEGMENTS = "A"  # the label that VadCLIP's lists give to a normal video's whole length
RECALL_AT = (1, 5, 10, 50)
RECALL_TIOU = 0.5
TIE_WARNING = 0.01


@dataclass(frozen=True, slots=True)
class Result:
    """What one protocol gives: APs (tIoU, Y) with NaN for classes left out, and the mean of each row.

    `values` (I,) is mAP at each IoU; `counters` are clipped, lost, ignored and tied items, and scored classes.
    """

    protocol: str
    tious: tuple[float, ...]
    values: Floats
    per_class: Floats
    matched: Matched
    proposals: Detections
    counters: Mapping[str, Any]

    @property
    def average(self) -> float:
        return float(self.values.mean())


def propose(
    probabilities: NDArray[np.floating[Any]], *, video: int = 0, name: str = "", short: str = "refuse"
) -> Detections:
    """Proposals of one video from class probabilities (F, Y) a frame (evaluation.md 8.1, steps 2 and 3).

    For every class: maximal runs above max - 0.6 (max - min), strictly, of at least two frames; score = maximum inside
    + 0.7 times the mean of the F // 16 largest values. A constant column has no run. Frames that repeat the row
    before them cost nothing.

    Args:
        probabilities: higher is more likely.
        video: the index written into the rows.
        name: the video's id for messages.
        short: a video under 16 frames: "refuse" (its class score is a mean of nothing), or "one" takes its maximum.

    Raises:
        VerificationError: NaN; names the video.
        UndefinedMetricError: a video under 16 frames under "refuse".
    """
    refuse_nonfinite(name, probabilities)
    n_frames = len(probabilities)
    top = n_frames // UNIT or (1 if short == "one" and n_frames else 0)
    if not top:
        raise UndefinedMetricError(
            f"video {name!r} has {n_frames} frames: the protocol needs at least {UNIT} for a video score"
        )
    values, edges = _distinct_rows(np.ascontiguousarray(probabilities))
    q = _top_mean(values, np.diff(edges), top)
    high, low = values.max(axis=1).astype(np.float64), values.min(axis=1).astype(np.float64)
    above = values > (high - DEPTH * (high - low))[:, None]
    label, first, last = _runs(above)
    start, end = edges[first], edges[last]
    peak = _run_maxima(values, label, first, last)
    keep = end - start >= MIN_FRAMES
    score = peak + VIDEO_WEIGHT * q[label]
    rows = Detections(
        np.full(len(label), video, np.int64), label, start.astype(np.float64), end.astype(np.float64), score
    )
    return rows.take(keep)


def evaluate(data: MetricInput, protocol: str, *, tious: Sequence[float], videos: str = "abnormal") -> Result:
    """mAP at each IoU under one protocol.

    Args:
        data: events and classes, and class scores or ready segments.
        protocol: one of PROTOCOLS.
        tious: thresholds; an overlap equal to one counts.
        videos: for `activitynet`: "abnormal" or "all".

    Raises:
        UsageError: an unknown protocol.
        UndefinedMetricError: nothing to propose from, or no truth to find.
        VerificationError: NaN; names the video.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol {protocol!r}{suggest(protocol, PROTOCOLS)}", hint=", ".join(PROTOCOLS))
    if len(data.classes) < 2 or not data.events:
        raise UndefinedMetricError("no named anomaly classes with intervals: there is nothing to detect")
    if protocol != "vadclip" and not data.abnormal.any():
        raise UndefinedMetricError("no abnormal video among those evaluated")
    everything = protocol == "vadclip" or (protocol == "activitynet" and videos == "all")
    chosen = np.ones(len(data), dtype=bool) if everything else data.abnormal
    truths, counters = _truths(data, protocol, chosen)
    if not len(truths):
        raise UndefinedMetricError("no labelled event of a known class")
    proposals = rank(_proposals(data, protocol, chosen), n_classes=len(data.classes))
    matched = match(proposals, truths, tious=tious, n_videos=len(data), n_classes=len(data.classes))
    aps = average_precisions(matched, None, protocol=protocol)
    counters |= _ties(proposals)
    return Result(
        protocol, tuple(tious), protocol_means(matched, aps, None, protocol), aps, matched, proposals, counters
    )


def protocol_means(matched: Matched, aps: Floats, weights: Ints | None, protocol: str) -> Floats:
    """(I,) mAP at each IoU from per-class APs (I, Y): `vadclip` averages all classes and is 0 where one has no proposal."""
    if protocol != "vadclip":
        return np.asarray(np.nanmean(aps, axis=1)) if (~np.isnan(aps[0])).any() else np.full(len(aps), np.nan)
    if (matched.class_sizes(weights) == 0).any():
        return np.zeros(len(aps))
    return np.asarray(np.nan_to_num(aps).mean(axis=1))


def proposal_recall(data: MetricInput) -> dict[str, float]:
    """Share of events that one of the k best proposals of their video covers with IoU >= 0.5, for k = 1, 5, 10, 50.

    Abnormal videos and anomaly classes; the proposal's class is ignored; one proposal may cover several events ([ours],
    after the recall of temporal proposals).
    """
    truths, _ = _truths(data, "abnormal-only", data.abnormal)
    if not len(truths):
        raise UndefinedMetricError("no labelled event of a known class")
    rows = _proposals(data, "abnormal-only", data.abnormal)
    rows = rows.take(np.lexsort((rows.start, -rows.score, rows.video)))
    bounds = np.searchsorted(rows.video, np.arange(len(data) + 1))
    best = np.full(len(truths), np.iinfo(np.int64).max)
    for index in range(len(truths)):
        low, high = bounds[truths.video[index]], bounds[truths.video[index] + 1]
        hits = np.flatnonzero(
            overlaps(rows.start[low:high], rows.end[low:high], truths.start[index], truths.end[index]) >= RECALL_TIOU
        )
        if len(hits):
            best[index] = hits[0]
    return {str(k): float((best < k).mean()) for k in RECALL_AT}


def overlaps(start: Floats, end: Floats, other_start: float, other_end: float) -> Floats:
    """(P,) intersection over union of intervals [start, end) with one other."""
    shared = np.maximum(0.0, np.minimum(end, other_end) - np.maximum(start, other_start))
    return np.asarray(shared / ((end - start) + (other_end - other_start) - shared))


def as_json(result: Result, classes: Sequence[str]) -> dict[str, Any]:
    """A protocol's entry of metrics.json: mAP per IoU, `avg`, per class per IoU, and its counters."""
    keys = [f"{t:g}" for t in result.tious]
    per_class = {
        label: {k: _value(result.per_class[i, c]) for i, k in enumerate(keys)}
        | {"avg": _value(float(result.per_class[:, c].mean()))}
        for c, label in enumerate(classes)
        if not np.isnan(result.per_class[0, c])
    }
    body: dict[str, Any] = {k: _value(v) for k, v in zip(keys, result.values, strict=True)}
    left_out = [label for label in classes if label not in per_class]
    return body | {"avg": _value(result.average), "per_class": per_class, "left_out": left_out, **result.counters}


def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
    """`map-iou` (value: the average over IoU under the first protocol) or `proposal-recall` (value: at 10 proposals)."""
    if name == "proposal-recall":
        recall = proposal_recall(data)
        return Measure(recall["10"], DEFINITIONS[name], int(data.abnormal.sum()), {"at": recall, "tiou": RECALL_TIOU})
    results = [evaluate(data, p, tious=options.tious, videos=options.detection_videos) for p in options.protocols]
    extra = {r.protocol: as_json(r, data.classes) for r in results}
    return Measure(results[0].average, DEFINITIONS[name], int(results[0].counters["n_truth"]), extra)


def _value(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _distinct_rows(frames: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
    """Columns as rows (Y, R) with repeated frames merged, and the R + 1 frame edges of the merged rows."""
    change = np.zeros(len(frames), dtype=bool)
    for column in range(frames.shape[1]):
        np.logical_or(change[1:], frames[1:, column] != frames[:-1, column], out=change[1:])
    change[0] = True
    first = np.flatnonzero(change)
    return np.ascontiguousarray(frames[first].T), np.append(first, len(frames)).astype(np.int64)


def _top_mean(values: NDArray[Any], widths: Ints, top: int) -> Floats:
    """(Y,) mean of the `top` largest frame values of each row of (Y, R), each value standing for `widths` frames."""
    if len(widths) == widths.sum():
        return np.asarray(
            np.partition(values, len(widths) - top, axis=1)[:, len(widths) - top :].mean(axis=1, dtype=np.float64)
        )
    order = np.argsort(-values, axis=1, kind="stable")
    width = widths[order]
    taken = np.clip(top - (np.cumsum(width, axis=1) - width), 0, width)
    return np.asarray((taken * np.take_along_axis(values, order, axis=1).astype(np.float64)).sum(axis=1) / top)


def _runs(above: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    """Row, first and end index of every maximal run of True in (Y, R)."""
    edge = np.zeros((above.shape[0], above.shape[1] + 2), dtype=np.int8)
    edge[:, 1:-1] = above
    step = np.diff(edge, axis=1)
    label, first = np.nonzero(step == 1)
    return label, first, np.nonzero(step == -1)[1]


def _run_maxima(values: NDArray[Any], label: Ints, first: Ints, last: Ints) -> Floats:
    if not len(label):
        return np.zeros(0)
    flat = np.append(values.ravel(), values.dtype.type(0))
    bounds = np.stack([label * values.shape[1] + first, label * values.shape[1] + last], axis=1).ravel()
    return np.asarray(np.maximum.reduceat(flat, bounds)[::2], dtype=np.float64)


def _proposals(data: MetricInput, protocol: str, chosen: NDArray[np.bool_]) -> Detections:
    if data.segments is not None:
        return data.segments.take(chosen[data.segments.video])
    if data.class_scores is None:
        raise UndefinedMetricError(data.no_classes or NO_CLASSES, hint=NO_CLASSES_HINT)
    parts = []
    for index in np.flatnonzero(chosen):
        frames = data.class_scores[index]
        if protocol == "vadclip" and len(frames) >= UNIT:
            frames = frames[: len(frames) // UNIT * UNIT]
        short = "refuse" if protocol == "vadclip" else "one"
        parts.append(propose(frames, video=int(index), name=data.video_ids[index], short=short))
    rows = Detections.join(parts)
    return rows if protocol == "vadclip" else rows.take(rows.label > 0)


def _truths(data: MetricInput, protocol: str, chosen: NDArray[np.bool_]) -> tuple[Truths, dict[str, Any]]:
    """The events a protocol looks for, in list order, and what was clipped, lost or ignored on the way.

    `vadclip` averages over all classes, so that one without an event costs its share: `ceiling` is what is left.
    """
    place = {label: index for index, label in enumerate(data.classes)}
    counters: dict[str, Any] = {"clipped": 0, "lost": 0, "unknown_labels": 0, "duplicates": 0}
    rows: list[tuple[int, int, float, float]] = []
    for index in np.flatnonzero(chosen):
        seen: list[tuple[int, int, float, float]] = []
        for event in data.events[index]:
            label = place.get(event.label, -1)
            if label < 0 or (label == 0 and protocol != "vadclip"):
                counters["unknown_labels"] += label < 0
                continue
            row = (int(index), label, float(event.start_frames), float(event.end_frames))
            kept = _fit(row, len(data.labels[index]), protocol, seen, counters)
            seen += [kept] if kept is not None else []
        if protocol == "vadclip" and not data.abnormal[index] and data.classes[0] == NORMAL_SEGMENTS and not seen:
            seen.append((int(index), 0, 0.0, float(len(data.labels[index]) // UNIT * UNIT)))
        rows += seen
    counters["n_truth"] = len(rows)
    if protocol == "vadclip":
        counters["ceiling"] = len({row[1] for row in rows}) / len(data.classes)
    return Truths.of(rows), counters


def _fit(
    row: tuple[int, int, float, float],
    n_frames: int,
    protocol: str,
    seen: Sequence[tuple[int, int, float, float]],
    counters: dict[str, Any],
) -> tuple[int, int, float, float] | None:
    video, label, start, end = row
    if protocol == "abnormal-only" and end > n_frames:
        counters["lost" if start >= n_frames else "clipped"] += 1
        return None if start >= n_frames else (video, label, start, float(n_frames))
    if protocol == "activitynet":
        if end <= start:
            counters["lost"] += 1
            return None
        if any(label == o[1] and abs(start - o[2]) <= 1e-3 and abs(end - o[3]) <= 1e-3 for o in seen):
            counters["duplicates"] += 1
            return None
    return row


def _ties(rows: Detections) -> dict[str, Any]:
    if not len(rows):
        return {"n_proposals": 0, "tied": 0, "tied_share": 0.0}
    same = (rows.label[1:] == rows.label[:-1]) & (rows.score[1:] == rows.score[:-1])
    member = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    return {"n_proposals": len(rows), "tied": int(member.sum()), "tied_share": float(member.mean())}
