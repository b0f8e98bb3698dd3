"""Frames by PyAV, packet by packet, so that a damaged middle costs only what is damaged."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.video.probe import Probe, iter_packets, open_container
from pipelines.video.readers import Array, Frame, Reader
from pipelines.video.sources import Tick, quiet


class PyAVReader(Reader):
    """PyAV, packet by packet: a packet that does not decode is counted and skipped, the rest still comes out.

    A change of resolution is scaled to the first frame's size and noted. One thread, so that the same damage gives the
    same frames on every machine.
    """

    name = "pyav"

    def __init__(self, path: Path, facts: Probe, *, tick: Tick = quiet) -> None:
        super().__init__(path, facts, tick=tick)
        self._stack = ExitStack()
        container = self._stack.enter_context(open_container(path))
        self._attach(container.streams.video[0], iter_packets(container, container.streams.video[0]))

    def _attach(self, stream: Any, packets: Iterator[Any]) -> None:
        """Decode `packets` of `stream` from now on."""
        import av
        from av.video.reformatter import VideoReformatter

        self.version = av.__version__
        self.damaged = self.corrupt = 0
        self._errors = (av.error.FFmpegError, ValueError)
        stream.codec_context.thread_count = 1
        self._context, self._packets = stream.codec_context, packets
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
        return PyAVFrame(self, frame)

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
        plane: Any = self._convert.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BICUBIC"
        ).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, : width * 3]
        return np.rot90(rows.reshape(height, width, 3), self.facts.rotation // 90)

    def close(self) -> None:
        self._ready.clear()
        self._stack.close()


class PyAVFrame:
    """One frame; `native` is PyAV's own."""

    __slots__ = ("_reader", "native")

    def __init__(self, reader: PyAVReader, frame: Any) -> None:
        self._reader, self.native = reader, frame

    @property
    def time_s(self) -> float | None:
        """Presentation time in seconds."""
        time = self.native.time
        return None if time is None else float(time)

    def write(self, out: Array) -> None:
        """Convert to RGB into `out`."""
        np.copyto(out, self._reader.rgb(self.native))
