"""A pool of killable decoder processes: jobs in, clips out, and no file can hang, crash or starve the caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType

from pipelines.extraction.jobs import (
    ClipBatch,
    DecodeJob,
    PoolEvent,
    VideoDone,
    VideoFailed,
    VideoRestarted,
)
from pipelines.video.decode import DECODER_POLICY

__all__ = ["ClipBatch", "DecodeJob", "DecodePool", "PoolEvent", "VideoDone", "VideoFailed", "VideoRestarted"]


class DecodePool:
    """Decoder processes behind one iterator of events; a context manager.

    Args:
        workers: number of decoder processes (at least 1), one video each at a time.
        policy: decoders in the order they are tried, joined by `>`; folders of images have their own reader.
        stall_s: seconds without any sign of progress, while the child is supposed to work, after which it is killed.
        memory_mb: resident memory of one child above which it ends itself.
        recycle: videos after which a child is replaced.
    """

    def __init__(
        self,
        workers: int,
        *,
        policy: str = DECODER_POLICY,
        stall_s: float = 60.0,
        memory_mb: int = 3072,
        recycle: int = 200,
    ) -> None:
        self._settings = (workers, policy, stall_s, memory_mb, recycle)

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def run(self, jobs: Iterable[DecodeJob]) -> Iterator[PoolEvent]:
        """Events of all jobs; those of several videos interleave, those of one video come in order.

        A video's events are `ClipBatch*` then `VideoDone`, or any of these followed by `VideoRestarted` (begin again,
        discard what came) or `VideoFailed` (discard what came). `jobs` is read lazily.
        """
        raise RuntimeError("not available yet")

    def close(self) -> None:
        """Kill the children and free the shared memory. Idempotent, at any moment."""
