"""The calibration stage: footage in which nothing happens -> a threshold per camera for a chosen rate of false alarms."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.errors import UsageError, VadError
from pipelines.live import thresholds
from pipelines.live.cameras import Camera
from pipelines.live.hub import Closed, Hub, Opened, Scored
from pipelines.live.redact import redact
from pipelines.live.scores import LiveScorer
from pipelines.live.thresholds import Calibrated
from pipelines.progress import Progress, Silent
from pipelines.scoring.calibration import Line, target_rate
from pipelines.scoring.events import AlarmRule
from pipelines.scoring.scorer import load_scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateRequest:
    """Which cameras, at which rate, and where the result goes.

    Attributes:
        footage: camera -> files in which nothing happens; a camera without any is listened to for `duration_s`.
        target_fa_per_hour: alarms an hour that are accepted while nothing happens.
        out: the folder of `vad watch`; thresholds.json there is what it reads.
    """

    cameras: tuple[Camera, ...]
    footage: Mapping[str, Sequence[Path]]
    target_fa_per_hour: float
    out: Path
    run: str | None = None
    smooth: str | None = None
    min_s: float = 0.0
    cooldown_s: float = 0.0
    duration_s: float | None = None
    device: str = "cpu"
    runs_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class CalibrateResult:
    """What was learnt, by camera, and the file that holds it; `failures` name footage that could not be read."""

    path: Path
    cameras: dict[str, Calibrated]
    failures: tuple[str, ...]


@dataclass(slots=True)
class _Heard:
    """The score lines of one camera, a line per connection or file."""

    lines: list[list[NDArray[np.float64]]]
    rates: list[float]

    def joined(self) -> list[Line]:
        pairs = zip(self.lines, self.rates, strict=True)
        return [(np.concatenate(parts), rate) for parts, rate in pairs if parts]


def run(request: CalibrateRequest, *, progress: Progress = Silent()) -> CalibrateResult:
    """Score the footage exactly as `vad watch` would and learn each camera's threshold from it.

    Raises:
        UsageError: a rate that is not positive, a live camera and no duration, or footage without a frame.
        MissingArtifactError: the run or an encoder's weights.
    """
    if not 0 < request.target_fa_per_hour < math.inf:
        raise UsageError(f"--target-fa-per-hour {request.target_fa_per_hour}: give a number above 0")
    endless = [c.name for c in request.cameras if not request.footage.get(c.name) and not c.is_file]
    if endless and request.duration_s is None:
        raise UsageError(
            f"{', '.join(endless)}: a live source has no end", hint="--duration-s 7200, or `normal:` footage"
        )
    scorer = load_scorer(request.run, device=request.device, runs_dir=request.runs_dir, progress=progress)
    live = LiveScorer(scorer, request.device, smooth=request.smooth)
    heard, failures = _listen(request, live, progress)
    seconds = AlarmRule(on=0.0, min_s=request.min_s, cooldown_s=request.cooldown_s)
    found: dict[str, Calibrated] = {}
    for camera in request.cameras:
        lines = heard[camera.name].joined() if camera.name in heard else []
        if not lines:
            failures.append(f"{camera.name}: no frame of its footage could be scored")
            continue
        found[camera.name] = _learn(camera, live, lines, seconds, request)
        for note in found[camera.name].notes:
            progress.warn(f"{camera.name}: {note}")
    if not found:
        raise VadError("nothing was learnt:\n  " + "\n  ".join(failures))
    return CalibrateResult(thresholds.write(request.out, found), found, tuple(failures))


def _listen(request: CalibrateRequest, live: LiveScorer, progress: Progress) -> tuple[dict[str, _Heard], list[str]]:
    """Every camera's score lines. A file that breaks off gives what came before; it is named among the failures."""
    sources = {
        camera.name: [camera.model_copy(update={"source": str(path), "substream": None}) for path in files]
        for camera in request.cameras if (files := request.footage.get(camera.name))
    }  # fmt: skip
    heard: dict[str, _Heard] = defaultdict(lambda: _Heard([], []))
    failures: list[str] = []
    ends = time.monotonic() + (request.duration_s or math.inf)
    n_files = sum(len(files) for files in sources.values())
    progress.start(n_files or None, "scoring footage", "files")
    with Hub(request.cameras, live, sources=sources, idle_s=1.0) as hub:
        for happening in hub.run(lambda: time.monotonic() > ends):
            match happening:
                case Opened(camera=name, fps=fps):
                    heard[name].lines.append([])
                    heard[name].rates.append(fps)
                case Scored(camera=name):
                    heard[name].lines[-1].append(happening.scores)
                case Closed(camera=name):
                    progress.advance(bool(n_files))
                    if happening.failed:
                        failures.append(f"{name}: {happening.reason}")
                        progress.warn(f"{name}: {happening.reason}")
        for scored in hub.finish():
            heard[scored.camera].lines[-1].append(scored.scores)
        failures += [line for feed in hub.feeds.values() for line in feed.failures if line not in failures]
    progress.finish()
    return dict(heard), failures


def _learn(
    camera: Camera, live: LiveScorer, lines: list[Line], seconds: AlarmRule, request: CalibrateRequest
) -> Calibrated:
    learnt = target_rate(lines, request.target_fa_per_hour, seconds)
    files = request.footage.get(camera.name)
    return Calibrated(
        threshold=learnt.rule.on,
        low=learnt.rule.on if learnt.rule.low is None else learnt.rule.low,
        target_fa_per_hour=request.target_fa_per_hour,
        hours=learnt.hours,
        events=learnt.events,
        recipe=live.recipe_id(camera, lines[0][1]),
        scorer=live.scorer.name,
        footage=", ".join(map(str, files[:3])) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        if files else redact(camera.location),
        min_s=request.min_s,
        cooldown_s=request.cooldown_s,
        notes=learnt.notes,
        created=artifacts.utc_now(),
    )  # fmt: skip
