"""Scores beside truth: which videos are there, what length each one has, NaN, class names. Before any metric."""

from __future__ import annotations

import csv
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from pipelines.errors import UsageError, VerificationError
from pipelines.metrics._base import NO_CLASSES
from pipelines.recipe import suggest
from pipelines.records import Event, Scores, Video, VideoTruth
from pipelines.scoring.expand import Expand, FrameScores, expand
from pipelines.scoring.protocol import MEAN

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset
    from pipelines.scoring.block import EvalData
    from pipelines.scoring.protocol import Protocol
    from pipelines.scoring.sources import Provided

NanRule = Literal["error", "zero", "hold"]
DERIVED = "derived from the clip score"
NAMED = 20  # so many videos are listed by name in an error


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which videos the scores lack and which they have beyond the split."""

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def check(self, *, missing: Literal["error", "allow"], total: int, hint: str) -> None:
        """Refuse a set that is not complete.

        Raises:
            VerificationError: videos are missing or extra and `missing` is "error"; they are named. Or nothing is left.
        """
        if missing == "allow" and len(self.missing) < total:
            return
        parts = [
            f"{len(names)} {word}: {_named(names)}"
            for names, word in (
                (self.missing, f"of {total} videos have no scores"),
                (self.extra, "are not of the split"),
            )
            if names
        ]
        if parts:
            raise VerificationError("the scores do not cover the split: " + "; ".join(parts), hint=hint)


@dataclass(frozen=True, slots=True)
class Gathered:
    """Frame scores and truths of the same videos in the split's order, with what was done to get there.

    `annotated` holds each video's events as annotated, where the truth's are cut at its end; `classes` says where class
    scores come from when the scores brought none of their own.
    """

    videos: tuple[Video, ...]
    frames: tuple[FrameScores, ...]
    truths: tuple[VideoTruth, ...]
    annotated: tuple[tuple[Event, ...], ...]
    nan_replaced: int
    classes: str | None = None


def gather(
    scores: Mapping[str, Scores],
    videos: Sequence[Video],
    dataset: Dataset,
    *,
    protocol: Protocol,
    fps: Mapping[str, float | None],
    how: Expand = "repeat",
    approximate: Container[str] = (),
) -> Gathered:
    """Expand each video's scores to frames and build its truth of the same length; videos without scores are left out.

    `approximate` videos have a length made of clips: an event that begins past it is lost and counted, no error.

    Raises:
        VerificationError: NaN (the video and its first frame are named), or lengths that disagree.
    """
    frames, truths, uncut, kept, replaced = [], [], [], [], 0
    for video in videos:
        if video.id not in scores:
            continue
        clean, count = without_nan(scores[video.id], protocol.nan)
        replaced += count
        frames.append(expand(clean, how=how, crop=protocol.crops or MEAN, tail=protocol.tail))
        cut_short = protocol.tail == "truncate" or video.id in approximate
        past_end: Literal["drop", "error"] = "drop" if cut_short else "error"
        rate = fps.get(video.id)
        truths.append(dataset.truth(video, clean.n_frames, gt=protocol.gt, fps=rate, past_end=past_end))
        uncut.append(dataset.annotated(video, clean.n_frames, gt=protocol.gt, fps=rate))
        kept.append(video)
    return Gathered(tuple(kept), tuple(frames), tuple(truths), tuple(uncut), replaced)


def without_nan(scores: Scores, rule: NanRule) -> tuple[Scores, int]:
    """Scores without NaN or infinite values, and how many were replaced.

    `zero` puts 0, `hold` the last finite value before (0 where there is none).

    Raises:
        VerificationError: under `error`: the video and the first frame.
    """
    lines = [scores.clips, *([] if scores.classes is None else [scores.classes])]
    bad = [~np.isfinite(values) for values in lines]
    count = int(sum(mask.sum() for mask in bad))
    if not count:
        return scores, 0
    if rule == "error":
        rows = [
            int(np.argwhere(mask.reshape(*mask.shape[:2], -1).any(axis=(0, 2)))[0][0]) for mask in bad if mask.any()
        ]
        frame = int(scores.spans[min(rows), 0])
        raise VerificationError(
            f"video {scores.video_id!r}: the score of frame {frame} is not a number ({count} such values)",
            hint="--nan zero or --nan hold replaces and counts them",
        )
    fixed = [_replaced(values, mask, rule) for values, mask in zip(lines, bad, strict=True)]
    return replace(scores, clips=fixed[0], classes=fixed[1] if len(fixed) > 1 else None), count


def read_class_map(path: Path, source: Sequence[str], target: Sequence[str]) -> dict[str, str]:
    """A run's class -> a dataset's class, from a csv of two columns or a YAML mapping.

    Raises:
        UsageError: an unreadable file, or a name that neither side has.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            found: Any = {row[0].strip(): row[1].strip() for row in csv.reader(text.splitlines()) if len(row) == 2}
        else:
            found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the class map {path}: {error}") from error
    if not isinstance(found, dict) or not found:
        raise UsageError(
            f"the class map {path} is no mapping", hint="one `run class: dataset class` a line, or a csv of two columns"
        )
    pairs = {str(key): str(value) for key, value in found.items()}
    for names, known, side in ((pairs.keys(), source, "the run"), (pairs.values(), target, "the dataset")):
        for name in names:
            if name not in known:
                raise UsageError(f"the class map {path}: {name!r} is no class of {side}{suggest(name, list(known))}")
    return pairs


