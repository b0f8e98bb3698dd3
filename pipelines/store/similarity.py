"""How alike two features of the same videos are: shifts, crop assignments, similarities without the common mean.

Sides are mappings of video ids to values (T, K, D) float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.store.layouts import UNKNOWN

Array = NDArray[np.float32]

# [ours]
GAIN = 0.02  # a shift or permutation counts when it raises the similarity by this and takes away a quarter of the rest
STILL = 0.1  # videos whose clips differ by less do not say whether the other side's are in step
MIN_CLIPS = 8
MIN_VIDEOS = 6


# ---- alignment -------------------------------------------------------------------------------------------------


def centre(side: Mapping[str, Array]) -> dict[str, Array]:
    """Each vector without the mean over all of the side's clips and crops."""
    mean = np.mean([values.mean(axis=(0, 1)) for values in side.values()], axis=0)
    return {video: values - mean for video, values in side.items()}


def best_shift(left: Mapping[str, Array], right: Mapping[str, Array], most: int) -> int:
    """The shift with the highest similarity of the crops' means, 0 unless another is clearly better."""
    found: dict[int, float] = {}
    for shift in range(-most, most + 1):
        parts = [_overlap(left[v].mean(1), right[v].mean(1), shift) for v in left]
        values = [cosines(a, b).mean() for a, b in parts if len(a)]
        if values:
            found[shift] = float(np.mean(values))
    best = max(found, key=lambda shift: (found[shift], -abs(shift)))
    return best if 0 not in found or _clearly_better(found[best], found[0]) else 0


