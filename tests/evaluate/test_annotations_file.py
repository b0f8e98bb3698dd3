"""A dataset made on the fly: scores and an annotation file, no manifest entry."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from tests.evaluate.world import AUC, SCORES, World

LOOSE = {"dataset": None}


@pytest.fixture
def events(tiny: World) -> Path:
    return tiny.write("mine/my events.csv", "video,start,end,label\na,2,4,fire\nb,,,\n")


def test_a_csv_of_intervals_gives_the_manifests_numbers(tiny: World, events: Path):
    found = tiny.evaluate(tiny.npz(SCORES), annotations=events, **LOOSE).evals[0]
    named = tiny.evaluate(tiny.npz(SCORES)).evals[0]
    assert found.metrics["metrics"] == named.metrics["metrics"]
    assert found.metrics["metrics"]["auc"]["value"] == AUC
    assert found.metrics["dataset"] == "my events"
    assert found.metrics["ground_truth"]["annotations"] == str(events)
    assert found.metrics["ground_truth"]["length_source"] == {"rows": 2}
    assert found.folder.is_relative_to(tiny.root / "runs" / "referee")


def test_activitynet_seconds_need_lengths_and_rates(tiny: World):
    path = tiny.write(
        "gt.json", json.dumps({"database": {"a": {"annotations": [{"segment": [1.0, 2.0], "label": "fire"}]}, "b": {}}})
    )
    lengths = tiny.write("lengths.csv", "video,frames,fps\na,6,2\nb,4,2\n")
    found = tiny.evaluate(tiny.npz(SCORES), annotations=path, lengths=lengths, **LOOSE).evals[0].metrics
    assert found["metrics"]["auc"]["value"] == AUC
    assert found["ground_truth"]["length_source"] == {"published": 2}
    with pytest.raises(VerificationError, match="in seconds and the video's frame rate is not known"):
        tiny.evaluate(tiny.npz(SCORES), annotations=path, **LOOSE)


def test_lengths_are_held_against_the_rows(tiny: World, events: Path):
    lengths = tiny.write("lengths.csv", "a,60\nb,4\n")
    with pytest.raises(VerificationError, match="'a': 6 frame scores end at frame 6, the video has 60"):
        tiny.evaluate(tiny.npz(SCORES), annotations=events, lengths=lengths, **LOOSE)


def test_classes_are_the_files_own(tiny: World):
    path = tiny.write("gt.csv", "video,start,end,class\na,0,16,smoke\nb,0,16,fire\n")
    eye = np.eye(3)
    arrays = {
        "a": [1.0, 0.0],
        "a|classes": eye[[2, 0]],
        "b": [1.0, 0.0],
        "b|classes": eye[[1, 0]],
    }  # normal, fire, smoke
    found = tiny.evaluate(tiny.npz(arrays), annotations=path, clip_frames=16, metrics=("map-iou",), **LOOSE)
    assert found.evals[0].metrics["metrics"]["map-iou"]["abnormal-only"]["avg"] == 1.0


def test_unnamed_videos_are_normal_and_told_and_lacking_ones_are_an_error(tiny: World):
    path = tiny.write("gt.csv", "video,start,end\na,2,4\n")
    metrics = tiny.evaluate(tiny.npz(SCORES), annotations=path, **LOOSE).evals[0].metrics
    assert "1 videos are not named in gt.csv and count as normal: b" in metrics["warnings"]
    path = tiny.write("gt.csv", "video,start,end\na,2,4\nc,1,2\n")
    with pytest.raises(VerificationError, match="1 of 3 videos have no scores: c"):
        tiny.evaluate(tiny.npz(SCORES), annotations=path, **LOOSE)


def test_two_score_files_compare_on_one_annotation_file(tiny: World, events: Path):
    other = tiny.npz({"a": SCORES["a"][::-1], "b": SCORES["b"]}, "other.npz")
    done = tiny.evaluate(tiny.npz(SCORES), annotations=events, against=str(other), **LOOSE)
    assert done.comparison["metrics"][0]["first"] == AUC


def test_what_is_no_annotation_file_is_told(tiny: World, events: Path):
    scores = tiny.npz(SCORES)
    with pytest.raises(UsageError, match="makes a dataset of its own"):
        tiny.evaluate(scores, annotations=events)
    with pytest.raises(MissingArtifactError, match="no annotations at"):
        tiny.evaluate(scores, annotations=tiny.root / "gone.csv", **LOOSE)
    with pytest.raises(UsageError, match=r"cannot tell the form of gt\.txt"):
        tiny.evaluate(scores, annotations=tiny.write("gt.txt", "a 1 2\n"), **LOOSE)
    with pytest.raises(VerificationError, match="class `normal`"):
        tiny.evaluate(scores, annotations=tiny.write("n.csv", "video,start,end,label\na,0,2,Normal\n"), **LOOSE)
