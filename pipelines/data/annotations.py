"""The closed set of annotation readers. Each turns one format's own convention into 0-based half-open intervals.

Text formats are read here; arrays and masks in `masks.py`. Every error carries the file and the line.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.data.ids import normalise_id, own_id
from pipelines.data.schema import Reader, Rule
from pipelines.errors import UsageError, VerificationError

NameRule = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Interval:
    """One annotated interval [start, end), in frames (0-based, integers) or in seconds.

    `label` is the class as written, or "" where the format has none; `where` is `file:line`.
    """

    start: float
    end: float
    label: str = ""
    where: str = ""
    seconds: bool = False

    def frames(self, fps: float | None) -> tuple[int, int]:
        """(start, end) in frames; seconds become round(s * fps), at least one frame long.

        Raises:
            VerificationError: seconds without a known rate.
        """
        if not self.seconds:
            return int(self.start), int(self.end)
        if not fps or fps <= 0:
            raise VerificationError(
                f"{self.where}: the interval is in seconds and the video's frame rate is not known",
                hint="extract the video first (its rate is stored), or give an `fps` column in the list",
            )
        start = round(self.start * fps)
        return start, max(start + 1, round(self.end * fps))


@dataclass(frozen=True, slots=True)
class Annotations:
    """What one source says: intervals of every video that it names (() for none), and lengths that it states."""

    intervals: dict[str, tuple[Interval, ...]]
    lengths: dict[str, int] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def by_rule(start: int, end: int, rule: Rule) -> tuple[int, int]:
    """An interval as written, as 0-based half-open: [s, e), [s, e] or 1-based [s, e] of the source."""
    return {"half_open": (start, end), "inclusive": (start, end + 1), "one_based": (start - 1, end)}[rule]


def read(
    spec: Reader, folders: Sequence[Path], *, published: bool, order: Mapping[str, int] | None = None
) -> Annotations | None:
    """The annotations that `spec` names, or None where its files do not exist.

    Args:
        spec: the reader of a manifest entry.
        folders: where files are looked for, the first that has them wins.
        published: ids are normalised from published spellings; otherwise they are kept as written.
        order: video ids in order with their lengths, for the formats that have neither (`flat-labels`).
    """
    files = matching(spec.file, folders)
    if not files:
        return None
    name = name_rule(spec.id, published)
    readers: dict[str, Callable[[], Annotations]] = {
        "ucf-text": lambda: read_ucf_text(files[0], rule=spec.rule, name=name),
        "xd-text": lambda: read_xd_text(files[0], rule=spec.rule, name=name),
        "ucsd-m": lambda: read_ucsd_m(files[0]),
        "ubnormal-tracks": lambda: read_ubnormal_tracks(files),
        "activitynet": lambda: read_activitynet(files[0], name=name),
        "csv": lambda: read_csv(files[0], rule=spec.rule, unit=spec.unit, columns=spec.columns, name=name),
    }
    if spec.reader in readers:
        return readers[spec.reader]()
    from pipelines.data import masks

    arrays: dict[str, Callable[[], Annotations | None]] = {
        "frame-masks": lambda: masks.read_frame_masks(files, key=spec.key or "{id}", name=name),
        "flat-labels": lambda: masks.read_flat_labels(files[0], order or {}),
        "mat": lambda: masks.read_mat(files, rule=spec.rule, schema=spec.key, name=name),
        "mask-images": lambda: masks.read_mask_images(files, name=name),
    }
    if spec.reader not in arrays:
        raise UsageError(f"the reader {spec.reader!r} reads no file")
    return arrays[spec.reader]()


def matching(pattern: str, folders: Sequence[Path]) -> list[Path]:
    """What `pattern` (a name, or a glob) matches in the first folder that has any, in natural order."""
    from pipelines.data.ids import natural_key

    for folder in folders:
        if not any(char in pattern for char in "*?["):
            found = [folder / pattern] if pattern and (folder / pattern).exists() else []
        else:
            found = sorted(folder.glob(pattern), key=lambda path: natural_key(path.as_posix()))
        if found:
            return found
    return []


def name_rule(pattern: str | None, published: bool) -> NameRule:
    """How a name in the source becomes an id: the normaliser, or as written, then the group `id` of `pattern`."""

    def rule(text: str) -> str:
        plain = normalise_id(text) if published else own_id(text)
        if pattern and (found := re.search(pattern, plain)):
            return str(found.group("id") if "id" in found.groupdict() else found.group(1))
        return plain

    return rule


def read_ucf_text(path: Path, *, rule: Rule = "half_open", name: NameRule = normalise_id) -> Annotations:
    """UCF-Crime's temporal text in every spelling: spaces or tabs, `.mp4` or not, class folder, frame count.

    Rows are `name [frames] class s1 e1 s2 e2 [frames]`; -1 is an empty slot. Numbers as written are [s, e) under
    `half_open`, [s, e] under `inclusive`, 1-based [s, e] under `one_based`.
    """
    intervals: dict[str, tuple[Interval, ...]] = {}
    lengths: dict[str, int] = {}
    for where, words in _lines(path):
        if len(words) < 2:
            raise VerificationError(f"{where}: expected a name, a class and frame numbers: {' '.join(words)!r}")
        video = name(words[0])
        counted = _is_int(words[1])
        label, numbers = (words[2], words[3:]) if counted and len(words) > 2 else (words[1], words[2:])
        values = [_integer(word, where) for word in numbers]
        if counted:
            lengths[video] = int(words[1])
        elif len(values) % 2:
            lengths[video] = values.pop()
        if len(values) % 2:
            raise VerificationError(f"{where}: an odd count of frame numbers: {numbers}")
        _add(intervals, video, _pairs(values, label, where, rule))
    return Annotations(intervals, lengths, (path,))


def read_xd_text(path: Path, *, rule: Rule = "half_open", name: NameRule = normalise_id) -> Annotations:
    """XD-Violence's text: `name s e s e ...` (binary) or `name C s e C s e ...` (multi-class).

    Names that end in `.mp4` join like the others.
    """
    intervals: dict[str, tuple[Interval, ...]] = {}
    for where, words in _lines(path):
        video, rest = name(words[0]), words[1:]
        if rest and _is_int(rest[0]):
            if len(rest) % 2:
                raise VerificationError(f"{where}: an odd count of frame numbers for {video!r}: {rest}")
            found = _pairs([_integer(word, where) for word in rest], "", where, rule)
        else:
            if len(rest) % 3:
                raise VerificationError(f"{where}: expected groups of class, start, end for {video!r}: {rest}")
            groups = [
                (rest[i], _integer(rest[i + 1], where), _integer(rest[i + 2], where)) for i in range(0, len(rest), 3)
            ]
            found = [one for label, start, end in groups for one in _pairs([start, end], label, where, rule)]
        _add(intervals, video, found)
    return Annotations(intervals, {}, (path,))


def read_ucsd_m(path: Path) -> Annotations:
    """UCSD's `.m`: `TestVideoFile{end+1}.gt_frame = [61:180, 200:210];`, 1-based, ends included; ids are 01, 02, ..."""
    intervals: dict[str, tuple[Interval, ...]] = {}
    count = 0
    for number, line in enumerate(_text(path).splitlines(), 1):
        code = line.split("%", 1)[0]
        found = re.search(r"gt_frame\s*=\s*\[(.*?)\]", code)
        if not found:
            continue
        count += 1
        where = f"{path}:{number}"
        ranges = [part for part in re.split(r"[,;\s]+", re.sub(r"\s*:\s*", ":", found.group(1))) if part]
        ends = [re.fullmatch(r"(\d+)(?::(\d+))?", part) for part in ranges]
        if any(end is None for end in ends):
            raise VerificationError(f"{where}: not a list of ranges like 61:180: {found.group(1)!r}")
        numbers = [int(text) for end in ends if end for text in (end.group(1), end.group(2) or end.group(1))]
        intervals[f"{count:02d}"] = tuple(_pairs(numbers, "", where, "one_based"))
    if not count:
        raise VerificationError(f"{path}: no line `TestVideoFile{{end+1}}.gt_frame = [...]`")
    return Annotations(intervals, {}, (path,))


