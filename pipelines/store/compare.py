"""Two features of the same videos, told apart: shifted, crops permuted, other preprocessing, other encoder, unrelated.

Features of one encoder share a large common part, so their plain cosine is high between any two clips. Everything is
therefore judged on what is left when each side's mean is taken off, and against clips that are not each other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.store.features import FeatureStore
from pipelines.store.layouts import UNKNOWN

Array = NDArray[np.float32]
Kind = Literal["same", "shifted", "permuted", "preprocessing", "encoder", "unrelated"]

# [ours] Float16 rounding leaves cosines above 0.9999, another decoder or resize of the same network below 0.999; a
# single network under another resize was measured at 0.5 and more, two networks within 0.1 of zero.
SAME = 0.999
SAME_DIRECTION = 0.9999
RELATED = 0.3
GAIN = 0.02  # a shift or permutation counts when it raises the similarity by this and takes away a quarter of the rest
NORM = 0.01
STILL = 0.1  # videos whose clips differ by less do not say whether the other side's are in step
STRUCTURE = 0.1  # by how much the clips' mutual similarities agree more in step than out of step
MIN_CLIPS = 8


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison, a features artefact or files that are read like one: ids, values (T, K, D), crop names."""

    videos: frozenset[str]
    read: Callable[[str], NDArray[np.float16]]
    crops_of: Callable[[str], tuple[str, ...]]


def side_of(store: FeatureStore) -> Side:
    """A features artefact as one side."""
    return Side(frozenset(store.videos()), store.read, lambda video: store.facts(video).crops)


@dataclass(frozen=True, slots=True)
class VideoDifference:
    """One video after the common shift and permutation: similarities are means over its clips and crops.

    `cosine` plain, `centred` with each side's mean taken off, `norm_ratio` of B to A, `clips` that correspond.
    """

    video_id: str
    cosine: float
    centred: float
    norm_ratio: float
    clips: int


@dataclass(frozen=True, slots=True)
class Difference:
    """What a comparison found. Similarities are medians over videos; None where widths differ.

    Attributes:
        kinds: every finding, the strongest first; ("same",) alone where nothing differs.
        words: the verdict as a sentence.
        shift_clips: clip t of A is clip t + shift_clips of B.
        crops: (A's crop, B's crop) pairs.
        cosine, centred: of corresponding clips, plain and with each side's mean taken off.
        others_cosine, others_centred: the same of clips of other videos (of distant clips where there is one video).
        structure, structure_apart: correlation of the clips' mutual similarities in A and B, in step and out of step.
        identical: videos whose float16 values are equal bit for bit.
    """

    kinds: tuple[Kind, ...]
    words: str
    shift_clips: int
    crops: tuple[tuple[str, str], ...]
    cosine: float | None
    centred: float | None
    others_cosine: float | None
    others_centred: float | None
    norm_ratio: float
    structure: float | None
    structure_apart: float | None
    identical: int
    compared: int
    only_a: int
    only_b: int
    other_length: int
    widths: tuple[int, int]
    max_shift: int
    videos: tuple[VideoDifference, ...] = field(repr=False, default=())


def compare(a: Side, b: Side, *, limit: int = 50, max_shift: int = 3) -> Difference:
    """Compare the videos that both have, at most `limit` of them (evenly over the sorted names).

    Args:
        max_shift: shifts of up to so many clips either way are tried.

    Raises:
        UsageError: no video in common.
    """
    shared = sorted(a.videos & b.videos)
    if not shared:
        raise UsageError(
            f"the two have no video in common: {_first(a)} and {_first(b)}", hint="names are compared as the dataset's"
        )
    chosen = [shared[int(k)] for k in np.unique(np.linspace(0, len(shared) - 1, min(limit, len(shared))).astype(int))]
    left = {video: np.asarray(a.read(video), np.float32) for video in chosen}
    right = {video: np.asarray(b.read(video), np.float32) for video in chosen}
    names = (a.crops_of(chosen[0]), b.crops_of(chosen[0]))
    counts = {
        "compared": len(chosen),
        "only_a": len(a.videos - b.videos),
        "only_b": len(b.videos - a.videos),
        "other_length": sum(len(left[v]) != len(right[v]) for v in chosen),
        "identical": sum(np.array_equal(left[v], right[v]) for v in chosen),
    }
    return _judge(left, right, names, counts, max_shift)


