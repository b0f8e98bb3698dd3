"""Matching of ranked proposals to intervals, once; average precision from it, as often as videos are reweighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.metrics._base import Detections, Floats, Ints


@dataclass(frozen=True, slots=True)
class Truths:
    """Intervals to find, as columns in list order (video, label, start, end)."""

    video: Ints
    label: Ints
    start: Floats
    end: Floats

    def __len__(self) -> int:
        return len(self.video)

    @staticmethod
    def of(rows: Sequence[tuple[int, int, float, float]]) -> Truths:
        """From rows (video, label, start, end)."""
        table = np.array(rows, dtype=np.float64).reshape(-1, 4)
        return Truths(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2], table[:, 3])


@dataclass(frozen=True, slots=True)
class Matched:
    """Ranked proposals with their true positives.

    video (P,) of each proposal in rank order, all of class 0 first, then class 1 and so on; `bounds` (Y + 1,) where each
    class begins; `hits` per IoU the ascending positions of true positives; `n_truth` (V, Y) intervals to find.
    """

    video: Ints
    bounds: Ints
    hits: tuple[Ints, ...]
    n_truth: Ints

    def class_sizes(self, weights: Ints | None) -> Ints:
        """(Y,) number of proposals of each class, videos counted `weights` (V,) times."""
        if weights is None:
            return np.diff(self.bounds)
        total = np.concatenate([[0], np.cumsum(weights[self.video])])
        return np.asarray(np.diff(total[self.bounds]))


def rank(rows: Detections, *, n_classes: int) -> Detections:
    """Rows by class, then by (-score, video position, start): a stable order that ties cannot shuffle."""
    known = rows.take((rows.label >= 0) & (rows.label < n_classes))
    return known.take(np.lexsort((known.end, known.start, known.video, -known.score, known.label)))


def match(rows: Detections, truths: Truths, *, tious: Sequence[float], n_videos: int, n_classes: int) -> Matched:
    """Greedy matching within each video and class, best score first.

    A proposal takes, among the intervals not yet taken with an overlap at or above the threshold, the one it overlaps
    most (the first on equality). Videos do not influence each other, so the result holds under any reweighting.

    Args:
        rows: in the order of `rank`.
        truths: intervals to find.
        tious: IoU thresholds.
        n_videos, n_classes: V and Y.
    """
    hits: list[list[int]] = [[] for _ in tious]
    cell = rows.label * n_videos + rows.video
    by_cell = np.argsort(cell, kind="stable")
    ordered = cell[by_cell]
    truth_cell = truths.label * n_videos + truths.video
    truth_order = np.argsort(truth_cell, kind="stable")
    cells: Ints = np.unique(truth_cell)
    first: Ints = np.searchsorted(truth_cell[truth_order], cells)
    ends = np.append(first[1:], len(truth_order))
    lows = np.searchsorted(ordered, cells)
    highs = np.searchsorted(ordered, cells, side="right")
    for index in range(len(cells)):
        wanted, found = truth_order[first[index] : ends[index]], by_cell[lows[index] : highs[index]]
        table = _overlap_table(rows, found, truths, wanted)
        for kept, tiou in zip(hits, tious, strict=True):
            kept += [int(found[i]) for i in _greedy(table, tiou)]
    n_truth = np.bincount(truths.video * n_classes + truths.label, minlength=n_videos * n_classes)
    bounds = np.searchsorted(rows.label, np.arange(n_classes + 1))
    done = tuple(np.array(sorted(h), dtype=np.int64) for h in hits)
    return Matched(rows.video, bounds, done, n_truth.reshape(n_videos, n_classes))


def average_precisions(matched: Matched, weights: Ints | None, *, protocol: str) -> Floats:
    """(I, Y) average precision of each class at each IoU, every video counted `weights` (V,) times.

    `activitynet` takes the interpolated precision (its running maximum from the right), the others the precision at
    each true positive. Copies of a video rank next to each other. NaN for a class without intervals, except under
    `vadclip`, where it is 0.
    """
    n_classes = len(matched.bounds) - 1
    count = np.ones(len(matched.n_truth), dtype=np.int64) if weights is None else np.asarray(weights, dtype=np.int64)
    wanted = count @ matched.n_truth
    total = np.concatenate([[0], np.cumsum(count[matched.video])])
    rows = []
    for hits in matched.hits:
        label = np.searchsorted(matched.bounds, hits, side="right") - 1
        precision, label = _precisions(hits, label, count[matched.video[hits]], total, matched.bounds)
        if protocol == "activitynet":
            precision = _envelope(precision, label, n_classes)
        rows.append(np.bincount(label, precision, minlength=n_classes))
    with np.errstate(invalid="ignore", divide="ignore"):
        aps = np.where(
            wanted > 0, np.array(rows).reshape(-1, n_classes) / wanted, 0.0 if protocol == "vadclip" else np.nan
        )
    return np.asarray(aps, dtype=np.float64)


def _precisions(hits: Ints, label: Ints, copies: Ints, total: Ints, bounds: Ints) -> tuple[Floats, Ints]:
    """Precision at every copy of every true positive, and its class."""
    found = np.concatenate([[0], np.cumsum(copies)])[:-1]
    first_of_class = np.searchsorted(label, label)
    true_before = found - found[first_of_class] if len(found) else found
    rank_before = total[hits] - total[bounds[label]]
    item = np.repeat(np.arange(len(hits)), copies)
    copy = np.arange(len(item)) - found[item] + 1
    return (true_before[item] + copy) / (rank_before[item] + copy), label[item]


def _envelope(precision: Floats, label: Ints, n_classes: int) -> Floats:
    # a later class never reaches an earlier one: each class is lifted above all classes after it
    lift = 2.0 * (n_classes - label)
    return np.asarray(np.maximum.accumulate((precision + lift)[::-1])[::-1] - lift)


def _overlap_table(rows: Detections, found: Ints, truths: Truths, wanted: Ints) -> Floats:
    """(proposals, intervals) intersection over union, half-open."""
    start, end = rows.start[found, None], rows.end[found, None]
    low, high = truths.start[None, wanted], truths.end[None, wanted]
    shared = np.maximum(0.0, np.minimum(end, high) - np.maximum(start, low))
    union = (end - start) + (high - low) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _greedy(table: Floats, tiou: float) -> list[int]:
    if table.shape[1] == 1:
        reached = table[:, 0] >= tiou
        return [int(np.argmax(reached))] if reached.any() else []
    free = np.ones(table.shape[1], dtype=bool)
    taken = []
    for index in np.flatnonzero(table.max(axis=1, initial=0.0) >= tiou):
        open_overlap = np.where(free, table[index], -1.0)
        best = int(np.argmax(open_overlap))
        if open_overlap[best] >= tiou:
            free[best] = False
            taken.append(int(index))
    return taken
