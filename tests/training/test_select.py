"""Which weights a run keeps: measures by hand, hold-outs by groups, leaks, thresholds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from pipelines.records import Scores, Video
from pipelines.training.select import (
    Keeper,
    SelectionConfig,
    auc,
    learn_thresholds,
    video_score,
)

REPEATS = SimpleNamespace(expand="repeat")  # a method, as far as thresholds look at one


def scores(*lines: list[float], stride: int = 2) -> Scores:
    clips = np.array(lines, np.float32)
    t = clips.shape[1]
    starts = np.arange(t) * stride
    spans = np.stack([starts, starts + stride], 1).astype(np.int64)
    return Scores("v", clips, spans, t * stride, stride, tuple(f"c{i}" for i in range(len(lines))))


def video(name: str, group: str | None = None) -> Video:
    return Video(name, Path("none"), "train", ("normal",), group=group)


def test_a_video_score_is_the_mean_of_its_highest_sixteenth_plus_one():
    assert video_score(scores([0.1, 0.9, 0.5])) == pytest.approx(0.9)  # 3 // 16 + 1 = 1
    line = [0.0] * 14 + [1.0, 0.5]  # 16 clips: the two highest
    assert video_score(scores(line)) == pytest.approx(0.75)
    assert video_score(scores([0.0, 1.0], [0.5, 0.0])) == pytest.approx(0.5)  # crops are averaged first


def test_auc_by_hand_and_with_ties():
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])) == pytest.approx(0.75)
    assert auc(np.ones(6), np.array([True, False] * 3)) == 0.5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_agrees_with_scikit_learn(pairs):
    values, labels = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    if labels.any() and not labels.all():
        assert auc(values, labels) == pytest.approx(roc_auc_score(labels, values))


def test_the_first_of_equal_values_is_kept_and_patience_runs_out():
    values = iter([0.5, 0.7, 0.7, 0.6])
    method = torch.nn.Linear(1, 1)
    keeper = Keeper(lambda m: next(values), "val", SelectionConfig(mode="val", patience=2))
    enough = []
    for step in (10, 20, 30, 40):
        method.weight.data.fill_(float(step))
        enough.append(keeper(step, method)[1])
    assert enough == [False, False, False, True]
    assert (keeper.best, keeper.best_step) == (0.7, 20)
    assert keeper.weights["weight"].item() == 20.0


def test_a_keeper_goes_on_where_it_was_saved():
    method = torch.nn.Linear(1, 1)
    keeper = Keeper(lambda m: 0.7, "val", SelectionConfig(mode="val", patience=3))
    keeper(10, method)
    keeper(20, method)
    other = Keeper(lambda m: 0.1, "val", SelectionConfig(mode="val", patience=3))
    other.load_state_dict(keeper.state_dict())
    assert (other.best, other.best_step, other.waited) == (0.7, 10, 1)


def test_thresholds_are_quantiles_of_normal_frames_per_filter():
    lines = {"a": scores([0.0, 1.0]), "b": scores([0.5, 0.5])}
    found = learn_thresholds(REPEATS, lambda method, v: lines[v], ["a", "b"], filters=("none", "mean:3:nearest"))
    frames = [0, 0, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert found["none"]["0.95"] == pytest.approx(np.quantile(frames, 0.95))
    smoothed = [0, 1 / 3, 2 / 3, 1, 0.5, 0.5, 0.5, 0.5]
    assert found["mean:3:nearest"]["0.95"] == pytest.approx(np.quantile(smoothed, 0.95))
    assert learn_thresholds(REPEATS, lambda method, v: lines[v], []) == {}
