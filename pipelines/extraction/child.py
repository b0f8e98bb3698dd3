"""What a decoder child runs: jobs from a pipe, clips into shared memory. No torch here, so that it starts quickly."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VadError
from pipelines.extraction.clips import ClipCutter
from pipelines.extraction.jobs import MIN_COVERAGE, DecodeJob
from pipelines.extraction.shared import BUSY, Arena, Control, Layout, anonymous_file
from pipelines.video.decode import DecodeError, Probe, Reader, Resampled, open_reader, probe, source_fingerprint

EXIT_MEMORY = 86
STOP_AFTER_S = 0.02  # a child that waits this long stops itself
READ_BYTES_PER_S = 16 << 20  # the slowest disk that a native reader's silent first pass is allowed for


def main(settings: dict[str, Any]) -> None:
    """Serve jobs until the parent closes the pipe or dies.

    `settings`: descriptors `conn`, `life`, `control`; `parent` (its process id); `memory_mb`; `warm`, the decoders to import before the first job.
    """
    # The parent decides what a signal to the group means; a child that died of it would look like a crash.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    control = Control(settings["control"])
    _watch(settings["life"], settings["parent"], settings["memory_mb"])
    _warm_up(settings["warm"])
    conn = Connection(settings["conn"])
    sink = SlotSink(conn, control)
    send(conn, kind="ready")
    while True:
        try:
            task = json.loads(conn.recv_bytes())
        except EOFError:
            return
        os.ftruncate(2, 0)  # what a native library printed belongs to one video
        control.tick()
        _serve(task, conn, control, sink)


def send(conn: Connection, **message: Any) -> None:
    """One message to the other side."""
    conn.send_bytes(json.dumps(message).encode())


def _serve(task: dict[str, Any], conn: Connection, control: Control, sink: SlotSink) -> None:
    job = DecodeJob.from_json(task["job"])
    final = True
    try:
        sink.begin(job.video_id)
        facts = probe(job.path, tick=control.tick)
        source = source_fingerprint(job.path, tick=control.tick)
        final = False  # from here on another decoder may do better
        done = decode_clips(job, task["decoder"], facts, sink, control, accept=task["last"] and job.partial == "keep")
    except (VadError, OSError, ValueError, RuntimeError, ArithmeticError, MemoryError, ImportError) as error:
        reason = str(error) or type(error).__name__
        send(conn, kind="failed", video_id=job.video_id, reason=reason, final=final)
        return
    send(conn, kind="done", video_id=job.video_id, source=source, **done)


def decode_clips(
    job: DecodeJob, decoder: str, facts: Probe, sink: Any, control: Control, *, accept: bool = False
) -> dict[str, Any]:
    """Decode one video into `sink`; the fields of VideoDone but for its id and source.

    Args:
        accept: take what decodes, however little, as long as it is one frame.

    Raises:
        DecodeError: this decoder fails, or the frames that decode differ by more than 2 % from those expected.
    """
    size = job.path.stat().st_size if job.path.is_file() else 0
    control.allowance_s = size // READ_BYTES_PER_S
    with open_reader(job.path, decoder, facts=facts, tick=control.tick) as reader:
        control.allowance_s = 0
        cutter = ClipCutter(job, reader.height, reader.width, sink)
        last = None
        for frame in Resampled(reader, job.fps) if job.fps else reader:
            cutter.add(frame)
            last = frame
        _check_coverage(reader, facts.expected_frames, accept=accept)
        sampled, clips = cutter.finish(last)
        return {
            "n_frames": reader.decoded,
            "n_sampled": sampled,
            "n_clips": clips,
            "expected_frames": facts.expected_frames,
            "fps": facts.fps,
            "width": reader.width,
            "height": reader.height,
            "duration_s": facts.duration_s,
            "decoder": reader.name,
            "decoder_version": reader.version,
            "notes": reader.notes,
        }


def _check_coverage(reader: Reader, expected: int, *, accept: bool) -> None:
    """Frames against the packets that the container shows: a difference is noted, a larger one is an error."""
    if reader.decoded == expected:
        return
    told = f"{reader.decoded} of {expected} frames decoded"
    if reader.decoded > expected:
        told = f"{reader.decoded} frames decoded where the container shows {expected}"
    within = MIN_COVERAGE * expected <= reader.decoded <= expected / MIN_COVERAGE
    if not reader.decoded or not (within or accept):
        raise DecodeError(told)
    reader.notes.append(told)


class SlotSink:
    """Batches in the slots of an arena that the parent maps too.

    With no slot free the child waits, and soon stops itself with SIGSTOP, so that no decoder thread runs ahead and no
    memory grows for as long as the caller pauses; the parent sends SIGCONT when there is room.
    """

    def __init__(self, conn: Connection, control: Control) -> None:
        self._conn, self._control = conn, control
        self._arena: Arena | None = None
        self._slot: int | None = None
        self._shape: tuple[int, ...] = ()
        self._video_id = ""

    def begin(self, video_id: str) -> None:
        """The clips that follow belong to this video."""
        self._video_id = video_id

    def acquire(self, clip_shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An empty batch (B, *clip_shape); waits for a free slot."""
        arena = self._arena_for(int(np.prod(clip_shape)))
        if self._slot is None:  # else the last one was acquired and never committed
            self._slot = self._wait_for_slot(arena)
            arena.states[self._slot] = BUSY
        self._shape = clip_shape
        count = arena.clips_per_slot(clip_shape)
        return arena.batch(self._slot, clip_shape, count).reshape(count, *clip_shape)

    def commit(self, first_clip: int, count: int) -> None:
        """Hand the first `count` clips of the batch to the parent."""
        shape = [count, *self._shape]
        send(self._conn, kind="clips", video_id=self._video_id, slot=self._slot, first_clip=first_clip, shape=shape)
        self._slot = None

    def _arena_for(self, clip_bytes: int) -> Arena:
        if self._arena is None or not self._arena.layout.fits(clip_bytes):
            layout = Layout.for_clips(clip_bytes)
            fd = anonymous_file(layout.total_bytes)
            send(self._conn, kind="arena", slots=layout.slots, slot_bytes=layout.slot_bytes)
            send_handle(self._conn, fd, os.getppid())
            self._arena, self._slot = Arena(fd, layout), None
            os.close(fd)
        return self._arena

    def _wait_for_slot(self, arena: Arena) -> int:
        slot, since = arena.first_free(), time.monotonic()
        while slot is None:
            self._control.waiting = True
            time.sleep(0.001)
            if time.monotonic() - since > STOP_AFTER_S:
                os.kill(os.getpid(), signal.SIGSTOP)
                since = time.monotonic()
            slot = arena.first_free()
        if self._control.waiting:
            self._control.tick()
            self._control.waiting = False
        return slot


def _watch(life: int, parent: int, memory_mb: int) -> None:
    """A thread that ends the process when the parent is gone or the resident memory passes the cap."""
    import psutil

    process = psutil.Process()

    def watch() -> None:
        while True:
            # `life` reaches its end with the parent, unless the parent forked and somebody still holds the other end.
            readable, _, _ = select.select([life], [], [], 0.1)
            if readable or os.getppid() != parent:
                os._exit(0)
            if process.memory_info().rss > memory_mb << 20:
                os._exit(EXIT_MEMORY)

    _continue_without_parent()
    threading.Thread(target=watch, daemon=True).start()


def _continue_without_parent() -> None:
    """Have the kernel continue this process when its parent dies, lest it stay stopped for ever (Linux).

    Elsewhere the orphaned process group is continued by the kernel's own rule.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGCONT)


def _warm_up(decoders: list[str]) -> None:
    for name in decoders:
        module = {"decord": "decord", "pyav": "av"}.get(name, "av")
        try:
            importlib.import_module(module)
        except (ImportError, OSError):
            continue  # said per video, by the decoder that needs it
