"""Video ids: the one normaliser for the spellings that published lists, annotations and feature files use."""

from __future__ import annotations

import re

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v", ".wmv", ".flv", ".ts", ".3gp")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
FEATURE_SUFFIXES = (".npy", ".npz", ".txt", ".csv", ".h5", ".hdf5", ".pt")
_CROP = re.compile(r"__\d$")
_STREAM = re.compile(r"(_i3d|_c3d|__vggish)$", re.IGNORECASE)
_SHANGHAITECH_CROP = re.compile(r"^(\d{2}_\d{3,4})_\d$")


def normalise_id(text: str) -> str:
    """The id of a video in any published spelling of its name.

    Takes the last path component (POSIX or Windows), strips one video or feature suffix, the stream words of
    feature files (`_i3d`, `__vggish`) and a crop number (`__5`; PEL4VAD's `01_0015_0.npy`). Idempotent on every
    id of the known datasets. Not for a user's own ids, which are kept as written: `cam__1` may be a camera.
    """
    name = text.strip().replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].strip()
    stem, suffix = split_suffix(name)
    stem = _STREAM.sub("", stem)
    stem = _CROP.sub("", stem)
    stem = split_suffix(stem)[0] if suffix in FEATURE_SUFFIXES else stem
    if suffix in FEATURE_SUFFIXES and (crop := _SHANGHAITECH_CROP.match(stem)):
        stem = crop.group(1)
    return stem


def own_id(text: str) -> str:
    """A user's id as written, without surrounding space and without a video suffix; folders are dropped."""
    name = text.strip().replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    stem, suffix = split_suffix(name)
    return stem if suffix in VIDEO_SUFFIXES else name


def split_suffix(name: str) -> tuple[str, str]:
    """(stem, lower-case suffix) where the suffix is a known one, else (name, ""): dots inside names are kept."""
    stem, dot, tail = name.rpartition(".")
    suffix = f".{tail.lower()}"
    known = dot and stem and suffix in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, *FEATURE_SUFFIXES)
    return (stem, suffix) if known else (name, "")


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """A sort key under which `2_label` comes before `10_label`."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", text) if part)
