"""Scores that anybody brings: hand-worked numbers, coverage, lengths, NaN, ids, what is kept and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from tests.evaluate.world import AP, AUC, QUICK, SCORES, World, make

CLASS_SCORES = {
    "a": [[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.7, 0.2, 0.1], [0.8, 0.1, 0.1]],
    "b": [[0.9, 0.05, 0.05], [0.2, 0.3, 0.5], [0.8, 0.1, 0.1], [0.9, 0.05, 0.05]],
}


def value(result, name="auc"):
    return result.evals[0].metrics["metrics"][name]["value"]


def test_frame_scores_give_the_hand_worked_numbers(tiny: World):
    result = tiny.evaluate(tiny.npz(SCORES), metrics=("auc", "ap", "ano-auc", "video-auc"))
    metrics = result.evals[0].metrics
    assert value(result) == pytest.approx(AUC)
    assert value(result, "ap") == pytest.approx(AP)
    assert value(result, "ano-auc") == 1.0
    assert value(result, "video-auc") == 1.0
    assert (metrics["videos"], metrics["frames"]) == (2, 10)
    truth = metrics["ground_truth"]
    assert (truth["positives"], truth["abnormal"], truth["normal"], truth["events"]) == (2, 1, 1, 1)
    assert truth["version"] == "tiny:exact"
    assert truth["length_source"] == {"published": 2}


def test_metrics_json_has_every_group(tiny: World):
    done = tiny.evaluate(tiny.npz(SCORES), plots="draw").evals[0]
    stored = json.loads((done.folder / "metrics.json").read_text())
    assert stored == done.metrics
    assert stored["schema"] == 1
    groups = {"identity", "ground_truth", "scores", "recipe", "metrics", "floors", "model", "counts", "warnings"}
    assert groups <= stored.keys()
    assert stored["metrics"]["auc"]["definition"] == "auc_micro"
    assert stored["scores"]["sha256"] == stored["model"]["scores_sha256"]
    names = {path.name for path in done.folder.iterdir()}
    assert {"scores.npz", "metrics.json", "per_video.csv", "per_class.csv", "artifact.json", "plots"} <= names
    assert {path.name for path in (done.folder / "plots").iterdir()} == {"curves.png", "roc_pr.png"}


def test_clips_cover_their_frames_and_the_tail_holds(tiny: World):
    path = tiny.npz({"a": [0.1, 0.9, 0.3], "b": [0.2, 0.1]})
    assert value(tiny.evaluate(path, clip_frames=2)) == 1.0  # clip 1 of a is exactly the event
    late = tiny.npz({"a": [0.2, 0.9, 0.3], "b": [0.1]}, "late.npz")  # one clip of 4 covers b
    with pytest.raises(VerificationError, match="video 'b'"):
        tiny.evaluate(late, clip_frames=2)


def test_an_offset_moves_the_first_row(tiny: World):
    # rows start at frame 1: frame 0 takes the first row's score
    path = tiny.npz({"a": SCORES["a"][1:], "b": SCORES["b"][1:]})
    result = tiny.evaluate(path, offset=1)
    # negatives .2 .2 .3 .2 .85 .85 .2 .1; .9 beats 8, .8 beats 6: 14 of 16
    assert value(result) == pytest.approx(14 / 16)


def test_repeated_clip_scores_may_stop_short_of_the_end_when_it_is_said(tiny: World):
    path = tiny.npz({"a": [0.1, 0.1, 0.9, 0.9], "b": [0.2, 0.2]})
    with pytest.raises(VerificationError, match=r"'a': 4 frame scores end at frame 4, the video has 6") as error:
        tiny.evaluate(path)
    assert "--rows frames" in error.value.hint
    result = tiny.evaluate(path, rows="frames", clip_frames=3)
    # the tail of a holds .9 twice: positives .9 .9 against .1 .1 .9 .9 .2 .2 .2 .2, ties count one half
    assert value(result) == pytest.approx((2 * 6 + 2 * 2 * 0.5) / 16)
    cut = tiny.evaluate(path, rows="frames", clip_frames=3, protocol=replace(QUICK, tail="truncate"))
    assert value(cut) == 1.0
    assert cut.evals[0].metrics["frames"] == 6


def test_missing_videos_are_named_and_may_be_left_out(tiny: World):
    path = tiny.npz({"a": SCORES["a"]})
    with pytest.raises(VerificationError, match="1 of 2 videos have no scores: b") as error:
        tiny.evaluate(path)
    assert error.value.exit_code == 5
    result = tiny.evaluate(path, missing="allow")
    assert value(result) == 1.0
    assert result.evals[0].metrics["ground_truth"]["missing"] == ["b"]
    assert any("left out" in line for line in result.evals[0].metrics["warnings"])


def test_nothing_left_is_an_error_even_when_missing_is_allowed(tiny: World):
    with pytest.raises(VerificationError, match="2 of 2 videos"):
        tiny.evaluate(tiny.npz({"n": [0.0] * 8}), missing="allow")


def test_unknown_videos_are_named(tiny: World):
    with pytest.raises(VerificationError, match="not of the split: zebra"):
        tiny.evaluate(tiny.npz(SCORES | {"zebra": [1.0]}))


def test_videos_of_other_parts_are_no_error(tiny: World):
    assert value(tiny.evaluate(tiny.npz(SCORES | {"n": [0.5] * 8}))) == pytest.approx(AUC)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_names_video_and_frame(tiny: World, bad: float):
    rows = [*SCORES["a"][:4], bad, 0.2]
    with pytest.raises(VerificationError, match="'a': the score of frame 4") as error:
        tiny.evaluate(tiny.npz({"a": rows, "b": SCORES["b"]}))
    assert error.value.exit_code == 5


def test_the_named_frame_is_the_clips_first_frame(tiny: World):
    with pytest.raises(VerificationError, match="'a': the score of frame 4"):
        tiny.evaluate(tiny.npz({"a": [0.1, 0.9, float("nan")], "b": [0.2, 0.1]}), clip_frames=2)


def test_nan_is_replaced_and_counted_only_when_asked(tiny: World):
    rows = [0.1, 0.2, 0.9, float("nan"), 0.3, 0.2]
    path = tiny.npz({"a": rows, "b": SCORES["b"]})
    held = tiny.evaluate(path, protocol=replace(QUICK, nan="hold"))
    assert value(held) == 1.0  # frame 3 takes .9
    zero = tiny.evaluate(path, protocol=replace(QUICK, nan="zero"))
    assert value(zero) == pytest.approx(8 / 16)  # frame 3 is below all
    assert zero.evals[0].metrics["scores"]["nan_replaced"] == 1


def test_published_spellings_mean_one_video(tmp_path: Path):
    world = make(tmp_path, ids="published")
    assert value(world.evaluate(world.npz({"Fire/a.mp4": SCORES["a"], "b.mp4": SCORES["b"]}))) == pytest.approx(AUC)
    with pytest.raises(VerificationError, match="'a' stands twice"):
        world.evaluate(world.npz({"a.mp4": SCORES["a"], "Fire/a.mp4": SCORES["a"], "b": SCORES["b"]}))


def test_the_order_of_videos_changes_nothing(tiny: World):
    def rank(n: int) -> list[float]:
        return list(np.random.default_rng(n).random(6 if n == 0 else 4).round(1))  # rounded: with ties

    one = tiny.evaluate(tiny.npz({"a": rank(0), "b": rank(1)}, "one.npz"), metrics=("all",))
    tiny.write("tiny/test.txt", "b,normal,4\na,fire,6\n")
    two = tiny.evaluate(tiny.npz({"b": rank(1), "a": rank(0)}, "two.npz"), metrics=("all",))
    assert one.evals[0].metrics["metrics"] == two.evals[0].metrics["metrics"]
    assert one.evals[0].folder != two.evals[0].folder


def test_a_monotone_map_leaves_auc_alone(tiny: World):
    mapped = {video: [score**3 - 7 for score in scores] for video, scores in SCORES.items()}
    assert value(tiny.evaluate(tiny.npz(mapped))) == pytest.approx(AUC)


def test_inverted_scores_warn_of_polarity(tiny: World):
    inverted = {video: [-score for score in scores] for video, scores in SCORES.items()}
    result = tiny.evaluate(tiny.npz(inverted))
    assert value(result) == pytest.approx(1 - AUC)
    assert any("below 0.5" in line for line in result.evals[0].metrics["warnings"])


def test_another_truth_is_another_number(tiny: World):
    result = tiny.evaluate(tiny.npz(SCORES), protocol=replace(QUICK, gt="wide"))
    # positives .2 .9 .8 .3 against .1 .2 .1 .85 .2 .1: (2 ties: 3 + 2/2) + 6 + 5 + 5 of 24
    assert value(result) == pytest.approx(20 / 24)
    assert result.evals[0].metrics["ground_truth"]["version"] == "tiny:wide"


def test_a_metric_that_cannot_be_computed_is_an_error_by_name_and_null_under_all(tiny: World):
    path = tiny.npz(SCORES)
    with pytest.raises(UsageError, match="map-iou"):
        tiny.evaluate(path, metrics=("map-iou",))
    entry = tiny.evaluate(path, metrics=("all",)).evals[0].metrics["metrics"]["map-iou"]
    assert entry["value"] is None
    assert "no class probabilities" in entry["reason"]
    with pytest.raises(UsageError, match="map-iou"):  # also where the evaluation of everything exists
        tiny.evaluate(path, metrics=("auc", "map-iou"))


def test_unknown_words_are_told_before_anything_is_read(tiny: World):
    with pytest.raises(UsageError, match="did you mean 'auc'"):
        tiny.evaluate(tiny.root / "missing.npz", metrics=("auk",))
    with pytest.raises(UsageError, match="--smooth"):
        tiny.evaluate(tiny.root / "missing.npz", protocol=replace(QUICK, smooth="gauss:3"))
    with pytest.raises(MissingArtifactError, match="no scores at"):
        tiny.evaluate(tiny.root / "missing.npz")


def test_class_scores_are_measured_in_the_datasets_order(tiny: World):
    arrays = SCORES | {f"{video}|classes": np.array(rows, np.float32) for video, rows in CLASS_SCORES.items()}
    entry = tiny.evaluate(tiny.npz(arrays), metrics=("class-auc",)).evals[0].metrics["metrics"]["class-auc"]
    assert entry["value"] == 1.0  # fire: .8 .7 in the event, at most .3 elsewhere; fight has no frame
    narrow = {key: array[:, :2] if key.endswith("classes") else array for key, array in _arrays(arrays).items()}
    with pytest.raises(VerificationError, match="2 class columns, tiny has 3"):
        tiny.evaluate(tiny.npz(narrow, "narrow.npz"))


def _arrays(arrays):
    return {key: np.asarray(value) for key, value in arrays.items()}


def test_ready_detections_replace_proposals(tiny: World):
    segments = tiny.write("found.csv", "video,label,start,end,score\na,fire,2,4,0.9\n")
    result = tiny.evaluate(tiny.npz(SCORES), metrics=("map-iou",), segments=segments)
    entry = result.evals[0].metrics["metrics"]["map-iou"]
    assert entry["abnormal-only"]["avg"] == 1.0
    half = tiny.write("half.csv", "video,label,start,end,score\na,fire,2,6,0.9\n")  # IoU 2/4
    entry = tiny.evaluate(tiny.npz(SCORES), metrics=("map-iou",), segments=half).evals[0].metrics["metrics"]["map-iou"]
    assert [entry["abnormal-only"][key] for key in ("0.1", "0.5")] == [1.0, 1.0]
    third = tiny.write("third.csv", "video,label,start,end,score\na,fire,0,6,0.9\n")  # IoU 2/6
    entry = tiny.evaluate(tiny.npz(SCORES), metrics=("map-iou",), segments=third).evals[0].metrics["metrics"]["map-iou"]
    assert [entry["abnormal-only"][key] for key in ("0.3", "0.4")] == [1.0, 0.0]


def test_a_list_restricts_the_videos(tiny: World):
    listed = tiny.write("only.txt", "a\n")
    result = tiny.evaluate(tiny.npz(SCORES), videos=listed)
    assert value(result) == 1.0
    assert result.evals[0].metrics["identity"]["subset"] is True
    with pytest.raises(UsageError, match="zebra"):
        tiny.evaluate(tiny.npz(SCORES), videos=tiny.write("bad.txt", "a\nzebra\n"))


def test_a_threshold_is_learnt_on_normal_videos_outside_the_test(tiny: World):
    path = tiny.npz(SCORES | {"n": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.84]})
    policy = replace(QUICK, threshold_policy="max-normal")
    entry = tiny.evaluate(path, metrics=("operating",), protocol=policy).evals[0].metrics["metrics"]["operating"]
    assert entry["threshold"] == pytest.approx(0.84)
    assert entry["threshold_source"] == "max-normal of 1 normal val videos"
    assert entry["hit_rate"] == 1.0
    assert entry["far@theta"] == pytest.approx(1 / 4)  # of the normal video's frames only .85 is above
    with pytest.raises(UsageError, match="normal videos"):
        tiny.evaluate(tiny.npz(SCORES, "bare.npz"), metrics=("operating",), protocol=policy)


def test_floors_stand_beside_every_ranking_metric(tiny: World):
    result = tiny.evaluate(tiny.npz(SCORES), protocol=replace(QUICK, floors="all"))
    floor = result.evals[0].metrics["metrics"]["auc"]["floor"]
    assert floor["constant"] == 0.5
    # the true video label: positives 1 1 against four 1 and four 0: (8 + 8/2) / 16
    assert floor["video-oracle"] == pytest.approx(12 / 16)


def test_curves_are_drawn_on_demand_for_what_exists(tiny: World):
    path = tiny.npz(SCORES)
    folder = tiny.evaluate(path).evals[0].folder
    before = (folder / "metrics.json").read_bytes()
    result = tiny.evaluate(path, curves=("a",))
    assert result.evals[0].state == "up to date"
    assert (folder / "plots" / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "metrics.json").read_bytes() == before
    with pytest.raises(UsageError, match="zebra"):
        tiny.evaluate(path, curves=("zebra",))


def test_an_event_past_the_end_is_an_error_unless_the_length_is_made_of_rows(tiny: World):
    tiny.write("tiny/truth.csv", "video,start,end,label\na,2,4,fire\na,7,9,fire\n")
    path = tiny.npz(SCORES)
    with pytest.raises(VerificationError, match="'a' has 6 frames, but an event begins at frame 7"):
        tiny.evaluate(path)
    document = yaml.safe_load(tiny.manifest.read_text())
    for part in document["datasets"]["tiny"]["splits"]["default"].values():
        part["fields"] = ["video", "label"]
    tiny.manifest.write_text(yaml.safe_dump(document))
    for part in ("test", "val", "train"):
        lines = (tiny.root / "tiny" / f"{part}.txt").read_text().splitlines()
        tiny.write(f"tiny/{part}.txt", "".join(line.rpartition(",")[0] + "\n" for line in lines))
    metrics = tiny.evaluate(path).evals[0].metrics
    assert metrics["metrics"]["auc"]["value"] == pytest.approx(AUC)
    assert metrics["ground_truth"]["lost_events"] == 1
    assert metrics["ground_truth"]["length_source"] == {"rows": 2}
    assert any("events begin past the end" in line for line in metrics["warnings"])


def test_a_flat_array_in_another_order_is_another_evaluation(tiny: World):
    path = tiny.root / "flat.npy"
    np.save(path, np.array(SCORES["a"] + SCORES["b"]))
    lengths = tiny.write("lengths.txt", "6\n4\n")
    right = tiny.evaluate(path, order=tiny.write("order.txt", "a\nb\n"), lengths=lengths).evals[0]
    assert right.metrics["metrics"]["auc"]["value"] == AUC
    turned = {"order": tiny.write("turned.txt", "b\na\n"), "lengths": tiny.write("turned.csv", "b,4\na,6\n")}
    assert tiny.evaluate(path, **turned).evals[0].metrics["metrics"]["auc"]["value"] != AUC
