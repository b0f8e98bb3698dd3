"""All cameras of one process: their readers, one scorer, and what happens as a single stream of records."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.live.cameras import Camera
from pipelines.live.child import Settings
from pipelines.live.feed import Feed
from pipelines.live.nursery import Nursery
from pipelines.live.scores import ConnectionLine, LiveScorer

if TYPE_CHECKING:
    from torch import Tensor

WAIT_S = 0.1  # how long a clip waits for others to fill a batch, and how often signals are looked for
ANCHORS = 256  # clips of which the time of arrival is remembered


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection stands: its number, its rate and picture."""

    camera: str
    epoch: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Looked:
    """Frames [first, end) were decoded: how bright they are and how much they change (see `pictures`)."""

    camera: str
    first: int
    end: int
    bright: float
    change: float
    dropped: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """Settled scores of frames from `first` on."""

    camera: str
    first: int
    scores: NDArray[np.float64]
    label: str | None


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection ended or never came about. `final`: nothing more comes from this source; `next_try_s` otherwise."""

    camera: str
    epoch: int
    opened: bool
    failed: bool
    reason: str
    final: bool
    next_try_s: float


@dataclass(frozen=True, slots=True)
class Told:
    """A line of a camera's process worth reading."""

    camera: str
    text: str


Happening = Opened | Looked | Scored | Closed | Told


@dataclass(frozen=True, slots=True)
class _Waiting:
    camera: str
    epoch: int
    index: int
    since: float
    cut: dict[str, Tensor]
    message: dict[str, Any]


