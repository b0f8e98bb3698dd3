"""What a video source is, before its frames are wanted: container facts, folders of images, fingerprints."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.errors import MissingArtifactError, VadError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".webp"})
# Demuxers that turn a text file into requests for other files, or its letters into pictures.
REFUSED_FORMATS = frozenset({"hls", "concat", "dash", "sdp", "rtsp", "rtp", "imf", "tty", "ffmetadata", "lavfi"})
MIB = 1 << 20

Tick = Callable[[], None]


class DecodeError(VadError):
    """A video that cannot be decoded, in plain words."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a source says of itself; only its first frame was decoded.

    `fps` is None where unknown (folders of images); `width`, `height` are of the first frame, after rotation;
    `expected_frames` counts the demuxed packets that are shown (edit lists considered), or the index's entries where
    the file ends before its index does; `header_frames` is the header's own claim, or None; `rotation` is what the
    display asks for, counter-clockwise in degrees (0, 90, 180, 270); `codec` is FFmpeg's name, or "images";
    `duration_s` is of what is shown.
    """

    fps: float | None
    width: int
    height: int
    duration_s: float | None
    expected_frames: int
    rotation: int
    codec: str
    pix_fmt: str
    header_frames: int | None = None
    notes: tuple[str, ...] = ()


def quiet() -> None:
    """No tick."""


def probe(path: Path, *, tick: Tick = quiet) -> Probe:
    """What `path` (a video file or a folder of images) holds; reads every packet and decodes one frame.

    `tick` is called now and then, as a sign of life.

    Raises:
        MissingArtifactError: there is no such file.
        DecodeError: it is empty, no video, has no video stream, or none of its frames decodes.
    """
    check_source(path)
    if path.is_dir():
        return _probe_images(path)
    with open_container(path) as container:
        return _probe_container(container, path, tick)


def check_source(path: Path) -> None:
    """`path` exists and is not empty.

    Raises:
        MissingArtifactError, DecodeError.
    """
    if not path.exists():
        raise MissingArtifactError(f"there is no file {path}", hint="`vad data check` lists what is missing")
    if path.is_file() and path.stat().st_size == 0:
        raise DecodeError(f"{path.name} is empty (0 bytes)")


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """A PyAV container over a plain local file that holds a video stream.

    Raises:
        DecodeError: FFmpeg cannot read it, it is a playlist, or it has no video stream.
    """
    import av

    try:
        # "file:" keeps names with a colon from being read as a protocol.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecodeError(f"{path.name} is not a video that can be read: {plain(error)}") from error
    try:
        if REFUSED_FORMATS & set(container.format.name.split(",")):
            raise DecodeError(f"{path.name} is a {container.format.name} text file, not a video")
        if not container.streams.video:
            raise DecodeError(f"{path.name} has no video stream")
        yield container
    finally:
        container.close()


def plain(error: BaseException) -> str:
    """FFmpeg's message without the error number and the path."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0] if str(text).strip() else type(error).__name__


def iter_packets(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of `stream` that hold data, going on after read errors; ends with the flush packet.

    A damaged container can raise between packets; after 32 errors without a packet the file is taken to have ended.
    """
    import av

    errors = 0
    while errors < 32:
        try:
            for packet in container.demux(stream):
                errors = 0
                yield packet
            return
        except (av.error.FFmpegError, ValueError, OSError):
            errors += 1


def _probe_container(container: Any, path: Path, tick: Tick) -> Probe:
    import av

    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    count, first, times, size, notes = 0, None, _Times(), path.stat().st_size, []
    for packet in iter_packets(container, stream):
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except (av.error.FFmpegError, ValueError):
                first = None
        if packet.size and not packet.is_discard:
            count += 1
            times.add(packet)
            if count > size:  # a frame takes at least a byte
                raise DecodeError(f"the index of {path.name} claims more frames than the file has bytes")
            if count % 512 == 0:
                tick()
    if first is None:
        raise DecodeError(f"no frame of {path.name} can be decoded (0 of {count})")
    header = int(stream.frames) or None
    missing = _entries_past_end(stream, size) if header and header > count else 0
    if header and header != count and not missing:
        notes.append(f"the header claims {header} frames, the container holds {count}")
    if missing:
        notes.append(f"the file ends before its index does: {missing} frames are missing")
    rotation = int(first.rotation) % 360
    width, height = (first.height, first.width) if rotation in (90, 270) else (first.width, first.height)
    base = float(stream.time_base or 0)
    return Probe(
        fps=_rate(stream, count, times.span() * base),
        width=width,
        height=height,
        duration_s=times.end() * base or None,
        expected_frames=count + missing,
        rotation=rotation,
        codec=stream.codec_context.name,
        pix_fmt=first.format.name,
        header_frames=header,
        notes=tuple(notes),
    )


class _Times:
    """First and last presentation time of the shown packets, in units of the stream's time base."""

    def __init__(self) -> None:
        self.low: int | None = None
        self.high = 0
        self.length = 0

    def add(self, packet: Any) -> None:
        if packet.pts is None:
            return
        if self.low is None or packet.pts < self.low:
            self.low = packet.pts
        if packet.pts >= self.high:
            self.high, self.length = packet.pts, packet.duration or self.length

    def span(self) -> int:
        return 0 if self.low is None else self.high - self.low

    def end(self) -> int:
        return 0 if self.low is None else self.high + self.length - self.low


def _rate(stream: Any, count: int, span_s: float) -> float | None:
    for value in (stream.average_rate, stream.guessed_rate):
        if value and 0 < value <= 1000:
            return float(value)
    return (count - 1) / span_s if count > 1 and span_s > 0 else None


def _entries_past_end(stream: Any, size: int) -> int:
    """How many frames of the container's index lie (partly) behind the end of the file."""
    return sum(1 for entry in stream.index_entries if entry.pos + entry.size > size)


# Folders of images


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


def _probe_images(folder: Path) -> Probe:
    from PIL import Image

    files = list_images(folder)
    try:
        with Image.open(files[0]) as image:
            width, height = image.size
            if image.getexif().get(0x0112, 1) >= 5:  # EXIF orientation: lying on its side
                width, height = height, width
    except (OSError, ValueError, SyntaxError) as error:
        raise DecodeError(f"{files[0].name} is not an image that can be read: {plain(error)}") from error
    return Probe(
        fps=None,
        width=width,
        height=height,
        duration_s=None,
        expected_frames=len(files),
        rotation=0,
        codec="images",
        pix_fmt="rgb24",
    )


# Fingerprints


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
