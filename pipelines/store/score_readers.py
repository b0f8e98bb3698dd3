"""One reader a form of score file; nothing is unpickled. `store/scores.py` chooses among them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.artifacts import video_id_of
from pipelines.errors import UsageError, VerificationError
from pipelines.recipe import suggest
from pipelines.store.scores import CLASSES, CROPS, LEVEL, MAPS, N_FRAMES, SPANS, STRIDE, Rows

if TYPE_CHECKING:
    import pandas as pd

Arrays = Mapping[str, NDArray[Any]]


def npz(path: Path) -> Arrays:
    """Every array of an `.npz`; an object array (which would need unpickling) is refused."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return {key: data[key] for key in data.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise VerificationError(
            f"cannot read {path}: {error}", hint="numeric arrays only, saved without pickle"
        ) from error


def npy_folder(path: Path) -> Arrays:
    """`<video>.npy` (and `<video>|classes.npy`) of a folder, sub-folders included; ids may be percent-encoded."""
    files = sorted(path.rglob("*.npy"))
    return {video_id_of(file.relative_to(path).as_posix().removesuffix(".npy")): _npy(file) for file in files}


def hdf5(path: Path) -> Arrays:
    """Every dataset of an HDF5 file; a `/` in a key is part of the id."""
    import h5py

    found: dict[str, NDArray[Any]] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            text = h5py.check_string_dtype(item.dtype) is not None
            found[name] = np.asarray(item.asstr()[...]).astype(str) if text else np.asarray(item[...])

    try:
        with h5py.File(path, "r") as handle:
            handle.visititems(visit)
    except OSError as error:
        raise VerificationError(f"cannot read {path}: {error}") from error
    return found


def from_arrays(arrays: Arrays, source: Path) -> dict[str, Rows]:
    """Rows by video from `<video>`, `<video>|classes`, `<video>|spans`, `<video>|n_frames`, `<video>|crops`, `<video>|maps` and levels."""
    videos = [key for key in arrays if not _is_field(key)]
    orphans = [key for key in arrays if _is_field(key) and key.rpartition("|")[0] not in arrays]
    if orphans:
        raise VerificationError(f"{source}: {orphans[0]!r} has no {orphans[0].rpartition('|')[0]!r} beside it")
    if videos == ["arr_0"]:
        raise VerificationError(
            f"{source}: its one key is 'arr_0'; keys are video ids", hint="np.savez(file, **{video: scores})"
        )
    return {video: _rows(video, arrays, source) for video in videos}


def flat(path: Path, order: Path | None, lengths: Path | None) -> dict[str, Rows]:
    """One flat array cut by a list of ids and their row counts; without both it is refused.

    Raises:
        UsageError: `order` or `lengths` is not given.
        VerificationError: the counts do not add up to the array.
    """
    if order is None or lengths is None:
        raise UsageError(
            f"{path.name} is one flat array: which rows belong to which video?",
            hint="--order LIST (one video id a line) --lengths FILE (rows of each)",
        )
    values = _npy(path).reshape(-1)
    ids = [line.strip() for line in order.read_text(encoding="utf-8").splitlines() if line.strip()]
    counts = _lengths(lengths, ids)
    if sum(counts) != len(values) or len(set(ids)) != len(ids):
        raise VerificationError(
            f"{path} has {len(values)} rows; {lengths} adds up to {sum(counts)} over {len(ids)} videos ({len(set(ids))} distinct)"
        )
    parts = np.split(values, np.cumsum(counts)[:-1])
    return {video: Rows(values=part[None]) for video, part in zip(ids, parts, strict=True)}


