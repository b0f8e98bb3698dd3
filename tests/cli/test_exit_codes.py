"""Each exit code that `vad --help` lists, through real processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.process import start, vad

HINT = "hint:"


def test_0_when_there_is_nothing_to_do(small_demo):
    done = vad("extract", "vad-demo", cwd=small_demo[0])
    assert done.returncode == 0, done.stderr


def test_1_for_an_error_that_nobody_foresaw(small_demo, tmp_path):
    (tmp_path / "file").write_text("")
    video = next((small_demo[0] / "videos").glob("*.mp4"))
    done = vad("predict", video, "--out", tmp_path / "file" / "below", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "--debug" in done.stderr


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path):
    for arguments in (("--debug", "predict", "none.mp4"), ("predict", "none.mp4", "--debug")):
        done = vad(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("predict", "none.mp4"), "there is no file or folder none.mp4"),
        (("train", "--method", "mil-rnak"), "did you mean 'mil-rank'"),
        (("demo", "--videos", "eight"), "given: 'eight'"),
        (("extract", "no-such-dataset"), "no-such-dataset"),
        (("predict", ".", "--partial", "some"), "--partial 'some'"),
    ],
)
def test_2_for_wrong_usage(tmp_path, small_demo, arguments, words):
    shutil.copytree(small_demo[0] / "vad_cache", tmp_path / "vad_cache")
    shutil.copy(small_demo[0] / "data_manifest.yaml", tmp_path)
    done = vad(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stdout == ""


def test_3_when_a_video_is_broken_and_the_others_are_done(small_demo, tmp_path):
    footage = tmp_path / "footage"
    footage.mkdir()
    good = sorted((small_demo[0] / "videos").glob("*.mp4"))[:2]
    for path in good:
        shutil.copy(path, footage)
    (footage / "broken.mp4").write_bytes(good[0].read_bytes()[:2000])
    (footage / "empty.mp4").write_bytes(b"")
    done = vad("predict", footage, "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    answer = json.loads(done.stdout)
    assert sorted(answer["failures"]) == ["broken", "empty"]
    assert [one["video"] for one in answer["videos"]] == [path.stem for path in good]
    assert "2 of 4 videos failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("eval", "--metric", "auc"), "vad train"),
        (("predict", "video.mp4", "--run", "latest"), "vad train"),
        (("train",), "vad extract"),
    ],
)
def test_4_says_which_command_makes_what_is_missing(tmp_path, small_demo, arguments, command):
    shutil.copy(next((small_demo[0] / "videos").glob("*.mp4")), tmp_path / "video.mp4")
    done = vad(*arguments, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    hint = done.stderr.partition(HINT)[2]
    assert command in hint, done.stderr


def test_5_when_a_check_fails(small_demo, tmp_path):
    shutil.copy(small_demo[0] / "data_manifest.yaml", tmp_path)
    for name in ("videos.csv", "events.csv"):
        shutil.copy(small_demo[0] / name, tmp_path)
    shutil.copytree(small_demo[0] / "videos", tmp_path / "videos")
    (tmp_path / "videos" / "test-00-normal.mp4").unlink()
    done = vad("data", "check", "vad-demo", cwd=tmp_path)
    assert "test-00-normal" in done.stdout + done.stderr
    assert done.returncode == 5, done.stderr + done.stdout


def _interrupt(cwd: Path, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Send a signal to `vad demo` once it writes videos."""
    process = start("demo", "--videos", 200, cwd=cwd)
    videos = cwd / "vad-demo" / "videos"
    ends = time.monotonic() + 60
    while time.monotonic() < ends and not list(videos.glob("[!.]*.mp4")):
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_75_when_stopped_by_a_signal_and_what_is_finished_stays(tmp_path):
    done = _interrupt(tmp_path, signal.SIGTERM)
    assert done.returncode == 75, done.stderr
    assert "SIGTERM" in done.stderr
    left = list((tmp_path / "vad-demo" / "videos").iterdir())
    assert left
    assert not [path for path in left if path.name.startswith(".")]


def test_130_for_ctrl_c(tmp_path):
    done = _interrupt(tmp_path, signal.SIGINT)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "interrupted" in done.stderr
