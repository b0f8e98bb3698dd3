"""Rows of text lists, csv files and footage folders, and where a row's footage lies."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipelines.data.ids import VIDEO_SUFFIXES, natural_key, normalise_id, own_id, split_suffix
from pipelines.data.schema import Source
from pipelines.errors import VerificationError

FIELDS = ("video", "path", "label", "group", "split", "frames", "fps", "camera")


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: an error, a warning or a note, in plain words, with the video and the place where it stands."""

    level: Literal["error", "warning", "note"]
    kind: str
    message: str
    video: str | None = None

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Row:
    """One video as a list names it. `bare` is the id without the source's prefix; `where` is `file:line`."""

    id: str
    bare: str
    path: str
    where: str
    label: str | None = None
    group: str | None = None
    split: str | None = None
    camera: str | None = None
    frames: int | None = None
    fps: float | None = None


def read_rows(source: Source, folders: Sequence[Path], root: Path | None, *, published: bool) -> list[Row] | None:
    """The rows of one source in list order, or None where a file of it does not exist.

    Published lists name a video once per crop: repeated ids are one row there. A user's own lists keep repeats,
    which `Dataset` reports.

    Raises:
        VerificationError: a malformed row, with its file and line.
    """
    if source.kind == "media":
        rows = list(_media_rows(source, root)) if root is not None else []
        rows = [row for row in (_identified(source, row, published) for row in rows) if row]
        return rows or None
    paths = [find(name, folders) for name in source.files]
    if any(path is None for path in paths):
        return None
    if source.inline:
        inline = list(_split_rows(source, source.inline.split(), "data_manifest.yaml: inline"))
        return [row for row in (_identified(source, row, published) for row in inline) if row]
    reader: Callable[[Source, Path], Iterator[Row]] = _csv_rows if source.kind == "csv" else _line_rows
    found = [_identified(source, row, published) for path in paths if path for row in reader(source, path)]
    rows = [row for row in found if row]
    return list({row.id: row for row in reversed(rows)}.values())[::-1] if published else rows


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """The first `folder / name` that is a file."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _line_rows(source: Source, path: Path) -> Iterator[Row]:
    yield from _split_rows(source, _text(path).splitlines(), str(path))


def _split_rows(source: Source, lines: Sequence[str], file: str) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("# "):
            continue
        where = f"{file}:{number}"
        if not source.fields:
            yield Row("", "", line.strip(), where)
            continue
        delimiter = None if source.delimiter == " " else source.delimiter
        values = [value.strip() for value in line.strip().split(delimiter)]
        if len(values) < len(source.fields):
            raise VerificationError(f"{where}: {len(values)} fields where {len(source.fields)} are expected: {line!r}")
        yield _row(dict(zip(source.fields, values, strict=False)), where)


def _csv_rows(source: Source, path: Path) -> Iterator[Row]:
    reader = csv.DictReader(_text(path).splitlines(), skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or []]
    names = {ours: source.columns.get(ours, ours) for ours in FIELDS}
    if not {names["video"], names["path"]} & set(header):
        raise VerificationError(
            f"{path}:1: no column {names['video']!r} or {names['path']!r} in {header}",
            hint="name the columns under `columns:` of the manifest entry",
        )
    reader.fieldnames = header
    for record in reader:
        where = f"{path}:{reader.line_num}"
        if None in record:
            raise VerificationError(f"{where}: more fields than the header has; quote a value that holds a comma")
        values = {ours: (record.get(theirs) or "").strip() for ours, theirs in names.items()}
        if any(values.values()):
            yield _row(values, where)


def _row(values: dict[str, str], where: str) -> Row:
    if not (values.get("video") or values.get("path")):
        raise VerificationError(f"{where}: the row names no video")
    frames = _number(values.get("frames"), where, "frames")
    fps = _number(values.get("fps"), where, "fps")
    return Row(
        id=values.get("video", ""),
        bare="",
        path=values.get("path") or values.get("video", ""),
        where=where,
        label=values.get("label") or None,
        group=values.get("group") or None,
        split=values.get("split") or None,
        camera=values.get("camera") or None,
        frames=int(frames) if frames is not None and frames > 0 else None,
        fps=fps if fps is not None and fps > 0 else None,
    )


def _number(text: str | None, where: str, name: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise VerificationError(f"{where}: {name} is {text!r}, not a number") from error


def _media_rows(source: Source, root: Path) -> Iterator[Row]:
    for pattern in source.files:
        found = (path for path in root.glob(pattern) if not path.name.startswith("."))
        kept = [p for p in found if (p.is_dir() if source.media == "frames" else p.suffix.lower() in VIDEO_SUFFIXES)]
        for path in sorted(kept, key=lambda path: natural_key(str(path))):
            yield Row("", "", path.relative_to(root).as_posix(), str(path))


def _identified(source: Source, row: Row, published: bool) -> Row | None:
    """`row` with its id worked out, or None where `match` leaves it out."""
    if row.id and not published:
        stem, suffix = split_suffix(row.id)
        bare = stem if suffix in VIDEO_SUFFIXES else row.id
    else:
        bare = normalise_id(row.id or row.path) if published else own_id(row.path)
    if source.id:
        found = re.search(source.id, bare)
        if not found:
            return None
        bare = found.group("id") if "id" in found.groupdict() else found.group(1)
    path = row.path
    if published and _elsewhere(path):  # the path on its author's machine: the class folder and the id remain
        folder = path.replace("\\", "/").rstrip("/").rsplit("/", 2)[-2]
        path = f"{folder}/{bare}.mp4"
    if source.match and not re.fullmatch(source.match, bare):
        return None
    return Row(
        source.prefix + bare,
        bare,
        path,
        row.where,
        row.label,
        row.group,
        row.split,
        row.camera,
        row.frames,
        row.fps,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationError(f"cannot read {path}: {error}") from error


@dataclass(slots=True)
class Footage:
    """Where the footage of a dataset lies. Folder listings are read once: a `stat` per video is slow on a network."""

    root: Path
    published: bool
    _names: dict[Path, frozenset[str]] = field(default_factory=dict)
    _indexes: dict[str, dict[str, list[Path]]] = field(default_factory=dict)

    def exists(self, path: Path) -> bool:
        """Whether `path` is there (file or folder)."""
        return path.name in self._listing(path.parent)

    def locate(self, row: Row, templates: Sequence[str], class_name: str) -> Path:
        """The first existing path that a template gives for `row`, else the first template's path.

        Templates: `{path}` (as the list writes it), `{id}`, `{class}`; `{id}.*` takes any video suffix; a pattern
        with `*` elsewhere is searched once and joined by id, a file in the folder that the list names preferred.
        """
        first: Path | None = None
        for template in templates:
            if "*" in template.removesuffix(".*"):
                path = self._indexed(template, row)
            else:
                path = self._direct(template, row, class_name)
                first = first or path
            if path is not None and self.exists(path):
                return path
        return first or self.root / row.path

    def duplicates(self, templates: Sequence[str]) -> dict[str, list[Path]]:
        """Ids that searched patterns find in two places."""
        found: dict[str, list[Path]] = {}
        for template in templates:
            if "*" in template.removesuffix(".*"):
                found.update({key: paths for key, paths in self._index(template).items() if len(paths) > 1})
        return found

    def _direct(self, template: str, row: Row, class_name: str) -> Path:
        text = template.removesuffix(".*").replace("{class}", class_name)
        name = text.replace("{path}", row.path.replace("\\", "/")).replace("{id}", row.bare)
        path = Path(os.path.normpath(self.root / name))
        if not template.endswith(".*"):
            return path
        names = self._listing(path.parent)
        suffix = next((s for s in VIDEO_SUFFIXES for s in (s, s.upper()) if path.name + s in names), ".mp4")
        return path.with_name(path.name + suffix)

    def _indexed(self, pattern: str, row: Row) -> Path | None:
        paths = self._index(pattern).get(row.bare, [])
        tail = row.path.replace("\\", "/").lstrip("/")
        return next((path for path in paths if path.as_posix().endswith("/" + tail)), paths[0] if paths else None)

    def _index(self, pattern: str) -> dict[str, list[Path]]:
        if pattern not in self._indexes:
            key = normalise_id if self.published else own_id
            index: dict[str, list[Path]] = {}
            for path in sorted(self.root.glob(pattern)) if self.root.is_dir() else []:
                index.setdefault(key(path.name), []).append(path)
            self._indexes[pattern] = index
        return self._indexes[pattern]

    def _listing(self, folder: Path) -> frozenset[str]:
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]


def _elsewhere(path: str) -> bool:
    return path.startswith(("/", "~")) or re.match(r"^[A-Za-z]:[\\/]", path) is not None


def escapes(path: Path, root: Path) -> bool:
    """Whether `path`, written out, lies outside `root` (links are followed by nobody here)."""
    return not Path(os.path.normpath(path)).is_relative_to(Path(os.path.normpath(root)))