def table(path: Path, classes: tuple[str, ...]) -> dict[str, Rows]:
    """Rows from a table: video, then frame or start_frame and end_frame, score, then one column a class.

    Frames of a video must run from its first to its last row without a hole; rows may stand in any order.

    Raises:
        VerificationError: a missing column, text where a number belongs, a hole or a frame that stands twice.
    """
    import pandas as pd

    frame = _read_table(path)
    missing = [name for name in ("video", "score") if name not in frame.columns]
    spans = {"start_frame", "end_frame"} <= set(frame.columns)
    if missing or not (spans or "frame" in frame.columns):
        raise VerificationError(
            f"{path}: columns {list(frame.columns)} lack {missing or 'frame (or start_frame and end_frame)'}",
            hint="video, frame | start_frame and end_frame, score, then one column a class",
        )
    where = ["start_frame", "end_frame"] if spans else ["frame"]
    names = [name for name in frame.columns if name not in ("video", "score", *where)]
    ordered = _class_columns(path, names, classes)
    for name in [*where, "score", *ordered]:
        number = pd.to_numeric(frame[name], errors="coerce")
        bad = number.isna() & frame[name].notna() & (frame[name].astype(str).str.lower() != "nan")
        if bad.any():
            raise VerificationError(
                f"{path}: column {name!r}, row {int(bad.argmax()) + 2}: {frame[name][bad].iloc[0]!r} is no number"
            )
        frame[name] = number
    return {
        str(video): _from_table(path, str(video), part, where, ordered)
        for video, part in frame.groupby("video", sort=False)
    }


def _read_table(path: Path) -> pd.DataFrame:
    import pandas as pd

    read: Callable[..., pd.DataFrame] = pd.read_parquet if path.suffix == ".parquet" else pd.read_csv
    options = (
        {}
        if path.suffix == ".parquet"
        else {"dtype": {"video": str}, "keep_default_na": False, "float_precision": "round_trip"}
    )
    try:
        frame = read(path, **options)
    except ImportError as error:
        raise UsageError(
            f"reading {path.name} needs a parquet library", hint="pip install pyarrow, or save it as csv"
        ) from error
    except (ValueError, OSError) as error:
        raise VerificationError(f"cannot read {path}: {error}") from error
    return frame.rename(columns=lambda name: str(name).strip())


def _class_columns(path: Path, names: list[str], classes: tuple[str, ...]) -> list[str]:
    """The class columns in the dataset's order; none, or exactly all of them."""
    if not names or not classes:
        return names
    unknown = [name for name in names if name not in classes]
    lacking = [name for name in classes if name not in names]
    if unknown or lacking:
        raise VerificationError(
            f"{path}: class columns {unknown or lacking} {'are no classes of' if unknown else 'are missing for'} the dataset"
            + (suggest(unknown[0], classes) if unknown else "")
        )
    return list(classes)


def _from_table(path: Path, video: str, part: pd.DataFrame, where: list[str], classes: list[str]) -> Rows:
    part = part.sort_values(where, kind="stable")
    at = part[where].to_numpy()
    if np.isnan(at.astype(np.float64)).any():
        raise VerificationError(f"{path}: video {video!r} has a row without a frame number")
    positions = at.astype(np.int64)
    if len(where) == 1:
        steps = np.diff(positions[:, 0])
        if (steps != 1).any():
            first = int(np.argmax(steps != 1))
            raise VerificationError(
                f"{path}: video {video!r}: after frame {positions[first, 0]} comes frame {positions[first + 1, 0]}",
                hint="every frame once; for clips give start_frame and end_frame",
            )
        spans = np.concatenate([positions, positions + 1], axis=1)
    else:
        spans = positions
    values = part["score"].to_numpy(dtype=np.float64)[None]
    probabilities = part[classes].to_numpy(dtype=np.float32)[None] if classes else None
    return Rows(values=values, classes=probabilities, spans=spans)


def _rows(video: str, arrays: Arrays, source: Path) -> Rows:
    values = _numeric(video, arrays[video], source)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 and values.shape[0] > 1 else values
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or 0 in values.shape:
        raise VerificationError(
            f"{source}: {video!r} has shape {arrays[video].shape}, expected (rows,) or (crops, rows)"
        )
    spans = arrays.get(f"{video}|{SPANS}")
    if spans is not None and spans.shape != (values.shape[1], 2):
        raise VerificationError(f"{source}: {video!r} has {values.shape[1]} rows and spans of shape {spans.shape}")
    levels = sorted(
        (key for key in arrays if key.startswith(f"{video}|{LEVEL}") and not key.endswith(SPANS)), key=_level
    )
    return Rows(
        values=values,
        classes=_classes(video, arrays, values.shape, source),
        spans=None if spans is None else spans.astype(np.int64),
        n_frames=_whole(f"{video}|{N_FRAMES}", arrays, source),
        stride=_whole(f"{video}|{STRIDE}", arrays, source),
        crops=_crops(video, arrays, values.shape[0], source),
        levels=tuple(arrays[key] for key in levels),
        level_spans=tuple(arrays[f"{key}-{SPANS}"].astype(np.int64) for key in levels),
        maps=_maps(video, arrays, values.shape[1], source),
    )


