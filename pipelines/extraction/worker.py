"""The parent's end of one decoder child: start it, hand it tasks, hear from it, judge whether it lives, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.extraction.child import EXIT_MEMORY
from pipelines.extraction.jobs import DecodeJob
from pipelines.extraction.shared import FREE, HELD, PAGE, Arena, Control, Layout, anonymous_file
from pipelines.video.decode import decoders_for

# The child imports this package from where the parent did, whatever its working directory holds.
BOOTSTRAP = (
    "import json, signal, sys; "
    "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)]; "
    "settings = json.loads(sys.argv[1]); sys.path[:] = settings['path']; "
    "from pipelines.extraction.child import main; main(settings)"
)
STARTUP_S = 300.0  # imports from a cold network file system
UNKNOWN_BYTES = 16 << 20
MAX_STEP_S = 1.0  # what one look may add to a child's silence: the time in which nobody looked does not count


@dataclass(slots=True)
class Task:
    """One job on its way through the decoders of the policy."""

    job: DecodeJob
    decoders: tuple[str, ...]
    size: int  # bytes of the file, for deciding how much to queue ahead
    attempt: int = 0
    reasons: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, job: DecodeJob, policy: str) -> Task:
        """A fresh task; a source whose size cannot be read counts as half of what may be queued ahead."""
        try:
            size = job.path.stat().st_size if os.path.isfile(job.path) else UNKNOWN_BYTES
        except OSError:
            size = UNKNOWN_BYTES
        return cls(job=job, decoders=decoders_for(job.path, policy), size=size)

    @property
    def decoder(self) -> str:
        return self.decoders[self.attempt]

    @property
    def is_last(self) -> bool:
        return self.attempt == len(self.decoders) - 1

    def message(self) -> dict[str, Any]:
        """What the child is told."""
        return {"job": self.job.to_json(), "decoder": self.decoder, "last": self.is_last}


class Worker:
    """One child process and its queue; the first task of `queue` is the one being decoded."""

    def __init__(self, *, memory_mb: int, warm: tuple[str, ...]) -> None:
        self.queue: deque[Task] = deque()
        self.served = 0
        self.ready = self.retiring = False
        self._memory_mb = memory_mb
        self._silent_s = 0.0
        self._ticks = -1
        self._arena: Arena | None = None
        self._start(warm)

    def _start(self, warm: tuple[str, ...]) -> None:
        control, self._stderr = anonymous_file(PAGE), anonymous_file(0)
        self._control = Control(control)
        mine, theirs = socket.socketpair()
        life, self._life = os.pipe()
        inherited = {"conn": theirs.fileno(), "life": life, "control": control}
        own = {"parent": os.getpid(), "memory_mb": self._memory_mb, "warm": warm, "path": sys.path}
        self.conn = Connection(mine.detach())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP, json.dumps({**inherited, **own})],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=tuple(inherited.values()),
                process_group=0,  # Ctrl-C goes to the parent alone
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        finally:
            theirs.close()
            os.close(life)
            os.close(control)

    @property
    def queued_bytes(self) -> int:
        """Size of the files in the queue."""
        return sum(task.size for task in self.queue)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def submit(self, task: Task) -> None:
        """Queue a task; a child that died meanwhile is noticed when its pipe is read."""
        self.queue.append(task)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.conn.send_bytes(json.dumps(task.message()).encode())

    def receive(self) -> dict[str, Any]:
        """The next message; an arena is mapped on the way.

        Raises:
            EOFError: the child is gone.
        """
        try:
            message: dict[str, Any] = json.loads(self.conn.recv_bytes())
            self._silent_s = 0.0
            if message["kind"] == "arena":
                fd = recv_handle(self.conn)
                self._arena = Arena(fd, Layout(message["slots"], message["slot_bytes"]))
                os.close(fd)
        except (OSError, RuntimeError) as error:
            raise EOFError from error
        return message

    def clips(self, slot: int, shape: list[int]) -> NDArray[np.uint8]:
        """The clips of a slot: the shared memory itself while two slots stay in circulation, a copy after that.

        A caller that keeps every batch is served from copies, so that it cannot starve the child of slots.
        """
        arena = self._arena
        assert arena is not None, "a child announces its arena before any clips"
        flat = arena.batch(slot, tuple(shape[1:]), shape[0])
        if int(np.count_nonzero(arena.states == HELD)) + 2 >= arena.layout.slots:
            flat = flat.copy()
            _release(arena.states, slot, self._control, self._process)
        else:
            arena.states[slot] = HELD
            release = weakref.finalize(flat, _release, arena.states, slot, self._control, self._process)
            release.atexit = False
        return flat.reshape(shape)

    def wake(self) -> None:
        """Continue a child that stopped itself although there is room (it may stop just after a slot was freed)."""
        if self._arena is not None and self._control.waiting and self._arena.first_free() is not None:
            self._process.send_signal(signal.SIGCONT)

    def is_stalled(self, elapsed_s: float, stall_s: float) -> bool:
        """Whether the child has been silent for too long, `elapsed_s` after the last look, while it had work to do."""
        ticks = self._control.ticks
        if ticks != self._ticks or self._control.waiting or (self.ready and not self.queue):
            self._ticks, self._silent_s = ticks, 0.0
            return False
        self._silent_s += min(elapsed_s, MAX_STEP_S)
        return self._silent_s > (stall_s + self._control.allowance_s if self.ready else STARTUP_S)

    def end(self) -> str:
        """Kill and reap the child; why it ended, in words, if it ended by itself before."""
        self._process.kill()
        code = self._process.wait()
        said = self._last_words()
        self.conn.close()
        for fd in (self._life, self._stderr):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._life = self._stderr = -1
        return _cause(code, self._memory_mb, said)

    def _last_words(self) -> str:
        if self._stderr < 0:
            return ""
        size = os.fstat(self._stderr).st_size
        tail = os.pread(self._stderr, 2000, max(0, size - 2000)).decode(errors="replace").strip()
        return tail.splitlines()[-1].strip() if tail else ""


def _release(states: NDArray[np.uint8], slot: int, control: Control, process: subprocess.Popen[bytes]) -> None:
    states[slot] = FREE
    if control.waiting:
        process.send_signal(signal.SIGCONT)


def _cause(code: int, memory_mb: int, said: str) -> str:
    if code == EXIT_MEMORY:
        return f"the decoder used more than {memory_mb} MB of memory"
    if code < 0:
        return f"the decoder process died of {signal.Signals(-code).name}"
    return f"the decoder process ended with exit code {code}" + (f": {said}" if said else "")
