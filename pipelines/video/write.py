"""A small video writer: RGB frames in, a file whose decoded length was checked out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
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

    `crf` is x264's quality: 0 best, 51 worst. The first encoder of `codecs` that this FFmpeg has is used. The file
    appears under its name only after it was decoded again and its frames counted.

    Raises:
        UsageError: no frames, a frame of another size or type, or none of the encoders is available.
        VerificationError: the file holds another number of frames than was written.
        VadError: FFmpeg refuses.
    """
    with VideoWriter(path, fps=fps, codecs=codecs, crf=crf) as writer:
        for frame in frames:
            writer.add(frame)
    return Written(path=path, n_frames=writer.n_frames, codec=writer.codec)


class VideoWriter:
    """The same a frame at a time; a context manager. Leaving it by an error leaves no file and keeps the old one.

    Args:
        path, fps, codecs, crf: as in `write_video`.
        options: of the container; fragments (`movflags`) make a file whose written part plays if the process dies.

    Raises:
        UsageError: none of the encoders is available.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: float | Fraction,
        codecs: Sequence[str] = CODECS,
        crf: int = CRF,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.codec, self.n_frames = path, first_codec(codecs), 0
        self.part = path.with_name(f".part-{os.getpid()}-{path.name}")
        self._fps = Fraction(fps).limit_denominator(65535)
        self._crf = crf
        self._options = dict(options or {})
        self._container: Any = None
        self._stream: Any = None
        self._shape: tuple[int, ...] = ()

    def add(self, array: NDArray[np.uint8]) -> None:
        """The next frame, (H, W, 3) uint8 of the first one's size.

        Raises:
            UsageError, VadError: as `write_video`.
        """
        import av

        self._check(array)
        try:
            if self._container is None:
                self._open()
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            frame.pts, frame.time_base = self.n_frames, 1 / self._fps
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, ValueError) as error:
            raise self._refused(error) from error
        self.n_frames += 1

    def close(self) -> None:
        """Finish the file, count its frames and give it its name.

        Raises:
            UsageError: no frame was added.
            VerificationError, VadError: as `write_video`.
        """
        import av

        if self._container is None:
            raise UsageError(f"{self.path}: a video needs at least one frame")
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        except (av.error.FFmpegError, ValueError) as error:
            raise self._refused(error) from error
        decoded = _count_frames(self.part)
        if decoded != self.n_frames:
            raise VerificationError(f"{self.path}: {self.n_frames} frames were written, {decoded} decode")
        os.replace(self.part, self.path)

    def abort(self) -> None:
        """Leave no trace of what was added."""
        if self._container is not None:
            self._container.close()
        self.part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abort()

    def _open(self) -> None:
        import av

        self._container = av.open(str(self.part), "w", options=self._options)
        self._stream = _add_stream(self._container, self._shape, fps=self._fps, codec=self.codec, crf=self._crf)

    def _check(self, frame: NDArray[np.uint8]) -> None:
        shape = self._shape = self._shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise UsageError(
                f"frame {self.n_frames} is {frame.dtype} {frame.shape}; expected uint8 {shape} with 3 channels"
            )

    def _refused(self, error: Exception) -> VadError:
        return VadError(f"{self.path}: {self.codec} cannot write this video: {error}")


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
