"""Maps, boxes and areas through the evaluation, on two videos of 2 x 2 cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UsageError, VerificationError
from pipelines.scoring.protocol import Protocol
from tests.evaluate.world import QUICK, World, make

SIZE = (8, 8)


@pytest.fixture
def masked(tmp_path: Path) -> World:
    """a: 4 frames, a 2 x 2 mask in the corner of frames 2, 3; b: 4 frames, a 4 x 8 mask in frames 0, 1."""
    entry = {
        "kind": "one-class",
        "classes": ["normal", "anomaly"],
        "truths": {"masks": {"reader": "frame-masks", "file": "masks.npz"}},
    }
    world = make(tmp_path, **entry)
    world.write("tiny/test.txt", "a,anomaly,4\nb,anomaly,4\n")
    world.write("tiny/val.txt", "n,normal,8\n")
    world.write("tiny/train.txt", "t,normal,8\n")
    np.savez(world.root / "tiny" / "masks.npz", **masks())
    return world


def masks() -> dict[str, np.ndarray]:
    a, b = np.zeros((4, *SIZE), np.uint8), np.zeros((4, *SIZE), np.uint8)
    a[2:, :2, :2] = 1
    b[:2, :4] = 1
    return {"a": a, "b": b}


def frame_scores() -> dict[str, np.ndarray]:
    return {video: mask.any(axis=(1, 2)).astype(float) for video, mask in masks().items()}


def test_perfect_maps_of_a_quarter_of_the_size_are_enlarged(masked: World):
    maps = {f"{v}|maps": m[:, ::2, ::2].astype(np.float32) for v, m in masks().items()}
    scores = masked.npz(frame_scores() | maps)
    nearest = masked.evaluate(scores, metrics=("pixel-auc",), protocol=Protocol(rounds=0, map_resize="nearest"))
    entry = nearest.evals[0].metrics["metrics"]["pixel-auc"]
    assert (entry["value"], entry["n"], entry["enlarged"], entry["maps"]) == (1.0, 8 * 64, "nearest", ["4x4"])
    bilinear = masked.evaluate(scores, metrics=("pixel-auc",)).evals[0].metrics["metrics"]["pixel-auc"]
    assert (bilinear["value"], bilinear["enlarged"]) == (1.0, "bilinear")  # edges become .75 inside and .25 outside


def test_maps_of_clips_hold_for_their_frames(masked: World):
    clips = {f"{v}|maps": m[::2].astype(np.float32) for v, m in masks().items()}
    scores = masked.npz({v: s[::2] for v, s in frame_scores().items()} | clips)
    entry = masked.evaluate(scores, metrics=("pixel-auc",), clip_frames=2).evals[0].metrics["metrics"]["pixel-auc"]
    assert (entry["value"], entry["n"], entry["enlarged"]) == (1.0, 8 * 64, "none")


def test_masks_past_a_truncated_tail_are_left_out(masked: World):
    clips = {f"{v}|maps": m[1:2].astype(np.float32) for v, m in masks().items()}
    scores = masked.npz({v: s[1:2] for v, s in frame_scores().items()} | clips)
    cut = Protocol(rounds=0, floors="none", tail="truncate")
    found = masked.evaluate(scores, metrics=("pixel-auc",), clip_frames=3, protocol=cut).evals[0].metrics["metrics"]
    assert found["pixel-auc"]["n"] == 2 * 3 * 64


def test_maps_are_kept_with_the_evaluation(masked: World):
    maps = {f"{v}|maps": m.astype(np.float32) for v, m in masks().items()}
    folder = masked.evaluate(masked.npz(frame_scores() | maps), metrics=("all",)).evals[0].folder
    again = masked.evaluate(folder / "scores.npz", metrics=("pixel-auc",)).evals[0].metrics
    assert again["metrics"]["pixel-auc"]["value"] == 1.0


def test_maps_of_some_videos_alone_and_of_another_count_are_refused(masked: World):
    maps = {f"{v}|maps": m.astype(np.float32) for v, m in masks().items()}
    with pytest.raises(VerificationError, match="'b' has no score maps, 1 other"):
        masked.evaluate(masked.npz(frame_scores() | {"a|maps": maps["a|maps"]}), metrics=("pixel-auc",))
    with pytest.raises(VerificationError, match=r"'a\|maps' has shape \(3, 8, 8\), expected \(4, h, w\)"):
        masked.evaluate(masked.npz(frame_scores() | maps | {"a|maps": maps["a|maps"][:3]}), metrics=("pixel-auc",))


def test_without_maps_or_boxes_the_metric_says_what_to_bring(masked: World):
    scores = masked.npz(frame_scores())
    with pytest.raises(UsageError, match="pixel-auc: the scores hold no maps") as error:
        masked.evaluate(scores, metrics=("pixel-auc",))
    assert "<video>|maps" in error.value.hint
    with pytest.raises(UsageError, match="rbdc: there are no boxes") as error:
        masked.evaluate(scores, metrics=("rbdc",))
    assert "--boxes" in error.value.hint


def test_boxes_meet_tracks_derived_from_the_masks(masked: World):
    rows = [("a", 2, 0, 0, 1, 1, 0.9), ("a", 3, 0, 0, 1, 1, 0.8), ("b", 3, 6, 6, 7, 7, 0.7)]
    rows += [("b", 0, 0, 0, 7, 3, 0.6)]
    lines = [",".join(map(str, row)) for row in rows]
    boxes = masked.write("boxes.csv", "\n".join(["video,frame,x1,y1,x2,y2,score", *lines]) + "\n")
    found = (
        masked.evaluate(masked.npz(frame_scores()), metrics=("rbdc", "tbdc"), boxes=boxes).evals[0].metrics["metrics"]
    )
    # 4 boxes in 2 tracks, 8 frames: RBDR 1/2 at FPR 0, then one false alarm (1/8), then 3/4. TBDR 1/2, then 1.
    # the rise from 1/2 to 3/4 happens at FPR 1/8: straight from (0, 0) no area, flat beyond
    assert found["rbdc"]["value"] == pytest.approx(0.5 / 8 + 0.75 * 7 / 8)
    assert found["tbdc"]["value"] == pytest.approx(0.5 / 8 + 1.0 * 7 / 8)
    assert (found["rbdc"]["tracks"], found["rbdc"]["boxes"]) == ("derived-tracks", 4)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a,4,0,0,1,1,1", "line 2: a frame that the video does not have"),
        ("a,0,5,0,1,1,1", "line 2: corners the wrong way round"),
        ("a,0,x,0,1,1,1", "line 2: could not convert"),
        ("c,0,0,0,1,1,1", "not evaluated: c"),
    ],
)
def test_a_wrong_box_is_named_with_its_line(masked: World, row: str, says: str):
    boxes = masked.write("boxes.csv", f"video,frame,x1,y1,x2,y2,score\n{row}\n")
    with pytest.raises(VerificationError, match=says):
        masked.evaluate(masked.npz(frame_scores()), metrics=("rbdc",), boxes=boxes)


def test_events_are_told_apart_by_the_area_of_their_masks(masked: World):
    scores = frame_scores()
    scores["a"] = np.zeros(4)  # the small one (4 of 64 cells) is missed, the large one (half) is found
    options = Protocol(rounds=0, floors="none", by=("area:0.1", "area"))
    breakdown = masked.evaluate(masked.npz(scores), metrics=("auc",), protocol=options).evals[0].metrics["breakdown"]
    stated = breakdown["area:0.1"]
    assert {name: group["metrics"]["auc"]["value"] for name, group in stated.items()} == {"< 0.1": 0.5, ">= 0.1": 1.0}
    at_edge = Protocol(rounds=0, floors="none", by=("area:0.5",))  # an edge belongs to the group above it
    groups = masked.evaluate(masked.npz(scores), metrics=("auc",), protocol=at_edge).evals[0].metrics["breakdown"]
    assert {name: group["events"] for name, group in groups["area:0.5"].items()} == {"< 0.5": 1, ">= 0.5": 1}
    assert breakdown["area"]["small"]["description"].startswith("0.0625 to")
    assert breakdown["area"]["large"]["metrics"]["auc"]["value"] == 1.0


def test_a_masks_file_of_other_lengths_is_refused(masked: World):
    np.savez(masked.root / "tiny" / "masks.npz", **(masks() | {"a": masks()["a"][:3]}))
    with pytest.raises(VerificationError, match="'a': 3 pixel masks, but the video has 4 frames"):
        masked.evaluate(masked.npz(frame_scores()), metrics=("auc",), protocol=Protocol(rounds=0, by=("area",)))


@pytest.mark.parametrize("by", ["area:0.2:0.1", "area:x", "class:1", "aera"])
def test_breakdowns_that_cannot_be_read_are_refused(masked: World, by: str):
    with pytest.raises(UsageError):
        masked.evaluate(masked.npz(frame_scores()), protocol=Protocol(rounds=0, floors="none", by=(by,)))


def test_metrics_json_holds_the_maps_size(masked: World):
    maps = {f"{v}|maps": m.astype(np.float32) for v, m in masks().items()}
    folder = masked.evaluate(masked.npz(frame_scores() | maps), metrics=("all",), protocol=QUICK).evals[0].folder
    assert json.loads((folder / "metrics.json").read_text())["metrics"]["pixel-auc"]["maps"] == ["8x8"]
