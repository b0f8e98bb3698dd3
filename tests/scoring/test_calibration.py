"""Thresholds for a rate of false alarms: by hand, on random lines whose rate is known, and extrapolated."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import VerificationError
from pipelines.scoring.calibration import count, peaks_of, target_rate
from pipelines.scoring.events import AlarmRule

PLAIN = AlarmRule(on=0.0)


def bumps(rng: np.random.Generator, hours: float) -> tuple[np.ndarray, float]:
    """One frame a second; bumps of exponential height, one every 60 s, wide apart."""
    line = np.zeros(round(3600 * hours))
    line[30::60] = rng.exponential(size=len(line[30::60]))
    return line, 1.0


def test_the_threshold_is_the_peak_that_as_many_are_expected_above():
    """Two hours with peaks 1 to 120 and 3 alarms an hour: the sixth highest, 115, of which five lie above."""
    line = np.zeros(7200)
    line[30::60] = np.random.default_rng(0).permutation(np.arange(1, 121))
    learnt = target_rate([(line, 1.0)], 3.0, PLAIN)
    assert (learnt.rule.on, learnt.events, learnt.hours, learnt.notes) == (115.0, 5, 2.0, ())
    assert learnt.rule.low == 115.0 - 0.25 * 115.0  # a quarter of the way to the median, 0


def test_alarms_that_merge_count_once():
    line = np.zeros(3600)
    line[[100, 101, 102, 103]] = (5, 1, 6, 1)
    line[[500, 900]] = (4, 3)
    assert (
        target_rate([(line, 1.0)], 2.0, AlarmRule(on=0.0, merge_s=3.0)).rule.on == 4.0
    )  # 6 and 5 are one event above it


def test_new_footage_alarms_as_often_as_was_asked_on_average():
    rng = np.random.default_rng(1)
    realised = [count([bumps(rng, 4.0)], target_rate([bumps(rng, 4.0)], 2.0, PLAIN).rule) / 4.0 for _ in range(60)]
    assert np.mean(realised) == pytest.approx(2.0, rel=0.2)


def test_footage_that_is_too_short_is_extrapolated_and_said_to_be():
    """Exponential peaks: one alarm in ten hours, from one hour; the note says how many hours would do."""
    rng = np.random.default_rng(2)
    learnt = [target_rate([bumps(rng, 1.0)], 0.1, PLAIN) for _ in range(200)]
    assert "10 h or more" in learnt[0].notes[0] and learnt[0].events == 0
    wanted = np.log(60 * 10)  # of 600 exponential peaks one lies above ln 600
    assert np.median([one.rule.on for one in learnt]) == pytest.approx(wanted, rel=0.12)


def test_peaks_are_local_maxima_and_a_plateau_is_one():
    assert peaks_of([(np.array([1.0, 3, 3, 2, 5, 0, 4]), 1.0), (np.array([7.0]), 1.0)]).tolist() == [7, 5, 4, 3]


def test_constant_scores_never_alarm_and_no_footage_is_an_error():
    assert target_rate([(np.ones(7200), 1.0)], 1.0, PLAIN).events == 0
    with pytest.raises(VerificationError):
        target_rate([], 1.0, PLAIN)
