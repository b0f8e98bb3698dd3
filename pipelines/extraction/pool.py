"""A pool of killable decoder processes: jobs in, clips out, and no file can hang, crash or starve the caller."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from types import TracebackType

from pipelines.errors import UsageError, VadError
from pipelines.extraction.jobs import (
    ClipBatch,
    DecodeJob,
    PoolEvent,
    VideoDone,
    VideoFailed,
    VideoRestarted,
)
from pipelines.extraction.worker import Task, Worker
from pipelines.video.decode import DECODER_POLICY, parse_policy

__all__ = ["ClipBatch", "DecodeJob", "DecodePool", "PoolEvent", "VideoDone", "VideoFailed", "VideoRestarted"]

POLL_S = 0.05
AHEAD = 4  # short videos queued to one child, so that it need not wait for a busy caller between them
AHEAD_BYTES = 32 << 20  # ... and only short ones: a queued long video could not be given to an idle child


class DecodePool:
    """Decoder processes behind one iterator of events; a context manager.

    Each child decodes one video at a time on one thread and writes clips into shared memory with a bounded number of
    slots: a caller that pauses stops the children, and memory stays flat. A child that is silent for `stall_s` while
    it should work, passes `memory_mb`, or dies, is replaced, and its video goes to the policy's next decoder; children
    that are merely stopped or queued behind a slow caller are never judged.

    Args:
        workers: number of decoder processes (at least 1), one video each at a time.
        policy: decoders in the order they are tried, joined by `>`; folders of images have their own reader.
        stall_s: seconds without any sign of progress, while the child is supposed to work, after which it is killed.
        memory_mb: resident memory of one child above which it ends itself.
        recycle: videos after which a child is replaced.

    Raises:
        UsageError: no workers, or an unknown decoder.
    """

    def __init__(
        self,
        workers: int,
        *,
        policy: str = DECODER_POLICY,
        stall_s: float = 60.0,
        memory_mb: int = 3072,
        recycle: int = 500,
    ) -> None:
        if workers < 1:
            raise UsageError(f"{workers} decoder processes", hint="--workers must be at least 1")
        self._warm = parse_policy(policy)
        self._size, self._policy, self._stall_s = workers, policy, stall_s
        self._memory_mb, self._recycle = memory_mb, recycle
        self._workers: list[Worker] = []
        self._next_job: DecodeJob | None = None  # pulled, but no child had room yet
        self._looked = time.monotonic()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the children that exist now."""
        return tuple(worker.pid for worker in self._workers)

    def run(self, jobs: Iterable[DecodeJob]) -> Iterator[PoolEvent]:
        """Events of all jobs; those of several videos interleave, those of one video come in order.

        A video's events are `ClipBatch*` then `VideoDone`, or any of these followed by `VideoRestarted` (begin again,
        discard what came) or `VideoFailed` (discard what came). `jobs` is read lazily. One run at a time; a run that
        is left early ends its children, and the pool can be used again.

        Raises:
            VadError: the children cannot be started at all.
        """
        source = iter(jobs)
        self._looked = time.monotonic()
        try:
            while self._assign(source):
                yield from self._step()
        finally:
            self._next_job = None
            for worker in [w for w in self._workers if w.queue]:
                self._drop(worker)

    def close(self) -> None:
        """Kill the children and free the shared memory. Idempotent, at any moment."""
        for worker in list(self._workers):
            self._drop(worker)

    # Handing out

    def _assign(self, source: Iterator[DecodeJob]) -> bool:
        """Give every child work, one round after the other; whether anything is left to wait for."""
        for depth in range(AHEAD):
            while self._next_job is not None or self._pull(source):
                worker = self._shortest_queue(depth)
                if worker is None or self._next_job is None:
                    break
                worker.submit(Task.of(self._next_job, self._policy))
                self._next_job = None
        return any(worker.queue for worker in self._workers)

    def _pull(self, source: Iterator[DecodeJob]) -> bool:
        self._next_job = next(source, None)
        return self._next_job is not None

    def _shortest_queue(self, depth: int) -> Worker | None:
        """A child whose queue is `depth` long and may grow; started where there are too few."""
        for worker in [w for w in self._workers if not w.queue and (w.retiring or not w.alive)]:
            self._drop(worker)
        for worker in self._workers:
            worker.retiring |= worker.served + len(worker.queue) >= self._recycle
        active = [worker for worker in self._workers if not worker.retiring]
        if depth == 0 and len(active) < self._size and all(worker.queue for worker in active):
            return self._spawn()
        fitting = (w for w in active if len(w.queue) == depth and (depth == 0 or w.queued_bytes < AHEAD_BYTES))
        return next(fitting, None)

    def _spawn(self) -> Worker:
        worker = Worker(memory_mb=self._memory_mb, warm=self._warm)
        self._workers.append(worker)
        return worker

    def _drop(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.end()

    # Listening

    def _step(self) -> Iterator[PoolEvent]:
        """One look at every child that has work."""
        busy = {worker.conn: worker for worker in self._workers if worker.queue}
        heard = wait(list(busy), timeout=POLL_S)
        for conn in heard:
            yield from self._hear(busy[conn])  # type: ignore[index]
        now = time.monotonic()
        elapsed, self._looked = now - self._looked, now
        for worker in [w for c, w in busy.items() if c not in heard and w in self._workers]:
            worker.wake()
            if worker.is_stalled(elapsed, self._stall_s):
                yield from self._replace(worker, f"the decoder made no progress for {self._stall_s:g} s and was killed")

    def _hear(self, worker: Worker) -> Iterator[PoolEvent]:
        try:
            message = worker.receive()
        except EOFError:
            yield from self._replace(worker, None)
            return
        kind = message.pop("kind")
        if kind == "clips":
            clips = worker.clips(message["slot"], message["shape"])
            yield ClipBatch(message["video_id"], message["first_clip"], clips)
        elif kind == "done":
            worker.queue.popleft()
            worker.served += 1
            yield VideoDone(**{**message, "notes": tuple(message["notes"])})
        elif kind == "failed":
            worker.served += 1
            yield self._next_decoder(worker, worker.queue.popleft(), message["reason"], final=message["final"])
        elif kind == "ready":
            worker.ready = True

    def _replace(self, worker: Worker, reason: str | None) -> Iterator[PoolEvent]:
        """End a child, put another in its place, and go on with its tasks."""
        self._workers.remove(worker)
        cause = worker.end()
        if not worker.ready:
            raise VadError(f"decoder processes do not start: {cause}", hint="`vad doctor` tests the decoders")
        successor = self._spawn()
        task = worker.queue.popleft()
        for waiting in worker.queue:
            successor.submit(waiting)
        yield self._next_decoder(successor, task, reason or cause, final=False)

    def _next_decoder(self, worker: Worker, task: Task, reason: str, *, final: bool) -> PoolEvent:
        task.reasons.append(f"{reason} ({task.decoder})")
        if final:
            return VideoFailed(task.job.video_id, reason, None)
        if task.is_last:
            return VideoFailed(task.job.video_id, "; ".join(reversed(task.reasons)), task.decoder)
        failed, task.attempt = task.decoder, task.attempt + 1
        worker.submit(task)
        return VideoRestarted(task.job.video_id, failed, reason)
