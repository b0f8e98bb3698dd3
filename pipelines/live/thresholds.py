"""Each camera's threshold: given, calibrated for exactly these scores, or the run's own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.live.cameras import Camera
from pipelines.live.scores import LiveScorer
from pipelines.scoring.events import AlarmRule

FILE = "thresholds.json"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What `vad calibrate` learnt of one camera.

    `recipe` is the id of what its scores are made of (encoder, rate, masks, smoothing, scorer); `events` is what the
    rule found on the footage itself at these levels; `notes` are warnings that belong to the number.
    """

    threshold: float
    low: float
    target_fa_per_hour: float
    hours: float
    events: int
    recipe: str
    scorer: str
    footage: str
    min_s: float = 0.0
    cooldown_s: float = 0.0
    notes: tuple[str, ...] = ()
    created: str = ""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says of the alarm rule."""

    threshold: float | None = None
    low: float | None = None
    min_s: float = 0.0
    cooldown_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Levels:
    """A camera's rule and where its threshold comes from."""

    rule: AlarmRule
    source: str


def read(folder: Path) -> dict[str, Calibrated]:
    """What was calibrated, by camera; nothing where nothing was.

    Raises:
        VerificationError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        cameras: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["cameras"]
        return {name: Calibrated(**{**one, "notes": tuple(one["notes"])}) for name, one in cameras.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"cannot read {path}: {error}", hint="vad calibrate writes it again") from error


def write(folder: Path, found: dict[str, Calibrated]) -> Path:
    """Put these cameras' values beside those of other cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    cameras = {name: asdict(one) for name, one in sorted((read(folder) | found).items())}
    artifacts.write_text(folder / FILE, json.dumps({"schema": 1, "cameras": cameras}, indent=2) + "\n")
    return folder / FILE


def levels_of(
    camera: Camera, live: LiveScorer, calibrated: dict[str, Calibrated], *, given: Given, fps: float
) -> Levels:
    """Its own `threshold` > the command's > calibrated > the run's.

    Raises:
        UsageError: it was calibrated for other scores.
        MissingArtifactError: none of these is there (the hint has the command).
    """

    def rule(on: float, low: float | None, least: float = 0.0, cooldown: float = 0.0) -> AlarmRule:
        return AlarmRule(on=on, low=low, min_s=given.min_s or least, cooldown_s=given.cooldown_s or cooldown)

    if camera.threshold is not None:
        return Levels(rule(camera.threshold, camera.low), "the camera's own")
    if given.threshold is not None:
        return Levels(rule(given.threshold, given.low), "given")
    one = calibrated.get(camera.name)
    if one is not None:
        if one.recipe != live.recipe_id(camera, fps):
            raise UsageError(
                f"{camera.name} was calibrated for other scores than these ({one.scorer} then, {live.scorer.name} now; "
                "or other masks, frame rate or smoothing)",
                hint=f"vad calibrate --source FOOTAGE --target-fa-per-hour {one.target_fa_per_hour:g}",
            )
        words = f"calibrated for {one.target_fa_per_hour:g} false alarms an hour on {one.hours:.2g} h"
        return Levels(rule(one.threshold, one.low, one.min_s, one.cooldown_s), words)
    if live.scorer.threshold is not None:
        return Levels(rule(live.scorer.threshold, given.low), live.scorer.threshold_source)
    raise MissingArtifactError(
        f"nothing says above which score {camera.name} alarms: {live.scorer.name} learns no threshold",
        hint="vad calibrate --source NORMAL_FOOTAGE --target-fa-per-hour 1, or --threshold X",
    )
