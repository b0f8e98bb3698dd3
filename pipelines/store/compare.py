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
from pipelines.store.similarity import (
    Array,
    aligned,
    best_pairs,
    best_shift,
    centre,
    cosines,
    in_step,
    mean_norm,
    median,
    named_pairs,
    others,
    structure,
    structure_of_videos,
)

Kind = Literal["same", "shifted", "permuted", "preprocessing", "encoder", "unrelated"]

# [ours] Measured on ten real clips with EfficientNet-Lite0: bf16 0.99, the mean of a clip's frames instead of the middle
# one 0.97, a crop instead of the squeezed frame 0.50, difference images instead of frames 0.24; other clips at most 0.05.
# Two spaces that have nothing to do with each other are 1 / sqrt(D) from zero.
SAME = 0.999
SAME_DIRECTION = 0.9999
RELATED = 0.12
RELATED_SIGMAS = 3
AS_WHOLES = 0.4  # above this, videos whose clips are out of step are the same videos in another order
NORM = 0.01
STRUCTURE = 0.1  # by how much the clips' mutual similarities agree more in step than out of step


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
        structure, structure_apart: correlation of the clips' mutual similarities in A and B, in step and at its highest
            out of step; None below 8 clips. `structure_videos` is the same of whole videos; None below 6.
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
    structure_videos: float | None
    structure_videos_apart: float | None
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
    inner, apart = structure(left, right, max_shift)
    between = structure_of_videos(left, right)
    facts: dict[str, Any] = {
        **counts,
        "max_shift": max_shift,
        "widths": widths,
        "structure": inner,
        "structure_apart": apart,
        "structure_videos": between[0],
        "structure_videos_apart": between[1],
    }
    if widths[0] != widths[1]:
        ratio = float(np.median([mean_norm(right[v]) / max(mean_norm(left[v]), 1e-9) for v in left]))
        return _difference(_kinds_by_structure(facts), facts, norm_ratio=ratio)
    shift = best_shift(centre(left), centre(right), max_shift)
    left, right = aligned(left, right, shift)
    usual = named_pairs(*names)
    pairs = best_pairs(centre(left), centre(right), usual)
    left = {video: values[:, [i for i, _ in pairs]] for video, values in left.items()}
    right = {video: values[:, [j for _, j in pairs]] for video, values in right.items()}
    centred = centre(left), centre(right)
    videos = tuple(_video(v, left[v], right[v], centred[0][v], centred[1][v]) for v in left)
    found = {
        "shift_clips": shift,
        "crops": tuple((names[0][i], names[1][j]) for i, j in pairs),
        "cosine": median([video.cosine for video in videos]),
        "centred": median([video.centred for video in videos]),
        "others_cosine": others(left, right),
        "others_centred": others(*centred),
        "norm_ratio": median([video.norm_ratio for video in videos]),
        "videos": videos,
    }
    kinds = _kinds(found, facts, moved=pairs != usual, in_step=in_step(*centred))
    return _difference(kinds, facts, **found)


# ---- the verdict -----------------------------------------------------------------------------------------------


def _kinds(found: Mapping[str, Any], facts: Mapping[str, Any], *, moved: bool, in_step: bool) -> tuple[Kind, ...]:
    enough = max(RELATED, RELATED_SIGMAS / np.sqrt(facts["widths"][0]))
    if found["centred"] < enough or found["centred"] < found["others_centred"] + enough:
        return _kinds_by_structure(facts)
    if not in_step:
        return ("unrelated",) if found["centred"] > AS_WHOLES else _kinds_by_structure(facts)
    kinds: list[Kind] = []
    if found["shift_clips"]:
        kinds.append("shifted")
    if moved:
        kinds.append("permuted")
    if found["centred"] < SAME or abs(found["norm_ratio"] - 1) > NORM:
        kinds.append("preprocessing")
    return tuple(kinds) or ("same",)


def _kinds_by_structure(facts: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Other encoder where clips or whole videos resemble one another in the same way in both, else unrelated."""
    pairs = [("structure", "structure_apart"), ("structure_videos", "structure_videos_apart")]
    known = [(facts[one], facts[other]) for one, other in pairs if facts[one] is not None]
    return ("encoder",) if any(inner > apart + STRUCTURE for inner, apart in known) else ("unrelated",)


def _difference(kinds: tuple[Kind, ...], facts: Mapping[str, Any], **found: Any) -> Difference:
    blank: dict[str, Any] = dict.fromkeys(("cosine", "centred", "others_cosine", "others_centred"))
    values = {"shift_clips": 0, "crops": (), **blank, **facts, **found}
    return Difference(kinds=kinds, words=_words(kinds, values), **values)


def _words(kinds: tuple[Kind, ...], values: Mapping[str, Any]) -> str:
    widths = values["widths"]
    apart = f" (widths {widths[0]} and {widths[1]})" if widths[0] != widths[1] else ""
    tried = f"shifts of up to {values['max_shift']} clips were tried"
    told: dict[Kind, Callable[[], str]] = {
        "same": lambda: "the same features" + (" up to rounding" if values["identical"] < values["compared"] else ""),
        "shifted": lambda: _shifted(values["shift_clips"]),
        "permuted": lambda: "crops permuted: " + ", ".join(f"A's {i} is B's {j}" for i, j in values["crops"] if i != j),
        "preprocessing": lambda: _preprocessing(values),
        "encoder": lambda: (
            f"other encoder{apart}: clips resemble one another in the same way, the vectors do not agree"
        ),
        "unrelated": lambda: (
            f"unrelated clip by clip: the videos agree as wholes, their clips are not in the same order ({tried})"
            if values["centred"] is not None and values["centred"] > max(AS_WHOLES, values["others_centred"])
            else f"unrelated{apart}: neither the vectors agree, nor the way in which clips resemble one another ({tried})"
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


def _video(video: str, a: Array, b: Array, a_centred: Array, b_centred: Array) -> VideoDifference:
    return VideoDifference(
        video_id=video,
        cosine=float(cosines(a, b).mean()),
        centred=float(cosines(a_centred, b_centred).mean()),
        norm_ratio=mean_norm(b) / max(mean_norm(a), 1e-9),
        clips=len(a),
    )


def _first(side: Side) -> str:
    videos = sorted(side.videos)
    return f"{videos[0]!r} ({len(videos)})" if videos else "nothing"
