"""Annotation readers for arrays and masks: npy, npz, mat, and folders of mask images."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.annotations import Annotations, Interval, NameRule, by_rule
from pipelines.data.ids import IMAGE_SUFFIXES, natural_key, normalise_id
from pipelines.data.schema import Rule
from pipelines.errors import VerificationError


def runs(labels: NDArray[Any]) -> list[tuple[int, int]]:
    """Half-open runs of non-zero values of a 1-D array; the inverse of marking them."""
    flags = np.concatenate([[False], np.asarray(labels).reshape(-1) != 0, [False]])
    edges = np.flatnonzero(flags[1:] != flags[:-1])
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def read_frame_masks(files: Sequence[Path], *, key: str = "{id}", name: NameRule = normalise_id) -> Annotations:
    """One array per video: a folder or glob of `.npy`, or one `.npz`.

    An array of one axis holds one value per frame; more axes are pixel masks (frames first), where any non-zero
    pixel makes a frame abnormal. Of an `.npz`, the arrays whose names match `key` are read (`mnad_{id}`).
    """
    paths = [inner for path in files for inner in (sorted(path.glob("*.npy")) if path.is_dir() else [path])]
    intervals: dict[str, tuple[Interval, ...]] = {}
    lengths: dict[str, int] = {}
    before, _, after = key.partition("{id}")
    for path in sorted(paths, key=lambda path: natural_key(path.as_posix())):
        loaded = _load(path)
        arrays = loaded if isinstance(loaded, dict) else {f"{before}{path.name}{after}": loaded}
        for member, array in arrays.items():
            if not (member.startswith(before) and member.endswith(after)):
                continue
            video = name(member[len(before) : len(member) - len(after)])
            _put(
                intervals,
                lengths,
                video,
                frame_labels(array),
                f"{path}:{member}" if path.suffix == ".npz" else str(path),
            )
    return Annotations(intervals, lengths, tuple(paths))


def read_flat_labels(path: Path, order: Mapping[str, int]) -> Annotations:
    """One flat array of all videos one after another (Ped2's `frame_labels_ped2.npy`, shape (1, N)).

    Args:
        path: the `.npy`.
        order: video ids in the array's order with their lengths; without it a flat file has no meaning.

    Raises:
        VerificationError: the lengths do not add up to the array.
    """
    loaded = _load(path)
    if isinstance(loaded, dict):
        raise VerificationError(f"{path}: a flat label file is one .npy array, not an .npz")
    labels = np.asarray(loaded).reshape(-1)
    if not order or sum(order.values()) != len(labels):
        raise VerificationError(
            f"{path}: {len(labels)} labels, but the {len(order)} videos have {sum(order.values())} frames",
            hint="a flat file needs the order and the length of every video",
        )
    intervals: dict[str, tuple[Interval, ...]] = {}
    lengths: dict[str, int] = {}
    offset = 0
    for video, count in order.items():
        _put(intervals, lengths, video, labels[offset : offset + count], str(path))
        offset += count
    return Annotations(intervals, lengths, (path,))


def read_mat(
    files: Sequence[Path], *, rule: Rule = "one_based", schema: str = "", name: NameRule = normalise_id
) -> Annotations | None:
    """MATLAB files, told apart by their variables (`avenue.mat` exists with two schemas).

    `gt`: a cell of 2xK matrices of intervals as written under `rule` (Ped2, Avenue intervals; ids 01, 02, ...);
    `volLabel`: a cell of one pixel mask per frame, one file per video (`1_label.mat` is video 01);
    `numbered`: variables `01`..`21` with labels per frame of each video.
    None where `schema` asks for another one than the file has.
    """
    intervals: dict[str, tuple[Interval, ...]] = {}
    lengths: dict[str, int] = {}
    for path in sorted(files, key=lambda path: natural_key(path.name)):
        data = _loadmat(path)
        found = mat_schema(data, path)
        if schema and found != schema:
            return None
        if found == "gt":
            for index, cell in enumerate(np.asarray(data["gt"], dtype=object).reshape(-1), 1):
                intervals[f"{index:02d}"] = _gt_cell(cell, f"{path}: gt{{{index}}}", rule)
        elif found == "volLabel":
            video = name(path.stem.removesuffix("_label").zfill(2))
            _put(intervals, lengths, video, _vol_labels(data["volLabel"]), str(path))
        else:
            for key in sorted((key for key in data if key.isdigit()), key=int):
                _put(intervals, lengths, f"{int(key):02d}", frame_labels(np.asarray(data[key])), f"{path}: {key}")
    return Annotations(intervals, lengths, tuple(files))


def mat_schema(data: Mapping[str, Any], path: Path) -> str:
    """`gt`, `volLabel` or `numbered`.

    Raises:
        VerificationError: none of them; the file's variables are listed.
    """
    if "gt" in data or "volLabel" in data:
        return "gt" if "gt" in data else "volLabel"
    if any(key.isdigit() for key in data):
        return "numbered"
    known = [key for key in data if not key.startswith("__")]
    raise VerificationError(f"{path}: has {known}; expected `gt`, `volLabel` or numbered variables 01, 02, ...")


def _vol_labels(cell: Any) -> NDArray[np.bool_]:
    masks = np.asarray(cell, dtype=object).reshape(-1)
    return np.array([bool(np.any(np.asarray(mask) != 0)) for mask in masks], dtype=bool)


def read_mask_images(folders: Sequence[Path], *, name: NameRule = normalise_id) -> Annotations:
    """One folder of mask images per video (`Test001_gt/*.bmp`): any non-zero pixel makes frame k abnormal.

    Frame k is the k-th image in natural order, whether names begin at 000 or 001.
    """
    intervals: dict[str, tuple[Interval, ...]] = {}
    lengths: dict[str, int] = {}
    for folder in (path for path in folders if path.is_dir()):
        images = _mask_files(folder)
        if not images:
            continue
        labels = np.array([_image(path).any() for path in images], dtype=bool)
        _put(intervals, lengths, name(folder.name), labels, str(folder))
    return Annotations(intervals, lengths, tuple(folders))


def read_pixel_mask(
    files: Sequence[Path], video_id: str, *, key: str = "{id}", name: NameRule = normalise_id
) -> NDArray[np.bool_] | None:
    """The pixel masks (N, H, W) bool of one video, from any of the sources above that has them; None where none has.

    Sources: an `.npz` or `.npy` of three axes, a `volLabel` mat file, a folder of mask images.
    """
    for path in files:
        masks: NDArray[np.bool_] | None = None
        if path.is_dir():
            images = _mask_files(path) if name(path.name) == video_id else []
            masks = np.stack([_image(image) for image in images]) if images else None
        elif path.suffix == ".mat":
            mine = name(path.stem.removesuffix("_label").zfill(2)) == video_id
            cell = _loadmat(path).get("volLabel") if mine else None
            masks = None if cell is None else np.stack([np.asarray(mask) != 0 for mask in cell.reshape(-1)])
        elif path.suffix == ".npz" or name(path.name) == video_id:
            array = _member(path, key.replace("{id}", video_id)) if path.suffix == ".npz" else _load(path)
            masks = array != 0 if isinstance(array, np.ndarray) and array.ndim == 3 else None
        if masks is not None:
            return masks
    return None


def _member(path: Path, name: str) -> NDArray[Any] | None:
    """One array of an `.npz`, without reading the others."""
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return np.asarray(loaded[name]) if name in loaded.files else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise VerificationError(f"{path}: not a plain numpy archive: {error}") from error


def _mask_files(folder: Path) -> list[Path]:
    return sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: natural_key(p.name)
    )


def _image(path: Path) -> NDArray[np.bool_]:
    """(H, W) bool of one mask image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(np.asarray(image.convert("L")) != 0)
    except (OSError, UnidentifiedImageError) as error:
        raise VerificationError(f"{path}: not a readable mask image: {error}") from error


def frame_labels(array: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) bool of a 1-D label array (or (1, N), (N, 1)), or of pixel masks (N, H, W), any pixel.

    A NaN is an error of the caller's file and is refused as not finite.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise VerificationError("the labels hold NaN or infinite values")
    if array.ndim <= 2 and (array.ndim == 1 or 1 in array.shape):
        return np.asarray(array.reshape(-1) != 0)
    if array.ndim == 3:
        return np.asarray((array != 0).any(axis=(1, 2)))
    raise VerificationError(f"labels of shape {array.shape}: expected (N,), (1, N) or masks (N, H, W)")


def _gt_cell(cell: Any, where: str, rule: Rule) -> tuple[Interval, ...]:
    """Intervals of one cell; one interval may arrive 1-D, an empty cell means none."""
    values = np.asarray(cell)
    if values.size == 0:
        return ()
    if values.size == 2:
        values = values.reshape(2, 1)
    if values.ndim != 2 or values.shape[0] != 2:
        raise VerificationError(f"{where}: shape {values.shape}, expected 2xK (starts in the first row, ends below)")
    found = []
    for first, last in values.T:
        start, end = by_rule(int(first), int(last), rule)
        if not 0 <= start < end:
            raise VerificationError(f"{where}: {int(first)} {int(last)} is not an interval under the rule {rule!r}")
        found.append(Interval(start, end, "", where))
    return tuple(found)


def _put(
    intervals: dict[str, tuple[Interval, ...]], lengths: dict[str, int], video: str, labels: NDArray[Any], where: str
) -> None:
    intervals[video] = tuple(Interval(start, end, "", where) for start, end in runs(labels))
    lengths[video] = len(labels)


def _load(path: Path) -> NDArray[Any] | dict[str, NDArray[Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        return {key: loaded[key] for key in loaded.files} if hasattr(loaded, "files") else np.asarray(loaded)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise VerificationError(f"{path}: not a plain numpy array: {error}") from error


def _loadmat(path: Path) -> dict[str, Any]:
    import scipy.io
    from scipy.io.matlab import MatReadError

    try:
        return dict(scipy.io.loadmat(str(path)))
    except NotImplementedError as error:
        raise VerificationError(f"{path}: a MATLAB 7.3 file", hint="save it in MATLAB with `-v7`") from error
    except (OSError, ValueError, TypeError, MatReadError) as error:
        raise VerificationError(f"{path}: not a MATLAB file: {error}") from error
