"""The live stage: cameras -> events with their beginning and end, snapshots, clips, and whoever wants to hear of them."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from pipelines import artifacts
from pipelines.errors import PartialFailure, Stopped, VadError
from pipelines.live import thresholds
from pipelines.live.alarms import Alarms, Kind, Notice
from pipelines.live.cameras import Camera
from pipelines.live.hub import Closed, Happening, Hub, Looked, Opened, Scored, Told
from pipelines.live.outbox import Outbox
from pipelines.live.scores import LiveScorer
from pipelines.live.sinks import EventLog, Program
from pipelines.progress import Progress, Silent
from pipelines.scoring.events import Span
from pipelines.scoring.scorer import load_scorer

OUT = Path("vad_watch")
PRE_ROLL_S, POST_ROLL_S = 5.0, 2.0  # of an event's clip, before its beginning and after its end [ours]
SLOWEST_FPS, SPARE_S = 10.0, 5.0  # of how much of a camera is kept: where its rate is not known yet, and on top
MEDIA_WAIT_S = 20.0  # how long a post waits for a snapshot or clip that is still being written
DROPS_SAID_S = 10.0  # dropped clips are said together, this often at most
MARK = "false-alarm"  # an empty file of this name in an event's folder


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """What to watch, with what, and who is told.

    Attributes:
        cameras: see `live.cameras`.
        run: as in `vad predict --run`.
        out: events.jsonl, events/<camera>/<event>/, queue/ and thresholds.json.
        threshold, low, min_s, cooldown_s: the alarm rule; what is not given is the camera's, calibrated or the run's.
        on_event: a program and its arguments, run with each event on its standard input.
        post: a URL that events are posted to.
        idle_s: a file that nobody has written to for so long is over.
        duration_s: stop after so many seconds; never unless given.
    """

    cameras: tuple[Camera, ...]
    run: str | None = None
    out: Path = OUT
    threshold: float | None = None
    low: float | None = None
    min_s: float = 0.0
    cooldown_s: float = 0.0
    smooth: str | None = None
    on_event: tuple[str, ...] = ()
    post: str | None = None
    pre_roll_s: float = PRE_ROLL_S
    idle_s: float = 10.0
    duration_s: float | None = None
    device: str = "cpu"
    runs_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class WatchResult:
    """How it went: per camera the number of events and dropped clips; events that wait in the queue."""

    out: Path
    events: dict[str, int]
    dropped: dict[str, int]
    queued: int
    failures: dict[str, str] = field(default_factory=dict)

    def raise_for_failures(self) -> None:
        """Raise PartialFailure (VadError where nothing was read at all) that names what could not be read."""
        if not self.failures:
            return
        lines = "".join(f"\n  {name}: {reason}" for name, reason in self.failures.items())
        error = VadError if len(self.failures) == len(self.events) and not any(self.events.values()) else PartialFailure
        raise error(f"{len(self.failures)} of {len(self.events)} cameras could not be read:{lines}")


@dataclass(frozen=True, slots=True)
class CameraEvent:
    """One event as it is told: once when it begins and once when it ends (then `end`, `duration_s` are known)."""

    id: str
    kind: Kind
    camera: str
    source: str
    start: str
    start_s: float | None
    connection: int
    threshold: float | None
    scorer: str
    recipe: str
    label: str | None = None
    peak: float | None = None
    reason: str | None = None
    end: str | None = None
    end_s: float | None = None
    latency_s: float | None = None
    folder: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON line; times in UTC, seconds counted from the connection's first frame."""
        ended = self.end is not None
        known = self.end_s is not None and self.start_s is not None
        return {
            "schema": 1,
            "type": "end" if ended else "begin",
            "id": self.id,
            "camera": self.camera,
            "kind": self.kind,
            "class": self.label,
            "start": self.start,
            "end": self.end,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "duration_s": round(self.end_s - self.start_s, 3) if known else None,  # type: ignore[operator]
            "peak": self.peak,
            "threshold": self.threshold,
            "latency_s": self.latency_s,
            "reason": self.reason,
            "connection": self.connection,
            "source": self.source,
            "scorer": self.scorer,
            "recipe": self.recipe,
            "folder": str(self.folder) if self.folder else None,
        }


