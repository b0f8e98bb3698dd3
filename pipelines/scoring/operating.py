"""Thresholds learnt on normal material, after the smoothing that test scores get. Never from test labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError, VerificationError
from pipelines.metrics.operating import MERGE_S, alarm_runs
from pipelines.recipe import suggest

POLICIES = ("quantile", "max-normal", "target-fa-per-hour")
DEFAULTS = {"quantile": 0.99, "max-normal": 0.0, "target-fa-per-hour": 1.0}
CANDIDATES = 512  # thresholds tried between the lowest and the highest normal score
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a threshold is learnt: a name of POLICIES and its number (a quantile, or alarms per hour)."""

    name: str = "quantile"
    value: float = 0.99

    def __str__(self) -> str:
        return self.name if self.name == "max-normal" else f"{self.name}:{self.value:g}"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A learnt threshold: alarm where score >= `value`, or the camera's own in `by_camera`."""

    policy: str
    value: float
    by_camera: dict[str, float] = field(default_factory=dict)
    videos: int = 0
    frames: int = 0

    def as_json(self) -> dict[str, Any]:
        """What a run records."""
        return {
            "policy": self.policy,
            "value": self.value,
            "by_camera": self.by_camera,
            "videos": self.videos,
            "frames": self.frames,
        }


def parse_policy(text: str) -> Policy:
    """`quantile:0.99`, `max-normal`, `target-fa-per-hour:1` as a Policy; the number has a default.

    Raises:
        UsageError: an unknown policy or a number outside its range.
    """
    name, _, word = text.partition(":")
    if name not in POLICIES:
        raise UsageError(f"unknown threshold policy {name!r}{suggest(name, POLICIES)}", hint=", ".join(POLICIES))
    try:
        value = float(word) if word else DEFAULTS[name]
    except ValueError:
        value = float("nan")
    fits = 0 < value < 1 if name == "quantile" else 0 <= value < float("inf")
    if not fits or (name == "max-normal" and word):
        raise UsageError(f"the threshold policy {text!r} has no valid number", hint="for example quantile:0.99")
    return Policy(name, value)


def learn(
    scores: Sequence[Floats],
    policy: Policy,
    *,
    fps: Sequence[float | None] = (),
    cameras: Sequence[str | None] = (),
) -> Threshold:
    """The threshold of `policy` from normal videos, one more per camera where cameras are known.

    Args:
        scores: per normal video (N,), post-processed like test scores.
        policy: `quantile` (of all frames), `max-normal` (just above the largest score), `target-fa-per-hour` (the lowest
            threshold above which every tried one keeps to the target; alarms closer than one second count once).
        fps: per video, needed by `target-fa-per-hour`.
        cameras: per video, or ().

    Raises:
        VerificationError: no normal frame, or a frame rate that is not known.
    """
    if not sum(len(s) for s in scores):
        raise VerificationError("there is no normal material to learn a threshold from")
    value = _learn(scores, policy, fps)
    by_camera: dict[str, float] = {}
    for camera in sorted({c for c in cameras if c}):
        mine = [i for i, c in enumerate(cameras) if c == camera]
        by_camera[camera] = _learn([scores[i] for i in mine], policy, [fps[i] for i in mine] if fps else ())
    return Threshold(str(policy), value, by_camera, len(scores), int(sum(len(s) for s in scores)))


def _learn(scores: Sequence[Floats], policy: Policy, fps: Sequence[float | None]) -> float:
    pooled = np.concatenate(scores)
    if policy.name == "quantile":
        return float(np.quantile(pooled, policy.value))
    if policy.name == "max-normal":
        return float(np.nextafter(pooled.max(), np.inf))
    return _target_rate(scores, pooled, policy.value, fps)


def _target_rate(scores: Sequence[Floats], pooled: Floats, target: float, fps: Sequence[float | None]) -> float:
    rates = [float(rate) for rate in fps if rate]
    if len(rates) != len(scores):
        raise VerificationError("the frame rate of every normal video must be known to learn alarms per hour")
    hours = sum(len(s) / rate for s, rate in zip(scores, rates, strict=True)) / 3600.0
    best = float(np.nextafter(pooled.max(), np.inf))
    for theta in np.unique(np.quantile(pooled, np.linspace(0, 1, CANDIDATES)))[::-1]:
        alarms = sum(len(alarm_runs(s >= theta, MERGE_S * rate)) for s, rate in zip(scores, rates, strict=True))
        if alarms / hours > target:
            break
        best = float(theta)
    return best