def read_ubnormal_tracks(paths: Sequence[Path]) -> Annotations:
    """UBnormal's `<video>_tracks.txt`: id, start, end per row, 0-based, the end included.

    `<video>_new_tracks.txt` replaces `<video>_tracks.txt`. A file with one row, or none, is read like the others.
    """
    chosen: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: path.name.endswith("_new_tracks.txt")):
        stem = path.name.removesuffix(".txt").removesuffix("_tracks").removesuffix("_new")
        chosen[normalise_id(stem)] = path
    intervals = {}
    for video, path in chosen.items():
        found: list[Interval] = []
        for where, words in _lines(path, separators=r"[,\s]+"):
            if len(words) != 3:
                raise VerificationError(f"{where}: expected id, start, end: {words}")
            values = [_integer(word, where) for word in words]
            found += _pairs(values[1:], "", where, "inclusive")
        intervals[video] = tuple(found)
    return Annotations(intervals, {}, tuple(chosen.values()))


def read_activitynet(path: Path, *, name: NameRule = own_id) -> Annotations:
    """ActivityNet's json: `{"database": {id: {"annotations": [{"segment": [s, e], "label": ...}]}}}`, in seconds."""
    try:
        data = json.loads(_text(path))
        database = data["database"]
        items = list(database.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f'{path}: not ActivityNet json with a "database" of videos: {error!r}') from error
    intervals: dict[str, tuple[Interval, ...]] = {}
    for video, item in items:
        where = f"{path}: {video}"
        found = [_segment(one, where) for one in (item.get("annotations") or [])]
        _add(intervals, name(str(video)), found)
    return Annotations(intervals, {}, (path,))