def _judge(
    left: Mapping[str, Array],
    right: Mapping[str, Array],
    names: tuple[Sequence[str], Sequence[str]],
    counts: Mapping[str, int],
    max_shift: int,
) -> Difference:
    widths = tuple(next(iter(side.values())).shape[2] for side in (left, right))
    inner, apart = _structure(left, right, max_shift)
    facts: dict[str, Any] = {
        **counts,
        "max_shift": max_shift,
        "widths": widths,
        "structure": inner,
        "structure_apart": apart,
    }
    if widths[0] != widths[1]:
        ratio = float(np.median([_norm(right[v]) / max(_norm(left[v]), 1e-9) for v in left]))
        return _difference(_kinds_by_structure(facts), facts, norm_ratio=ratio)
    shift = _best_shift(_centre(left), _centre(right), max_shift)
    left, right = _aligned(left, right, shift)
    usual = _named_pairs(*names)
    pairs = _best_pairs(_centre(left), _centre(right), usual)
    left = {video: values[:, [i for i, _ in pairs]] for video, values in left.items()}
    right = {video: values[:, [j for _, j in pairs]] for video, values in right.items()}
    centred = _centre(left), _centre(right)
    videos = tuple(_video(v, left[v], right[v], centred[0][v], centred[1][v]) for v in left)
    found = {
        "shift_clips": shift,
        "crops": tuple((names[0][i], names[1][j]) for i, j in pairs),
        "cosine": _median([video.cosine for video in videos]),
        "centred": _median([video.centred for video in videos]),
        "others_cosine": _others(left, right),
        "others_centred": _others(*centred),
        "norm_ratio": _median([video.norm_ratio for video in videos]),
        "videos": videos,
    }
    kinds = _kinds(found, facts, moved=pairs != usual, in_step=_in_step(*centred))
    return _difference(kinds, facts, **found)


# ---- the verdict -----------------------------------------------------------------------------------------------


def _kinds(found: Mapping[str, Any], facts: Mapping[str, Any], *, moved: bool, in_step: bool) -> tuple[Kind, ...]:
    if found["centred"] < max(RELATED, found["others_centred"] + RELATED / 2) or not in_step:
        return _kinds_by_structure(facts)
    kinds: list[Kind] = []
    if found["shift_clips"]:
        kinds.append("shifted")
    if moved:
        kinds.append("permuted")
    if found["centred"] < SAME or abs(found["norm_ratio"] - 1) > NORM:
        kinds.append("preprocessing")
    return tuple(kinds) or ("same",)


def _kinds_by_structure(facts: Mapping[str, Any]) -> tuple[Kind, ...]:
    inner, apart = facts["structure"], facts["structure_apart"]
    same_footage = inner is not None and inner > apart + STRUCTURE
    return ("encoder",) if same_footage else ("unrelated",)


def _difference(kinds: tuple[Kind, ...], facts: Mapping[str, Any], **found: Any) -> Difference:
    blank: dict[str, Any] = dict.fromkeys(("cosine", "centred", "others_cosine", "others_centred"))
    values = {"shift_clips": 0, "crops": (), **blank, **facts, **found}
    return Difference(kinds=kinds, words=_words(kinds, values), **values)


def _words(kinds: tuple[Kind, ...], values: Mapping[str, Any]) -> str:
    widths = values["widths"]
    apart = f" (widths {widths[0]} and {widths[1]})" if widths[0] != widths[1] else ""
    told: dict[Kind, Callable[[], str]] = {
        "same": lambda: "the same features" + (" up to rounding" if values["identical"] < values["compared"] else ""),
        "shifted": lambda: _shifted(values["shift_clips"]),
        "permuted": lambda: "crops permuted: " + ", ".join(f"A's {i} is B's {j}" for i, j in values["crops"] if i != j),
        "preprocessing": lambda: _preprocessing(values),
        "encoder": lambda: (
            f"other encoder{apart}: clips resemble one another in the same way, the vectors do not agree"
        ),
        "unrelated": lambda: (
            f"unrelated{apart}: clip by clip neither the vectors agree, nor the way in which clips resemble one another "
            f"(shifts of up to {values['max_shift']} clips were tried)"
        ),
    }
    return "; ".join(told[kind]() for kind in kinds)


