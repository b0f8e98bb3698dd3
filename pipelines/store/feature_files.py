"""Feature files of others, read without trusting them: where the arrays of each video are, and their values.

No pickle is ever loaded, and no header is believed before the file's own size confirms it.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.ids import split_suffix
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.store.layouts import Layout

MAX_TEXT_BYTES = 64 << 20
MAX_ARRAY_BYTES = 8 << 30
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
_CROP = re.compile(r"__(\d)$")
_SHANGHAITECH_CROP = re.compile(r"(?<=^\d\d_\d{3})_(\d)$|(?<=^\d\d_\d{4})_(\d)$")  # PEL4VAD: a single underscore
_STREAM = re.compile(r"(_i3d|_c3d|__vggish)$")
_LABEL = re.compile(r"[\s,]+([\d.]+)$")


@dataclass(frozen=True, slots=True)
class Piece:
    """One array of one video: a file, a dataset `key` of an HDF5 file, or `rows` of a file of all videos."""

    path: Path
    key: str = ""
    rows: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """How it is called in messages and records."""
        where = f":{self.key}" if self.key else f"[{self.rows[0]}:{self.rows[1]}]" if self.rows else ""
        return self.path.name + where

    def read(self) -> NDArray[Any]:
        """Its numbers.

        Raises:
            ValueError, OSError: damaged, pickled, no numbers, or a header that claims more than the file holds.
        """
        if self.key:
            return _read_hdf5(self.path, self.key)
        if self.path.suffix.lower() == ".txt":
            return _read_text(self.path)
        values = read_npy(self.path)
        return values[self.rows[0] : self.rows[1]] if self.rows else values

    def sha256(self) -> str:
        """Of the file where it is all of one, else of the values' little-endian bytes."""
        if not self.key and self.rows is None:
            return file_sha256(self.path)
        values = np.ascontiguousarray(self.read())
        return hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest()

    def attributes(self) -> dict[str, Any]:
        """What an HDF5 dataset says of itself, as plain values; nothing elsewhere."""
        if not self.key:
            return {}
        import h5py

        with h5py.File(self.path, "r") as file:
            return {name: _plain(value) for name, value in file[self.key].attrs.items()}


Scan = dict[str, dict[int, Piece]]  # a video's name in the files -> crop number, -1 for all crops -> where it is


def scan(source: Path, layout: Layout, *, table: Sequence[tuple[str, int | None]] = ()) -> Scan:
    """Every video of `source` in this layout, by the name that its files give it.

    Args:
        table: names and numbers of clips, in the order of the rows, for a layout of one array.

    Raises:
        MissingArtifactError: no such file or folder, or nothing of this layout in it.
        UsageError: two files for one crop of one video; a table that does not fit its array.
    """
    if not source.exists():
        raise MissingArtifactError(f"there is no file or folder {source}", hint="--source, where the files lie")
    if layout.holds == "table":
        return _scan_table(source, table)
    found: Scan = {}
    for name, crop, piece in _scan_hdf5(source) if layout.holds == "hdf5" else _scan_files(source, layout):
        other = found.setdefault(name, {}).setdefault(crop, piece)
        if other != piece:
            raise UsageError(
                f"two files for one crop of one video: {other.path}{_key(other)} and {piece.path}{_key(piece)}",
                hint="import one folder at a time",
            )
    if not found:
        what = {"text": ".txt", "hdf5": ".h5 or .hdf5"}.get(layout.holds, ".npy")
        raise MissingArtifactError(f"{source} has no {what} files", hint="unpack the download first")
    return found


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy file, memory-mapped.

    Raises:
        ValueError: it holds objects (a pickle), or its header claims more bytes than follow it.
    """
    with path.open("rb") as handle:
        version = np.lib.format.read_magic(handle)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in reader:
            raise ValueError(f"{path.name}: npy format {version[0]}.{version[1]} is not read")
        shape, _, dtype = reader[version](handle)
        left = path.stat().st_size - handle.tell()
    if dtype.hasobject:
        raise ValueError(f"{path.name} holds objects: it is read with allow_pickle=False")
    claimed = dtype.itemsize
    for n in shape:
        claimed *= n
    if claimed > left:
        raise ValueError(f"{path.name}: the header claims {claimed} bytes {tuple(shape)}, {left} follow it")
    return np.load(path, mmap_mode="r", allow_pickle=False) if claimed else np.empty(shape, dtype)


def read_names(path: Path) -> list[tuple[str, int | None]]:
    """Names of a list in its order, each with the number behind it, if any: a csv with a header, or lines.

    A published list may name a crop's file and end in a label (`test/01_0015_0.npy 1.0`).

    Raises:
        UsageError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = [row for row in csv.reader(text.splitlines()) if row and row[0].strip()]
            header = (
                rows and not split_suffix(rows[0][0])[1] and rows[0][0].strip().lower() in ("path", "video", "name")
            )
            return [(row[0].strip(), _integer(row[1]) if len(row) > 1 else None) for row in rows[1 if header else 0 :]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"cannot read the list {path}: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbers = [_LABEL.search(line) for line in lines]
    return [
        (line[: found.start()], _integer(found.group(1))) if found else (line, None)
        for line, found in zip(lines, numbers, strict=True)
    ]


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def stem_of(name: str, layout: Layout) -> tuple[str, int]:
    """A file's name as (the video's, the crop's number); -1 is all crops.

    Only one suffix, one stream word (`_i3d`, `__vggish`) and, in layouts of one file a crop, one number are taken
    off, so that a user's `cam__1` survives.
    """
    whole = split_suffix(name)[0]
    stem = _STREAM.sub("", whole)
    if layout.holds not in ("crops", "hdf5") or stem != whole:
        return stem, -1
    found = _CROP.search(stem) or (_SHANGHAITECH_CROP.search(stem) if layout.bare_crop >= 0 else None)
    if found is None:
        return stem, layout.bare_crop
    return stem[: found.start()], int(next(group for group in found.groups() if group is not None))


def _scan_files(source: Path, layout: Layout) -> Iterator[tuple[str, int, Piece]]:
    pattern = "*.txt" if layout.holds == "text" else "*.npy"
    for path in sorted(source.rglob(pattern)) if source.is_dir() else [source]:
        name, crop = stem_of(path.name, layout)
        yield name, crop, Piece(path)


def _scan_hdf5(source: Path) -> Iterator[tuple[str, int, Piece]]:
    """Datasets of every file; a video's name is its own attribute, else the dataset's, or the group's of `id/features`."""
    from pipelines.store.layouts import LAYOUTS

    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in HDF5_SUFFIXES) if source.is_dir() else [source]
    for path in paths:
        listed = _hdf5_datasets(path)
        lasts = {key.rpartition("/")[2] for key, _ in listed}
        same = len(lasts) == 1 and len(listed) > 1
        for key, given in listed:
            if given is not None:
                yield given, -1, Piece(path, key)
                continue
            parent, _, last = key.rpartition("/")
            name, crop = stem_of(parent.rpartition("/")[2] if same and parent else last, LAYOUTS["hdf5"])
            yield name, crop, Piece(path, key)


