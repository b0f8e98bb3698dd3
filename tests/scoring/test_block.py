"""The metrics block: shape, reasons, checks, presets of options, tables."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from pipelines.errors import UsageError, VerificationError
from pipelines.metrics._base import PROTOCOLS, UndefinedMetricError
from pipelines.records import Event, VideoTruth
from pipelines.scoring.block import EvalData, EvalOptions, evaluate_scores, metric_names
from pipelines.scoring.expand import FrameScores
from pipelines.scoring.smooth import parse_smooth
from tests.scoring.build import evaluation

QUICK = EvalOptions(rounds=20, floor_seeds=2)


def scene():
    """Two abnormal and two normal videos with class scores that find the events."""
    rng = np.random.default_rng(0)
    labels = {
        "a": np.arange(96) // 32 == 1,
        "b": np.arange(64) // 16 == 0,
        "n1": np.zeros(80, bool),
        "n2": np.zeros(48, bool),
    }
    scores = {v: np.clip(0.6 * y + 0.3 * rng.random(len(y)), 0, 1) for v, y in labels.items()}
    tables = {v: np.stack([1 - s, s], axis=1).astype(np.float32) for v, s in scores.items()}
    return evaluation(labels, scores, class_scores=tables, fps=[10.0] * 4, cameras=["c1", "c2", "c1", None])


def test_all_is_json_with_value_interval_floor_and_definition():
    block = evaluate_scores(scene(), ["all"], replace(QUICK, threshold=0.5, threshold_source="given"))
    text = json.dumps([block.metrics, block.floors, block.per_video, block.per_class, block.counts, block.recipe])
    assert "NaN" not in text
    assert tuple(block.metrics) == metric_names("weak")
    auc = block.metrics["auc"]
    assert (auc["definition"], auc["n"], auc["value"]) == ("auc_micro", 288, 1.0)
    assert len(auc["ci"]) == 2
    assert auc["floor"]["constant"] == 0.5
    assert {"random", "random_sd", "centre", "length", "video-oracle"} <= set(auc["floor"])
    assert set(block.metrics["map-iou"]) == set(PROTOCOLS)
    protocol = block.metrics["map-iou"]["abnormal-only"]
    assert (protocol["0.5"], protocol["avg"], protocol["definition"]) == (1.0, 1.0, "map_iou:abnormal-only")
    assert protocol["ci"] == [1.0, 1.0]
    assert 0 <= protocol["floor"]["random"] < 0.9
    assert block.metrics["operating"]["hit_rate"] == 1.0


def test_counts_and_tables():
    block = evaluate_scores(scene(), ["auc", "map-iou"], QUICK)
    assert block.counts | {"tied_share": 0} == {
        "videos": 4,
        "abnormal": 2,
        "normal": 2,
        "frames": 288,
        "real_frames": 288,
        "positives": 48,
        "real_positives": 48,
        "events": 2,
        "clamped_events": 0,
        "events_past_scores": 0,
        "tied_share": 0,
        "constant_videos": [],
    }
    rows = {r["video"]: r for r in block.per_video}
    assert (rows["a"]["auc"], rows["a"]["positives"]) == (1.0, 32)
    assert (rows["n1"]["auc"], rows["n1"]["reason"]) == (None, "no abnormal frame")
    by_class = {r["class"]: r for r in block.per_class}
    assert (by_class["abnormal"]["events"], by_class["abnormal"]["map-iou abnormal-only"]) == (2, 1.0)
    found = block.detections["abnormal-only"]
    assert (np.diff(found.score) <= 0).all()


def test_undefined_is_null_under_all_and_an_error_by_name():
    data = evaluation({"a": [0, 1], "b": [0, 0]}, {"a": [0.0, 1.0], "b": [0.0, 0.5]})
    block = evaluate_scores(data, ["all"], QUICK)
    assert block.metrics["map-iou"]["value"] is None
    assert "class probabilities" in block.metrics["map-iou"]["reason"]
    with pytest.raises(UndefinedMetricError, match=r"map-iou: .*class probabilities") as caught:
        evaluate_scores(data, ["map-iou"], QUICK)
    assert caught.value.exit_code == 2
    assert evaluate_scores(data, ["map-iou"], replace(QUICK, undefined="null")).metrics["map-iou"]["value"] is None


def test_unknown_names_are_usage_errors_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'ano-auc'"):
        evaluate_scores(scene(), ["anoauc"], QUICK)
    with pytest.raises(UsageError, match="unknown protocol"):
        evaluate_scores(scene(), ["map-iou"], replace(QUICK, protocols=("openstad",)))
    with pytest.raises(UsageError, match="unknown breakdown"):
        evaluate_scores(scene(), ["auc"], replace(QUICK, by=("colour",)))


def test_smoothing_acts_inside_each_video():
    labels = {"a": [0, 0, 1], "b": [0, 0, 0]}
    scores = {"a": [0.0, 0.0, 9.0], "b": [0.0, 0.0, 0.0]}
    block = evaluate_scores(evaluation(labels, scores), ["auc"], replace(QUICK, smooth=parse_smooth("mean:3")))
    assert block.processed[0] == pytest.approx([0.0, 3.0, 6.0])
    assert block.processed[1].tolist() == [0.0, 0.0, 0.0]
    assert block.recipe["smooth"] == "mean:3:reflect"


def test_dropped_frames_leave_labels_and_events_aligned():
    labels = {"a": np.arange(64) // 16 == 1, "b": np.zeros(64, bool)}
    scores = {v: y + 0.0 for v, y in labels.items()}
    tables = {v: np.stack([1 - s, s], axis=1).astype(np.float32) for v, s in scores.items()}
    options = replace(QUICK, drop_first=8, drop_last=4, tious=(1.0,))
    block = evaluate_scores(evaluation(labels, scores, class_scores=tables), ["auc", "map-iou"], options)
    assert block.counts["frames"] == 2 * 52
    assert block.metrics["auc"]["value"] == 1.0
    assert block.metrics["map-iou"]["abnormal-only"]["1"] == 1.0


def test_truncated_tails_lose_labels_but_the_video_stays_abnormal():
    labels = np.arange(40) >= 36
    truth = VideoTruth("a", labels, (Event(36, 40, "abnormal"),), ("abnormal",))
    other = VideoTruth("b", np.arange(32) < 4, (Event(0, 4, "abnormal"),), ("abnormal",))
    frames = [FrameScores("a", np.zeros(32), 40), FrameScores("b", np.arange(32.0)[::-1], 32)]
    block = evaluate_scores(EvalData(frames, [truth, other], ("normal", "abnormal")), ["auc"], QUICK)
    assert (block.counts["frames"], block.counts["real_frames"], block.counts["events_past_scores"]) == (64, 72, 1)
    assert block.counts["abnormal"] == 2
    assert block.metrics["auc"]["n"] == 64


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (FrameScores("a", np.zeros(5), 5), "truth has 4 frames"),
        (FrameScores("b", np.zeros(4), 4), "scores of video 'b' stand beside the truth of 'a'"),
        (FrameScores("a", np.array([0, 1, np.inf, 2]), 4), "frame 2 is inf"),
    ],
)
def test_scores_that_fail_a_check_name_the_video(frames, message):
    truth = VideoTruth("a", np.array([0, 1, 0, 0], bool), (Event(1, 2, "abnormal"),), ("abnormal",))
    with pytest.raises(VerificationError, match=message) as caught:
        evaluate_scores(EvalData([frames], [truth], ("normal", "abnormal")), ["auc"], QUICK)
    assert caught.value.exit_code == 5


def test_a_polarity_warning_and_no_flip():
    data = evaluation({"a": [0, 1, 1, 0], "b": [0, 0]}, {"a": [0.9, 0.1, 0.2, 0.8], "b": [1.0, 1.0]})
    block = evaluate_scores(data, ["auc"], QUICK)
    assert block.metrics["auc"]["value"] == 0.0
    assert any("below 0.5" in w for w in block.warnings)


def test_monotone_maps_leave_the_block():
    data = scene()
    mapped = replace(data, frames=[replace(f, scores=f.scores * 8 - 100) for f in data.frames])
    one, other = (evaluate_scores(d, ["auc", "ap", "ano-auc", "macro-auc", "video-auc"], QUICK) for d in (data, mapped))
    assert one.metrics == other.metrics


def test_breakdown_by_camera_length_and_duration():
    options = replace(QUICK, by=("camera", "video-length", "duration", "class", "area"))
    block = evaluate_scores(scene(), ["auc", "map-iou"], options)
    camera = block.breakdown["camera"]
    assert camera["c1"]["videos"] == 2
    assert camera["c1"]["metrics"]["auc"] == {"value": 1.0, "n": 176}
    assert camera["c2"]["metrics"]["auc"]["value"] == 1.0
    duration = block.breakdown["duration"]
    assert duration["short"]["events"] == 1
    # the short event of `b` keeps both normal videos, and leaves `a` out
    assert duration["short"]["metrics"]["auc"]["n"] == 64 + 80 + 48
    assert "s" in duration["short"]["description"]
    assert block.breakdown["class"]["abnormal"]["metrics"]["map-iou"]["abnormal-only"] == 1.0
    assert block.breakdown["area"]["value"] is None


def test_breakdown_leaves_out_frames_of_other_events():
    labels = np.zeros(100, bool)
    labels[10:15], labels[40:80] = True, True
    scores = np.zeros(100)
    scores[40:80] = 1.0  # finds the long event, misses the short one
    data = evaluation({"a": labels}, {"a": scores})
    block = evaluate_scores(data, ["auc"], replace(QUICK, by=("duration",)))
    short, long = block.breakdown["duration"]["short"], block.breakdown["duration"]["long"]
    assert short["metrics"]["auc"] == {"value": 0.5, "n": 60}
    assert long["metrics"]["auc"] == {"value": 1.0, "n": 95}


def test_areas_group_events():
    labels = np.zeros(90, bool)
    labels[0:10], labels[30:40], labels[60:70] = True, True, True
    scores = np.zeros(90)
    scores[30:40] = 1.0
    data = evaluation({"a": labels}, {"a": scores}, areas=[[0.5, 0.01, 0.2]])
    block = evaluate_scores(data, ["auc"], replace(QUICK, by=("area",)))
    assert block.breakdown["area"]["small"]["metrics"]["auc"]["value"] == 1.0
    assert block.breakdown["area"]["large"]["metrics"]["auc"]["value"] == 0.5


def test_areas_stay_with_their_events_where_frames_are_dropped():
    labels = np.zeros(90, bool)
    labels[0:10], labels[30:40], labels[60:70] = True, True, True
    data = evaluation({"a": labels}, {"a": np.arange(90.0)}, areas=[[0.9, 0.01, 0.2]])
    options = replace(QUICK, by=("area:0.1",), drop_first=10)  # the first event ends where frames begin to count
    found = evaluate_scores(data, ["auc"], options).breakdown["area:0.1"]
    assert {name: group["events"] for name, group in found.items()} == {"< 0.1": 1, ">= 0.1": 1}
    # rising scores: the small event [30, 40) is above 20 of 60 normal frames, [60, 70) above 40
    assert found["< 0.1"]["metrics"]["auc"]["value"] == pytest.approx(1 / 3)
    assert found[">= 0.1"]["metrics"]["auc"]["value"] == pytest.approx(2 / 3)


def test_thresholds_by_camera_reach_the_operating_figures():
    options = replace(QUICK, threshold=2.0, thresholds_by_camera={"c1": 0.5})
    found = evaluate_scores(scene(), ["operating"], options).metrics["operating"]
    assert found["hit_rate"] == 0.5  # `b` (camera c2) falls back to 2.0, which nothing reaches


def test_floors_close_to_the_result_are_flagged():
    rng = np.random.default_rng(0)
    labels = {f"v{i}": np.arange(40) // 10 == i % 4 for i in range(6)}
    noise = {v: rng.random(40) for v in labels}
    block = evaluate_scores(evaluation(labels, noise), ["auc"], replace(QUICK, rounds=200))
    assert any("auc" in w and "'constant'" in w for w in block.warnings)


def test_annotated_events_reach_vadclip_uncut():
    labels = np.arange(32) >= 16
    table = np.stack([1.0 - labels, labels + 0.0], axis=1).astype(np.float32)
    data = evaluation({"a": labels}, {"a": labels + 0.0}, class_scores={"a": table})
    uncut = replace(data, annotated=[(Event(16, 64, "abnormal"),)])
    options = replace(QUICK, tious=(0.3, 0.5))
    one, other = (evaluate_scores(d, ["map-iou"], options).metrics["map-iou"] for d in (data, uncut))
    assert one["vadclip"]["per_class"]["abnormal"]["0.5"] == 1.0
    assert other["vadclip"]["per_class"]["abnormal"] == {"0.3": 1.0, "0.5": 0.0, "avg": 0.5}  # IoU 16/48
    assert (other["abnormal-only"]["0.5"], other["abnormal-only"]["clipped"]) == (1.0, 1)
