"""The frame readers behind one interface: decord, PyAV packet by packet, folders of images.

Frames come in presentation order at native size, rotation applied. Converting a frame to RGB is left to
`Frame.write`, so that frames nobody wants cost no conversion and wanted ones are copied once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.video.probe import DecodeError, Probe, Tick, iter_packets, list_images, open_container, plain, quiet

Array = NDArray[np.uint8]


class Frame(Protocol):
    """One decoded frame; stays valid until its reader is closed."""

    @property
    def time_s(self) -> float | None:
        """Presentation time in seconds, or None where unknown."""

    def write(self, out: Array) -> None:
        """Convert to RGB into `out`, uint8 (H, W, 3)."""


class Reader(ABC):
    """The frames of one source, once and in order.

    `decoded` counts what `read` returned; `height`, `width` are the size of every frame; `notes` say what a user
    should know of the result. Closing is idempotent.
    """

    name: str
    version: str

    def __init__(self, path: Path, facts: Probe, *, tick: Tick = quiet) -> None:
        self.path, self.facts, self.tick = path, facts, tick
        self.height, self.width = facts.height, facts.width
        self.decoded = 0
        self.notes: list[str] = list(facts.notes)

    def read(self) -> Frame | None:
        """The next frame, or None at the end.

        Raises:
            DecodeError: this decoder cannot go on.
        """
        frame = self._next()
        self.decoded += frame is not None
        self.tick()
        return frame

    @abstractmethod
    def _next(self) -> Frame | None: ...

    @abstractmethod
    def close(self) -> None:
        """Free the decoder."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class PyAVReader(Reader):
    """PyAV, packet by packet: a packet that does not decode is counted and skipped, the rest still comes out.

    A change of resolution is scaled to the first frame's size and noted. One thread, so that the same damage gives the
    same frames on every machine.
    """

    name = "pyav"

    def __init__(self, path: Path, facts: Probe, *, tick: Tick = quiet) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        super().__init__(path, facts, tick=tick)
        self.version = av.__version__
        self.damaged = self.corrupt = 0
        self._errors = (av.error.FFmpegError, ValueError)
        self._stack = ExitStack()
        container = self._stack.enter_context(open_container(path))
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        self._context = stream.codec_context
        self._packets = iter_packets(container, stream)
        self._ready: deque[Any] = deque()
        self._flushed = self._resized = False
        self._convert = VideoReformatter()

    def _next(self) -> Frame | None:
        while not self._ready:
            packet = next(self._packets, None)
            if packet is None and self._flushed:
                self._note_damage()
                return None
            self._decode(packet)
        frame = self._ready.popleft()
        self.corrupt += bool(frame.is_corrupt)
        self._note_size(frame)
        return _PyAVFrame(self, frame)

    def _decode(self, packet: Any) -> None:
        if packet is None or not packet.size:
            self._flushed = True
        try:
            self._ready.extend(self._context.decode(packet))
        except self._errors:
            self.damaged += 1

    def _note_size(self, frame: Any) -> None:
        native = (self.height, self.width) if self.facts.rotation in (90, 270) else (self.width, self.height)
        if not self._resized and (frame.width, frame.height) != native:
            self._resized = True
            self.notes.append(
                f"the resolution changes to {frame.width}x{frame.height} at frame {self.decoded}; "
                f"scaled to the first, {native[0]}x{native[1]}"
            )

    def _note_damage(self) -> None:
        if self.damaged:
            self.notes.append(f"{self.damaged} damaged packets were skipped")
        if self.corrupt:
            self.notes.append(f"{self.corrupt} frames are marked as damaged by the decoder")
        self.damaged = self.corrupt = 0

    def rgb(self, frame: Any) -> Array:
        """View of the frame as RGB, rotated, (H, W, 3); valid while the result lives."""
        turned = self.facts.rotation in (90, 270)
        width, height = (self.height, self.width) if turned else (self.width, self.height)
        plane: Any = self._convert.reformat(frame, width=width, height=height, format="rgb24").planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, : width * 3]
        return np.rot90(rows.reshape(height, width, 3), self.facts.rotation // 90)

    def close(self) -> None:
        self._ready.clear()
        self._stack.close()


class _PyAVFrame:
    __slots__ = ("_frame", "_reader")

    def __init__(self, reader: PyAVReader, frame: Any) -> None:
        self._reader, self._frame = reader, frame

    @property
    def time_s(self) -> float | None:
        time = self._frame.time
        return None if time is None else float(time)

    def write(self, out: Array) -> None:
        np.copyto(out, self._reader.rgb(self._frame))


# Where decord's pixels were found equal to PyAV's: 8 bit planar YUV whose chroma needs no odd-sized rounding.
DECORD_FORMATS = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p"})


class DecordReader(Reader):
    """decord, read sequentially; it declines what it is known to get wrong, so that the policy's next decoder does it.

    Declined: rotated videos (its rows are skewed), pixel formats and odd sizes that it converts in its own way, and
    files of which it counts another number of frames than the container shows (edit lists). Any frame that it would
    fill in for a damaged one is an error.
    """

    name = "decord"

    def __init__(self, path: Path, facts: Probe, *, tick: Tick = quiet) -> None:
        super().__init__(path, facts, tick=tick)
        self._decline(facts)
        import decord

        self.version = decord.__version__
        self._errors = (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, AssertionError)
        decord.logging.set_level(decord.logging.QUIET)
        try:
            # A tolerance that no count is below: a single frame made up for a damaged one is an error.
            self._reader = decord.VideoReader(f"file:{path}", ctx=decord.cpu(0), num_threads=1, fault_tol=1e-9)
        except self._errors as error:
            raise DecodeError(f"decord cannot open it: {_decord_words(error)}") from error
        self._count = len(self._reader)
        if self._count != facts.expected_frames:
            raise DecodeError(f"decord counts {self._count} frames, the container shows {facts.expected_frames}")

    @staticmethod
    def _decline(facts: Probe) -> None:
        if facts.rotation:
            raise DecodeError(f"decord does not rotate by {facts.rotation} degrees reliably")
        odd = facts.width % 2 or facts.height % 2
        if facts.pix_fmt not in DECORD_FORMATS or (odd and "444" not in facts.pix_fmt):
            raise DecodeError(f"decord converts {facts.pix_fmt} {facts.width}x{facts.height} in its own way")

    def _next(self) -> Frame | None:
        if self._reader is None or self.decoded >= self._count:
            return None
        try:
            array = self._reader.next()
        except StopIteration:
            raise DecodeError(f"decord stops after {self.decoded} of {self._count} frames") from None
        except self._errors as error:
            raise DecodeError(f"decord fails at frame {self.decoded}: {_decord_words(error)}") from error
        if tuple(array.shape) != (self.height, self.width, 3):
            raise DecodeError(f"decord gives frame {self.decoded} the shape {tuple(array.shape)}")
        return _DecordFrame(self, self.decoded, array)

    def time_s(self, index: int) -> float:
        """Presentation time of frame `index` in seconds."""
        return float(self._reader.get_frame_timestamp(index)[0])

    def close(self) -> None:
        self._reader = None


class _DecordFrame:
    __slots__ = ("_array", "_index", "_reader")

    def __init__(self, reader: DecordReader, index: int, array: Any) -> None:
        self._reader, self._index, self._array = reader, index, array

    @property
    def time_s(self) -> float | None:
        return self._reader.time_s(self._index)

    def write(self, out: Array) -> None:
        np.copyto(out, np.from_dlpack(_DLPack(self._array)))


class _DLPack:
    """decord's array under numpy's exchange protocol (CPU), so that its memory is read without a copy."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **_: Any) -> Any:
        return self._array.to_dlpack()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def _decord_words(error: BaseException) -> str:
    """decord's message without the C++ file, the path and the stack."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rpartition("] ")[2].rpartition("]")[2].strip()[:160] or type(error).__name__


class ImagesReader(Reader):
    """A folder of images in natural order; one size throughout.

    16-bit gray is brought to 8 bit by dropping the low byte; transparency is dropped; EXIF orientation is applied.
    """

    name = "images"

    def __init__(self, path: Path, facts: Probe, *, tick: Tick = quiet) -> None:
        import PIL

        super().__init__(path, facts, tick=tick)
        self.version = PIL.__version__
        self._files = list_images(path)

    def _next(self) -> Frame | None:
        if self.decoded >= len(self._files):
            return None
        return _ImageFrame(self._files[self.decoded], (self.height, self.width))

    def close(self) -> None:
        self._files = []


class _ImageFrame:
    __slots__ = ("_pixels",)

    time_s = None

    def __init__(self, file: Path, size: tuple[int, int]) -> None:
        # Decoded here, wanted or not: a broken file must not depend on which frames are wanted.
        self._pixels = _read_image(file)
        if self._pixels.shape[:2] != size:
            got, want = self._pixels.shape, f"{size[1]}x{size[0]}"
            raise DecodeError(f"{file.name} is {got[1]}x{got[0]}, the frames before it are {want}")

    def write(self, out: Array) -> None:
        np.copyto(out, self._pixels)


def _read_image(file: Path) -> Array:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                high = (np.asarray(upright).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(high[:, :, None], 3, axis=2)
            return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{file.name} is not an image that can be read: {plain(error)}") from error


class Resampled:
    """Frames of a reader at another rate: output frame j is the source frame nearest to time j / fps.

    Time counts from the first frame; a tie takes the earlier frame; the last frame is shown for one source frame
    duration. `count` is what came out so far.

    Raises:
        DecodeError: the source has no times.
    """

    def __init__(self, reader: Reader, fps: float) -> None:
        self._reader, self._fps = reader, fps
        self.count = 0

    def __iter__(self) -> Iterator[Frame]:
        before: Frame | None = None
        origin = time = step = 0.0
        for frame in self._reader:
            now = self._time(frame)
            if before is None:
                origin, now = now, 0.0
            else:
                now -= origin
                step = max(now - time, 0.0)
                yield from self._repeat(before, until=(time + now) / 2, inclusive=True)
            before, time = frame, now
        if before is not None:
            rate = self._reader.facts.fps
            end = time + (1 / rate if rate else step)
            yield from self._repeat(before, until=end, inclusive=False)

    def _repeat(self, frame: Frame, *, until: float, inclusive: bool) -> Iterator[Frame]:
        slack = 1e-6 if inclusive else -1e-6  # times are ratios of integers: a tie must not hang on rounding
        while self.count == 0 or self.count / self._fps < until + slack:
            self.count += 1
            yield frame

    def _time(self, frame: Frame) -> float:
        time = frame.time_s
        if time is None:
            raise DecodeError(f"{self._reader.path.name} has no frame times: it cannot be resampled to {self._fps} fps")
        return time
