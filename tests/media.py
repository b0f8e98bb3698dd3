"""Small videos whose every frame says its own number, and every kind of bad file, written with PyAV.

A frame carries its number as 12 black or white blocks in its upper half, so that a test can tell which source frame it
looks at whatever the codec did to it. The decoders at the end misbehave on purpose; name them in a decoder policy as
`tests.media:Hangs`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from pipelines.video.pyav_reader import PyAVReader

Array = NDArray[np.uint8]
BITS = 12


def coded_frame(number: int, *, width: int = 64, height: int = 48) -> Array:
    """An RGB frame (H, W, 3) that carries `number` (0 to 4095) above a moving square."""
    frame = np.full((height, width, 3), 90, np.uint8)
    rows, columns = height // 4, width // 6
    for bit in range(BITS):
        row, column = divmod(bit, 6)
        value = 235 if number >> bit & 1 else 20
        frame[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = value
    left, top = (number * 3) % (width - 8), height // 2 + number % max(1, height // 2 - 8)
    frame[top : top + 8, left : left + 8] = (220, 120, 40)
    return frame


def number_of(frame: Array) -> int:
    """The number that a decoded frame carries."""
    rows, columns = frame.shape[0] // 4, frame.shape[1] // 6
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 6)
        top, left = row * rows + rows // 4, column * columns + columns // 4
        block = frame[top : top + max(1, rows // 2), left : left + max(1, columns // 2)]
        number |= int(block.mean() > 128) << bit
    return number


def numbers_of(frames: Array) -> list[int]:
    """The numbers of frames (..., H, W, 3), flat."""
    return [number_of(frame) for frame in frames.reshape(-1, *frames.shape[-3:])]


def coded_frames(count: int, *, width: int = 64, height: int = 48, first: int = 0) -> Iterator[Array]:
    """`count` frames with successive numbers."""
    return (coded_frame(first + k, width=width, height=height) for k in range(count))


def write_coded(
    path: Path,
    count: int = 30,
    *,
    width: int = 64,
    height: int = 48,
    first: int = 0,
    fps: Fraction | int = 12,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    pts: Callable[[int], int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video of coded frames. `pts` gives each frame's time in units of 1/fps (default: its number from 0)."""
    base = 1 / Fraction(fps)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options or {"g": "12", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        for index, array in enumerate(coded_frames(count, width=width, height=height, first=first)):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = (pts(index) if pts else index), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# Bad and odd files


def zero_bytes(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text_file(path: Path) -> Path:
    path.write_text("this is not a video\n" * 50)
    return path


def playlist(path: Path, target: Path) -> Path:
    """An HLS playlist under a video's name; FFmpeg would follow it to `target`."""
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n")
    return path


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for index in range(20):
            frame.pts = index * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def truncated(path: Path, *, keep: float = 0.5, count: int = 120) -> Path:
    """An mp4 with its index first and its data cut off."""
    write_coded(path, count, options={"g": "12", "crf": "10"}, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def no_index(path: Path) -> Path:
    """An mp4 cut off before its index, which comes last."""
    data = write_coded(path, 60).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def corrupt_middle(path: Path, *, count: int = 240, share: float = 0.08, seed: int = 0) -> Path:
    """Random bytes over a stretch in the middle; the index stays whole."""
    write_coded(path, count, options={"g": "12", "crf": "10"}, container_options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    start, length = len(data) // 2, int(len(data) * share)
    data[start : start + length] = np.random.default_rng(seed).bytes(length)
    path.write_bytes(bytes(data))
    return path


def header_lies(path: Path, *, count: int = 68, claimed: int = 444) -> Path:
    """An AVI whose headers claim more frames than it holds."""
    data = bytearray(write_coded(path, count, codec="mpeg4", options={}).read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, claimed)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, claimed)
    path.write_bytes(bytes(data))
    return path


def edit_list(path: Path, *, count: int = 60, skip: int = 12, shown: int = 36) -> Path:
    """An mp4 whose edit list shows frames [skip, skip + shown) of `count`."""
    write_coded(path, count, options={"g": "12", "bf": "0", "crf": "18"}, container_options={"movie_timescale": "1200"})
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 4 + 4 + 4  # behind type, version and flags, count
    media_scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 4 + 12)[0]
    movie_scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 4 + 12)[0]
    struct.pack_into(">I", data, entry, shown * movie_scale // 12)
    struct.pack_into(">i", data, entry + 4, skip * media_scale // 12)
    path.write_bytes(bytes(data))
    return path


def variable_rate(path: Path, *, count: int = 40) -> Path:
    """Frames at 0, 1, 2, ..., each third gap three times as long (units of 1/12 s)."""
    return write_coded(path, count, pts=variable_pts)


def variable_pts(index: int) -> int:
    """Presentation time of a frame of `variable_rate` in units of 1/12 s."""
    return index + 2 * (index // 3)


def changing_size(path: Path, *, count: int = 24) -> Path:
    """A transport stream whose second half has another resolution; frames are numbered through."""
    first, second = path.with_name("a.ts"), path.with_name("b.ts")
    write_coded(first, count // 2, width=96, height=64)
    write_coded(second, count // 2, width=64, height=48, first=count // 2)
    path.write_bytes(first.read_bytes() + second.read_bytes())
    return path


def image_folder(folder: Path, numbers: Sequence[int] = range(20), *, width: int = 64, height: int = 48) -> Path:
    """A folder of PNG frames `<number>.png`, each carrying its number."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(coded_frame(number, width=width, height=height)).save(folder / f"{number}.png")
    return folder


def mangle(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One way of damaging a file: flip bytes, cut its end, drop or overwrite a stretch, splice in another file."""
    out = bytearray(data)
    way = int(rng.integers(5))
    start, length = int(rng.integers(len(out))), int(rng.integers(1, max(2, len(out) // 4)))
    if way == 0:
        for at in rng.integers(len(out), size=int(rng.integers(1, 60))):
            out[at] = int(rng.integers(256))
    elif way == 1:
        del out[start:]
    elif way == 2:
        del out[start : start + length]
    elif way == 3:
        out[start : start + length] = rng.bytes(length)
    else:
        at = int(rng.integers(len(other)))
        out[start : start + length] = other[at : at + length]
    return bytes(out)


# Decoders that misbehave, from their 10th frame on


class _Misbehaves(PyAVReader):
    name = "misbehaves"

    def _next(self) -> Any:
        if self.decoded == 10:
            self._misbehave()
        return super()._next()

    def _misbehave(self) -> None:
        raise NotImplementedError


class Hangs(_Misbehaves):
    """Sleeps in native code with the interpreter locked, as a stuck library does."""

    def _misbehave(self) -> None:
        ctypes.PyDLL(None).sleep(3600)


class Crashes(_Misbehaves):
    """Dies of a segmentation fault."""

    def _misbehave(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Exits(_Misbehaves):
    """Ends the process, saying why on stderr."""

    def _misbehave(self) -> None:
        os.write(2, b"native assertion failed: x > 0\n")
        os._exit(3)


class Bloats(_Misbehaves):
    """Takes more and more memory."""

    def _misbehave(self) -> None:
        kept = []
        while True:
            kept.append(np.ones(8 << 20, np.uint8))
            time.sleep(0.002)


class Slow(PyAVReader):
    """Needs a fifth of a second for each frame, but does go on."""

    name = "slow"

    def _next(self) -> Any:
        time.sleep(0.2)
        return super()._next()


class Gives3(PyAVReader):
    """Stops after three frames without an error."""

    name = "gives-3"

    def _next(self) -> Any:
        return super()._next() if self.decoded < 3 else None
