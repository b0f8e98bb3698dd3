"""What a camera's own process runs: frames in, clips into shared memory, the last seconds kept for recordings.

No torch here. Whatever the decoder does, hang or crash, it does to this camera alone.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VadError
from pipelines.extraction.clips import ClipCutter
from pipelines.extraction.jobs import DecodeJob
from pipelines.extraction.shared import BUSY, PAGE, Arena, Layout, anonymous_file
from pipelines.live.cameras import Camera
from pipelines.live.pictures import Picture, PictureCheck
from pipelines.live.recorder import Recorder, hidden_by
from pipelines.live.source import SourceLost, StreamReader
from pipelines.video.readers import Resampled

# Clips of one camera that may wait for the scorer. Then streams drop clips, and files, which need no room, wait.
STREAM_SLOTS, FILE_SLOTS, MOST_BYTES = 8, 2, 96 << 20
BEAT_S = 1.0


class ParentGone(Exception):
    """Nobody listens any more."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a child is told: the camera, how to cut clips, and how much to keep for recordings."""

    camera: Camera
    clip_len: int
    stride: int
    positions: tuple[int, ...]
    last_clip: str
    keep_s: float
    idle_s: float

    def to_json(self) -> str:
        """As one line."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "camera"}
        return json.dumps(plain | {"camera": self.camera.model_dump(mode="json")})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The inverse."""
        data = json.loads(text)
        camera = Camera.model_validate(data.pop("camera"))
        return cls(**{**data, "camera": camera, "positions": tuple(data["positions"])})


def main(conn: Connection, settings: Settings) -> None:
    """Serve one connection to the camera, until it ends, is lost or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    link = Link(conn)
    camera = settings.camera
    try:
        try:
            reader = StreamReader(camera, idle_s=settings.idle_s, tick=link.beat)
            with reader:
                n_frames = _serve(reader, link, settings)
            reason = "is at its end" if n_frames else "holds no frames"
            link.send(kind="over", reason=reason, final=camera.is_file, n_frames=n_frames)
        except (VadError, OSError, ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
            # what is wrong with a file stays wrong; a camera may come back
            final = camera.is_file and not isinstance(error, MemoryError)
            link.send(kind="failed", reason=str(error) or type(error).__name__, final=final)
    except ParentGone:
        pass


class Link:
    """The pipe to the parent: messages out, orders in, and a sign of life every second."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self._said = 0.0
        self._orders: deque[dict[str, Any]] = deque()

    def send(self, **message: Any) -> None:
        """One message."""
        try:
            self.conn.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise ParentGone from error
        self._said = time.monotonic()

    def beat(self) -> None:
        """Say that this process lives, if it has been silent."""
        if time.monotonic() - self._said > BEAT_S:
            self.send(kind="beat")

    def listen(self) -> None:
        """Take in what the parent sent; raises ParentGone."""
        try:
            while self.conn.poll():
                self._orders.append(json.loads(self.conn.recv_bytes()))
        except (EOFError, OSError) as error:
            raise ParentGone from error

    def orders(self) -> Iterator[dict[str, Any]]:
        """What the parent has asked for meanwhile."""
        self.listen()
        while self._orders:
            yield self._orders.popleft()


def _serve(reader: StreamReader, link: Link, settings: Settings) -> int:
    camera = settings.camera
    fps = camera.fps or reader.facts.fps
    if fps is None:
        raise SourceLost("does not say how many frames a second it has: give the camera an fps")
    link.send(kind="opened", fps=fps, width=reader.width, height=reader.height, codec=reader.facts.codec)
    hidden = hidden_by(camera.masks, reader.width, reader.height)
    sink = ClipSink(link, hidden, waits=camera.is_file)
    cutter = ClipCutter(_job(settings), reader.height, reader.width, sink)
    recorder = Recorder(fps=fps, keep_s=settings.keep_s, hidden=hidden)
    check, last, number = PictureCheck(), None, -1
    for number, frame in enumerate(Resampled(reader, camera.fps) if camera.fps else reader):
        sink.seen(number, check.look(frame.native), frame.wall)  # type: ignore[attr-defined]
        cutter.add(frame)
        for id in recorder.add(number, frame.native):  # type: ignore[attr-defined]
            link.send(kind="recorded", id=id)
        for order in link.orders():
            _obey(order, recorder, link)
        link.beat()
        last = frame
    cutter.finish(last)
    for id in recorder.close():
        link.send(kind="recorded", id=id)
    return number + 1