def _maps(video: str, arrays: Arrays, count: int, source: Path) -> NDArray[np.float32] | None:
    key = f"{video}|{MAPS}"
    if key not in arrays:
        return None
    maps = _numeric(key, arrays[key], source)
    if maps.ndim != 3 or len(maps) != count:
        raise VerificationError(f"{source}: {key!r} has shape {arrays[key].shape}, expected ({count}, h, w)")
    return maps.astype(np.float32, copy=False)


def _whole(key: str, arrays: Arrays, source: Path) -> int | None:
    if key not in arrays:
        return None
    if arrays[key].size != 1 or arrays[key].dtype.kind not in "iu" or int(arrays[key].reshape(())) < 1:
        raise VerificationError(f"{source}: {key!r} is {arrays[key]!r}, expected one positive whole number")
    return int(arrays[key].reshape(()))


def _classes(video: str, arrays: Arrays, shape: tuple[int, ...], source: Path) -> NDArray[Any] | None:
    key = f"{video}|{CLASSES}"
    if key not in arrays:
        return None
    classes = _numeric(key, arrays[key], source)
    classes = classes[None] if classes.ndim == 2 else classes
    if classes.ndim != 3 or classes.shape[:2] != shape:
        raise VerificationError(f"{source}: {key!r} has shape {arrays[key].shape}, the scores have {shape[1]} rows")
    return classes.astype(np.float32)


def _crops(video: str, arrays: Arrays, count: int, source: Path) -> tuple[str, ...]:
    key = f"{video}|{CROPS}"
    names = tuple(str(name) for name in np.atleast_1d(arrays[key])) if key in arrays else ()
    if names and len(names) != count:
        raise VerificationError(f"{source}: {video!r} has {count} crops and the names {names}")
    return names or (("center",) if count == 1 else tuple(f"crop-{i}" for i in range(count)))


def _numeric(key: str, array: NDArray[Any], source: Path) -> NDArray[Any]:
    if array.dtype.kind not in "fiub":
        raise VerificationError(f"{source}: {key!r} holds {array.dtype}, not numbers")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _npy(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise VerificationError(
            f"cannot read {path}: {error}", hint="numeric arrays only, saved without pickle"
        ) from error


def read_lengths(path: Path) -> dict[str, int]:
    """A csv of video and frames, with or without a header, as a mapping.

    Raises:
        VerificationError: not two columns, or text for a number.
    """
    lines = _csv_lines(path)
    try:
        body = lines if lines[0][1].strip().isdigit() else lines[1:]
        return {row[0].strip(): int(row[1]) for row in body}
    except (ValueError, IndexError) as error:
        raise VerificationError(f"{path} is no csv of video, frames: {error}") from error


def read_rates(path: Path) -> dict[str, float]:
    """Frames per second by video: the third column of the same csv; {} where it has none.

    Raises:
        VerificationError: text for a number.
    """
    lines = _csv_lines(path)
    body = lines if lines and lines[0][1].strip().isdigit() else lines[1:]
    try:
        return {row[0].strip(): float(row[2]) for row in body if len(row) > 2 and row[2].strip()}
    except ValueError as error:
        raise VerificationError(f"{path} is no csv of video, frames, fps: {error}") from error


def _lengths(path: Path, ids: list[str]) -> list[int]:
    lines = _csv_lines(path)
    try:
        if lines and len(lines[0]) == 1:
            return [int(row[0]) for row in lines]
        by_id = read_lengths(path)
        return [by_id[video] for video in ids]
    except (KeyError, ValueError) as error:
        raise VerificationError(f"{path}: cannot find the row count of every video: {error}") from error


def _csv_lines(path: Path) -> list[list[str]]:
    try:
        return [row for row in csv.reader(path.read_text(encoding="utf-8").splitlines()) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise VerificationError(f"cannot read {path}: {error}") from error


def _is_field(key: str) -> bool:
    tail = key.rpartition("|")[2]
    return "|" in key and (tail in (CLASSES, SPANS, N_FRAMES, STRIDE, CROPS, MAPS) or tail.startswith(LEVEL))


def _level(key: str) -> int:
    return int(key.rpartition(LEVEL)[2])
