"""Scores on disk: the lossless scores.npz that evaluations write, and the files that anybody brings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.records import Scores

SUFFIXES = (".npz", ".h5", ".hdf5", ".csv", ".parquet", ".npy")
Unit = Literal["frames", "clips", "spans"]
CLASSES, SPANS, N_FRAMES, STRIDE, CROPS, LEVEL, MAPS = (
    "classes",
    "spans",
    "n_frames",
    "stride",
    "crops",
    "level-",
    "maps",
)
MAP = "score"  # the name among `Scores.maps` that pixel metrics read
FIELD_CLIP_FRAMES = 16  # what the field repeats one score over


@dataclass(frozen=True, slots=True)
class Rows:
    """One video's scores as a file holds them.

    values (K, R) float, higher is more abnormal; classes (K, R, Y) probabilities, normal first, or None; spans (R, 2)
    int64 half-open frames where the file states them; `n_frames` the video's length and `stride` the step
    of its clips where the file states them; `levels` are coarser lines (K, R_l) with their `level_spans` (R_l, 2);
    `maps` (R, h, w) are score maps of the whole picture.
    """

    values: NDArray[Any]
    classes: NDArray[Any] | None = None
    spans: NDArray[np.int64] | None = None
    n_frames: int | None = None
    stride: int | None = None
    crops: tuple[str, ...] = ("center",)
    levels: tuple[NDArray[Any], ...] = ()
    level_spans: tuple[NDArray[np.int64], ...] = ()
    maps: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class ScoreFile:
    """Scores of many videos: where they came from, the sha256 of that, and the rows by video id as written."""

    source: Path
    sha256: str
    rows: Mapping[str, Rows]


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows without spans of their own lie on the frames.

    `clips`: row i speaks for frames [offset + clip_frames * i, offset + clip_frames * (i + 1)). `frames`: row i speaks
    for frame offset + i; with `clip_frames` above 1 the rows were repeated from clips, so that they may end up to
    clip_frames - 1 frames before or after the video does.
    """

    unit: Literal["frames", "clips"] = "frames"
    clip_frames: int = 1
    offset: int = 0

    @classmethod
    def of(cls, *, clip_frames: int | None, offset: int = 0, rows: str | None = None) -> Layout:
        """From `--clip-frames`, `--offset` and `--rows`: rows are frames unless `--clip-frames` is given.

        Raises:
            UsageError: a clip length below 1, a negative offset, an unknown unit.
        """
        unit = rows or ("frames" if clip_frames is None else "clips")
        if unit not in ("frames", "clips"):
            raise UsageError(f"--rows {unit!r} is not one of frames, clips")
        if (clip_frames is not None and clip_frames < 1) or offset < 0 or (unit == "clips" and clip_frames is None):
            raise UsageError(f"--rows {unit} --clip-frames {clip_frames} --offset {offset} makes no layout")
        return cls("frames" if unit == "frames" else "clips", clip_frames or 1, offset)


def place(video_id: str, rows: Rows, n_frames: int, layout: Layout) -> Scores:
    """The rows of one video as a Scores record of a video of `n_frames` frames.

    Raises:
        VerificationError: rows and video disagree by a clip or more (the video and both numbers are named).
    """
    spans = rows.spans if rows.spans is not None else _laid_out(video_id, rows, n_frames, layout)
    count = len(spans)
    return Scores(
        video_id=video_id,
        clips=rows.values[:, :count],
        classes=None if rows.classes is None else rows.classes[:, :count],
        spans=spans,
        n_frames=n_frames,
        stride=rows.stride or _stride(spans, layout),
        crops=rows.crops,
        levels=rows.levels,
        level_spans=rows.level_spans,
        maps={} if rows.maps is None else {MAP: rows.maps[:count]},
    )


def match(
    found: Iterable[str], wanted: Iterable[str], normalise: Callable[[str], str]
) -> tuple[dict[str, str], list[str]]:
    """Pair the ids of a file with a dataset's: (dataset id -> id as written, ids that belong to no video).

    An id that is equal wins; otherwise both are compared after `normalise`.

    Raises:
        VerificationError: two ids of the file mean the same video, or two videos normalise to one id.
    """
    known = set(wanted)
    by_normal: dict[str, list[str]] = {}
    for video in known:
        by_normal.setdefault(normalise(video), []).append(video)
    pairs: dict[str, str] = {}
    extra: list[str] = []
    for written in found:
        candidates = [written] if written in known else by_normal.get(normalise(written), [])
        if len(candidates) > 1:
            raise VerificationError(
                f"{written!r} could be any of {sorted(candidates)}", hint="write the dataset's own ids"
            )
        if not candidates:
            extra.append(written)
        elif candidates[0] in pairs:
            raise VerificationError(
                f"video {candidates[0]!r} stands twice in the scores: as {pairs[candidates[0]]!r} and as {written!r}",
                hint="several crops or branches of one video: average them first, or name one",
            )
        else:
            pairs[candidates[0]] = written
    return pairs, sorted(extra)


