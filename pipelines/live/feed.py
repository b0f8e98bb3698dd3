"""The parent's end of one camera: its process, what it says, whether it lives, and when it is tried again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.extraction.shared import FREE, Arena, Layout
from pipelines.live.cameras import Camera
from pipelines.live.child import Settings
from pipelines.live.nursery import Nursery

STALL_S = 25.0  # a process that is silent for longer hangs: opening and reading have shorter limits of their own
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
STEADY_S = 30.0  # a connection that lasted so long starts the row of waits again


class Feed:
    """One camera and the process that reads it; after an end or a loss the next source or another try.

    Attributes:
        camera: as configured. `sources` are read one after the other in place of its own, where given.
        over: nothing more will come; `failure` says why, where that is not the end of a file.
        epoch: number of the current connection, from 0.
    """

    def __init__(self, camera: Camera, nursery: Nursery, settings: Settings, sources: Sequence[Camera] = ()) -> None:
        self.camera, self._nursery, self._settings = camera, nursery, settings
        self._left = list(sources or (camera,))
        self.current = self._left.pop(0)
        self.conn: Connection | None = None
        self.pid = 0
        self.epoch = -1
        self.over = False
        self.failures: list[str] = []
        self.dropped = 0
        self._arena: Arena | None = None
        self._heard = self._opened = self._due = 0.0
        self._tries = 0

    @property
    def waits(self) -> bool:
        """Whether it waits for its next try."""
        return self.conn is None and not self.over

    def start_if_due(self) -> bool:
        """Start its process when the time has come; whether it did."""
        if not self.waits or time.monotonic() < self._due:
            return False
        self.pid, self.conn = self._nursery.start(replace(self._settings, camera=self.current))
        self.epoch += 1
        self._heard, self._opened, self._arena = time.monotonic(), 0.0, None
        return True

    def receive(self) -> list[dict[str, Any]]:
        """Every message that is there; a process that died is a `failed` one."""
        found: list[dict[str, Any]] = []
        while self.conn is not None:
            try:
                if not self.conn.poll():
                    break
                message = json.loads(self.conn.recv_bytes())
                self._heard = time.monotonic()
                if message["kind"] == "arena":
                    self._map(message)
                    continue
            except (EOFError, OSError):
                message = {"kind": "failed", "reason": "its reader process died", "final": False}
            found.append(message)
            if message["kind"] == "opened":
                self._opened = time.monotonic()
            if message["kind"] in ("failed", "over"):
                self._ended(message)
        return found

    def stalled(self) -> list[dict[str, Any]]:
        """A `failed` message, once its process has hung for too long and was killed; else nothing."""
        if self.conn is None or time.monotonic() - self._heard < STALL_S:
            return []
        self._nursery.kill(self.pid)
        message = {"kind": "failed", "reason": f"its reader hung for {STALL_S:g} s and was ended", "final": False}
        self._ended(message)
        return [message]

    def clip(self, message: dict[str, Any]) -> NDArray[np.uint8]:
        """The frames of a `clip` message, (1, P, H, W, 3); valid until `free`."""
        assert self._arena is not None
        shape = tuple(message["shape"])
        return self._arena.batch(message["slot"], shape, 1).reshape(1, *shape)

    def free(self, message: dict[str, Any]) -> None:
        """Its slot may be used again."""
        if self._arena is not None:
            self._arena.states[message["slot"]] = FREE

    def order(self, **order: Any) -> None:
        """Ask its process for something; a process that is gone is noticed elsewhere."""
        if self.conn is not None:
            with contextlib.suppress(OSError):
                self.conn.send_bytes(json.dumps(order).encode())

    def part_of(self, clip: Path) -> Path:
        """Where a clip lies that its process has not finished."""
        return clip.with_name(f".part-{self.pid}-{clip.name}")

    def close(self) -> None:
        """End the process."""
        if self.conn is not None:
            self._nursery.kill(self.pid)
            self.conn.close()
            self.conn = None

    def _map(self, message: dict[str, Any]) -> None:
        assert self.conn is not None
        fd = recv_handle(self.conn)
        self._arena = Arena(fd, Layout(message["slots"], message["slot_bytes"]))
        os.close(fd)

    def _ended(self, message: dict[str, Any]) -> None:
        if self.conn is not None:
            self.conn.close()
        self.conn = None
        now = time.monotonic()
        if message["kind"] == "failed" and message["final"]:
            self.failures.append(f"{self.current.shown} {message['reason']}")
        if message["final"]:
            self.over = not self._left
            self.current = self._left.pop(0) if self._left else self.current
            self._due = now
            return
        self._tries = 0 if self._opened and now - self._opened > STEADY_S else self._tries + 1
        wait = BACKOFF_S[min(self._tries, len(BACKOFF_S)) - 1] if self._tries else BACKOFF_S[0]
        self._due = now + wait * random.uniform(0.8, 1.2)  # so that cameras of one switch do not come back together

    @property
    def next_try_s(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._due - time.monotonic())
