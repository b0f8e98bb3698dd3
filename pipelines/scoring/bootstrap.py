"""Uncertainty by resampling videos: rank or match once, then reweight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics import detection, frame, video
from pipelines.metrics._base import MetricInput, MetricOptions, UndefinedMetricError
from pipelines.metrics._matching import Matched, average_precisions

LEVEL = 0.95
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def multiplicities(abnormal: Bools, *, rounds: int, seed: int) -> Ints:
    """(B, V) how often each video is drawn in each round: with replacement, abnormal and normal videos apart.

    The same arguments give the same draws, so two score files compare on the same resamples.
    """
    drawn = np.zeros((rounds, len(abnormal)), dtype=np.int64)
    generator = np.random.default_rng(seed)
    for stratum in (np.flatnonzero(abnormal), np.flatnonzero(~abnormal)):
        if len(stratum):
            picks = generator.integers(0, len(stratum), size=(rounds, len(stratum)))
            rows = np.repeat(np.arange(rounds), len(stratum))
            np.add.at(drawn, (rows, stratum[picks].ravel()), 1)
    return drawn


@dataclass(frozen=True, slots=True)
class Ranking:
    """Pooled frames ranked once, equal scores of one video collapsed, ready for any video weights.

    Negatives stand by falling score; each group of equal positives knows how many negative entries are strictly above
    it and how many at or above it.
    """

    negative_video: Ints
    negative_count: Ints
    positive_video: Ints
    positive_count: Ints
    group_start: Ints
    above: Ints
    at_or_above: Ints

    def counts(self, weights: Ints) -> tuple[Floats, Floats, Floats, Floats]:
        """Per positive group: its weight, positives up to it, negatives above it, negatives up to it."""
        negatives, group = self._negatives(weights), self._groups(weights)
        above, up_to = negatives[self.above].astype(np.float64), negatives[self.at_or_above].astype(np.float64)
        return group, np.cumsum(group), above, up_to

    def auc(self, weights: Ints) -> float:
        """ROC-AUC with every video counted `weights` (V,) times; NaN on single-class labels."""
        negatives, group = self._negatives(weights), self._groups(weights)
        total, positives = float(negatives[-1]), float(group.sum())
        if not total or not positives:
            return float("nan")
        middle = (negatives[self.above] + negatives[self.at_or_above]) / 2.0
        return float(1.0 - (group @ middle) / (positives * total))

    def _negatives(self, weights: Ints) -> Ints:
        """Running number of negative frames, with 0 in front."""
        running = np.zeros(len(self.negative_video) + 1, dtype=np.int64)
        np.take(weights, self.negative_video, out=running[1:])
        np.multiply(running[1:], self.negative_count, out=running[1:])
        return np.cumsum(running, out=running)

    def _groups(self, weights: Ints) -> Floats:
        """Number of positive frames in each group."""
        counted = weights[self.positive_video] * self.positive_count
        return np.asarray(np.add.reduceat(counted, self.group_start), dtype=np.float64)

    def ap_step(self, weights: Ints) -> float:
        """Average precision by steps, weighted like `auc`."""
        group, true, _, false = self.counts(weights)
        if not len(true) or not true[-1]:
            return float("nan")
        used = group > 0
        return float((group[used] * true[used] / (true[used] + false[used])).sum() / true[-1])

    def ap_trapezoid(self, weights: Ints) -> float:
        """Average precision by trapezoids, weighted like `auc`."""
        group, true, false_before, false = self.counts(weights)
        if not len(true) or not true[-1]:
            return float("nan")
        used = group > 0
        true_before = (true - group)[used]
        seen = true_before + false_before[used]
        before = np.divide(true_before, seen, out=np.ones_like(seen), where=seen > 0)
        here = true[used] / (true[used] + false[used])
        return float((group[used] * (before + here) / 2.0).sum() / true[-1])


def ranking(scores: Sequence[Floats], labels: Sequence[Bools], videos: Sequence[int] | None = None) -> Ranking:
    """The `Ranking` of per-video scores and labels; `videos` are their indices in the weights (0, 1, ... without).

    Raises:
        UndefinedMetricError: the labels are all of one class.
    """
    numbers = range(len(scores)) if videos is None else videos
    parts = [_collapse(s, y, v) for s, y, v in zip(scores, labels, numbers, strict=True)]
    value, owner, positive, negative = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not positive.any() or not negative.any():
        raise UndefinedMetricError("single-class labels")
    order = np.argsort(-value, kind="stable")
    value, owner, positive, negative = value[order], owner[order], positive[order], negative[order]
    is_negative, is_positive = negative > 0, positive > 0
    keys = -value[is_positive]
    start = np.concatenate([[0], np.flatnonzero(np.diff(keys)) + 1])
    others = -value[is_negative]
    return Ranking(
        negative_video=owner[is_negative],
        negative_count=negative[is_negative],
        positive_video=owner[is_positive],
        positive_count=positive[is_positive],
        group_start=start,
        above=np.searchsorted(others, keys[start], side="left"),
        at_or_above=np.searchsorted(others, keys[start], side="right"),
    )


def _collapse(scores: Floats, labels: Bools, owner: int) -> tuple[Floats, Ints, Ints, Ints]:
    order = np.argsort(scores)
    ranked = scores[order]
    first = np.concatenate([[0], np.flatnonzero(np.diff(ranked)) + 1]) if len(ranked) else np.zeros(0, np.int64)
    size = np.diff(np.append(first, len(ranked)))
    positive = np.add.reduceat(labels[order].astype(np.int64), first) if len(first) else np.zeros(0, np.int64)
    return ranked[first], np.full(len(first), owner, dtype=np.int64), positive, size - positive


def samples(name: str, data: MetricInput, options: MetricOptions, weights: Ints) -> Floats | None:
    """(B,) the metric `name` under each row of weights (B, V); None for metrics without intervals.

    `map-iou` is not here: see `map_samples`.
    """
    prepare = _PREPARE.get(name)
    if prepare is None:
        return None
    statistic = prepare(data, options)
    return np.array([statistic(row) for row in weights])


def map_samples(result: detection.Result, weights: Ints) -> Floats:
    """(B, I + 1) mAP at each IoU and its average under each row of weights; matched once, counted again."""
    return np.array([_map_row(result.matched, result.protocol, row) for row in weights])


def interval(values: Floats, *, level: float = LEVEL) -> list[float] | None:
    """The percentile interval [low, high] of the defined rounds, None where there is none."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def paired(first: Floats, second: Floats) -> dict[str, Any]:
    """Of two metrics' rounds on the same resamples: the interval of first - second, and the share of rounds above 0."""
    return spread(first - second)


