"""Video sources on disk, before any decoder: their existence, folders of images, fingerprints."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.errors import MissingArtifactError, VadError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".webp"})
MIB = 1 << 20

Tick = Callable[[], None]


class DecodeError(VadError):
    """A video that cannot be decoded, in plain words."""


def quiet() -> None:
    """No tick."""


def check_source(path: Path) -> None:
    """`path` exists and is not empty.

    Raises:
        MissingArtifactError, DecodeError.
    """
    if not path.exists():
        raise MissingArtifactError(f"there is no file {path}", hint="`vad data check` lists what is missing")
    if path.is_file() and path.stat().st_size == 0:
        raise DecodeError(f"{path.name} is empty (0 bytes)")


def plain(error: BaseException) -> str:
    """FFmpeg's message without the error number and the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0] if str(text).strip() else type(error).__name__


def list_images(folder: Path) -> list[Path]:
    """The images of a folder in natural order (`frame2` before `frame10`).

    Raises:
        DecodeError: no images, two files with one number, or a gap in the numbering.
    """
    files = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    if not files:
        raise DecodeError(f"the folder {folder.name} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    files.sort(key=lambda p: natural_key(p.name))
    _check_numbering(files)
    return files


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key under which numbers in names compare as numbers."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part), part) if part.isdigit() else (1, 0, part) for part in parts)


def _check_numbering(files: list[Path]) -> None:
    found = [re.search(r"(\d+)$", p.stem) for p in files]
    if len(files) < 2 or not all(found):
        return
    numbers = [int(match.group(1)) for match in found if match]
    steps = [b - a for a, b in pairwise(numbers)]
    step = min((s for s in steps if s > 0), default=1)
    for (before, after), gap in zip(pairwise(files), steps, strict=True):
        if gap == 0:
            raise DecodeError(f"{before.name} and {after.name} are the same frame number")
        if gap != step:
            raise DecodeError(f"a frame is missing between {before.name} and {after.name}")


def source_fingerprint(path: Path, *, tick: Tick = quiet) -> str:
    """Size and sha256 of the first, middle and last MiB, as `<bytes>-<64 hex>`.

    For a folder: names and sizes of its images, and the same parts of its first, middle and last image.

    Raises:
        MissingArtifactError, DecodeError: as `probe`.
        VadError: the file cannot be read.
    """
    check_source(path)
    try:
        return _fingerprint_folder(path) if path.is_dir() else _fingerprint_file(path, tick)
    except OSError as error:
        raise VadError(f"cannot read {path}: {plain(error)}") from error


def _fingerprint_file(path: Path, tick: Tick) -> str:
    digest = hashlib.sha256()
    size = _hash_parts(path, digest, tick)
    return f"{size}-{digest.hexdigest()}"


def _fingerprint_folder(folder: Path) -> str:
    files = list_images(folder)
    digest, total = hashlib.sha256(), 0
    for file in files:
        size = file.stat().st_size
        total += size
        digest.update(f"{file.name}\0{size}\0".encode())
    for file in (files[0], files[len(files) // 2], files[-1]):
        _hash_parts(file, digest, quiet)
    return f"{total}-{digest.hexdigest()}"


def _hash_parts(path: Path, digest: Any, tick: Tick) -> int:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= 3 * MIB:
            digest.update(file.read())
            return size
        for start in (0, (size - MIB) // 2, size - MIB):
            file.seek(start)
            digest.update(file.read(MIB))
            tick()
    return size