def best_pairs(
    left: Mapping[str, Array], right: Mapping[str, Array], usual: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The assignment of B's crops to A's with the highest similarity; `usual` unless another is clearly better."""
    from scipy.optimize import linear_sum_assignment

    tables = [np.einsum("tid,tjd->ij", _unit(left[v]), _unit(right[v])) / len(left[v]) for v in left]
    table = np.mean(tables, axis=0)
    rows, columns = linear_sum_assignment(-table)
    best = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)]
    if len(usual) < len(best):
        return best
    before = float(np.mean([table[i, j] for i, j in usual]))
    return best if _clearly_better(float(table[rows, columns].mean()), before) else usual


def _clearly_better(now: float, before: float) -> bool:
    return now - before > max(GAIN, 0.25 * (1 - before))


def named_pairs(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Crops of the same name; crops of unknown order are taken to stand in A's."""
    if any(name.startswith(UNKNOWN) for name in (*a, *b)):
        return [(k, k) for k in range(min(len(a), len(b)))]
    return [(i, b.index(name)) for i, name in enumerate(a) if name in b]


def aligned(
    left: Mapping[str, Array], right: Mapping[str, Array], shift: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The clips that correspond under a shift; videos that share none are left out."""
    pairs = {video: _overlap(left[video], right[video], shift) for video in left}
    kept = {video: pair for video, pair in pairs.items() if len(pair[0])}
    return {v: a for v, (a, _) in kept.items()}, {v: b for v, (_, b) in kept.items()}


def _overlap(a: Array, b: Array, shift: int) -> tuple[Array, Array]:
    """Clips t of a and t + shift of b that both exist."""
    a, b = a[max(0, -shift) :], b[max(0, shift) :]
    n = min(len(a), len(b))
    return a[:n], b[:n]


# ---- similarities ----------------------------------------------------------------------------------------------


def others(left: Mapping[str, Array], right: Mapping[str, Array]) -> float:
    """Median similarity of clips that are not each other's: of the next videos, or half a video away in a single one."""
    videos = list(left)
    if len(videos) == 1:
        a, b = left[videos[0]], right[videos[0]]
        return float(cosines(a, np.roll(b, max(1, len(b) // 2), axis=0)).mean())
    found = []
    for index, video in enumerate(videos):
        for step in range(1, min(4, len(videos))):
            a, b = _overlap(left[video], right[videos[(index + step) % len(videos)]], 0)
            found.append(cosines(a, b).mean())
    return float(np.median(found))


def in_step(left: Mapping[str, Array], right: Mapping[str, Array]) -> bool:
    """Whether clips are nearer to their own counterpart than to that of half a video away, where A itself changes.

    The part of A's own change that can be seen in B is smaller where the two agree less.
    """
    own, ours = [], []
    agreement = median([float(cosines(a, right[video]).mean()) for video, a in left.items()])
    for video, a in left.items():
        far = np.roll(np.arange(len(a)), len(a) // 2)
        own.append(float((cosines(a, right[video]) - cosines(a, right[video][far])).mean()))
        ours.append(float((1 - cosines(a, a[far])).mean()))
    return median(ours) < STILL or median(own) > 0.25 * agreement * median(ours)


def structure(
    left: Mapping[str, Array], right: Mapping[str, Array], max_shift: int
) -> tuple[float | None, float | None]:
    """Correlation of the clips' mutual similarities in the two, in step and at its best out of step.

    It needs no common space: two encoders of the same footage find the same clips alike. Out of step are turns of the
    video by a quarter to three quarters and the video backwards, which keep the slow change that any video has.
    """
    inner, apart = [], []
    for video in left:
        found = [_structures(left[video], right[video], shift) for shift in range(-max_shift, max_shift + 1)]
        known = [pair for pair in found if pair is not None]
        if known:
            best = max(known)
            inner.append(best[0])
            apart.append(best[1])
    return (float(np.median(inner)), float(np.median(apart))) if inner else (None, None)


def _structures(left: Array, right: Array, shift: int) -> tuple[float, float] | None:
    a, b = _overlap(left.mean(1), right.mean(1), shift)
    if len(a) < MIN_CLIPS:
        return None
    a, b = a - a.mean(0), b - b.mean(0)
    rows, columns = np.triu_indices(len(a), 1)
    table, other = _without_lags(_unit(a) @ _unit(a).T), _without_lags(_unit(b) @ _unit(b).T)
    turns = range(len(a) // 4, 3 * len(a) // 4 + 1)
    turned = [_correlation(table, np.roll(other, (k, k), (0, 1)), rows, columns) for k in turns]
    turned.append(_correlation(table, other[::-1, ::-1], rows, columns))
    return _correlation(table, other, rows, columns), max(turned)


def structure_of_videos(left: Mapping[str, Array], right: Mapping[str, Array]) -> tuple[float | None, float | None]:
    """The same of the videos' means; out of step are all turns of B's list against A's."""
    if len(left) < MIN_VIDEOS:
        return None, None
    tables = []
    for side in (left, right):
        means = np.stack([values.mean((0, 1)) for values in side.values()])
        tables.append(_unit(means - means.mean(0)) @ _unit(means - means.mean(0)).T)
    rows, columns = np.triu_indices(len(left), 1)
    turned = [np.roll(tables[1], (k, k), (0, 1)) for k in range(len(left))]
    inner, *apart = (_correlation(tables[0], table, rows, columns) for table in turned)
    return inner, max(apart)


def _without_lags(table: Array) -> Array:
    """Similarities (T, T) without the mean of each time difference: any slow video is alike when it is near."""
    lags = np.abs(np.subtract.outer(np.arange(len(table)), np.arange(len(table))))
    means = np.bincount(lags.ravel(), table.ravel()) / np.bincount(lags.ravel())
    return np.asarray(table - means[lags], np.float32)


def _correlation(a: Array, b: Array, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
    x, y = a[rows, columns], b[rows, columns]
    if x.std() < 1e-6 or y.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _unit(values: Array) -> Array:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9), np.float32)


def cosines(a: Array, b: Array) -> Array:
    return np.asarray((_unit(a) * _unit(b)).sum(-1))


def mean_norm(values: Array) -> float:
    return float(np.linalg.norm(values, axis=-1).mean())


def median(values: Sequence[float]) -> float:
    return float(np.median(values))
