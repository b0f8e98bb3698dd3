"""The referee on public annotations and public scores (skips without them); numbers from evaluation.md's sections 7 and 13."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import artifacts, evaluate
from pipelines.data.manifest import load, packaged_path
from pipelines.evaluate import EvalRequest
from pipelines.scoring.floor_table import floor_table
from pipelines.scoring.protocol import Protocol

pytestmark = pytest.mark.real
BARE = Protocol(rounds=0, floors="none")
Referee = Callable[..., dict[str, Any]]


@pytest.fixture
def referee(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Referee:
    """`referee(scores, dataset, **request)` -> metrics.json."""
    monkeypatch.setenv("VAD_DATA", str(shared))
    monkeypatch.setenv("VAD_ANNOTATIONS", str(shared / "annotations"))

    def run(scores: Path, dataset: str, **changes: Any) -> dict[str, Any]:
        fields: dict[str, Any] = {"run": None, "scores": scores, "dataset": dataset, "protocol": BARE}
        fields |= {"plots": "leave out", "manifest": packaged_path()}
        fields |= {"cache_dir": str(tmp_path / "cache"), "runs_dir": tmp_path / "runs"}
        return evaluate.run(EvalRequest(**(fields | changes))).evals[0].metrics

    return run


def ucf_lengths(shared: Path) -> dict[str, int]:
    with (shared / "annotations" / "ucf-crime" / "frame_counts.csv").open() as handle:
        return {row["video"]: int(row["frames"]) for row in csv.DictReader(handle)}


def values(metrics: dict[str, Any]) -> list[float]:
    return [round(entry["value"], 3) for entry in metrics["metrics"].values()]


def test_a_constant_on_ucf_crime_and_its_totals(referee: Referee, shared: Path, tmp_path: Path):
    np.savez(tmp_path / "ones.npz", **{video: np.ones(n) for video, n in ucf_lengths(shared).items()})
    metrics = referee(tmp_path / "ones.npz", "ucf-crime", metrics=("auc", "ap", "ano-auc"))
    assert values(metrics) == [0.5, 0.076, 0.5]
    truth = metrics["ground_truth"]
    assert (truth["frames"], truth["positives"], truth["events"]) == (1_111_808, 84_182, 156)
    assert truth["known_totals"]["agrees"] is True
    assert truth["clamped_events"] == 5


def test_the_length_of_a_video_alone_scores_on_ucf_crime(referee: Referee, shared: Path, tmp_path: Path):
    lengths = ucf_lengths(shared)
    np.savez(tmp_path / "length.npz", **{f"{v}.mp4": np.full(-(-n // 16), -n) for v, n in lengths.items()})
    metrics = referee(tmp_path / "length.npz", "ucf-crime", metrics=("auc", "ap", "ano-auc"), clip_frames=16)
    assert values(metrics) == [0.651, 0.103, 0.572]


def test_another_convention_is_recognised_by_its_total(referee: Referee, shared: Path, tmp_path: Path):
    np.savez(tmp_path / "ones.npz", **{video: np.ones(n) for video, n in ucf_lengths(shared).items()})
    inclusive = Protocol(rounds=0, floors="none", gt="inclusive")
    truth = referee(tmp_path / "ones.npz", "ucf-crime", metrics=("auc",), protocol=inclusive)["ground_truth"]
    assert truth["positives"] == 84_331
    assert truth["known_totals"]["agrees"] is True


@pytest.mark.parametrize(("features", "auc"), [("i3d", 0.730), ("c3d", 0.699)])
def test_public_snippet_scores_of_shanghaitech(
    referee: Referee, shared: Path, tmp_path: Path, features: str, auc: float
):
    folder = shared / "annotations" / "shanghaitech"
    scores = folder / f"mist_train_snippet_scores_{features}.npz"
    with np.load(scores) as given, np.load(folder / "test_frame_mask.npz") as masks:
        (tmp_path / "abnormal.txt").write_text("\n".join(sorted(set(given.files) & set(masks.files))))
    metrics = referee(
        scores, "shanghaitech", split="weak", part="train", videos=tmp_path / "abnormal.txt", metrics=("auc",),
        clip_frames=16, protocol=Protocol(rounds=0, floors="none", tail="truncate"),
    )  # fmt: skip
    assert metrics["videos"] == 63
    assert values(metrics) == [auc]


def test_a_published_recipe_lifts_a_constant_on_shanghaitech(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VAD_DATA", str(shared))
    monkeypatch.setenv("VAD_ANNOTATIONS", str(shared / "annotations"))
    dataset = load(packaged_path()).dataset("shanghaitech")
    found = floor_table(
        dataset,
        "one-class",
        "test",
        protocol=Protocol(compat="aed-mae-shanghai"),
        metrics=("auc", "macro-auc-pad"),
        roots=artifacts.resolve_roots(cache_dir=tmp_path, runs_dir=tmp_path),
    )
    assert found["frames"] == 40_791
    assert found["floors"]["constant"] == pytest.approx({"auc": 0.770, "macro-auc-pad": 0.838}, abs=1e-3)


def test_a_preset_brings_its_truth_and_its_crop_where_there_is_one(referee: Referee, shared: Path, tmp_path: Path):
    np.savez(tmp_path / "ones.npz", **{video: np.ones(n) for video, n in ucf_lengths(shared).items()})
    preset = Protocol(rounds=0, floors="none", compat="rtfm")
    metrics = referee(tmp_path / "ones.npz", "ucf-crime", metrics=("auc",), protocol=preset)
    assert metrics["ground_truth"]["version"] == "ucf-crime:inclusive"
    assert metrics["ground_truth"]["evaluated_totals"] == {
        "agrees": True,
        "message": "evaluated: 1,114,144 frames, 84,343 positive: as known for inclusive, ceil to 16",
    }
    given = Protocol(rounds=0, floors="none", compat="rtfm", gt="half_open")
    other = referee(tmp_path / "ones.npz", "ucf-crime", metrics=("auc",), protocol=given)
    assert other["ground_truth"]["version"] == "ucf-crime:half_open"
    crops = {video: np.stack([np.zeros(n), np.ones(n)]) for video, n in ucf_lengths(shared).items()}
    names = {f"{video}|crops": np.array(["center", "center_m"]) for video in crops}
    np.savez(tmp_path / "crops.npz", **crops, **names)
    one = Protocol(rounds=0, floors="none", compat="vadclip")
    found = referee(tmp_path / "crops.npz", "ucf-crime", metrics=("operating",), protocol=one)
    assert found["scores"]["crop_rule"] == "center_m"
    assert found["metrics"]["operating"]["far@0.5"] == 1.0  # the mean over crops would be 0.5 as well, `center` 0
    assert metrics["scores"]["crop_rule"] == "mean"


def test_vadclip_looks_for_uncut_events_where_features_are_shorter(referee: Referee, shared: Path, tmp_path: Path):
    with np.load(shared / "annotations" / "xd-violence" / "pel4vad_frame_gt.npz") as truth:
        lengths = {video: len(truth[video]) for video in truth.files}
    arrays = {}
    for video, n in lengths.items():
        arrays[video] = np.zeros(n // 16)
        arrays[f"{video}|classes"] = np.full((n // 16, 7), 1 / 7, np.float32)
        arrays[f"{video}|classes"][0] += np.eye(7, dtype=np.float32)[0] * 0.1
    np.savez(tmp_path / "xd.npz", **arrays)
    found = referee(tmp_path / "xd.npz", "xd-violence", metrics=("map-iou",), clip_frames=16)
    assert found["ground_truth"]["clamped_events"] == 72  # one in each of the 72 videos of the reference
    assert found["metrics"]["map-iou"]["abnormal-only"]["clipped"] == 72
    assert found["metrics"]["map-iou"]["vadclip"]["clipped"] == 0
    assert found["metrics"]["map-iou"]["vadclip"]["n_truth"] == 1272 + 300  # and the normal videos' own segments