def spread(difference: Floats | None) -> dict[str, Any]:
    """The interval of differences (B,), the share of them above 0, and how many are defined; nulls for None."""
    if difference is None:
        return {"ci": None, "share_above_0": None, "rounds": 0}
    defined = difference[~np.isnan(difference)]
    share = float((defined > 0).mean()) if len(defined) else None
    return {"ci": interval(difference), "share_above_0": share, "rounds": len(defined)}


def _map_row(matched: Matched, protocol: str, weights: Ints) -> Floats:
    aps = average_precisions(matched, weights, protocol=protocol)
    means = detection.protocol_means(matched, aps, weights, protocol)
    return np.append(means, means.mean())


Statistic = Callable[[Ints], float]


def _ranked(
    pick: Callable[[Ranking, Ints], float], key: str = "all"
) -> Callable[[MetricInput, MetricOptions], Statistic]:
    def prepare(data: MetricInput, options: MetricOptions) -> Statistic:
        memo = f"ranking:{key}"
        if memo not in data.memo:
            data.memo[memo] = _RANKINGS[key](data)
        ranked: Ranking = data.memo[memo]
        return lambda weights: pick(ranked, weights)

    return prepare


def _rank_all(data: MetricInput) -> Ranking:
    return ranking(data.scores, data.labels)


def _rank_abnormal(data: MetricInput) -> Ranking:
    chosen = [int(i) for i in np.flatnonzero(data.abnormal)]
    return ranking([data.scores[i] for i in chosen], [data.labels[i] for i in chosen], chosen)


def _rank_minmax(data: MetricInput) -> Ranking:
    return ranking([frame.minmax(s)[0] for s in data.scores], data.labels)


_RANKINGS: dict[str, Callable[[MetricInput], Ranking]] = {
    "all": _rank_all,
    "abnormal": _rank_abnormal,
    "minmax": _rank_minmax,
}


def _averaged(per_video: Callable[[MetricInput], Floats]) -> Callable[[MetricInput, MetricOptions], Statistic]:
    def prepare(data: MetricInput, options: MetricOptions) -> Statistic:
        values = per_video(data)
        used = ~np.isnan(values)
        kept = np.where(used, values, 0.0)
        return lambda weights: _ratio(float(kept @ weights), float(used @ weights))

    return prepare


def _video(pick: Callable[[frame.Curve], float]) -> Callable[[MetricInput, MetricOptions], Statistic]:
    def prepare(data: MetricInput, options: MetricOptions) -> Statistic:
        scores = video.video_scores(data, options.video_score)
        frame.curve(scores, data.abnormal).need_both()
        return lambda weights: pick(frame.curve(scores, data.abnormal, weights))

    return prepare


def _accuracy(data: MetricInput, options: MetricOptions) -> Statistic:
    right = video.alarms(video.video_scores(data, options.video_score), options) == data.abnormal
    return lambda weights: _ratio(float(right @ weights), float(weights.sum()))


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom else float("nan")


_PREPARE: dict[str, Callable[[MetricInput, MetricOptions], Statistic]] = {
    "auc": _ranked(Ranking.auc),
    "ap": _ranked(Ranking.ap_step),
    "ap-trapezoid": _ranked(Ranking.ap_trapezoid),
    "ano-auc": _ranked(Ranking.auc, "abnormal"),
    "ano-ap": _ranked(Ranking.ap_step, "abnormal"),
    "auc-minmax": _ranked(Ranking.auc, "minmax"),
    "macro-auc": _averaged(frame.video_aucs),
    "macro-auc-pad": _averaged(frame.padded_video_aucs),
    "macro-auc-pad-missing": _averaged(frame.padded_missing_video_aucs),
    "video-auc": _video(frame.Curve.auc),
    "video-ap": _video(frame.Curve.ap_step),
    "video-acc": _accuracy,
}
