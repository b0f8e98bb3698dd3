"""Frames in, clips out: the streaming form of `pipelines.spans.clip_frame_indices`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.extraction.jobs import DecodeJob
from pipelines.spans import n_clips
from pipelines.video.decode import Frame

Array = NDArray[np.uint8]


class Sink(Protocol):
    """Where finished clips go, a batch at a time."""

    def acquire(self, clip_shape: tuple[int, ...]) -> Array:
        """An empty batch (B, *clip_shape) to write clips into; may wait until there is room."""

    def commit(self, first_clip: int, count: int) -> None:
        """The first `count` clips of the batch acquired last are complete."""


class ClipCutter:
    """Cuts the frames of one video into clips of `job`, keeping only the wanted positions.

    Memory: one batch of the sink; with overlapping clips also the last `clip_len` frames, and with `pad` the first
    `clip_len`, however long the video is. Frames arrive through `add` in order, then `finish` once.
    """

    def __init__(self, job: DecodeJob, height: int, width: int, sink: Sink) -> None:
        self._job, self._sink = job, sink
        self._shape = (len(job.positions), height, width, 3)
        self._slot_of = {position: k for k, position in enumerate(job.positions)}
        self._residues = {position % job.stride for position in job.positions}
        overlaps = job.stride < job.clip_len
        self._window = np.empty((job.clip_len, height, width, 3), np.uint8) if overlaps else None
        self._head: list[Array] = []
        self._batch: Array | None = None
        self._first = 0  # number of the first clip of the batch
        self._done = 0  # complete clips
        self._count = 0  # frames

    def add(self, frame: Frame) -> None:
        """The next frame."""
        index, job = self._count, self._job
        self._count += 1
        if job.last_clip == "pad" and index < job.clip_len:
            self._head.append(self._copy(frame))
        if self._window is None:
            self._write_through(index, frame)
        elif index % job.stride in self._residues:
            frame.write(self._window[index % job.clip_len])
        start = self._count - job.clip_len
        if start >= 0 and start % job.stride == 0:
            self._complete(start // job.stride)

    def finish(self, last: Frame | None) -> tuple[int, int]:
        """Number of frames and clips, after the last clip was treated as the job asks (`last`: the last frame)."""
        job = self._job
        total = n_clips(self._count, clip_len=job.clip_len, stride=job.stride, last_clip=job.last_clip)
        if total > self._done and last is not None:
            self._fill_last(last)
        self._flush()
        return self._count, total

    def _write_through(self, index: int, frame: Frame) -> None:
        clip, offset = divmod(index, self._job.stride)
        slot = self._slot_of.get(offset)
        if slot is not None:
            frame.write(self._row(clip)[slot])

    def _complete(self, clip: int) -> None:
        if self._window is not None:
            row, start = self._row(clip), clip * self._job.stride
            for slot, position in enumerate(self._job.positions):
                row[slot] = self._window[(start + position) % self._job.clip_len]
        self._done = clip + 1
        if self._batch is not None and self._done - self._first == len(self._batch):
            self._flush()

    def _fill_last(self, last: Frame) -> None:
        clip, job = self._done, self._job
        row, repeated = self._row(clip), self._copy(last)
        for slot, position in enumerate(job.positions):
            index = clip * job.stride + position
            if index >= self._count:
                row[slot] = self._head[index % self._count] if job.last_clip == "pad" else repeated
            elif self._window is not None:
                row[slot] = self._window[index % job.clip_len]
        self._done = clip + 1

    def _row(self, clip: int) -> Array:
        if self._batch is None:
            self._batch, self._first = self._sink.acquire(self._shape), clip
        row: Array = self._batch[clip - self._first]
        return row

    def _flush(self) -> None:
        if self._batch is not None and self._done > self._first:
            self._sink.commit(self._first, self._done - self._first)
        self._batch, self._first = None, self._done

    def _copy(self, frame: Frame) -> Array:
        out = np.empty(self._shape[1:], np.uint8)
        frame.write(out)
        return out
