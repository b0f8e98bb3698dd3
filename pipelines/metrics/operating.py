"""Operating figures at one threshold: false alarms, hits, delays, events, calibration; and two points of the ROC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines.metrics._base import Bools, Floats, Ints, Measure, MetricInput, MetricOptions, UndefinedMetricError
from pipelines.metrics.frame import pooled

NAME = "operating"
SUMMARY = "false alarms, hit rate, delay, events and calibration at a threshold; EER and FPR at 95 % TPR"
METRICS = ("operating",)
DEFINITIONS = {"operating": "operating_points"}
MERGE_S = 1.0  # alarms closer than this count as one [ours, evaluation.md 10]
EVENT_TIOU = 0.1
CALIBRATION_BINS = 15
FAR_THRESHOLD = 0.5  # [code] PEL4VAD, Sultani: the false alarm rate of the literature
PROBABILITY = "only scores in [0, 1] are probabilities"


def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
    """All operating figures; `extra` maps each figure to a number or to `{"value": null, "reason": ...}`.

    `value` is the hit rate at the threshold where one is known, else the equal error rate.
    """
    figures: dict[str, Callable[[], Any]] = {
        "eer": lambda: equal_error_rate(*pooled(data).roc()),
        "fpr@tpr95": lambda: fpr_at_tpr(*pooled(data).roc(), 0.95),
        "far@0.5": lambda: _far_half(data),
        "far@theta": lambda: false_alarm_rate(data, thresholds(data, options)),
        "fa_per_hour": lambda: false_alarms_per_hour(data, thresholds(data, options)),
        "hit_rate": lambda: hits_and_delays(data, thresholds(data, options))["hit_rate"],
        "delay_s": lambda: _delay(data, options),
        "event_precision": lambda: events_found(data, thresholds(data, options))["precision"],
        "event_recall": lambda: events_found(data, thresholds(data, options))["recall"],
        "brier": lambda: brier(data),
        "calibration_error": lambda: calibration_error(data),
    }
    extra = {key: _or_reason(figure) for key, figure in figures.items()}
    extra |= {"threshold": options.threshold, "threshold_source": options.threshold_source}
    value = extra["hit_rate"] if isinstance(extra["hit_rate"], float) else extra["eer"]
    if not isinstance(value, float):
        raise UndefinedMetricError(str(value["reason"]))
    return Measure(value, DEFINITIONS[name], int(data.lengths.sum()), extra)


def thresholds(data: MetricInput, options: MetricOptions) -> Floats:
    """(V,) theta of every video.

    Raises:
        UndefinedMetricError: none was learnt or given.
    """
    if options.thresholds_by_video is not None:
        return options.thresholds_by_video
    if options.threshold is None:
        raise UndefinedMetricError(
            "no threshold: give one, or learn one on normal material (it never comes from test labels)"
        )
    return np.full(len(data), float(options.threshold))


def equal_error_rate(fpr: Floats, tpr: Floats) -> float:
    """Where the false positive rate equals the miss rate, on straight lines between the points of the ROC."""
    gap = fpr - (1.0 - tpr)
    after = int(np.argmax(gap >= 0))
    if after == 0 or gap[after] == 0:
        return float(fpr[after])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(fpr[after - 1] + share * (fpr[after] - fpr[after - 1]))


def fpr_at_tpr(fpr: Floats, tpr: Floats, wanted: float) -> float:
    """False positive rate where the true positive rate first reaches `wanted`, on straight lines."""
    after = int(np.argmax(tpr >= wanted))
    if after == 0 or tpr[after] == wanted:
        return float(fpr[after])
    share = (wanted - tpr[after - 1]) / (tpr[after] - tpr[after - 1])
    return float(fpr[after - 1] + share * (fpr[after] - fpr[after - 1]))


def false_alarm_rate(data: MetricInput, theta: Floats) -> float:
    """Share of the frames of normal videos with a score at or above theta (V,)."""
    normal = _normal(data)
    alarms = sum(int((data.scores[i] >= theta[i]).sum()) for i in normal)
    return alarms / sum(len(data.scores[i]) for i in normal)


def false_alarms_per_hour(data: MetricInput, theta: Floats) -> float:
    """Alarms (runs at or above theta, runs closer than one second merged) per hour of normal videos."""
    normal = _normal(data)
    rates = [_fps(data, i) for i in normal]
    hours = sum(len(data.scores[i]) / rate for i, rate in zip(normal, rates, strict=True)) / 3600.0
    alarms = sum(
        len(alarm_runs(data.scores[i] >= theta[i], MERGE_S * rate)) for i, rate in zip(normal, rates, strict=True)
    )
    return alarms / hours


def hits_and_delays(data: MetricInput, theta: Floats) -> dict[str, Any]:
    """Share of events with an alarm inside, and per hit event the frames from its start to the first alarm.

    An event is a maximal run of positive frames. Returns `hit_rate`, `events`, and `delays`, a list of (video, frames).

    Raises:
        UndefinedMetricError: there is no event.
    """
    delays: list[tuple[int, int]] = []
    events = 0
    for index, labels in enumerate(data.labels):
        for start, end in runs(labels):
            events += 1
            inside = np.flatnonzero(data.scores[index][start:end] >= theta[index])
            delays += [(index, int(inside[0]))] if len(inside) else []
    if not events:
        raise UndefinedMetricError("there is no event among the evaluated frames")
    return {"hit_rate": len(delays) / events, "events": events, "delays": delays}


def events_found(data: MetricInput, theta: Floats) -> dict[str, Any]:
    """Precision and recall of alarms against events: greedy by the alarm's highest score, IoU >= 0.1, one to one.

    Alarms closer than one second are merged where the frame rate is known. Precision is None without an alarm.
    """
    alarms, found, events = 0, 0, 0
    for index, labels in enumerate(data.labels):
        rate = data.fps[index] if data.fps else None
        wanted, raised = runs(labels), alarm_runs(data.scores[index] >= theta[index], MERGE_S * rate if rate else 0.0)
        peaks = [float(data.scores[index][s:e].max()) for s, e in raised]
        ordered = raised[np.argsort(-np.array(peaks), kind="stable")] if len(raised) else raised
        alarms, events, found = alarms + len(raised), events + len(wanted), found + _greedy_hits(ordered, wanted)
    if not events:
        raise UndefinedMetricError("there is no event among the evaluated frames")
    return {"precision": found / alarms if alarms else None, "recall": found / events, "alarms": alarms}


def brier(data: MetricInput) -> float:
    """Mean squared difference of score and label over all frames, for scores in [0, 1]."""
    scores, labels = _probabilities(data)
    return float(np.mean((scores - labels) ** 2))


def calibration_error(data: MetricInput) -> float:
    """Expected calibration error over 15 equal bins of [0, 1]: |mean score - share of positives|, weighted by size."""
    scores, labels = _probabilities(data)
    place = np.minimum((scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    total = np.bincount(place, scores, minlength=CALIBRATION_BINS)
    positive = np.bincount(place, labels, minlength=CALIBRATION_BINS)
    return float(np.abs(total - positive).sum() / len(scores))


def runs(mask: Bools) -> Ints:
    """(R, 2) maximal runs of True, half-open."""
    edge = np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8))
    return np.stack([np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)], axis=1)


def alarm_runs(mask: Bools, merge_frames: float) -> Ints:
    """(R, 2) runs of True, those with a gap below `merge_frames` joined."""
    found = runs(mask)
    if len(found) < 2:
        return found
    apart = found[1:, 0] - found[:-1, 1] >= max(merge_frames, 1.0)
    starts = found[np.concatenate([[True], apart]), 0]
    return np.stack([starts, found[np.concatenate([apart, [True]]), 1]], axis=1)


def _far_half(data: MetricInput) -> float:
    if any(s.min() < 0 or s.max() > 1 for s in data.scores):
        raise UndefinedMetricError(PROBABILITY)
    return false_alarm_rate(data, np.full(len(data), FAR_THRESHOLD))


def _delay(data: MetricInput, options: MetricOptions) -> float:
    delays = hits_and_delays(data, thresholds(data, options))["delays"]
    if not delays:
        raise UndefinedMetricError("no event was hit")
    return float(np.mean([frames / _fps(data, video) for video, frames in delays]))


def _greedy_hits(alarms: Ints, events: Ints) -> int:
    free = np.ones(len(events), dtype=bool)
    for start, end in alarms:
        shared = np.minimum(end, events[:, 1]) - np.maximum(start, events[:, 0])
        union = (end - start) + (events[:, 1] - events[:, 0]) - shared
        overlap = np.where(free, np.maximum(shared, 0) / union, -1.0)
        if len(overlap) and overlap.max() >= EVENT_TIOU:
            free[int(np.argmax(overlap))] = False
    return int((~free).sum())


def _normal(data: MetricInput) -> list[int]:
    normal = [int(i) for i in np.flatnonzero(~data.abnormal)]
    if not normal:
        raise UndefinedMetricError("no normal video among those evaluated")
    return normal


def _fps(data: MetricInput, video: int) -> float:
    rate = data.fps[video] if data.fps else None
    if not rate:
        raise UndefinedMetricError(f"the frame rate of video {data.video_ids[video]!r} is unknown")
    return float(rate)


def _probabilities(data: MetricInput) -> tuple[Floats, Floats]:
    scores = np.concatenate(data.scores)
    if scores.min() < 0 or scores.max() > 1:
        raise UndefinedMetricError(PROBABILITY)
    return scores, np.concatenate(data.labels).astype(np.float64)


def _or_reason(figure: Callable[[], Any]) -> Any:
    try:
        value = figure()
    except UndefinedMetricError as error:
        return {"value": None, "reason": error.message}
    return {"value": None, "reason": "there is no alarm"} if value is None else float(value)
