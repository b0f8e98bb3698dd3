"""The report of a run trained on real footage: re-cut surveillance clips, their own videos beside the curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recut
from pipelines.metrics.operating import MERGE_S, alarm_runs
from pipelines.scoring.expand import expand
from pipelines.store import scores as files
from tests.cli.process import vad
from tests.report.browser import Tab, chromium

pytestmark = [pytest.mark.browser, pytest.mark.real, pytest.mark.slow]
SMALL = {"train": 12, "val": 4, "test": 8}
DATASET = "surv-fight-untrimmed"


@pytest.fixture(scope="module")
def made(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(folder, answer of `vad report`) after extract, train and eval as a user types them."""
    home = tmp_path_factory.mktemp("real")
    recut.generate(shared / "surv-fight" / "clips.csv", home / "data" / DATASET, SMALL)

    def run(*words: str) -> str:
        done = vad(*words, cwd=home, VAD_DATA=str(home / "data"), VAD_ANNOTATIONS=str(home / "data"))
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("extract", DATASET, "--encoder", "motion")
    run("train", DATASET, "--method", "mil-rank", "--features", "motion", "--set", "steps=100")
    run("eval", "--metric", "all", "--no-ci", "--no-plots")
    answer: dict[str, Any] = json.loads(run("report", "--out", "pages/r.html", "--json"))
    answer["operating"] = {
        theta: json.loads(run("eval", "--metric", "operating", "--no-ci", "--no-plots", "--threshold", theta, "--json"))
        for theta in ("0.25", "0.6")
    }
    return home, answer


def test_a_click_moves_the_real_video_and_the_slider_gives_what_eval_gives(made: tuple[Path, dict[str, Any]]):
    home, answer = made
    rows = files.read(Path(answer["evaluation"]) / "scores.npz").rows
    scores = {v: expand(files.place(v, r, r.n_frames or 0, files.Layout())).scores for v, r in rows.items()}
    with chromium() as browser, Tab(browser, home / "pages" / "r.html") as tab:
        for theta, found in answer["operating"].items():
            tab.threshold(float(theta))
            for video, frames in scores.items():
                tab.open(video)
                assert tab.alarms() == [
                    tuple(r) for r in alarm_runs(frames >= float(theta), MERGE_S * recut.RATE).tolist()
                ]
            measured = found["metrics"]["operating"]
            assert float(tab.figure("hit")) == pytest.approx(100 * measured["hit_rate"], abs=0.051)
            assert float(tab.figure("fa")) == pytest.approx(measured["fa_per_hour"], abs=0.51)
        for video, frames in scores.items():
            tab.open(video)
            tab.video_time()
            tab.click_curve(0.6)
            wanted = 0.6 * len(frames) / recut.RATE
            tab.until(f"Math.abs(document.querySelector('#stage video').currentTime - {wanted}) < 0.06")
        allowed = {path.as_uri() for path in (home / "data").rglob("*.mp4")} | {(home / "pages" / "r.html").as_uri()}
        assert set(tab.requests) <= allowed
        assert not tab.complaints


def test_videos_that_were_moved_are_named_and_the_page_opens(made: tuple[Path, dict[str, Any]]):
    home, _ = made
    videos = home / "data" / DATASET / "videos"
    lost = sorted(videos.glob("test_*.mp4"))
    lost[0].rename(lost[0].with_suffix(".away"))
    lost[1].write_bytes(lost[1].read_bytes() + b"more")
    done = vad("report", "--out", "moved.html", "--json", cwd=home, VAD_DATA=str(home / "data"))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["moved"], answer["replaced"]) == ([lost[0].stem], [lost[1].stem])
    assert lost[0].stem in done.stderr
    with chromium() as browser, Tab(browser, home / "moved.html") as tab:
        tab.open(lost[0].stem)
        assert str(lost[0]) in tab.page.inner_text("#stage")
        assert not tab.complaints
