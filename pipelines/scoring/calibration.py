"""A threshold from scores of footage in which nothing happens, such that alarms come at a chosen rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VerificationError
from pipelines.scoring.events import AlarmRule, find_events

LOW_SHARE = 0.25  # an event goes on down to a quarter of the way from the threshold to the median [ours]
TAIL_PEAKS = 10  # of the extrapolation where the footage is too short [ours]
Line = tuple[NDArray[np.float64], float]  # smoothed frame scores and frames a second


@dataclass(frozen=True, slots=True)
class Learnt:
    """The rule, the hours it stands on, its events on that footage, and what to know of it."""

    rule: AlarmRule
    hours: float
    events: int
    notes: tuple[str, ...]


def target_rate(lines: Sequence[Line], target_fa_per_hour: float, seconds: AlarmRule) -> Learnt:
    """The lowest threshold at which new footage like this is expected to alarm `target_fa_per_hour` times an hour.

    With j = target x hours alarms to be expected, the threshold is the j-th highest peak that the rule tells apart:
    as many of a second sample of the same length lie above it on average (exchangeable peaks; [ours]). Every threshold
    above it keeps to fewer. Where j is below 1 the peaks' exponential tail is extended, and a note says so.

    Args:
        lines: one per stretch of footage.
        seconds: `min_s`, `merge_s` and `cooldown_s` of the rule; its levels are not read.

    Raises:
        VerificationError: no footage.
    """
    hours = sum(len(scores) / fps for scores, fps in lines) / 3600
    if not hours:
        raise VerificationError("there is no footage to learn a threshold from")
    pooled = np.concatenate([scores for scores, _ in lines])
    middle = float(np.median(pooled))
    wanted = target_fa_per_hour * hours
    peaks = peaks_of(lines)
    notes: tuple[str, ...] = ()
    if wanted < 1:
        on = _extended(peaks, wanted)
        notes = (
            f"{hours:.2g} h of footage cannot show {target_fa_per_hour:g} false alarms an hour: the threshold is "
            f"extrapolated from its highest peaks; {1 / target_fa_per_hour:.2g} h or more make it measured",
        )
    else:
        on = _by_rank(lines, peaks, math.floor(wanted + 1e-9), middle, seconds)
    rule = _rule(on, middle, seconds)
    return Learnt(rule, hours, count(lines, rule), notes)


def count(lines: Sequence[Line], rule: AlarmRule) -> int:
    """How many events the rule makes of these lines."""
    return sum(len(find_events(scores.tolist(), rule, fps)) for scores, fps in lines)


def peaks_of(lines: Sequence[Line]) -> NDArray[np.float64]:
    """Every local maximum of the lines, a plateau once, highest first."""
    found = []
    for scores, _ in lines:
        steps = scores[np.concatenate([[True], scores[1:] != scores[:-1]])]
        padded = np.concatenate([[-np.inf], steps, [-np.inf]])
        found.append(steps[(padded[1:-1] > padded[:-2]) & (padded[1:-1] > padded[2:])])
    return np.sort(np.concatenate(found))[::-1]


def _by_rank(lines: Sequence[Line], peaks: NDArray[np.float64], rank: int, middle: float, seconds: AlarmRule) -> float:
    """The lowest peak that, taken as threshold, leaves fewer than `rank` events above it, as do all higher ones."""
    best = float(peaks[0])
    for peak in np.unique(peaks)[::-1]:
        if count(lines, _rule(float(peak), middle, seconds)) >= rank:
            break
        best = float(peak)
    return best


def _extended(peaks: NDArray[np.float64], wanted: float) -> float:
    top = peaks[: TAIL_PEAKS + 1]
    scale = float((top[:-1] - top[-1]).mean()) if len(top) > 1 else 0.0
    return float(np.nextafter(top[0] + scale * math.log(1 / wanted), np.inf))


def _rule(on: float, middle: float, seconds: AlarmRule) -> AlarmRule:
    return replace(seconds, on=on, low=min(on, on - LOW_SHARE * (on - middle)))