def write(path: Path, scores: Iterable[Scores]) -> None:
    """Write scores losslessly as an npz without pickle, keys sorted by video.

    Per video: `<video>` (T,) or, with several crops, (K, T) float32; `<video>|spans` (T, 2); `<video>|n_frames`, `<video>|stride`; and
    where there are any `|classes` (T, Y) or (K, T, Y), `|crops` names, `|level-i` and `|level-i-spans`, `|maps` (T, h, w).
    """
    arrays: dict[str, NDArray[Any]] = {}
    for record in sorted(scores, key=lambda record: record.video_id):
        video, one = record.video_id, len(record.crops) == 1
        arrays[video] = record.clips[0] if one else record.clips
        arrays[f"{video}|{SPANS}"] = record.spans
        arrays[f"{video}|{N_FRAMES}"] = np.asarray(record.n_frames, dtype=np.int64)
        arrays[f"{video}|{STRIDE}"] = np.asarray(record.stride, dtype=np.int64)
        if record.classes is not None:
            arrays[f"{video}|{CLASSES}"] = record.classes[0] if one else record.classes
        if record.crops != ("center",):
            arrays[f"{video}|{CROPS}"] = np.asarray(record.crops)
        if MAP in record.maps:
            arrays[f"{video}|{MAPS}"] = record.maps[MAP]
        for i, (level, spans) in enumerate(zip(record.levels, record.level_spans, strict=True)):
            arrays[f"{video}|{LEVEL}{i}"] = level
            arrays[f"{video}|{LEVEL}{i}-{SPANS}"] = spans
    with path.open("wb") as handle:
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]  # keys are any text, also `file`


def read(
    path: Path, *, order: Path | None = None, lengths: Path | None = None, classes: tuple[str, ...] = ()
) -> ScoreFile:
    """Scores from a file that anybody brings; the form follows the name's ending.

    `.npz` and `.h5`/`.hdf5` (`<video>` -> (R,) or (K, R), `<video>|classes` -> (R, Y), `<video>|spans` -> (R, 2), `<video>|maps` -> (R, h, w)); `.csv` and
    `.parquet` (video, frame | start_frame and end_frame, score, then one column a class); a folder of `<video>.npy`; one
    flat `.npy` only with `order` (a list of ids) and `lengths` (rows of each). Nothing is ever unpickled.

    Args:
        path: the file or folder.
        order: list of video ids of a flat `.npy`.
        lengths: rows of each video of a flat `.npy`: csv (video, frames) or one number a line in the order's order.
        classes: the dataset's class names in order; class columns of tables are put into it.

    Raises:
        MissingArtifactError: there is no such file (exit 4).
        UsageError: an unknown ending, or options that do not go with it (exit 2).
        VerificationError: the file does not hold what its form promises (exit 5).
    """
    from pipelines.store import score_readers as readers

    if not path.exists():
        raise MissingArtifactError(
            f"there are no scores at {path}", hint="--scores FILE: npz, csv, h5, parquet or a folder"
        )
    if path.suffix != ".npy" and (order or lengths):
        raise UsageError(f"--order and --lengths belong to a flat .npy, not to {path.name}")
    if path.is_dir():
        rows = readers.from_arrays(readers.npy_folder(path), path)
    elif path.suffix == ".npz":
        rows = readers.from_arrays(readers.npz(path), path)
    elif path.suffix in (".h5", ".hdf5"):
        rows = readers.from_arrays(readers.hdf5(path), path)
    elif path.suffix in (".csv", ".parquet"):
        rows = readers.table(path, classes)
    elif path.suffix == ".npy":
        rows = readers.flat(path, order, lengths)
    else:
        raise UsageError(
            f"cannot tell the form of {path.name} from its ending", hint="npz, csv, parquet, h5, hdf5, npy or a folder"
        )
    if not rows:
        raise VerificationError(f"{path} holds no video's scores")
    return ScoreFile(path, sha256(path), rows)


def sha256(path: Path) -> str:
    """sha256 of a file's bytes; of a folder: of its files' names and hashes."""
    if path.is_dir():
        parts = [f"{p.relative_to(path)} {sha256(p)}" for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _laid_out(video_id: str, rows: Rows, n_frames: int, layout: Layout) -> NDArray[np.int64]:
    count = rows.values.shape[1]
    step = layout.clip_frames if layout.unit == "clips" else 1
    starts = layout.offset + step * np.arange(count, dtype=np.int64)
    end = int(starts[-1]) + step if count else layout.offset
    if abs(end - n_frames) >= layout.clip_frames:
        _disagree(video_id, count, end, n_frames, layout)
    starts = starts[starts < n_frames]
    return np.stack([starts, np.minimum(starts + step, n_frames)], axis=1)


def _disagree(video_id: str, count: int, end: int, n_frames: int, layout: Layout) -> None:
    what = "frame scores" if layout.unit == "frames" else f"scores of clips of {layout.clip_frames} frames"
    hint = "check --clip-frames, --offset and `vad data check`"
    if layout.clip_frames == 1 and 0 < abs(end - n_frames) < FIELD_CLIP_FRAMES:
        hint = "scores repeated from clips of 16 frames: add --rows frames --clip-frames 16"
    elif layout.clip_frames == 1 and count * FIELD_CLIP_FRAMES <= n_frames + FIELD_CLIP_FRAMES:
        hint = "one score a clip of 16 frames: add --clip-frames 16"
    raise VerificationError(
        f"video {video_id!r}: {count} {what} end at frame {end}, the video has {n_frames} frames", hint=hint
    )


def _stride(spans: NDArray[np.int64], layout: Layout) -> int:
    steps = np.diff(spans[:, 0])
    own = int(np.median(steps)) if len(steps) else int(spans[0, 1] - spans[0, 0]) if len(spans) else 1
    return max(1, own, layout.clip_frames)