def _hdf5_datasets(path: Path) -> list[tuple[str, str | None]]:
    """Paths of all numeric datasets of a file, links not followed, with the video id that ours carry."""
    import h5py

    found: list[tuple[str, str | None]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2:
            given = item.attrs.get("video_id")
            found.append((name, str(given) if given is not None else None))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path} is not an HDF5 file that can be read: {error}") from error
    return found


def _read_hdf5(path: Path, key: str) -> NDArray[Any]:
    import h5py

    with h5py.File(path, "r") as file:
        dataset = file[key]
        if dataset.dtype.hasobject or dataset.dtype.kind not in "fiu":
            raise ValueError(f"{key}: {dataset.dtype} are not numbers")
        if dataset.is_virtual or dataset.external:
            raise ValueError(f"{key}: its values lie in other files")
        if dataset.nbytes > MAX_ARRAY_BYTES or (dataset.nbytes and not dataset.id.get_storage_size()):
            raise ValueError(f"{key}: it claims {dataset.nbytes} bytes and stores {dataset.id.get_storage_size()}")
        return np.asarray(dataset[...])


def _read_text(path: Path) -> NDArray[Any]:
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"{path.name}: {size} bytes of text, more than {MAX_TEXT_BYTES}")
    return np.loadtxt(path, dtype=np.float32, ndmin=2)


def _scan_table(source: Path, table: Sequence[tuple[str, int | None]]) -> Scan:
    """Rows of one array: by numbers of clips, or one entry of the first axis a video where none are given."""
    path = _only_npy(source)
    if not table:
        raise UsageError(f"{path.name} holds every video: which rows are whose?", hint="--list names.csv (video,clips)")
    try:
        shape = read_npy(path).shape
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    lengths = [length for _, length in table]
    if any(length is None for length in lengths):
        if len(table) != shape[0] or len(shape) < 3:
            raise UsageError(
                f"{path.name} has shape {shape}, its list {len(table)} names without a number of clips",
                hint="--list names.csv with the columns video,clips",
            )
        return {_bare(name): {-1: Piece(path, rows=(k, k + 1))} for k, (name, _) in enumerate(table)}
    total = sum(length or 0 for length in lengths)
    if total != shape[0]:
        raise UsageError(f"the list counts {total} clips in {len(table)} videos, {path.name} has {shape[0]} rows")
    found: Scan = {}
    start = 0
    for name, length in table:
        if _bare(name) in found:
            raise UsageError(f"the list names {name!r} twice", hint="one line a video, in the order of the rows")
        found[_bare(name)] = {-1: Piece(path, rows=(start, start + (length or 0)))}
        start += length or 0
    return found


def _only_npy(source: Path) -> Path:
    if source.is_file():
        return source
    files = sorted(source.glob("*.npy"))
    if len(files) != 1:
        raise UsageError(f"{source} has {len(files)} .npy files", hint="--source FILE.npy")
    return files[0]


def _bare(name: str) -> str:
    return split_suffix(name.replace("\\", "/").rstrip("/").rpartition("/")[2])[0]


def _integer(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None


def _key(piece: Piece) -> str:
    return f":{piece.key}" if piece.key else ""


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
