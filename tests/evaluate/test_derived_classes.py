"""One anomaly class: the clip score stands for its probability, and every place says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UsageError
from pipelines.scoring.gather import DERIVED
from tests.evaluate.world import World, make


@pytest.fixture
def one_class(tmp_path: Path) -> World:
    """`tiny` with fire alone: a (48 frames, fire in [16, 32)) and b (32 frames, normal)."""
    world = make(tmp_path, classes=["normal", "fire"])
    world.write("tiny/test.txt", "a,fire,48\nb,normal,32\n")
    world.write("tiny/truth.csv", "video,start,end,label\na,16,32,fire\n")
    world.write("tiny/train.txt", "t,normal,8\n")
    return world


def test_detection_of_one_class_comes_from_the_clip_score(one_class: World):
    scores = one_class.npz({"a": [0.1, 0.9, 0.2], "b": [0.1, 0.1]})
    found = one_class.evaluate(scores, metrics=("map-iou", "class-auc"), clip_frames=16).evals[0].metrics
    # the one run of `a` above 0.9 - 0.6 * 0.8 = 0.42 is its event: AP 1 at every IoU; vadclip halves it (no normal event)
    assert found["metrics"]["map-iou"]["abnormal-only"]["avg"] == 1.0
    # b is constant, so class normal has proposals in `a` alone; normal has no event and stays in vadclip's mean
    assert found["metrics"]["map-iou"]["vadclip"]["avg"] == 0.5
    assert found["metrics"]["map-iou"]["vadclip"]["ceiling"] == 0.5
    assert found["metrics"]["class-auc"]["value"] == 1.0
    assert found["scores"]["classes"] == DERIVED


def test_derived_and_brought_probabilities_give_the_same_numbers(one_class: World):
    values = {"a": np.array([0.1, 0.9, 0.2]), "b": np.array([0.3, 0.1])}
    brought = values | {f"{v}|classes": np.stack([1 - s, s], axis=1) for v, s in values.items()}
    derived = one_class.evaluate(one_class.npz(values), metrics=("map-iou",), clip_frames=16).evals[0].metrics
    given = one_class.evaluate(one_class.npz(brought, "b.npz"), metrics=("map-iou",), clip_frames=16).evals[0].metrics
    assert derived["metrics"] == given["metrics"]
    assert given["scores"]["classes"] == ["normal", "fire"]


def test_scores_that_are_no_probabilities_are_refused_by_name_and_null_under_all(one_class: World):
    scores = one_class.npz({"a": [0.1, 2.0, 0.2], "b": [0.1, 0.1]})
    with pytest.raises(UsageError, match=r"map-iou: .*lie in \[0.1, 2\]: only scores within \[0, 1\]") as error:
        one_class.evaluate(scores, metrics=("map-iou",), clip_frames=16)
    assert error.value.exit_code == 2
    assert "<video>|classes" in error.value.hint
    entry = one_class.evaluate(scores, metrics=("all",), clip_frames=16).evals[0].metrics["metrics"]["map-iou"]
    assert entry["value"] is None


def test_several_anomaly_classes_are_never_guessed(tiny: World):
    with pytest.raises(UsageError, match="2 anomaly classes to tell apart"):
        tiny.evaluate(tiny.npz({"a": [0.1] * 6, "b": [0.2] * 4}), metrics=("map-iou",))


def test_two_files_with_derived_classes_compare(one_class: World):
    first = one_class.npz({"a": [0.1, 0.9, 0.2], "b": [0.1, 0.1]}, "one.npz")
    second = one_class.npz({"a": [0.9, 0.1, 0.2], "b": [0.1, 0.1]}, "two.npz")
    found = one_class.evaluate(first, metrics=("auc", "map-iou"), clip_frames=16, against=str(second)).comparison
    rows = {row["metric"]: row for row in found["metrics"]}
    assert (rows["map-iou abnormal-only"]["first"], rows["map-iou abnormal-only"]["second"]) == (1.0, 0.0)