def _obey(order: dict[str, Any], recorder: Recorder, link: Link) -> None:
    """Record, stop or take a snapshot; a disk that is full costs the recording and nothing else."""
    id = order["id"]
    try:
        match order["do"]:
            case "record":
                recorder.start(id, Path(order["path"]), order["first"])
            case "stop" if recorder.stop(id, order["until"]):
                link.send(kind="recorded", id=id)
            case "snapshot":
                recorder.snapshot(Path(order["path"]), order["frame"])
    except (VadError, OSError) as error:
        link.send(kind="note", text=f"nothing could be recorded: {error}")


def _job(settings: Settings) -> DecodeJob:
    return DecodeJob(
        video_id=settings.camera.name,
        path=Path(settings.camera.name),
        clip_len=settings.clip_len,
        stride=settings.stride,
        positions=settings.positions,
        last_clip=settings.last_clip,  # type: ignore[arg-type]
    )


class ClipSink:
    """Clips in slots that the parent maps too; with none free a stream's clip is dropped, and a file waits."""

    def __init__(self, link: Link, hidden: NDArray[np.bool_] | None, *, waits: bool) -> None:
        self._link, self._hidden, self._waits = link, hidden, waits
        self._arena: Arena | None = None
        self._scratch: NDArray[np.uint8] | None = None
        self._slot: int | None = None
        self._array: NDArray[np.uint8] | None = None
        self._wall, self._last = 0.0, 0
        self._bright, self._change = 0.0, 0.0

    def seen(self, number: int, picture: Picture, wall: float) -> None:
        """The frame that is about to be added."""
        self._wall, self._last = wall, number
        self._bright, self._change = max(self._bright, picture.bright), max(self._change, picture.change)

    def acquire(self, clip_shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A batch of one clip."""
        size = int(np.prod(clip_shape))
        if self._arena is None:
            self._arena = self._share(size)
            self._scratch = np.empty(clip_shape, np.uint8)
        slot = self._arena.first_free()
        while slot is None and self._waits:
            time.sleep(0.002)
            self._link.listen()
            self._link.beat()
            slot = self._arena.first_free()
        self._slot = slot
        assert self._scratch is not None
        if slot is None:
            self._array = self._scratch[None]
        else:
            self._arena.states[slot] = BUSY
            self._array = self._arena.batch(slot, clip_shape, 1).reshape(1, *clip_shape)
        return self._array

    def commit(self, first_clip: int, count: int) -> None:
        """Tell the parent of the clip, or that it was dropped."""
        assert self._array is not None
        if self._hidden is not None and self._slot is not None:
            self._array[:, :, self._hidden] = 0
        self._link.send(
            kind="clip", index=first_clip, slot=self._slot, shape=list(self._array.shape[1:]), wall=self._wall,
            frame=self._last, bright=round(self._bright, 2), change=round(self._change, 2),
        )  # fmt: skip
        self._bright = self._change = 0.0

    def _share(self, size: int) -> Arena:
        slots = FILE_SLOTS if self._waits else max(2, min(STREAM_SLOTS, MOST_BYTES // size))
        layout = Layout(slots, -(-size // PAGE) * PAGE)
        fd = anonymous_file(layout.total_bytes)
        self._link.send(kind="arena", slots=layout.slots, slot_bytes=layout.slot_bytes)
        send_handle(self._link.conn, fd, os.getppid())
        arena = Arena(fd, layout)
        os.close(fd)
        return arena