class Hub:
    """Reads all cameras until every one is over or `stop` says so; a context manager.

    When the machine is too slow, a stream's clips are dropped where they would be handed over (its reader has
    room for a few), never frames inside a clip; files wait instead. Nothing else grows.

    Args:
        sources: footage to be read in place of a camera's own source, by camera.
        keep_s: seconds of each camera that are kept for recordings.
        idle_s: a file that nobody has written to for so long is over.
    """

    def __init__(
        self,
        cameras: Sequence[Camera],
        live: LiveScorer,
        *,
        sources: Mapping[str, Sequence[Camera]] | None = None,
        keep_s: float = 0.0,
        idle_s: float = 10.0,
    ) -> None:
        recipe = live.recipe
        self.live, self._nursery = live, Nursery()
        self.feeds: dict[str, Feed] = {}
        for camera in cameras:
            known = camera.model_copy(update={"fps": live.fps_of(camera)})
            settings = Settings(known, recipe.clip_len, recipe.stride, live.positions, recipe.last_clip, keep_s, idle_s)
            self.feeds[camera.name] = Feed(known, self._nursery, settings, (sources or {}).get(camera.name, ()))
        self._lines: dict[str, ConnectionLine] = {}
        self._anchors: dict[str, deque[tuple[int, float]]] = {}
        self._rates: dict[str, float] = {}
        self._waiting: list[_Waiting] = []

    def __enter__(self) -> Hub:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for feed in self.feeds.values():
            feed.close()
        self._nursery.close()

    def run(self, stop: Callable[[], bool]) -> Iterator[Happening]:
        """What happens, as it happens; between two records the caller may record and take snapshots."""
        while not stop() and not all(feed.over for feed in self.feeds.values()):
            for feed in self.feeds.values():
                feed.start_if_due()
            by_conn = {feed.conn: feed for feed in self.feeds.values() if feed.conn is not None}
            ready = wait(list(by_conn), timeout=WAIT_S if by_conn else self._sleep_s())
            for conn in ready:
                yield from self._hear(by_conn[conn], by_conn[conn].receive())  # type: ignore[index]
            if not by_conn:
                time.sleep(self._sleep_s())
            for feed in by_conn.values():
                yield from self._hear(feed, feed.stalled())
            yield from self._score(all_of_it=not ready)
        yield from self._score(all_of_it=True)

    def finish(self) -> Iterator[Scored]:
        """What the open connections have not settled yet; for an end from outside."""
        for name in list(self._lines):
            yield from self._finish(name, None)

    def arrived(self, camera: str, frame: int) -> float:
        """When a frame of the current connection arrived (Unix time), to within the camera's own steadiness."""
        anchors = self._anchors.get(camera)
        if not anchors:
            return time.time()
        last, wall = next((anchor for anchor in anchors if anchor[0] >= frame), anchors[-1])
        return min(wall - (last - frame) / self._rates[camera], time.time())

    def record(self, camera: str, id: str, path: Path, first: int) -> None:
        """Begin a clip with frame `first` of the current connection."""
        self.feeds[camera].order(do="record", id=id, path=str(path), first=first)

    def stop_recording(self, camera: str, id: str, until: int) -> None:
        """End a clip with frame `until`."""
        self.feeds[camera].order(do="stop", id=id, until=until)

    def snapshot(self, camera: str, id: str, path: Path, frame: int) -> None:
        """Write one frame as a JPEG."""
        self.feeds[camera].order(do="snapshot", id=id, path=str(path), frame=frame)

    def _sleep_s(self) -> float:
        return min([WAIT_S, *(feed.next_try_s for feed in self.feeds.values() if feed.waits)])

    def _hear(self, feed: Feed, messages: list[dict[str, Any]]) -> Iterator[Happening]:
        name = feed.camera.name
        for message in messages:
            match message["kind"]:
                case "opened":
                    self._lines[name] = ConnectionLine(
                        self.live, feed.camera, fps=message["fps"], width=message["width"], height=message["height"]
                    )
                    self._anchors[name], self._rates[name] = deque(maxlen=ANCHORS), message["fps"]
                    yield Opened(name, feed.epoch, message["fps"], message["width"], message["height"])
                case "clip":
                    yield self._take(feed, message)
                    if len(self._waiting) >= 4 * self.live.batch:
                        yield from self._score(all_of_it=False)
                case "note":
                    yield Told(name, message["text"])
                case "failed" | "over":
                    opened = name in self._lines
                    yield from self._score(all_of_it=True)
                    yield from self._finish(name, message.get("n_frames"))
                    yield Closed(
                        name, feed.epoch, opened, message["kind"] == "failed" or not feed.current.is_file,
                        message["reason"], bool(message["final"]), feed.next_try_s,
                    )  # fmt: skip

    def _take(self, feed: Feed, message: dict[str, Any]) -> Looked:
        name, stride = feed.camera.name, self.live.recipe.stride
        self._anchors[name].append((message["frame"], message["wall"]))
        if message["slot"] is None:
            feed.dropped += 1
        else:
            cut = self.live.cut(feed.clip(message))
            self._waiting.append(_Waiting(name, feed.epoch, message["index"], time.monotonic(), cut, message))
        first = message["index"] * stride
        return Looked(name, first, first + stride, message["bright"], message["change"], message["slot"] is None)

    def _score(self, *, all_of_it: bool) -> Iterator[Scored]:
        """Encode what waits: whole batches at once, the rest when nothing else comes or it has waited."""
        waited = bool(self._waiting) and time.monotonic() - self._waiting[0].since > WAIT_S
        count = len(self._waiting) if all_of_it or waited else len(self._waiting) // self.live.batch * self.live.batch
        now, self._waiting = self._waiting[:count], self._waiting[count:]
        for one, vectors in zip(now, self.live.encode([one.cut for one in now]), strict=True):
            if one.epoch == self.feeds[one.camera].epoch and one.camera in self._lines:
                self.feeds[one.camera].free(one.message)  # only now, so that no reader runs far ahead of its scores
                settled = self._lines[one.camera].add(one.index, vectors)
                if len(settled.scores):
                    yield Scored(one.camera, settled.first, settled.scores, settled.label)

    def _finish(self, name: str, n_frames: int | None) -> Iterator[Scored]:
        line = self._lines.pop(name, None)
        if line is not None:
            settled = line.finish(n_frames)
            if len(settled.scores):
                yield Scored(name, settled.first, settled.scores, settled.label)
