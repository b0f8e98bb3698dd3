"""Cameras for tests: drawn footage with known events, served over loopback by ffmpeg or byte by byte."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.video.write import write_video

FPS = 10
THRESHOLD = 0.05
Array = NDArray[np.uint8]

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def calm(count: int, *, seed: int = 0) -> Iterator[Array]:
    """A square that walks, and a camera's noise."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        frame = np.full((96, 128, 3), 90, np.int16) + rng.integers(-3, 4, (96, 128, 1))
        frame[10:30, (3 * number) % 100 : (3 * number) % 100 + 20] = 200
        yield frame.clip(0, 255).astype(np.uint8)


def wild(count: int, *, seed: int = 0) -> Iterator[Array]:
    """Everything moves."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(count))


def footage(path: Path, *parts: tuple[Callable[..., Iterator[Array]], int]) -> Path:
    """Parts one after the other, at 10 frames a second."""
    write_video(path, (frame for make, count in parts for frame in make(count)), fps=FPS)
    return path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(path: Path, port: int, *, speed: float = 4.0) -> subprocess.Popen[bytes]:
    """ffmpeg waits for one reader, sends the file as a transport stream and ends."""
    return subprocess.Popen(
        ["ffmpeg", "-nostdin", "-loglevel", "error", "-readrate", str(speed), "-i", str(path), "-c", "copy", "-f",
         "mpegts", f"tcp://127.0.0.1:{port}?listen=1"],
    )  # fmt: skip


def serve_bytes(data: bytes) -> int:
    """A port at which every caller is sent `data` and hung up on."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                caller, _ = listener.accept()
                with caller:
                    caller.sendall(data)
            except OSError:
                return

    threading.Thread(target=work, daemon=True).start()
    return int(listener.getsockname()[1])


def wait_for(what: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """The first true value of `what`."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if value := what():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")
