"""`vad demo`: it finishes, can be repeated, says what it does, and its number is earned."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines import evaluate, synthetic, train
from pipelines.data.manifest import load
from pipelines.errors import UsageError
from pipelines.scoring.protocol import Protocol
from tests.cli.process import SMALL, vad


def test_it_says_what_it_does_at_each_step(small_demo):
    _, answer, log = small_demo
    assert [line[:3] for line in log.splitlines() if line[1:3] == "/4"] == ["1/4", "2/4", "3/4", "4/4"]
    assert "vad extract vad-demo" in log
    assert {"auc", "ap", "ano-auc", "video-auc", "map-iou"} <= set(answer["metrics"])
    assert set(answer["metrics"]["map-iou"]["abnormal-only"]["per_class"]) <= set(synthetic.CLASSES[1:])
    assert set(answer["breakdown"]["class"]) <= set(synthetic.CLASSES[1:])
    assert answer["pictures"]
    assert all(Path(small_demo[0].parent, picture).stat().st_size > 10_000 for picture in answer["pictures"])


def test_again_finds_everything_done(small_demo):
    folder, answer, _ = small_demo
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    done = vad("demo", "--videos", SMALL, "--set", "steps=150", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")} == before
    assert "extracting" not in done.stderr
    assert "training" not in done.stderr
    assert f"{answer['metrics']['auc']['value']:.4f}" in done.stdout
    assert "vad predict" in done.stdout


def test_another_seed_does_not_touch_the_folder(small_demo):
    folder, _, _ = small_demo
    done = vad("demo", "--videos", SMALL, "--seed", 5, cwd=folder.parent)
    assert done.returncode == 2
    assert "--out" in done.stderr


def test_plain_commands_work_inside_the_folder(small_demo, tmp_path):
    folder = shutil.copytree(small_demo[0], tmp_path / "vad-demo")
    done = vad("eval", "--metric", "auc", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == 1


def _measure(folder: Path, out: Path) -> dict[str, float]:
    """Train and evaluate on the features of `folder` under its videos.csv."""
    places = {"manifest": folder / "data_manifest.yaml", "cache_dir": str(folder / "vad_cache"), "runs_dir": out}
    result = train.run(train.TrainRequest(dataset="vad-demo", sets=("steps=150",), **places))
    request = evaluate.EvalRequest(
        run=str(result.runs[0].folder),
        metrics=("auc", "video-auc"),
        protocol=Protocol(rounds=0, floors="none"),
        **places,
    )
    return {name: entry["value"] for name, entry in evaluate.run(request).evals[0].metrics["metrics"].items()}


def _relabel(source: Path, target: Path, *, seed: int, flip: int) -> None:
    """Random labels for the training videos, half of them abnormal; `flip` 1 gives the opposite of `flip` 0."""
    rows = list(csv.DictReader(source.open()))
    trained = [row for row in rows if row["split"] == "train"]
    drawn = np.random.default_rng(seed).permutation(len(trained)) % 2
    for row, bit in zip(trained, drawn, strict=True):
        row["label"] = "smoke" if bit ^ flip else "normal"
    with target.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_with_shuffled_training_labels_the_number_falls_to_chance(small_demo, tmp_path):
    """The mean over random labellings and their opposites, so that none agrees with the truth by luck.

    The video score falls to one half. The frame score stays a little above it: whatever the labels, such a method
    looks for what is rare, and events are (that is why the demo's videos have harmless rarities too).
    """
    folder, answer, _ = small_demo
    copy = shutil.copytree(folder, tmp_path / "shuffled", ignore=shutil.ignore_patterns("vad_runs"))
    found = []
    for seed in range(4):
        for flip in (0, 1):
            _relabel(folder / "videos.csv", copy / "videos.csv", seed=seed, flip=flip)
            found.append(_measure(copy, tmp_path / f"runs-{seed}-{flip}"))
    frames, videos = (float(np.mean([one[name] for one in found])) for name in ("auc", "video-auc"))
    real = answer["metrics"]["auc"]["value"]
    assert abs(videos - 0.5) < 0.12, found
    assert frames < 0.65, found
    assert real > max(0.8, frames + 0.2), (real, found)


def test_parts_never_share_a_seed_and_every_class_is_on_both_sides():
    planned = synthetic.plan(videos=60, seed=3)
    assert len({one.seed for one in planned}) == 60
    for part in ("train", "test"):
        assert {one.label for one in planned if one.part == part} == set(synthetic.CLASSES)
    for one in planned:
        assert all(0 <= e.start_frames < e.end_frames <= one.n_frames for e in one.events)
        assert bool(one.events) == (one.label != "normal")


def test_the_same_plan_gives_the_same_pixels_and_another_seed_others():
    one, other = synthetic.plan(videos=20, seed=0)[0], synthetic.plan(videos=20, seed=1)[0]
    first = next(synthetic.frames(one))
    np.testing.assert_array_equal(first, next(synthetic.frames(one)))
    assert first.shape == (synthetic.HEIGHT, synthetic.WIDTH, 3)
    assert not np.array_equal(first, next(synthetic.frames(other)))


def test_a_cart_is_in_the_picture_exactly_during_its_event():
    one = next(p for p in synthetic.plan(videos=60, seed=0) if p.label == "cart")
    start, end = one.events[0].start_frames, one.events[0].end_frames
    body = np.array([225, 225, 215])
    pixels = [int((np.abs(frame.astype(int) - body).max(axis=2) < 16).sum()) for frame in synthetic.frames(one)]
    assert len(pixels) == one.n_frames
    assert min(pixels[start:end]) > 2 * max(pixels[:start] + pixels[end:])


def test_too_few_videos_are_refused():
    with pytest.raises(UsageError, match="--videos 8"):
        synthetic.plan(videos=8)


def test_the_manifest_describes_what_was_written(small_demo):
    dataset = load(small_demo[0] / "data_manifest.yaml").dataset("vad-demo")
    planned = {one.id: one for one in synthetic.plan(videos=SMALL, seed=0)}
    for part in ("train", "val", "test"):
        for video in dataset.videos(part=part):
            assert (video.classes, part) == ((planned[video.id].label,), planned[video.id].part)
            if part == "test":
                assert video.segments == planned[video.id].events
