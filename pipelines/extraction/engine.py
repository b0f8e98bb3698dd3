"""The encoding side of an extraction: threads that cut, batch and encode while the decoder children work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.encoders._base import Encoder
from pipelines.errors import VadError
from pipelines.extraction.batches import Batcher, Piece
from pipelines.extraction.writer import Ticket, Writer

if TYPE_CHECKING:
    from torch import Tensor

# images per call of an encoder: small ones stay in a core's cache, large ones fill a GPU
CPU_IMAGES = 8
GPU_IMAGES = 256
GPU_THREADS = 3  # one copies in, one computes, one copies out and commits
MAX_THREADS = 16


@dataclass(frozen=True, slots=True)
class Stream:
    """A loaded encoder and the crops it sees."""

    encoder: Encoder
    crops: tuple[str, ...]
    positions: tuple[int, ...]
    device: str

    @property
    def batch(self) -> int:
        """Clips per call."""
        images = CPU_IMAGES if self.device == "cpu" else GPU_IMAGES
        return max(1, images // len(self.crops))

    def cut(self, clips: NDArray[np.uint8], positions: Sequence[int]) -> Tensor:
        """clips uint8 (B, P', H, W, 3) at clip positions `positions` -> crops uint8 (B, K, P, h, w, 3) on the device."""
        from pipelines.video.crops import cut

        wanted = [positions.index(p) for p in self.positions]
        chosen = clips if wanted == list(range(clips.shape[1])) else clips[:, wanted]
        how = self.encoder.preprocess
        frames = as_tensor(chosen).to(self.device, non_blocking=True)
        crops = cut(frames, names=self.crops, resize=how.resize, crop_px=how.crop_px, interpolation=how.interpolation)
        # frames that need no resize come back as a view; crops that wait for a full batch must not hold the decoders'
        # shared memory, or both sides wait for each other
        same = crops.untyped_storage().data_ptr() == frames.untyped_storage().data_ptr()
        return crops.clone() if same else crops

    def encode(self, crops: Tensor) -> NDArray[np.float16]:
        """crops (b, K, P, h, w, 3), b <= batch -> (b, K, D) float16.

        A short batch is filled up with copies of its last clip: the arithmetic of a clip is then the same in every
        run, however the clips of a run fall into batches.
        """
        import torch

        count = int(crops.shape[0])
        if count < self.batch:
            crops = torch.cat([crops, crops[-1:].expand(self.batch - count, *crops.shape[1:])])
        return self.encode_as_is(crops)[:count]

    def encode_as_is(self, crops: Tensor) -> NDArray[np.float16]:
        """The same without filling up: equal up to float rounding, and cheaper for a camera's lonely clip."""
        import torch

        with torch.inference_mode():
            vectors = self.encoder.encode(crops).to(torch.float16).cpu()
        return np.asarray(vectors.numpy(), dtype=np.float16)


class Engine:
    """Cuts, batches and encodes clips in threads and hands the vectors to the writer; a context manager.

    On a CPU every thread runs its own small batch on one core: no barriers, so decoder processes and encoding threads
    share the cores without waiting for each other. Work in flight is bounded; `submit` waits, and with it the
    decoders. The first error of a thread is raised by the next call.
    """

    def __init__(self, streams: Mapping[int, Stream], writer: Writer, *, threads: int) -> None:
        self._streams = streams
        self._writer = writer
        self._batchers = {index: Batcher(stream.batch) for index, stream in streams.items()}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        self._most = 2 * threads
        self._running = 0
        self._changed = threading.Condition()
        self._error: BaseException | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __contains__(self, index: object) -> bool:
        return index in self._streams

    def submit(self, ticket: Ticket, first_clip: int, clips: NDArray[np.uint8], positions: Sequence[int]) -> None:
        """Encode clips uint8 (B, P, H, W, 3) of one video for every artefact that wants it."""
        self._start(lambda: self._cut(ticket, first_clip, clips, positions))

    def flush(self) -> None:
        """Encode what waits in unfilled batches; returns when every clip is delivered."""
        self._wait(most=0)
        for index, batcher in self._batchers.items():
            for pieces in batcher.flush():
                self._start(partial(self._encode, index, pieces))
        self._wait(most=0)

    def check(self) -> None:
        """Raise the first error of a thread."""
        if self._error is not None:
            raise self._error

    def _start(self, work: Callable[[], None]) -> None:
        self._wait(most=self._most - 1)
        with self._changed:
            self._running += 1
        self._pool.submit(work).add_done_callback(self._over)

    def _wait(self, *, most: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._running <= most or self._error is not None)
        self.check()

    def _over(self, future: Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        with self._changed:
            self._running -= 1
            self._error = self._error or error
            self._changed.notify_all()

    def _cut(self, ticket: Ticket, first_clip: int, clips: NDArray[np.uint8], positions: Sequence[int]) -> None:
        for index in ticket.targets:
            if index in self._streams:
                crops = self._streams[index].cut(clips, positions)
                for pieces in self._batchers[index].add(Piece(ticket, first_clip, crops)):
                    self._encode(index, pieces)

    def _encode(self, index: int, pieces: Sequence[Piece]) -> None:
        import torch

        crops = torch.cat([piece.crops for piece in pieces]) if len(pieces) > 1 else pieces[0].crops
        try:
            vectors = self._streams[index].encode(crops)
        except torch.OutOfMemoryError as error:
            raise VadError(
                f"{self._streams[index].encoder.name}: out of memory on {self._streams[index].device} "
                f"for crops of shape {tuple(crops.shape)}",
                hint="finished videos are kept; try --device cpu, fewer crops, or --precision bf16",
            ) from error
        start = 0
        for piece in pieces:
            self._writer.deliver(piece.ticket, index, piece.first_clip, vectors[start : start + len(piece)])
            start += len(piece)


class _Alias:
    """The memory of an array without its read-only flag; keeps the array alive."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        self.array = array
        facts = array.__array_interface__
        self.__array_interface__ = {**facts, "data": (facts["data"][0], False)}


def as_tensor(array: NDArray[np.uint8]) -> Tensor:
    """The array as a tensor over the same memory; nobody writes to it.

    Torch warns of read-only memory, which a shared clip buffer is, and has no tensor that could not be written to.
    """
    import torch

    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Alias(array)))


def encode_threads(device: str) -> int:
    """How many threads encode at once."""
    return min(MAX_THREADS, available_cpus()) if device == "cpu" else GPU_THREADS


def decode_workers(device: str) -> int:
    """How many decoder processes: one a core, of which a GPU's threads keep one."""
    cpus = available_cpus()
    return max(1, cpus if device == "cpu" else cpus - 1)


def available_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within the block torch splits one operation over `count` threads; the former number comes back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
