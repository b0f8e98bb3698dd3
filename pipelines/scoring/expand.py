"""From a method's clip scores to one score a frame: crops, levels, tails. Never smooths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError, VerificationError
from pipelines.metrics._base import refuse_nonfinite
from pipelines.recipe import suggest
from pipelines.records import Scores
from pipelines.scoring.protocol import MEAN
from pipelines.spans import Tail, n_covered

Expand = Literal["repeat", "linear", "bins32"]
EXPANDS = ("repeat", "linear", "bins32")
BINS = 32  # [code] WaqasSultani/AnomalyDetectionCVPR2018: 32 scores spread over a video

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FrameScores:
    """One video's scores per frame, before smoothing.

    scores (M,) float64; classes (M, Y) float32 or None; M is the covered length: `n_frames` under `hold`, up to the
    last clip's end under `truncate`. `n_frames` is the video's real length.
    """

    video_id: str
    scores: Floats
    n_frames: int
    classes: NDArray[np.float32] | None = None

    @property
    def covered(self) -> int:
        """Number of frames that carry a score."""
        return len(self.scores)


def expand(scores: Scores, *, how: Expand = "repeat", crop: str = MEAN, tail: Tail = "hold") -> FrameScores:
    """One score a frame from clip scores: expand, then average the crops.

    `repeat` gives each frame the mean over the clips whose span covers it; `linear` puts values at span centres with
    straight lines between and flat ends (each level of a pyramid alone, then the mean over levels, [code] CMSIL);
    `bins32` spreads the T scores over the real length in T equal bins, the remainder takes the last. A frame that no
    span covers takes the previous frame's score. Class scores always repeat.

    Args:
        scores: clips (K, T) with spans (T, 2); see `Scores`.
        how: one of EXPANDS.
        crop: `mean` over crops, one crop's name, or several rules joined by `|`: the first that applies.
        tail: frames after the last clip: `hold` its score or `truncate`.

    Raises:
        VerificationError: shapes, spans or length that disagree, NaN; names the video.
        UsageError: an unknown `how` or a crop that the scores do not have.
    """
    if how not in EXPANDS:
        raise UsageError(f"unknown expansion {how!r}{suggest(how, EXPANDS)}", hint="one of " + ", ".join(EXPANDS))
    _check(scores)
    lines = _crops(scores, crop)
    covered = scores.n_frames
    if how != "bins32":
        covered = n_covered(scores.spans, scores.n_frames, tail=tail, stride=scores.stride, video=scores.video_id)
    if how == "repeat":
        frames = mean_over_spans(scores.clips[lines].mean(axis=0, dtype=np.float64), scores.spans, covered)
    elif how == "bins32":
        frames = spread_bins(scores.clips[lines].mean(axis=0, dtype=np.float64), covered)
    else:
        frames = _linear_levels(scores, lines, covered)
    return FrameScores(scores.video_id, frames, scores.n_frames, _classes(scores, lines, covered))


def mean_over_spans(values: NDArray[np.floating], spans: Ints, n_frames: int) -> Floats:
    """Frames (n_frames,) or (n_frames, Y) from clip values (T,) or (T, Y): the mean over the spans that cover a frame.

    Frames between or after spans take the previous covered frame's value, frames before the first span the first's.
    """
    raise_if_empty(spans)
    step = spans[1:, 0] == spans[:-1, 1]
    if spans[0, 0] == 0 and step.all():  # disjoint and gapless, the usual case: exact repetition
        lengths = np.diff(np.append(spans[:, 0], max(n_frames, int(spans[-1, 1]))))
        return np.asarray(np.repeat(values, lengths, axis=0)[:n_frames], dtype=np.float64)
    return _mean_of_overlaps(np.asarray(values, dtype=np.float64), spans, n_frames)


def _mean_of_overlaps(values: Floats, spans: Ints, n_frames: int) -> Floats:
    """The general case: between two neighbouring span borders the same clips cover every frame."""
    borders = np.unique(np.concatenate([[0, n_frames], spans.ravel()]))
    left = borders[:-1]
    first = np.searchsorted(spans[:, 1], left, side="right")
    last = np.searchsorted(spans[:, 0], left, side="right")
    count = np.maximum(last - first, 0)
    total = np.zeros((len(left), *values.shape[1:]))
    for step in range(int(count.max())):
        covered = count > step
        total[covered] += values[first[covered] + step]
    mean = total / np.maximum(count, 1).reshape((-1,) + (1,) * (total.ndim - 1))
    source = np.maximum.accumulate(np.where(count > 0, np.arange(len(left)), -1))
    source[source < 0] = int(np.argmax(count > 0))
    return np.asarray(np.repeat(mean[source], np.diff(borders), axis=0)[:n_frames])


def linear_over_spans(values: NDArray[np.floating], spans: Ints, n_frames: int) -> Floats:
    """Frames (n_frames,) from clip values (T,): straight lines between span centres, flat outside."""
    raise_if_empty(spans)
    centres = (spans[:, 0] + spans[:, 1] - 1) / 2.0
    return np.interp(np.arange(n_frames), centres, np.asarray(values, dtype=np.float64))


def spread_bins(values: NDArray[np.floating], n_frames: int) -> Floats:
    """Frames (n_frames,) from T scores: n_frames // T frames each, the remainder takes the last ([code] Sultani)."""
    width = max(1, n_frames // len(values))
    return np.asarray(values[np.minimum(np.arange(n_frames) // width, len(values) - 1)], dtype=np.float64)


def raise_if_empty(spans: Ints) -> None:
    """Raise VerificationError where there is no clip at all."""
    if len(spans) == 0:
        raise VerificationError("there is no clip to expand")


def _linear_levels(scores: Scores, lines: Ints, covered: int) -> Floats:
    values = [(scores.clips, scores.spans), *zip(scores.levels, scores.level_spans, strict=True)]
    frames = [linear_over_spans(v[lines].mean(axis=0, dtype=np.float64), s, covered) for v, s in values]
    return np.asarray(np.mean(frames, axis=0))


def _classes(scores: Scores, lines: Ints, covered: int) -> NDArray[np.float32] | None:
    if scores.classes is None:
        return None
    clips = scores.classes[lines].mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean_over_spans(clips, scores.spans, covered).astype(np.float32)


def _crops(scores: Scores, crop: str) -> Ints:
    used = crop_used(crop, scores.crops)
    if used is None:
        raise UsageError(
            f"video {scores.video_id!r} has no crop {crop!r}{suggest(crop, scores.crops)}",
            hint="it has " + ", ".join(scores.crops) + "; or `mean`",
        )
    return np.arange(len(scores.clips)) if used == MEAN else np.array([scores.crops.index(used)])


def crop_used(rule: str, crops: Sequence[str]) -> str | None:
    """Which part of a crop rule (`center_m|mean`) applies to scores with these crops; None where none does."""
    return next((name for name in rule.split("|") if name == MEAN or name in crops), None)


def _check(scores: Scores) -> None:
    crops, clips = scores.clips.shape if scores.clips.ndim == 2 else (0, 0)
    if scores.clips.ndim != 2 or crops != len(scores.crops) or clips == 0 or scores.spans.shape != (clips, 2):
        raise VerificationError(
            f"video {scores.video_id!r}: scores of shape {scores.clips.shape} with {len(scores.crops)} crop names "
            f"and spans of shape {scores.spans.shape}; expected (K, T), K names and (T, 2)"
        )
    if (scores.spans[:, 0] >= scores.spans[:, 1]).any() or (np.diff(scores.spans, axis=0) < 0).any():
        raise VerificationError(f"video {scores.video_id!r}: the clips' spans are empty or out of order")
    if scores.classes is not None and scores.classes.shape[:2] != (crops, clips):
        raise VerificationError(
            f"video {scores.video_id!r}: class scores of shape {scores.classes.shape}, expected ({crops}, {clips}, Y)"
        )
    refuse_nonfinite(scores.video_id, scores.clips.T)
