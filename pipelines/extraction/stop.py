"""SIGTERM (or SIGUSR2, a batch system's warning) during a stage: stop soon, keep what is finished, exit 75."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipelines.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopRequest:
    """Whether a stop signal came; `check` raises where a loop can stop."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def check(self) -> None:
        """Raise Stopped when a signal came since the start."""
        if self.signal_name is not None:
            raise Stopped(
                f"stopped by {self.signal_name}; finished videos are kept", hint="the same command does the rest"
            )


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block SIGTERM and SIGUSR2 raise Stopped in the main thread, at once and at every later `check`.

    Raising at once ends a wait for a decoder; the flag covers a signal that lands where exceptions are swallowed.
    Outside the main thread no handler can be set, and the caller's own handling stays. Handlers are put back.
    """
    request = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        first = request.signal_name is None
        request.signal_name = signal.Signals(number).name
        if first:
            request.check()

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