def run(
    request: WatchRequest,
    *,
    progress: Progress = Silent(),
    tell: Callable[[dict[str, Any]], None] = lambda event: None,
) -> WatchResult:
    """Watch until every source is over, the time is up or a signal comes; open events are then closed and told.

    Args:
        tell: given every event line as it is made.

    Raises:
        UsageError, MissingArtifactError: nothing to score with, no threshold, no such program.
        Stopped: SIGTERM, with everything closed and the queue kept; KeyboardInterrupt likewise for Ctrl-C.
    """
    scorer = load_scorer(request.run, device=request.device, runs_dir=request.runs_dir, progress=progress)
    live = LiveScorer(scorer, request.device, smooth=request.smooth)
    with ExitStack() as stack:
        watch = _Watch(request, live, progress, tell)
        stack.callback(watch.close_sinks)
        slowest = min(live.fps_of(camera) or SLOWEST_FPS for camera in request.cameras)
        keep_s = request.pre_roll_s + live.delay_s(slowest) + SPARE_S
        hub = stack.enter_context(Hub(request.cameras, live, keep_s=keep_s, idle_s=request.idle_s))
        watch.hub = hub
        with _signals() as caught:
            ends = time.monotonic() + (request.duration_s or math.inf)
            for happening in hub.run(lambda: bool(caught) or time.monotonic() > ends):
                watch.take(happening)
            watch.finish()
        queued = watch.close_sinks()
        result = watch.result(queued)
    if caught:
        kept = f"; {queued} events wait in {request.out / 'queue'} for the next start" if queued else ""
        if caught[0] == signal.SIGINT:
            raise VadError(f"interrupted; open events were closed{kept}", exit_code=130)
        raise Stopped(f"stopped by {signal.Signals(caught[0]).name}; open events were closed{kept}")
    return result


def plan(request: WatchRequest, *, progress: Progress = Silent()) -> list[dict[str, Any]]:
    """What `run` would watch, a row a camera; opens nothing and writes nothing.

    Raises:
        UsageError, MissingArtifactError: as `run`.
    """
    scorer = load_scorer(request.run, device=request.device, runs_dir=request.runs_dir, progress=progress)
    live = LiveScorer(scorer, request.device, smooth=request.smooth)
    calibrated, rows = thresholds.read(request.out), []
    for camera in request.cameras:
        fps = live.fps_of(camera) or 25.0
        levels = thresholds.levels_of(camera, live, calibrated, given=_given(request), fps=fps)
        rows.append({
            "camera": camera.name, "source": camera.shown, "fps": live.fps_of(camera), "masks": len(camera.masks),
            "threshold": levels.rule.on, "threshold_source": levels.source, "delay_s": live.delay_s(fps) if live.fps_of(camera) else None,
            "recipe": live.recipe_id(camera, fps)[:16],
        })  # fmt: skip
    return rows


def _given(request: WatchRequest) -> thresholds.Given:
    return thresholds.Given(request.threshold, request.low, request.min_s, request.cooldown_s)


