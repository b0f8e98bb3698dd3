"""A small video writer: RGB frames in, a file whose decoded length was checked out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError, VadError, VerificationError

CODECS = ("libx264", "mpeg4")
CRF = 20


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the file, its number of frames and the codec that was available."""

    path: Path
    n_frames: int
    codec: str


def write_video(
    path: Path,
    frames: Iterable[NDArray[np.uint8]],
    *,
    fps: float | Fraction,
    codecs: Sequence[str] = CODECS,
    crf: int = CRF,
) -> Written:
    """Write RGB frames (H, W, 3) uint8, all of one size, at a constant rate; the suffix of `path` names the container.

    `crf` is x264's quality: 0 best, 51 worst. The first encoder of `codecs` that this FFmpeg has is used. The file appears under its name only after it was
    decoded again and its frames counted.

    Raises:
        UsageError: no frames, a frame of another size or type, or none of the encoders is available.
        VerificationError: the file holds another number of frames than was written.
        VadError: FFmpeg refuses.
    """
    codec = first_codec(codecs)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        written = _encode(part, frames, fps=Fraction(fps).limit_denominator(65535), codec=codec, crf=crf)
        decoded = _count_frames(part)
        if decoded != written:
            raise VerificationError(f"{path}: {written} frames were written, {decoded} decode")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return Written(path=path, n_frames=written, codec=codec)


def first_codec(names: Sequence[str]) -> str:
    """The first of `names` that this FFmpeg can encode with.

    Raises:
        UsageError: none of them.
    """
    import av

    for name in names:
        try:
            av.codec.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        return name
    raise UsageError(f"this FFmpeg has none of the encoders {', '.join(names)}")


def _encode(path: Path, frames: Iterable[NDArray[np.uint8]], *, fps: Fraction, codec: str, crf: int) -> int:
    import av

    source = _checked(frames)
    first = next(source, None)
    if first is None:
        raise UsageError(f"{path}: a video needs at least one frame")
    count = 0
    try:
        with av.open(str(path), "w") as container:
            stream = _add_stream(container, first.shape, fps=fps, codec=codec, crf=crf)
            for array in chain((first,), source):
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                frame.pts, frame.time_base = count, 1 / fps
                container.mux(stream.encode(frame))
                count += 1
            container.mux(stream.encode())
    except (av.error.FFmpegError, ValueError) as error:
        raise VadError(f"{path}: {codec} cannot write this video: {error}") from error
    return count


def _checked(frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    shape: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise UsageError(f"frame {index} is {frame.dtype} {frame.shape}; expected uint8 {shape} with 3 channels")
        yield np.ascontiguousarray(frame)


def _add_stream(container: Any, shape: tuple[int, ...], *, fps: Fraction, codec: str, crf: int) -> Any:
    height, width = shape[:2]
    stream = container.add_stream(codec, rate=fps)
    stream.width, stream.height = width, height
    # 4:2:0 needs even sides in x264; 4:4:4 keeps an odd size as it is.
    odd = codec == "libx264" and (width % 2 or height % 2)
    stream.pix_fmt = "yuv444p" if odd else "yuv420p"
    stream.codec_context.thread_count = 1  # the same bytes on every machine
    if codec == "libx264":
        stream.options = {"crf": str(crf), "preset": "veryfast"}
    else:
        stream.options = {"qscale": "3"}
        stream.codec_context.bit_rate = 0
    return stream


def _count_frames(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))
