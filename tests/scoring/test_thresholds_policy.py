"""Threshold policies on normal material."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import UsageError, VerificationError
from pipelines.metrics.operating import MERGE_S, alarm_runs
from pipelines.scoring.operating import Policy, learn, parse_policy


def test_policies_are_read_with_their_defaults():
    assert parse_policy("quantile") == Policy("quantile", 0.99)
    assert parse_policy("quantile:0.95") == Policy("quantile", 0.95)
    assert str(parse_policy("max-normal")) == "max-normal"
    assert str(parse_policy("target-fa-per-hour:2")) == "target-fa-per-hour:2"


@pytest.mark.parametrize("text", ["quantil", "quantile:1", "quantile:x", "max-normal:3", "target-fa-per-hour:-1"])
def test_wrong_policies_are_refused(text):
    with pytest.raises(UsageError):
        parse_policy(text)


def test_quantile_is_over_all_frames():
    found = learn([np.arange(50.0), np.arange(50.0, 101.0)], Policy("quantile", 0.9))
    assert (found.value, found.videos, found.frames) == (90.0, 2, 101)


def test_max_normal_raises_no_alarm_on_what_it_saw():
    scores = [np.array([0.1, 0.7, 0.3])]
    value = learn(scores, Policy("max-normal", 0)).value
    assert value > 0.7
    assert value == pytest.approx(0.7)


def test_target_rate_keeps_to_the_target_and_is_not_wasteful():
    rng = np.random.default_rng(0)
    scores = [rng.random(36_000) for _ in range(2)]  # two hours at 10 frames a second
    found = learn(scores, parse_policy("target-fa-per-hour:20"), fps=[10.0, 10.0])
    alarms = sum(len(alarm_runs(s >= found.value, MERGE_S * 10)) for s in scores) / 2
    assert 0 < alarms <= 20
    assert learn(scores, parse_policy("target-fa-per-hour:0"), fps=[10.0, 10.0]).value > max(s.max() for s in scores)


def test_target_rate_needs_frame_rates():
    with pytest.raises(VerificationError, match="frame rate"):
        learn([np.zeros(5)], parse_policy("target-fa-per-hour:1"), fps=[None])


def test_cameras_learn_their_own():
    found = learn([np.full(9, 0.2), np.full(9, 0.8), np.full(9, 0.5)], Policy(), cameras=["a", "b", None])
    assert found.by_camera == pytest.approx({"a": 0.2, "b": 0.8})
    assert found.as_json()["policy"] == "quantile:0.99"


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(VerificationError, match="no normal material"):
        learn([], Policy())