class _Watch:
    """What is open at each camera, and the sinks."""

    def __init__(
        self, request: WatchRequest, live: LiveScorer, progress: Progress, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self.request, self.live, self.progress, self.tell = request, live, progress, tell
        self.hub: Hub
        self.cameras = {camera.name: camera for camera in request.cameras}
        self.calibrated = thresholds.read(request.out)
        for camera in request.cameras:  # what is wrong is said before anything starts
            self._levels(camera, live.fps_of(camera) or 25.0)
        program = Program(list(request.on_event), say=progress.warn) if request.on_event else None
        self.outbox = Outbox(request.out / "queue", request.post, say=progress.warn) if request.post else None
        self.program, self.log = program, EventLog(request.out / "events.jsonl")
        self.alarms: dict[str, Alarms] = {}
        self.facts: dict[str, tuple[int, float, float | None]] = {}  # epoch, fps, threshold
        self.open: dict[tuple[str, Kind], CameraEvent] = {}
        self.counts = {camera.name: 0 for camera in request.cameras}
        self.failures: dict[str, str] = {}
        self.dropped = {camera.name: 0 for camera in request.cameras}
        self._said: dict[str, tuple[float, int]] = {}
        self._closed = False
        self._described: set[float] = set()

    def take(self, happening: Happening) -> None:
        """One record of the hub."""
        match happening:
            case Opened():
                self._opened(happening)
            case Scored():
                for notice in self.alarms[happening.camera].scored(happening):
                    self._notice(happening.camera, notice)
            case Looked():
                self._count_drop(happening)
                for notice in self.alarms[happening.camera].looked(happening):
                    self._notice(happening.camera, notice)
            case Closed():
                self._lost(happening)
            case Told():
                self.progress.warn(f"{happening.camera}: {happening.text}")

    def finish(self) -> None:
        """End what is open."""
        for scored in self.hub.finish():
            self.take(scored)
        for name in list(self.alarms):
            self._end_all(name)
        for key in list(self.open):
            self._end(key, replace(self.open[key], end=_iso(time.time())))

    def close_sinks(self) -> int:
        """Let the sinks finish, briefly; how many events stay queued."""
        if self._closed:
            return len(self.outbox.waiting()) if self.outbox else 0
        self._closed = True
        if self.program is not None:
            self.program.close()
        queued = self.outbox.close() if self.outbox is not None else 0
        self.log.close()
        return queued

    def result(self, queued: int) -> WatchResult:
        """The counts."""
        return WatchResult(self.request.out, self.counts, self.dropped, queued, self.failures)

    def _levels(self, camera: Camera, fps: float) -> thresholds.Levels:
        return thresholds.levels_of(camera, self.live, self.calibrated, given=_given(self.request), fps=fps)

    def _opened(self, record: Opened) -> None:
        name = record.camera
        levels = self._levels(self.cameras[name], record.fps)
        self.alarms[name] = Alarms(levels.rule, fps=record.fps, stride=self.live.recipe.stride)
        self.facts[name] = (record.epoch, record.fps, levels.rule.on)
        self.progress.note(
            f"{name}: {record.width}x{record.height} at {record.fps:g} frames a second, alarms above "
            f"{levels.rule.on:.4g} ({levels.source})"
        )
        if record.fps not in self._described:
            self._described.add(record.fps)
            self.progress.note(self.live.describe(record.fps))
        if (name, "lost") in self.open:
            self._end((name, "lost"), replace(self.open[name, "lost"], end=_iso(time.time())))

    def _lost(self, record: Closed) -> None:
        name = record.camera
        self._end_all(name)
        if record.final:
            if record.failed:
                self.failures[name] = record.reason
                self.progress.warn(f"{name}: {self.cameras[name].shown} {record.reason}")
            return
        if (name, "lost") not in self.open:
            self.progress.warn(f"{name}: {self.cameras[name].shown} {record.reason}; it is tried again and again")
            self._begin(name, "lost", start=_iso(time.time()), start_s=None, reason=record.reason)

    def _notice(self, name: str, notice: Notice) -> None:
        _, fps, threshold = self.facts[name]
        span, key = notice.span, (name, notice.kind)
        if notice.begins:
            arrived = self.hub.arrived(name, span.start)
            self._begin(
                name, notice.kind, start=_iso(arrived), start_s=round(span.start / fps, 3), span=span,
                threshold=threshold if notice.kind == "anomaly" else None, label=notice.label,
                peak=_digits(span.peak) if notice.kind == "anomaly" else None,
                latency_s=round(time.time() - arrived, 3),
            )  # fmt: skip
        elif key in self.open:
            event = self.open[key]
            ended = self.hub.arrived(name, span.end - 1)
            if event.folder is not None:
                self.hub.stop_recording(name, event.id, span.end + round(POST_ROLL_S * fps))
            peak = _digits(span.peak) if notice.kind == "anomaly" else None
            self._end(
                key,
                replace(event, end=_iso(ended), end_s=round(span.end / fps, 3), peak=peak,
                        label=notice.label or event.label, latency_s=round(time.time() - ended, 3)),
            )  # fmt: skip

    def _begin(self, name: str, kind: Kind, *, span: Span | None = None, **values: Any) -> None:
        camera, (epoch, fps, _) = self.cameras[name], self.facts.get(name, (0, 0.0, None))
        stamp = values["start"].replace("-", "").replace(":", "").partition(".")[0]
        id = f"{stamp}Z-{kind}-{uuid.uuid4().hex[:6]}"
        folder = self.request.out / "events" / name / id
        event = CameraEvent(
            id=id, kind=kind, camera=name, source=camera.shown, connection=epoch,
            scorer=str(self.live.scorer.facts.get("run", self.live.scorer.name)),
            recipe=self.live.recipe_id(camera, fps or 25.0)[:16], threshold=values.pop("threshold", None), **values,
        )  # fmt: skip
        if span is not None:
            folder.mkdir(parents=True, exist_ok=True)
            event = replace(event, folder=folder)
            self.hub.snapshot(name, id, folder / "snapshot.jpg", span.end - 1)
        if span is not None and kind == "anomaly":
            self.hub.record(name, id, folder / "clip.mp4", max(0, span.start - round(self.request.pre_roll_s * fps)))
        self.open[name, kind] = event
        self.counts[name] += kind == "anomaly"
        self._emit(event)

    def _end_all(self, name: str) -> None:
        alarms = self.alarms.pop(name, None)
        for notice in alarms.finish() if alarms else ():
            self._notice(name, notice)

    def _end(self, key: tuple[str, Kind], event: CameraEvent) -> None:
        self.open.pop(key, None)
        self._emit(event)

    def _emit(self, event: CameraEvent) -> None:
        """To the disk first, then to whoever listens."""
        line = event.to_json()
        if event.folder is not None:
            artifacts.write_text(event.folder / "event.json", json.dumps(line, indent=2, ensure_ascii=False) + "\n")
        self.log.write(line)
        if self.outbox is not None:
            self.outbox.put(line, _media(event), wait_s=MEDIA_WAIT_S)
        self.tell(line)
        if self.program is not None:
            self.program.put(line)

    def _count_drop(self, record: Looked) -> None:
        """Dropped clips are said, together, and kept as a line of the log."""
        name = record.camera
        self.dropped[name] += record.dropped
        since, said = self._said.get(name, (0.0, 0))
        if self.dropped[name] == said or time.monotonic() - since < DROPS_SAID_S:
            return
        count = self.dropped[name] - said
        self._said[name] = (time.monotonic(), self.dropped[name])
        self.progress.warn(
            f"{name}: {count} clips dropped, this machine is too slow for its cameras; "
            "fewer cameras, a lower fps or a substream help"
        )
        self.log.write({"schema": 1, "type": "dropped", "camera": name, "clips": count, "at": _iso(time.time())})


def _media(event: CameraEvent) -> dict[str, Path]:
    """The files that belong to a line: the snapshot when it begins, the clip too when it ends."""
    if event.folder is None:
        return {}
    files = {"snapshot": event.folder / "snapshot.jpg"}
    if event.end is not None and event.kind == "anomaly":
        files["clip"] = event.folder / "clip.mp4"
    return files


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Within the block SIGTERM and SIGINT are only noted, so that nothing is cut off halfway."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
