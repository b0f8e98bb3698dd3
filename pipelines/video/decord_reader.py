"""Frames by decord, for the files that it reads exactly as PyAV does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.video.probe import Probe
from pipelines.video.readers import Array, Frame, Reader
from pipelines.video.sources import DecodeError, Tick, quiet

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
    noise = r"\[\d\d:\d\d:\d\d\]|\S+\.cc:\d+:|\[file:[^]]*\]"
    return re.sub(noise, "", lines[0]).strip()[:160] or type(error).__name__
