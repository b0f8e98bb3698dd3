"""The report in a real browser: what it computes is what `vad eval` computes, and its parts work together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.metrics.operating import MERGE_S, alarm_runs
from pipelines.scoring.expand import expand
from pipelines.store import scores as files
from tests.report import pages
from tests.report.browser import Tab, chromium
from tests.report.pages import Page

pytestmark = pytest.mark.browser
SECONDS = pages.FRAMES / pages.FPS


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return pages.make(tmp_path_factory.mktemp("browser") / "world")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser: Any, page: Page) -> Iterator[Tab]:
    with Tab(browser, page.report.path) as opened:
        yield opened


def frame_scores(page: Page) -> dict[str, np.ndarray]:
    folder = page.evaluated.evals[0].folder
    rows = files.read(folder / "scores.npz").rows
    return {v: expand(files.place(v, r, r.n_frames or 0, files.Layout())).scores for v, r in rows.items()}


def test_alarms_and_figures_are_those_of_vad_eval_at_any_threshold(page: Page, tab: Tab):
    scores = frame_scores(page)
    thresholds = [tab.slide(position) for position in (150, 480, 620, 900)]
    assert thresholds == sorted(set(thresholds))
    for theta in [*thresholds, float(scores["loud"][7]), 2.0]:  # a score itself is an alarm: at or above
        tab.threshold(theta)
        for video, frames in scores.items():
            tab.open(video)
            assert tab.alarms() == [tuple(r) for r in alarm_runs(frames >= theta, MERGE_S * pages.FPS).tolist()], video
        measured = page.evaluate(threshold=theta).evals[0].metrics["metrics"]["operating"]
        assert float(tab.figure("fa")) == pytest.approx(measured["fa_per_hour"], abs=0.51)
        assert float(tab.figure("hit")) == pytest.approx(100 * measured["hit_rate"], abs=0.051)
        assert float(tab.figure("recall")) == pytest.approx(100 * measured["event_recall"], abs=0.051)
        assert float(tab.figure("far")) == pytest.approx(100 * measured["far@theta"], abs=0.0051)
        precision = measured["event_precision"]
        shown = tab.figure("precision")
        assert (
            shown == "–" if isinstance(precision, dict) else float(shown) == pytest.approx(100 * precision, abs=0.051)
        )
    assert not tab.complaints


def test_the_page_starts_where_the_evaluation_stood(page: Page, tab: Tab):
    assert tab.page.input_value("#theta-number") == "0.55"
    measured = page.evaluated.evals[0].metrics["metrics"]["operating"]
    assert float(tab.figure("fa")) == pytest.approx(measured["fa_per_hour"], abs=0.51)
    tab.threshold(0.2)
    tab.page.click("#theta-reset")
    assert tab.page.input_value("#theta-number") == "0.55"


def test_a_click_on_the_curve_moves_the_video_and_its_time_the_cursor(tab: Tab):
    tab.open("two fights")
    assert tab.video_time() == 0
    tab.click_curve(0.75)
    tab.until("document.querySelector('#stage video').currentTime > 1")
    assert tab.video_time() == pytest.approx(0.75 * SECONDS, abs=0.05)
    assert "frame 45" in tab.page.inner_text("#readout") and "truth: fight" in tab.page.inner_text("#readout")
    tab.page.evaluate("document.querySelector('#stage video').currentTime = 2.05")
    tab.until("document.getElementById('readout').textContent.includes('frame 20')")
    tab.page.locator("#events tbody tr").last.click()
    start = tab.alarms()[-1][0]
    tab.until(f"Math.abs(document.querySelector('#stage video').currentTime - {start / pages.FPS}) < 0.05")


def test_space_plays_and_arrows_seek(tab: Tab):
    tab.open("calm")
    tab.video_time()
    tab.page.focus("#timeline")
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowRight")
    assert tab.video_time() == pytest.approx(2.0, abs=0.05)
    tab.page.keyboard.press("ArrowLeft")
    assert tab.video_time() == pytest.approx(1.0, abs=0.05)
    assert tab.page.get_attribute("#timeline", "aria-valuenow") == "10"
    tab.page.keyboard.press(" ")
    tab.until("document.querySelector('#stage video').currentTime > 1.2")
    tab.page.keyboard.press(" ")
    tab.until("document.querySelector('#stage video').paused")
    tab.page.keyboard.press("Home")
    assert tab.page.get_attribute("#timeline", "aria-valuenow") == "0"
    tab.page.focus("#list")
    before = tab.page.inner_text("#video-name")
    tab.page.keyboard.press("ArrowUp")
    assert tab.page.inner_text("#video-name") != before


def test_sorting_and_filters(page: Page, tab: Tab):
    aucs = {row: value for row, value in _aucs(page).items() if value is not None}
    assert tab.names()[:3] == sorted(aucs, key=lambda video: aucs[video])
    tab.threshold(0.5)
    tab.page.select_option("#order", "false")
    scores = frame_scores(page)
    wrong = [_false_alarms(scores[video], video, 0.5) for video in tab.names()]
    assert wrong == sorted(wrong, reverse=True) and wrong[0] > wrong[-1]
    tab.page.select_option("#order", "peak")
    peaks = [scores[video].max() for video in tab.names()]
    assert peaks == sorted(peaks, reverse=True)
    tab.page.select_option("#class", pages.EVIL_CLASS)
    assert tab.names() == [pages.EVIL]
    tab.page.select_option("#class", "")
    tab.page.fill("#search", "FIGHT")
    assert tab.names() == ["two fights"]
    assert tab.page.inner_text("#count") == "1 of 6 videos"
    assert not tab.complaints


def test_names_that_would_be_markup_are_text(tab: Tab):
    for video in (pages.EVIL, pages.QUOTED):
        tab.open(video)
        assert tab.page.inner_text("#video-name") == video
    for chip in tab.page.locator("#chips button").all():
        chip.click()
    tab.click_curve(0.3)
    assert tab.page.locator("#chips button").first.inner_text() == pages.EVIL_CLASS
    assert (
        tab.page.evaluate("window.pwned === undefined && document.querySelectorAll('img, body b i, script').length")
        == 2
    )
    assert not tab.complaints


def test_even_markup_that_got_in_would_not_run(tab: Tab):
    tab.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x: onerror=\"window.pwned=1\">')")
    tab.page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.pwned=1'; document.body.append(s)"
    )
    tab.page.wait_for_timeout(100)
    assert tab.page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in line for line in tab.complaints)


def test_no_request_leaves_the_page(page: Page, tab: Tab):
    for video in pages.TRUTH:
        tab.open(video)
    tab.video_time() if tab.page.locator("#stage video").count() else None
    allowed = {page.report.path.as_uri()} | {(page.root / f"v {i}#.mp4").as_uri() for i in range(6)}
    assert tab.requests and set(tab.requests) <= allowed
    assert not tab.complaints


def test_a_moved_video_says_where_it_was_and_keeps_its_curve(page: Page, tab: Tab):
    tab.open("gone")
    assert str(page.root / "v 5#.mp4") in tab.page.inner_text("#stage")
    tab.click_curve(0.5)
    assert f"frame {pages.LONG // 2 // 100}" in tab.page.inner_text("#readout")


def test_one_high_clip_among_thousands_is_drawn_at_its_height(tab: Tab):
    """Far more clips than pixels: the curve reaches 0.98 at that clip's place and nowhere else."""
    tab.open("gone")
    columns = tab.page.evaluate(
        """() => { const c = document.getElementById('plot'), p = c.getContext('2d'), top = 24, low = c.height - 40;
        const y = Math.round(low - 0.9 * (low - top)), row = p.getImageData(0, y, c.width, 1).data, found = [];
        for (let x = 0; x < c.width; x++) if (row[4 * x + 3] > 200 && row[4 * x + 2] > row[4 * x] + 80) found.push(x);
        return found.map(x => (x - 42) / (c.width - 42 - 14)); }"""
    )
    assert 1 <= len(columns) <= 3
    assert columns[0] == pytest.approx(pages.PEAK / pages.LONG, abs=0.004)