def _shifted(shift: int) -> str:
    clips = "one clip" if abs(shift) == 1 else f"{abs(shift)} clips"
    return f"shifted by {clips}: B has each clip of A {clips} {'later' if shift > 0 else 'earlier'}"


def _preprocessing(values: Mapping[str, Any]) -> str:
    if values["cosine"] >= SAME_DIRECTION:
        ratio = f"B's norms are {values['norm_ratio']:.3g} times A's"
        return f"other preprocessing: the same directions at another length ({ratio}), scaled or normalised"
    return (
        f"other preprocessing of the same encoder (resize, pixel range, decoder or precision): similarity "
        f"{values['centred']:.3f} without the common mean, {values['others_centred']:.3f} to other clips"
    )


# ---- alignment -------------------------------------------------------------------------------------------------


def _centre(side: Mapping[str, Array]) -> dict[str, Array]:
    """Each vector without the mean over all of the side's clips and crops."""
    mean = np.mean([values.mean(axis=(0, 1)) for values in side.values()], axis=0)
    return {video: values - mean for video, values in side.items()}


def _best_shift(left: Mapping[str, Array], right: Mapping[str, Array], most: int) -> int:
    """The shift with the highest similarity of the crops' means, 0 unless another is clearly better."""
    found: dict[int, float] = {}
    for shift in range(-most, most + 1):
        parts = [_overlap(left[v].mean(1), right[v].mean(1), shift) for v in left]
        values = [_cosines(a, b).mean() for a, b in parts if len(a)]
        if values:
            found[shift] = float(np.mean(values))
    best = max(found, key=lambda shift: (found[shift], -abs(shift)))
    return best if 0 not in found or _clearly_better(found[best], found[0]) else 0


def _best_pairs(
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


def _named_pairs(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Crops of the same name; crops of unknown order are taken to stand in A's."""
    if any(name.startswith(UNKNOWN) for name in (*a, *b)):
        return [(k, k) for k in range(min(len(a), len(b)))]
    return [(i, b.index(name)) for i, name in enumerate(a) if name in b]


def _aligned(
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


def _video(video: str, a: Array, b: Array, a_centred: Array, b_centred: Array) -> VideoDifference:
    return VideoDifference(
        video_id=video,
        cosine=float(_cosines(a, b).mean()),
        centred=float(_cosines(a_centred, b_centred).mean()),
        norm_ratio=_norm(b) / max(_norm(a), 1e-9),
        clips=len(a),
    )


def _others(left: Mapping[str, Array], right: Mapping[str, Array]) -> float:
    """Median similarity of clips that are not each other's: of the next videos, or half a video away in a single one."""
    videos = list(left)
    if len(videos) == 1:
        a, b = left[videos[0]], right[videos[0]]
        return float(_cosines(a, np.roll(b, max(1, len(b) // 2), axis=0)).mean())
    found = []
    for index, video in enumerate(videos):
        for step in range(1, min(4, len(videos))):
            a, b = _overlap(left[video], right[videos[(index + step) % len(videos)]], 0)
            found.append(_cosines(a, b).mean())
    return float(np.median(found))


def _in_step(left: Mapping[str, Array], right: Mapping[str, Array]) -> bool:
    """Whether clips are nearer to their own counterpart than to that of half a video away, where A itself changes."""
    own, ours = [], []
    for video, a in left.items():
        far = np.roll(np.arange(len(a)), len(a) // 2)
        own.append(float((_cosines(a, right[video]) - _cosines(a, right[video][far])).mean()))
        ours.append(float((1 - _cosines(a, a[far])).mean()))
    return _median(ours) < STILL or _median(own) > 0.25 * _median(ours)


def _structure(
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


def _cosines(a: Array, b: Array) -> Array:
    return np.asarray((_unit(a) * _unit(b)).sum(-1))


def _norm(values: Array) -> float:
    return float(np.linalg.norm(values, axis=-1).mean())


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _first(side: Side) -> str:
    videos = sorted(side.videos)
    return f"{videos[0]!r} ({len(videos)})" if videos else "nothing"