def read_csv(
    path: Path,
    *,
    rule: Rule = "half_open",
    unit: str = "auto",
    columns: Mapping[str, str] | None = None,
    name: NameRule = own_id,
) -> Annotations:
    """Intervals as csv: `video,start_frame,end_frame,class` or `video,start_s,end_s,class` (or start,end and `unit`).

    A row with a video and neither start nor end says that the video has no event. The class may be absent.
    """
    reader = csv.DictReader(_text(path).splitlines(), skipinitialspace=True)
    header = [column.strip() for column in reader.fieldnames or []]
    reader.fieldnames = header
    video, start, end, label, seconds = _csv_columns(path, header, unit, columns or {})
    intervals: dict[str, tuple[Interval, ...]] = {}
    for row in reader:
        where = f"{path}:{reader.line_num}"
        if None in row or any(value is None for value in row.values()):
            raise VerificationError(f"{where}: the row has not the {len(header)} fields of the header: {row}")
        if not any(value.strip() for value in row.values()):
            continue
        if not row[video].strip():
            raise VerificationError(f"{where}: the row names no video")
        found: list[Interval] = []
        if row[start].strip() or row[end].strip():
            word = row[label].strip() if label else ""
            if seconds:
                found = [_seconds(_float(row[start], where), _float(row[end], where), word, where)]
            else:
                found = _pairs([_integer(row[start], where), _integer(row[end], where)], word, where, rule)
        _add(intervals, name(row[video]), found)
    return Annotations(intervals, {}, (path,))


_STARTS = {"frames": ("start_frame", "start_frames", "start"), "seconds": ("start_s", "start_seconds", "start")}
_ENDS = {"frames": ("end_frame", "end_frames", "end"), "seconds": ("end_s", "end_seconds", "end")}


def _csv_columns(
    path: Path, header: Sequence[str], unit: str, renamed: Mapping[str, str]
) -> tuple[str, str, str, str | None, bool]:
    """The names of the video, start, end and class columns, and whether numbers are seconds."""
    units = ("frames", "seconds") if unit == "auto" else (unit,)
    video = _first(header, (renamed.get("video", "video"), "video_id", "id"))
    label = _first(header, (renamed.get("label", "label"), "class", "classes"))
    for each in units:
        start = _first(header, ((renamed["start"],) if "start" in renamed else _STARTS[each]))
        end = _first(header, ((renamed["end"],) if "end" in renamed else _ENDS[each]))
        if video and start and end:
            return video, start, end, label, each == "seconds"
    raise VerificationError(
        f"{path}:1: the columns {list(header)} are not video, start_frame, end_frame (or start_s, end_s) and class",
        hint="rename them, or say `columns: {video: ..., start: ..., end: ..., label: ...}` and `unit:`",
    )


def _first(header: Sequence[str], names: Iterable[str]) -> str | None:
    return next((name for name in names if name in header), None)


def _segment(item: Any, where: str) -> Interval:
    try:
        start, end = (float(value) for value in item["segment"])
        label = str(item.get("label", ""))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise VerificationError(f"{where}: an annotation without a segment of two numbers: {item!r}") from error
    return _seconds(start, end, label, where)


def _seconds(start: float, end: float, label: str, where: str) -> Interval:
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        raise VerificationError(f"{where}: [{start:g} s, {end:g} s) is not an interval: needs 0 <= start < end")
    return Interval(start, end, label, where, seconds=True)


def _pairs(values: Sequence[int], label: str, where: str, rule: Rule) -> list[Interval]:
    """Intervals of start, end, start, end, ...; a pair with -1 is an empty slot.

    Raises:
        VerificationError: a pair that is empty or begins before the video after conversion.
    """
    found = []
    for first, last in zip(values[::2], values[1::2], strict=True):
        if first == -1 or last == -1:
            continue
        start, end = by_rule(first, last, rule)
        if not 0 <= start < end:
            raise VerificationError(
                f"{where}: {first} {last} is not an interval under the rule {rule!r}: it becomes [{start}, {end})"
            )
        found.append(Interval(start, end, label, where))
    return found


def _add(intervals: dict[str, tuple[Interval, ...]], video: str, found: Iterable[Interval]) -> None:
    intervals[video] = (*intervals.get(video, ()), *found)


def _lines(path: Path, *, separators: str = r"\s+") -> Iterable[tuple[str, list[str]]]:
    """(`file:line`, words) of every line that is not blank."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = [word for word in re.split(separators, line.strip()) if word]
        if words:
            yield f"{path}:{number}", words


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationError(f"cannot read {path}: {error}") from error


def _is_int(word: str) -> bool:
    return re.fullmatch(r"[-+]?\d+", word) is not None


def _integer(word: str, where: str) -> int:
    """A frame number; `120.0` counts as one."""
    number = _float(word, where)
    if not math.isfinite(number) or number != int(number):
        raise VerificationError(f"{where}: {word!r} is not a frame number")
    return int(number)


def _float(word: str, where: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        raise VerificationError(f"{where}: {word!r} is not a number") from error


__all__ = [
    "Annotations",
    "Interval",
    "by_rule",
    "matching",
    "name_rule",
    "normalise_id",
    "own_id",
    "read",
    "read_activitynet",
    "read_csv",
    "read_ubnormal_tracks",
    "read_ucf_text",
    "read_ucsd_m",
    "read_xd_text",
]