def test_an_embedded_preview_plays_and_seeks(browser: Any, page: Page, tmp_path: Path):
    made = page.again(out=tmp_path / "embedded.html", videos="embed")
    with Tab(browser, made.path) as tab:
        tab.open("calm")
        tab.click_curve(0.5)
        tab.until("document.querySelector('#stage video').currentTime > 1")
        assert tab.video_time() == pytest.approx(SECONDS / 2, abs=0.1)
        assert tab.page.get_attribute("#stage video", "src").startswith("blob:")
        assert {url for url in tab.requests if not url.startswith("blob:")} == {made.path.as_uri()}
        assert not tab.complaints


def test_dark_and_light_follow_the_system_and_the_switch(browser: Any, page: Page):
    background = "getComputedStyle(document.body).backgroundColor"
    with Tab(browser, page.report.path, scheme="dark") as dark, Tab(browser, page.report.path) as light:
        of_dark, of_light = dark.page.evaluate(background), light.page.evaluate(background)
        assert sum(map(int, _numbers(of_dark))) < 150 < 600 < sum(map(int, _numbers(of_light)))
        light.page.check(".scheme input[value=dark]", force=True)
        assert light.page.evaluate(background) == of_dark
        blue = "document.getElementById('plot').getContext('2d').getImageData(300, 200, 1, 1).data.length"
        assert light.page.evaluate(blue) == 4


def test_nothing_is_wider_than_a_phone(browser: Any, page: Page):
    with Tab(browser, page.report.path, width=400) as tab:
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 400


def _aucs(page: Page) -> dict[str, float | None]:
    import csv

    with (page.evaluated.evals[0].folder / "per_video.csv").open() as handle:
        return {row["video"]: float(row["auc"]) if row["auc"] else None for row in csv.DictReader(handle)}


def _false_alarms(scores: np.ndarray, video: str, theta: float) -> int:
    truth = np.zeros(len(scores), dtype=bool)
    for start, end, _ in pages.TRUTH[video]:
        truth[start:end] = True
    return sum(not truth[a:b].any() for a, b in alarm_runs(scores >= theta, MERGE_S * pages.FPS))


def _numbers(colour: str) -> list[str]:
    return colour.removeprefix("rgb(").removesuffix(")").split(",")
