"""The truth of a video: classes from lists, events from annotations, frame labels at the decoded length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.data.annotations import Annotations, Interval, read
from pipelines.data.lists import Problem, Row
from pipelines.errors import MissingArtifactError, VerificationError
from pipelines.records import Event, Video, VideoTruth

if TYPE_CHECKING:
    from pipelines.data.dataset import Dataset
    from pipelines.data.schema import Entry, Label, Reader

PastEnd = Literal["error", "drop"]


@dataclass(frozen=True, slots=True)
class TruthFile:
    """The annotations of one named truth, joined by video id and not yet cut to a length.

    `events` keeps classes; `labels` is another source for the frame labels alone (XD's binary list), or None.
    `whole` says that the truth is the video's own label on every frame.
    """

    name: str
    events: Annotations
    labels: Annotations | None = None
    whole: bool = False

    def canonical(self, video_id: str) -> list[Any]:
        """The video's annotation as plain data, for a fingerprint."""
        sources = [self.events] + ([self.labels] if self.labels else [])
        return [
            sorted([one.start, one.end, one.label, one.seconds] for one in source.intervals.get(video_id, ()))
            for source in sources
        ]


def load(dataset: Dataset, name: str) -> TruthFile:
    """Read the annotations of the truth `name` of `dataset`.

    Alternatives are tried in order; `video-label` among them is what is left when no file has an interval.

    Raises:
        MissingArtifactError: none of the files is there; the places are listed.
    """
    truth = dataset.entry.truths[name]
    temporal = [reader for reader in truth.events if reader.reader != "video-label"]
    found = _first(dataset, temporal)
    if len(temporal) < len(truth.events) and (found is None or not found.intervals):
        return TruthFile(name, Annotations({}), whole=True)
    labels = _first(dataset, truth.labels)
    if found is None or (truth.labels and labels is None):
        raise _not_there(dataset, temporal if found is None else truth.labels)
    return TruthFile(name, found, labels)


def _first(dataset: Dataset, readers: Sequence[Reader]) -> Annotations | None:
    """The first alternative whose files are there and say something, else the first that is there."""
    there: Annotations | None = None
    for reader in readers:
        order = dataset.flat_order() if reader.reader == "flat-labels" else None
        found = read(reader, dataset.folders(), published=dataset.entry.ids == "published", order=order)
        if found is not None and found.intervals:
            return found
        there = there or found
    return there


def _not_there(dataset: Dataset, readers: Sequence[Reader]) -> MissingArtifactError:
    wanted = ", ".join(dict.fromkeys(reader.file for reader in readers))
    return MissingArtifactError(
        f"{dataset.name}: no annotations in {' or '.join(map(str, dataset.folders()))} (looked for {wanted})",
        hint=f"`vad data show {dataset.name}` says where they come from",
    )


def pixel_mask(dataset: Dataset, video: Video, *, gt: str | None = None) -> NDArray[np.bool_] | None:
    """The pixel masks (N, H, W) bool of a video at the annotation's size, or None where no truth file has any.

    Looks at the named truth's files, or at those of every truth.
    """
    from pipelines.data.annotations import matching, name_rule
    from pipelines.data.masks import read_pixel_mask

    published = dataset.entry.ids == "published"
    for name in (gt,) if gt else dataset.truths:
        for reader in dataset.entry.truths[name].events:
            if reader.reader in ("frame-masks", "mask-images", "mat"):
                files = matching(reader.file, dataset.folders())
                files = [one for path in files for one in _inside(path, reader.reader)]
                key, rule = reader.key if "{id}" in reader.key else "{id}", name_rule(reader.id, published)
                found = read_pixel_mask(files, video.id, key=key, name=rule)
                if found is not None:
                    return found
    return None


def _inside(path: Path, reader: str) -> list[Path]:
    """A folder of arrays as its files; a folder of mask images stays one."""
    return sorted(path.glob("*.npy")) if path.is_dir() and reader == "frame-masks" else [path]


def build(
    dataset: Dataset, source: TruthFile, video: Video, n_frames: int, *, fps: float | None = None,
    past_end: PastEnd = "error",
) -> VideoTruth:  # fmt: skip
    """The truth of one video at `n_frames` frames: events cut at the end (counted), their union as labels.

    Raises:
        VerificationError: an event that begins at or after the end (under `drop` it is left out and counted), an
            abnormal video that the annotations do not name, a normal one that they say has events.
    """
    abnormal = dataset.is_abnormal(video)
    uncut = annotated(dataset, source, video, n_frames, fps=fps)
    if source.whole:
        return VideoTruth(video.id, union(uncut, n_frames), uncut, video.classes)
    events, clamped, lost = cut(uncut, n_frames, video.id, past_end)
    labels = union(events, n_frames)
    if source.labels is not None:
        found = _intervals(dataset, source.labels, video, abnormal)
        rate = _rate(video, found, fps)
        plain = [Event(*one.frames(rate), "") for one in found]
        labels = union(cut(plain, n_frames, video.id, past_end)[0], n_frames)
    return VideoTruth(video.id, labels, events, video.classes, clamped, lost)


def annotated(
    dataset: Dataset, source: TruthFile, video: Video, n_frames: int, *, fps: float | None = None
) -> tuple[Event, ...]:
    """The events of one video as annotated: not cut, the whole video where the truth is its label.

    Raises:
        VerificationError: see `build`.
    """
    abnormal = dataset.is_abnormal(video)
    if source.whole:
        return tuple(Event(0, n_frames, name) for name in video.classes) if abnormal and n_frames else ()
    intervals = _intervals(dataset, source.events, video, abnormal)
    return named(dataset.entry, video.classes, intervals, _rate(video, intervals, fps))


def _rate(video: Video, intervals: Sequence[Interval], fps: float | None) -> float | None:
    """Frames per second: as given, as listed, or (where intervals are in seconds) as the container says."""
    return fps or video.fps or (_probed(video) if any(one.seconds for one in intervals) else None)


def _probed(video: Video) -> float | None:
    """The container's rate, or None where the file is not there."""
    from pipelines.video.probe import probe

    return probe(video.path).fps if video.path.is_file() else None


def _intervals(dataset: Dataset, source: Annotations, video: Video, abnormal: bool) -> tuple[Interval, ...]:
    found = source.intervals.get(video.id)
    files = ", ".join(str(path) for path in source.files[:2])
    if found is None and abnormal:
        raise VerificationError(
            f"{dataset.name}: the video {video.id!r} is {'+'.join(video.classes)} but {files} does not name it",
            hint=f"vad data check {dataset.name}",
        )
    if found and not abnormal and video.classes:
        raise VerificationError(
            f"{dataset.name}: the video {video.id!r} is listed as {dataset.normal} but has {len(found)} events in {files}",
            hint=f"vad data check {dataset.name}",
        )
    return found or ()


def named(entry: Entry, classes: Sequence[str], intervals: Iterable[Interval], fps: float | None) -> tuple[Event, ...]:
    """Events of `intervals` with the dataset's class names.

    An interval without a class takes the video's (its first anomaly class), else the dataset's first anomaly class.

    Raises:
        VerificationError: a class that the dataset does not have, with file and line.
    """
    own = next((name for name in classes if name != entry.classes[0]), entry.classes[1])
    events = []
    for one in intervals:
        name = class_name(entry, one.label) if one.label else own
        if name is None:
            raise VerificationError(
                f"{one.where}: {one.label!r} is no class of the dataset ({', '.join(entry.classes)})",
                hint="add it to `classes`, or say what it means under `class_aliases`",
            )
        events.append(Event(*one.frames(fps), name))
    return tuple(events)


def cut(
    events: Iterable[Event], n_frames: int, video_id: str, past_end: PastEnd = "error"
) -> tuple[tuple[Event, ...], int, int]:
    """(events within [0, n_frames), how many were cut at the end, how many began past it and are lost)."""
    kept: list[Event] = []
    clamped = lost = 0
    for event in events:
        if event.start_frames >= n_frames:
            if past_end == "error":
                raise VerificationError(
                    f"the video {video_id!r} has {n_frames} frames, but an event begins at frame {event.start_frames}",
                    hint="the annotations belong to another version of the video, or the file is cut short",
                )
            lost += 1
            continue
        clamped += event.end_frames > n_frames
        kept.append(replace(event, end_frames=min(event.end_frames, n_frames)))
    return tuple(kept), clamped, lost


def union(events: Iterable[Event], n_frames: int) -> NDArray[np.bool_]:
    """(N,) bool, True on every frame that an event covers."""
    labels = np.zeros(n_frames, dtype=bool)
    for event in events:
        labels[event.start_frames : event.end_frames] = True
    return labels


def class_name(entry: Entry, text: str) -> str | None:
    """The dataset's class that `text` means: its name, an alias, another case, `normal`, or 0/1 with two classes."""
    if text in entry.classes:
        return text
    if text in entry.class_aliases:
        return entry.class_aliases[text]
    folded = {name.casefold(): name for name in entry.classes}
    if text.casefold() in folded:
        return folded[text.casefold()]
    if text.casefold() == "normal" or text in ("0", "0.0"):
        return entry.classes[0]
    two = len(entry.classes) == 2
    return entry.classes[1] if two and text.casefold() in ("1", "1.0", "abnormal", "anomaly") else None


def classes_of(entry: Entry, row: Row, label: Label, problems: list[Problem]) -> tuple[str, ...]:
    """The classes of a list's row by the label rule; () and a recorded problem where it says none."""
    text = _label_text(entry, row, label)
    if not text:
        problems.append(
            Problem("error", "label", f"{row.where}: {row.id!r} has no label", row.id)
        )  # fmt: skip
        return ()
    slots = [slot.strip() for slot in text.split(label.separator)]
    slots = [slot for slot in slots if slot not in ("", "0")] or ["0"]
    names = [class_name(entry, slot) for slot in slots]
    unknown = [slot for slot, name in zip(slots, names, strict=True) if name is None]
    found = tuple(dict.fromkeys(name for name in names if name is not None))
    if unknown or (entry.classes[0] in found and len(found) > 1):
        what = f"{unknown[0]!r} is no class" if unknown else f"{text!r} is normal and abnormal at once"
        problems.append(
            Problem("error", "class", f"{row.where}: {row.id!r}: {what} (classes: {', '.join(entry.classes)})", row.id)
        )
        return ()
    return found


def _label_text(entry: Entry, row: Row, label: Label) -> str | None:
    if label.rule == "constant":
        return label.value
    if label.rule == "folder":
        parts = row.path.replace("\\", "/").split("/")
        return parts[-2] if len(parts) > 1 else None
    if label.rule == "name":
        found = re.search(label.pattern or "", row.bare)
        return found.group("label") if found else None
    if label.rule == "match":
        return next((name for name, pattern in label.match.items() if re.search(pattern, row.bare)), entry.classes[0])
    return row.label


def with_segments(dataset: Dataset, video: Video, label: Label, problems: list[Problem]) -> Video:
    """`video` with its segments: () for a normal one, the default truth's events in the val and test parts.

    Where the label rule says that the annotation wins, its classes replace those of the list.
    """
    abnormal = dataset.is_abnormal(video)
    if video.classes and not abnormal:
        return replace(video, segments=())
    if not abnormal or video.split == "train" or not dataset.temporal():
        return video
    try:
        source = dataset.truth_file()
    except MissingArtifactError:
        return video
    intervals = source.events.intervals.get(video.id)
    if intervals is None or (any(one.seconds for one in intervals) and not video.fps):
        return video
    try:
        events = named(dataset.entry, video.classes, intervals, video.fps)
    except VerificationError as error:
        problems.append(Problem("error", "class", error.message, video.id))
        return video
    classes = video.classes
    if label.annotation_wins and events:
        shown = {event.label for event in events}
        kept = [name for name in classes if name in shown]
        classes = (*kept, *dict.fromkeys(event.label for event in events if event.label not in kept))
    length = video.n_frames or source.events.lengths.get(video.id)
    return replace(video, segments=events, classes=classes, n_frames=length)