def mapped_classes(
    values: NDArray[np.float32], source: Sequence[str], classes: Sequence[str], pairs: Mapping[str, str]
) -> NDArray[np.float32]:
    """Class scores (K, T, Y) of `source` as scores of `classes`: probabilities of classes that map to one are added.

    The normal class maps to the normal class unless `pairs` says otherwise.
    """
    pairs = {source[0]: classes[0], **pairs}
    out = np.zeros((*values.shape[:2], len(classes)), dtype=np.float32)
    for index, name in enumerate(source):
        if pairs.get(name) in classes:
            out[..., list(classes).index(pairs[name])] += values[..., index]
    return out


def _replaced(values: NDArray[Any], bad: NDArray[np.bool_], rule: NanRule) -> NDArray[Any]:
    fixed = np.where(bad, 0, values).astype(values.dtype)
    if rule == "hold":
        rows = np.arange(values.shape[1]).reshape(1, -1, *([1] * (values.ndim - 2)))
        last = np.maximum.accumulate(np.where(bad, -1, rows), axis=1)
        held = np.take_along_axis(fixed, np.maximum(last, 0), axis=1)
        fixed = np.where(last < 0, 0, held).astype(values.dtype)
    return fixed


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def to_data(
    provided: Provided,
    videos: Sequence[Video],
    dataset: Dataset,
    *,
    protocol: Protocol,
    class_map: Path | None = None,
) -> tuple[EvalData, Gathered]:
    """Frame scores beside truth, ready for `scoring.block`, and what was done to get there.

    Class scores are kept where their classes are the dataset's own, or mapped by `class_map`; they are left out
    otherwise (binary metrics need none). Where there are none and the dataset has one anomaly class, scores within
    [0, 1] are its probability.
    """
    from pipelines.scoring.block import EvalData

    scores, classes = _with_classes(provided, dataset.classes, class_map)
    how = protocol.expand or provided.expand
    gathered = gather(
        scores, videos, dataset, protocol=protocol, how=how, fps=provided.fps, approximate=provided.approximate
    )
    gathered, lacking = _derived_classes(gathered, classes)
    data = EvalData(
        frames=gathered.frames,
        truths=gathered.truths,
        annotated=gathered.annotated,
        no_classes=lacking,
        classes=classes,
        dataset=dataset.name,
        kind=dataset.kind,
        cameras=tuple(video.camera for video in gathered.videos),
        fps=tuple(provided.fps.get(video.id) for video in gathered.videos),
    )
    return data, gathered


def _derived_classes(gathered: Gathered, classes: Sequence[str]) -> tuple[Gathered, str]:
    """With class scores (1 - s, s) of frame scores s where there are none but could be, or the reason why not."""
    if not gathered.frames or any(one.classes is not None for one in gathered.frames):
        return gathered, ""
    if len(classes) != 2:
        return gathered, f"{NO_CLASSES}, and there are {len(classes) - 1} anomaly classes to tell apart"
    low = min(float(one.scores.min()) for one in gathered.frames)
    high = max(float(one.scores.max()) for one in gathered.frames)
    if low < 0 or high > 1:
        return gathered, (
            f"{NO_CLASSES}, and lie in [{low:.4g}, {high:.4g}]: only scores within [0, 1] can stand for the probability "
            f"of {classes[1]!r}"
        )
    frames = tuple(replace(one, classes=_two_columns(one.scores)) for one in gathered.frames)
    return replace(gathered, frames=frames, classes=DERIVED), ""


def _two_columns(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.stack([1.0 - scores, scores], axis=1).astype(np.float32)


def _with_classes(
    provided: Provided, own: tuple[str, ...], class_map: Path | None
) -> tuple[Mapping[str, Scores], tuple[str, ...]]:
    """Scores whose class columns are `classes`: the dataset's own, or the mapped ones of them."""
    scores, source = provided.scores, provided.classes
    if source is None or (source == own and class_map is None):
        return scores, own
    if class_map is None:
        return {video: replace(record, classes=None) for video, record in scores.items()}, own
    pairs = read_class_map(class_map, source, own)
    classes = (own[0], *(name for name in own[1:] if name in pairs.values()))
    mapped = {
        video: replace(record, classes=mapped_classes(record.classes, source, classes, pairs))
        for video, record in scores.items()
        if record.classes is not None
    }
    return {**scores, **mapped}, classes
