"""Frame-level ranking metrics: pooled, restricted to abnormal videos, averaged over videos, one class against the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics._base import (
    NO_CLASSES,
    NO_CLASSES_HINT,
    Bools,
    Floats,
    Ints,
    Measure,
    MetricInput,
    MetricOptions,
    UndefinedMetricError,
)

NAME = "frame"
SUMMARY = "ROC-AUC and average precision of frames: pooled, abnormal videos only, per video, per class"
METRICS = (
    "auc",
    "ap",
    "ap-trapezoid",
    "ano-auc",
    "ano-ap",
    "auc-minmax",
    "macro-auc",
    "macro-auc-pad",
    "macro-auc-pad-missing",
    "class-auc",
    "class-ap",
)
DEFINITIONS = {
    "auc": "auc_micro",
    "ap": "ap_step",
    "ap-trapezoid": "ap_trapezoid",
    "ano-auc": "auc_ano",
    "ano-ap": "ap_ano",
    "auc-minmax": "auc_micro_minmax",
    "macro-auc": "auc_macro_skip",
    "macro-auc-pad": "auc_macro_pad",
    "macro-auc-pad-missing": "auc_macro_pad_missing",
    "class-auc": "auc_class",
    "class-ap": "ap_class",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """Counts at every distinct score, highest first: what each ranking metric is made of.

    thresholds (G,) float64; tp, fp (G,) number of positives and negatives with a score at or above the threshold
    (int64, or float64 where frames carry weights).
    """

    thresholds: Floats
    tp: NDArray[Any]
    fp: NDArray[Any]

    @property
    def positives(self) -> float:
        return float(self.tp[-1]) if len(self.tp) else 0.0

    @property
    def negatives(self) -> float:
        return float(self.fp[-1]) if len(self.fp) else 0.0

    def need_both(self) -> Curve:
        """Itself.

        Raises:
            UndefinedMetricError: the labels are all of one class.
        """
        if not self.positives or not self.negatives:
            missing = "positive" if not self.positives else "negative"
            raise UndefinedMetricError(f"single-class labels: no {missing} frame or video among those evaluated")
        return self

    def auc(self) -> float:
        """Area under the ROC by mid-ranks: a tie between a positive and a negative counts one half."""
        self.need_both()
        fp_step = np.diff(self.fp, prepend=0)
        tp_middle = (np.concatenate([[0], self.tp[:-1]]) + self.tp) / 2.0
        return float((fp_step * tp_middle).sum() / (self.positives * self.negatives))

    def ap_step(self) -> float:
        """Sum of precision times the step in recall, ties taken together."""
        self.need_both()
        return float((np.diff(self.tp, prepend=0) * self._precision()).sum() / self.positives)

    def ap_trapezoid(self) -> float:
        """Trapezoid under precision over recall, from the point (0, 1); flatters coarse scores."""
        self.need_both()
        precision = self._precision()
        before = np.concatenate([[1.0], precision[:-1]])
        return float((np.diff(self.tp, prepend=0) * (precision + before) / 2.0).sum() / self.positives)

    def roc(self) -> tuple[Floats, Floats]:
        """False and true positive rates with the point (0, 0) in front, both (G + 1,)."""
        self.need_both()
        fpr = np.concatenate([[0.0], self.fp / self.negatives])
        return fpr, np.concatenate([[0.0], self.tp / self.positives])

    def _precision(self) -> Floats:
        return np.asarray(self.tp / (self.tp + self.fp))


def curve(scores: Floats, labels: Bools, weights: Floats | Ints | None = None) -> Curve:
    """The curve of scores (N,) against labels (N,), each item counted `weights` times (once without)."""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable" if weights is not None else "quicksort")
    ranked = np.asarray(scores, dtype=np.float64)[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.zeros(0, np.int64)
    truth = np.asarray(labels, dtype=bool)[order]
    if weights is None:
        tp = np.cumsum(truth)[last]
        return Curve(ranked[last], tp, last + 1 - tp)
    counted = np.asarray(weights)[order]
    tp = np.cumsum(counted * truth)[last]
    fp = np.cumsum(counted * ~truth)[last]
    real = np.diff(tp + fp, prepend=0) > 0
    return Curve(ranked[last][real], tp[real], fp[real])


def auc(scores: Floats, labels: Bools) -> float:
    """ROC-AUC of scores (N,) against labels (N,); UndefinedMetricError on single-class labels."""
    return curve(scores, labels).auc()


def roc_area(fpr: Floats, tpr: Floats) -> float:
    """Trapezoid under the points of a ROC curve, sorted by false positive rate."""
    return float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2.0).sum())


def minmax(scores: Floats) -> tuple[Floats, bool]:
    """Scores of one video scaled to [0, 1], and whether they count as constant (span <= 1e-9 * max(1, max abs)): zeros."""
    if not len(scores):
        return np.zeros(0), True
    low, high = float(scores.min()), float(scores.max())
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        return np.zeros(len(scores)), True
    return (scores - low) / (high - low), False


def pooled(data: MetricInput, videos: Bools | None = None) -> Curve:
    """The curve over all frames of all (or the chosen) videos together."""
    chosen = range(len(data)) if videos is None else [int(i) for i in np.flatnonzero(videos)]
    if not chosen:
        raise UndefinedMetricError("there is no video to pool")
    key = "pooled" if len(chosen) == len(data) else "pooled:" + ",".join(map(str, chosen))
    if key not in data.memo:
        scores, labels = [data.scores[i] for i in chosen], [data.labels[i] for i in chosen]
        data.memo[key] = curve(np.concatenate(scores), np.concatenate(labels))
    found: Curve = data.memo[key]
    return found


def video_aucs(data: MetricInput) -> Floats:
    """(V,) ROC-AUC of each video by itself, NaN where its labels are of one class."""
    return np.array([_auc_or_nan(s, y) for s, y in zip(data.scores, data.labels, strict=True)])


def padded_video_aucs(data: MetricInput) -> Floats:
    """(V,) AUC of each video after min-max, with (label 0, score 0) put before it and (label 1, score 1) after it."""
    return np.array([padded_auc(minmax(s)[0], y) for s, y in zip(data.scores, data.labels, strict=True)])


def padded_missing_video_aucs(data: MetricInput) -> Floats:
    """(V,) AUC after min-max, with (label 0, score 0) added to videos without normal frames only; NaN without positives."""
    return np.array([_padded_missing_auc(s, y) for s, y in zip(data.scores, data.labels, strict=True)])


def class_labels(data: MetricInput, label: str) -> tuple[Bools, ...]:
    """Per video (N,) bool: the union of the events named `label`, cut at N."""
    found = []
    for index, n_frames in enumerate(data.lengths):
        line = np.zeros(n_frames, dtype=bool)
        for event in data.events[index] if data.events else ():
            if event.label == label:
                line[event.start_frames : event.end_frames] = True
        found.append(line)
    return tuple(found)


def class_curves(data: MetricInput) -> dict[str, Curve]:
    """Per anomaly class with positives: its score against all other frames, pooled.

    Raises:
        UndefinedMetricError: no class scores, no named classes, or no class with both kinds of frames.
    """
    if data.class_scores is None or len(data.classes) < 2:
        raise UndefinedMetricError(data.no_classes or NO_CLASSES, hint=NO_CLASSES_HINT)
    if "classes" in data.memo:
        known: dict[str, Curve] = data.memo["classes"]
        return known
    found: dict[str, Curve] = {}
    for column, label in enumerate(data.classes[1:], start=1):
        truth = np.concatenate(class_labels(data, label))
        if truth.any() and not truth.all():
            found[label] = curve(np.concatenate([c[:, column] for c in data.class_scores]), truth)
    if not found:
        raise UndefinedMetricError("no anomaly class has both positive and negative frames")
    data.memo["classes"] = found
    return found


def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
    """The frame metric `name`; see `MetricModule.measure`."""
    return _MEASURES[name](name, data)


def _pooled_measure(pick: Callable[[Curve], float]) -> Callable[[str, MetricInput], Measure]:
    def run(name: str, data: MetricInput) -> Measure:
        found = pooled(data)
        return Measure(pick(found), DEFINITIONS[name], _size(found), {"positives": int(found.positives)})

    return run


def _abnormal_measure(pick: Callable[[Curve], float]) -> Callable[[str, MetricInput], Measure]:
    def run(name: str, data: MetricInput) -> Measure:
        if not data.abnormal.any():
            raise UndefinedMetricError("no abnormal video among those evaluated")
        found = pooled(data, data.abnormal)
        return Measure(pick(found), DEFINITIONS[name], _size(found), {"videos": int(data.abnormal.sum())})

    return run


def _minmax_measure(name: str, data: MetricInput) -> Measure:
    scaled = [minmax(s) for s in data.scores]
    constant = [v for v, (_, flat) in zip(data.video_ids, scaled, strict=True) if flat]
    found = curve(np.concatenate([s for s, _ in scaled]), np.concatenate(data.labels))
    return Measure(found.auc(), DEFINITIONS[name], _size(found), {"constant_videos": constant})


def _macro_measure(per_video: Callable[[MetricInput], Floats], note: str) -> Callable[[str, MetricInput], Measure]:
    def run(name: str, data: MetricInput) -> Measure:
        values = per_video(data)
        used = ~np.isnan(values)
        if not used.any():
            raise UndefinedMetricError("no video has both normal and abnormal frames")
        skipped = [v for v, u in zip(data.video_ids, used, strict=True) if not u]
        extra = {"n_used": int(used.sum()), "skipped": skipped, "note": note}
        return Measure(float(values[used].mean()), DEFINITIONS[name], int(used.sum()), extra)

    return run


def _class_measure(pick: Callable[[Curve], float]) -> Callable[[str, MetricInput], Measure]:
    def run(name: str, data: MetricInput) -> Measure:
        values = {label: pick(found) for label, found in class_curves(data).items()}
        dropped = [c for c in data.classes[1:] if c not in values]
        extra = {"per_class": values, "dropped": dropped}
        return Measure(_mean(values.values()), DEFINITIONS[name], int(data.lengths.sum()), extra)

    return run


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _size(found: Curve) -> int:
    return int(found.positives + found.negatives)


def _auc_or_nan(scores: Floats, labels: Bools) -> float:
    return curve(scores, labels).auc() if labels.any() and not labels.all() else float("nan")


def padded_auc(scores: Floats, labels: Bools) -> float:
    """AUC of one video with (label 0, score 0) put before it and (label 1, score 1) after it, scores as they are."""
    return auc(np.concatenate([[0.0], scores, [1.0]]), np.concatenate([[False], labels, [True]]))


def _padded_missing_auc(scores: Floats, labels: Bools) -> float:
    scaled, _ = minmax(scores)
    if labels.all() and len(labels):
        return auc(np.append(scaled, 0.0), np.append(labels, False))
    return _auc_or_nan(scaled, labels)


_MEASURES: dict[str, Callable[[str, MetricInput], Measure]] = {
    "auc": _pooled_measure(Curve.auc),
    "ap": _pooled_measure(Curve.ap_step),
    "ap-trapezoid": _pooled_measure(Curve.ap_trapezoid),
    "ano-auc": _abnormal_measure(Curve.auc),
    "ano-ap": _abnormal_measure(Curve.ap_step),
    "auc-minmax": _minmax_measure,
    "macro-auc": _macro_measure(video_aucs, "videos with one class of labels are skipped"),
    "macro-auc-pad": _macro_measure(
        padded_video_aucs, "min-maxed per video, then padded with (0, 0) and (1, 1): not neutral, see its floor"
    ),
    "macro-auc-pad-missing": _macro_measure(
        padded_missing_video_aucs, "min-maxed per video; one normal frame added to videos that have none"
    ),
    "class-auc": _class_measure(Curve.auc),
    "class-ap": _class_measure(Curve.ap_step),
}
