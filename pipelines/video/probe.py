"""What a video source says of itself: container facts, frame counts, and whether the file is all there."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.video.sources import DecodeError, Tick, check_source, list_images, plain, quiet

# Demuxers that turn a text file into requests for other files, or its letters into pictures.
REFUSED_FORMATS = frozenset({"hls", "concat", "dash", "sdp", "rtsp", "rtp", "imf", "tty", "ffmetadata", "lavfi"})


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
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    scan = _Scan(path, tick)
    for packet in iter_packets(container, stream):
        scan.add(packet)
    first = scan.first
    if first is None:
        raise DecodeError(f"no frame of {path.name} can be decoded (0 of {scan.shown})")
    fps = _rate(stream, scan)
    header = int(stream.frames) or None
    duration = float(container.duration / 1e6) if container.duration else 0.0
    claimed = header or round(duration * (fps or 0))
    cut = claimed > scan.total and is_cut(path, stream)
    rotation = int(first.rotation) % 360
    width, height = (first.height, first.width) if rotation in (90, 270) else (first.width, first.height)
    return Probe(
        fps=fps,
        width=width,
        height=height,
        duration_s=scan.shown_ticks * float(stream.time_base or 0) or None,
        expected_frames=claimed if cut else scan.shown,
        rotation=rotation,
        codec=stream.codec_context.name,
        pix_fmt=first.format.name,
        header_frames=header,
        notes=_notes(scan, claimed, header=header, cut=cut),
    )


def _notes(scan: _Scan, claimed: int, *, header: int | None, cut: bool) -> tuple[str, ...]:
    notes = []
    if scan.total > scan.shown:
        notes.append(f"the edit list hides {scan.total - scan.shown} of {scan.total} frames")
    if cut:
        notes.append(f"the file is cut off: {scan.total} of {claimed} frames are there")
    elif header and header != scan.total:
        notes.append(f"the header counts {header} frames, {scan.total} are shown")
    elif not header and claimed > 1.1 * scan.total + 25:
        notes.append(f"the header's duration makes {claimed} frames, the file holds {scan.total}")
    return tuple(notes)


class _Scan:
    """What a pass over the packets finds: how many there are, how many are shown, when, and the first frame."""

    def __init__(self, path: Path, tick: Tick) -> None:
        self._path, self._tick, self._bytes = path, tick, path.stat().st_size
        self.total = self.shown = 0
        self.first: Any = None
        self._low: int | None = None
        self._high = self._length = 0

    def add(self, packet: Any) -> None:
        """Count one packet; decode it as long as no frame has come out."""
        if self.first is None:
            self.first = _first_frame(packet)
        if not packet.size:
            return
        self.total += 1
        if self.total % 512 == 0:
            self._tick()
        if self.total > self._bytes:  # a frame takes at least a byte
            raise DecodeError(f"the index of {self._path.name} claims more frames than the file has bytes")
        if not packet.is_discard:
            self.shown += 1
            self._add_time(packet)

    def _add_time(self, packet: Any) -> None:
        if packet.pts is None:
            return
        if self._low is None or packet.pts < self._low:
            self._low = packet.pts
        if packet.pts >= self._high:
            self._high, self._length = packet.pts, packet.duration or self._length

    @property
    def span_ticks(self) -> int:
        """From the first shown frame's time to the last one's, in units of the stream's time base."""
        return 0 if self._low is None else self._high - self._low

    @property
    def shown_ticks(self) -> int:
        """The same with the last frame's own duration."""
        return 0 if self._low is None else self.span_ticks + self._length


def _first_frame(packet: Any) -> Any:
    import av

    try:
        return next(iter(packet.decode()), None)
    except (av.error.FFmpegError, ValueError):
        return None


def _rate(stream: Any, scan: _Scan) -> float | None:
    for value in (stream.average_rate, stream.guessed_rate):
        if value and 0 < value <= 1000:
            return float(value)
    span_s = scan.span_ticks * float(stream.time_base or 0)
    return (scan.shown - 1) / span_s if scan.shown > 1 and span_s > 0 else None


def is_cut(path: Path, stream: Any) -> bool:
    """Whether the file itself proves that its end is missing.

    An index entry, the outer RIFF chunk (AVI) or the Segment (Matroska) reaches past the end of the file. Transport
    streams and raw streams prove nothing: what is there counts.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(256)
    if head[:4] == b"RIFF":
        return bool(struct.unpack_from("<I", head, 4)[0] + 8 > size)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska_end(head) > size
    return any(entry.pos + entry.size > size for entry in stream.index_entries)


def _matroska_end(head: bytes) -> int:
    """Where the Segment ends by its own size, or 0 where that is unknown (live recordings) or not found."""
    start = head.find(b"\x18\x53\x80\x67") + 4
    if start < 4 or start >= len(head) or not head[start]:
        return 0
    length = 9 - head[start].bit_length()
    value = int.from_bytes(head[start : start + length], "big") & ((1 << 7 * length) - 1)
    return 0 if value == (1 << 7 * length) - 1 else start + length + value


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
