"""`vad predict`: what it writes, what it takes for a video, and where its threshold comes from."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import predict
from pipelines.errors import UsageError
from pipelines.report.annotate import Overlay, annotate
from pipelines.scoring.events import AlarmRule, find_events
from pipelines.video.decode import read_frames
from pipelines.video.write import write_video
from tests.cli.process import vad


def a_fire(folder: Path) -> Path:
    return next((folder / "videos").glob("test-*-fire.mp4"))


def test_without_a_run_one_command_gives_a_curve(small_demo, tmp_path):
    video = shutil.copy(a_fire(small_demo[0]), tmp_path / "video.mp4")
    done = vad("predict", video, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "motion-scalar" in done.stderr
    out = tmp_path / "vad_predictions" / "video"
    assert {path.name for path in out.iterdir()} == {
        "video.csv",
        "video.json",
        "video.png",
        "summary.csv",
        "events.csv",
    }
    assert (out / "video.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    body = json.loads((out / "video.json").read_text())
    rows = list(csv.DictReader((out / "video.csv").open()))
    assert len(rows) == body["n_frames"]
    assert max(float(row["score"]) for row in rows) == pytest.approx(body["peak"], rel=1e-4)
    assert "nothing was learnt" in body["threshold_source"]


def test_with_a_run_the_event_is_found_in_seconds(small_demo, tmp_path):
    video = a_fire(small_demo[0])
    done = vad("predict", video, "--out", tmp_path / "out", "--json", cwd=small_demo[0])
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["videos"]
    truth = next(r for r in csv.DictReader((small_demo[0] / "events.csv").open()) if r["video"] == video.stem)
    start, end = int(truth["start"]) / 12, int(truth["end"]) / 12
    assert start - 1 <= one["peak_s"] <= end + 1
    assert one["threshold_source"].startswith("99 % of the")
    assert "normal val videos" in one["threshold_source"]  # those of training are known by heart
    assert json.loads((tmp_path / "out" / f"{video.stem}.json").read_text())["scorer"]["method"] == "fine-vad"


def test_scores_are_those_of_the_evaluation(small_demo, tmp_path):
    """The same video through predict (decoded again) and through extract and eval."""
    video = a_fire(small_demo[0])
    assert vad("predict", video, "--smooth", "none", "--out", tmp_path, cwd=small_demo[0]).returncode == 0
    raw = np.array([float(row["raw"]) for row in csv.DictReader((tmp_path / f"{video.stem}.csv").open())])
    stored = next(p for p in (small_demo[0] / "vad_runs" / "vad-demo" / "fine-vad").rglob("per_video.csv"))
    row = next(r for r in csv.DictReader(stored.open()) if r["video"] == video.stem)
    assert len(raw) == int(row["real_frames"])
    assert raw.max() == pytest.approx(float(row["max_score"]), abs=1e-4)
    assert raw.mean() == pytest.approx(float(row["mean_score"]), abs=1e-4)


def test_a_given_threshold_decides_the_events(small_demo, tmp_path):
    video = a_fire(small_demo[0])
    done = vad("predict", video, "--threshold", "2", "--out", tmp_path, "--json", cwd=small_demo[0])
    (one,) = json.loads(done.stdout)["videos"]
    assert (one["threshold"], one["threshold_source"], one["events"]) == (2.0, "given", [])


def test_a_folder_of_images_is_one_video(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(20):
        Image.fromarray(np.full((48, 64, 3), 10 * index, np.uint8)).save(frames / f"{index:03d}.png")
    done = vad("predict", frames, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["videos"]
    assert (one["video"], one["n_frames"], one["fps"], one["peak_s"]) == ("frames", 20, None, None)


def test_which_files_are_videos_and_what_they_are_called(tmp_path):
    for name in ("a.mp4", "b/a.mp4", "b/c.avi", "c.mp4", "c.mkv", "notes.txt", ".hidden/x.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = predict.find_videos(tmp_path)
    assert {key: str(path.relative_to(tmp_path)) for key, path in found.items()} == {
        "a": "a.mp4", "b/a": "b/a.mp4", "b/c": "b/c.avi", "c.mp4": "c.mp4", "c.mkv": "c.mkv",
    }  # fmt: skip


def test_a_folder_without_videos_is_said_to_be_one(tmp_path):
    with pytest.raises(UsageError, match="holds no videos"):
        predict.find_videos(tmp_path)


def test_the_video_is_drawn_upon_and_each_event_cut_out(tmp_path):
    """40 frames at 10 fps, moving between 1.5 and 2.5 s only: one event, its clip a second longer on both sides."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    still = np.full((48, 64, 3), 90, np.uint8)
    noise = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(10)]
    write_video(folder / "a.mp4", [still] * 16 + noise + [still] * 14, fps=10)
    write_video(folder / "b.mp4", [still] * 40, fps=10)
    done = vad("predict", folder, "--video", "--clips", "cut", "--threshold", "0.1", "--smooth", "none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "vad_predictions" / "in"
    (row,) = csv.DictReader((out / "events.csv").open())
    assert (row["video"], row["start_frame"], row["end_frame"]) == ("a", "16", "24")  # whole clips of 8 frames
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["a-0001.60s.mp4"]
    assert len(read_frames(tmp_path / "cut" / "a-0001.60s.mp4")) == 8 + 2 * 10
    drawn = read_frames(out / "a.mp4")
    assert drawn.shape == (40, 360 + 72, 480, 3)
    vermilion = np.abs(drawn[:, 1, 240].astype(int) - (213, 94, 0)).max(axis=1) < 60  # the frame of an event's picture
    assert vermilion.nonzero()[0].tolist() == list(range(16, 24))
    cursor = drawn[:, 360 + 4 : 360 + 68].min(axis=(1, 3)).argmax(axis=1)  # the column that is bright throughout
    np.testing.assert_allclose(cursor, np.arange(40) / 40 * 479, atol=1.5)


def test_a_heat_map_is_seen_where_it_is_high():
    maps = np.zeros((2, 4, 4), np.float32)
    maps[1, :2, :2] = 1.0
    line = Overlay(np.zeros(16), 1.0, 8.0, (), (), maps, np.array([[0, 8], [8, 16]]))
    drawn = list(annotate([np.full((360, 480, 3), 100, np.uint8)] * 16, line))
    assert drawn[3][40:300, 60:400].std(axis=(0, 1)).max() < 1  # nothing in the first clip's map
    red = drawn[12][..., 0].astype(int) - drawn[12][..., 2]
    assert red[60, 80] > 100 and abs(red[200, 400]) < 5


def test_events_are_runs_above_the_threshold_in_seconds():
    scores = np.zeros(100)
    scores[10:20] = 1.0
    scores[24:30] = 2.0  # 0.4 s later at 10 fps: the same event
    scores[60:70] = 3.0
    found = predict._events(find_events(scores, AlarmRule(on=0.5), 10.0), 10.0, lambda a, b: None)
    assert [(e.start_s, e.end_s, e.peak) for e in found] == [(1.0, 3.0, 2.0), (6.0, 7.0, 3.0)]


def test_a_constant_score_has_no_events():
    scorer = predict.Scorer("x", (), lambda one: None)
    threshold, _ = predict._threshold(np.ones(50), scorer, None)
    assert find_events(np.ones(50), AlarmRule(on=threshold), 25.0) == []
