"""A dataset made on the fly of one annotation file and the videos that somebody has scores of; no manifest entry."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.data.annotations import Annotations, read_activitynet, read_csv
from pipelines.data.dataset import Dataset
from pipelines.data.ids import own_id
from pipelines.data.schema import Entry, Reader, ReaderName, Split, Truth
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.records import NORMAL, Video

TRUTH, SPLIT, ANOMALY = "annotations", "default", "anomaly"
READERS: dict[str, ReaderName] = {".csv": "csv", ".json": "activitynet"}


def classes_of(path: Path) -> tuple[str, ...]:
    """The classes that the file names, sorted, after `normal`; one anomaly class where it names none.

    Raises:
        MissingArtifactError: there is no such file.
        UsageError: neither csv nor json.
        VerificationError: it cannot be read; the line is named.
    """
    found = {one.label for intervals in _read(path).intervals.values() for one in intervals if one.label}
    if NORMAL in {label.casefold() for label in found}:
        raise VerificationError(
            f"{path}: an interval of the class `normal`",
            hint="leave normal stretches out: what no interval covers is normal",
        )
    return (NORMAL, *(sorted(found) or [ANOMALY]))


def from_annotations(
    path: Path,
    video_ids: Iterable[str],
    *,
    lengths: Mapping[str, int] | None = None,
    rates: Mapping[str, float | None] | None = None,
) -> Dataset:
    """A dataset whose test part is `video_ids` and every video that the file names; a video without events is normal.

    Args:
        path: csv of intervals (video, start_frame, end_frame or start_s, end_s, class) or ActivityNet json.
        video_ids: as written beside the scores.
        lengths, rates: frames and frames per second by video, where they are known.

    Raises:
        MissingArtifactError, UsageError, VerificationError: see `classes_of`.
    """
    classes, named = classes_of(path), _read(path).intervals
    frames = {own_id(key): value for key, value in (lengths or {}).items()}
    fps = {own_id(key): value for key, value in (rates or {}).items()}
    home = path.absolute().parent
    videos = [
        Video(
            id=video,
            path=home / video,
            split="test",
            classes=tuple(dict.fromkeys(one.label or classes[1] for one in named.get(video, ()))) or (NORMAL,),
            n_frames=frames.get(video),
            fps=fps.get(video),
        )
        for video in dict.fromkeys([*map(own_id, video_ids), *named])
    ]
    reader = Reader(reader=READERS[path.suffix.lower()], file=glob.escape(path.name))
    entry = Entry(
        title=f"annotations in {path.name}",
        root=str(home),
        annotations=str(home),
        classes=classes,
        splits={SPLIT: Split()},
        truths={TRUTH: Truth(events=(reader,))},
    )
    made = Dataset(path.stem, entry, path.absolute())
    made._parts = {(SPLIT, "train"): ([], []), (SPLIT, "val"): ([], []), (SPLIT, "test"): (videos, [])}
    return made


def unnamed(path: Path, video_ids: Iterable[str]) -> list[str]:
    """The videos that the file does not name, in order; they count as normal."""
    named = _read(path).intervals
    return [video for video in dict.fromkeys(map(own_id, video_ids)) if video not in named]


def _read(path: Path) -> Annotations:
    if not path.is_file():
        raise MissingArtifactError(
            f"there are no annotations at {path}", hint="--annotations FILE: csv or ActivityNet json"
        )
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"cannot tell the form of {path.name} from its ending",
            hint="csv (video, start_frame, end_frame, class) or ActivityNet json; others are named in a manifest",
        )
    return read_csv(path) if reader == "csv" else read_activitynet(path)
