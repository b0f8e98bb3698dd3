"""A headless Chromium for the report's page; tests skip visibly where it or Playwright is absent."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str:
    """The browser's path; VAD_CHROMIUM goes before what is installed."""
    found = os.environ.get("VAD_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
    if not found:
        pytest.skip("no Chromium is installed (apt-get install chromium, or VAD_CHROMIUM=/path)")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (extra dev)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """One opened page: what it asked for and complained of, and its parts by what a user sees."""

    def __init__(self, browser: Any, path: Path, *, scheme: str = "light", width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.context.set_offline(True)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri())
        self.until("document.documentElement.dataset.ready === 'all'")

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *exc: object) -> None:
        self.context.close()

    def until(self, expression: str, *, seconds: float = 20) -> None:
        """Wait for an expression to be true; Playwright's own waiting needs an eval, which the page forbids."""
        ends = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < ends, f"never true: {expression}"
            self.page.wait_for_timeout(20)

    def names(self) -> list[str]:
        """The listed videos from top to bottom."""
        return self.page.locator("#list .row .name").all_text_contents()

    def open(self, video: str) -> None:
        """Click on a video in the list."""
        row = self.page.locator("#list .row").nth(self.names().index(video))
        row.click()

    def threshold(self, value: float) -> None:
        """Type a threshold."""
        self.page.fill("#theta-number", repr(value))
        self.page.press("#theta-number", "Enter")
        self.until(f"+document.getElementById('theta-number').value === {value!r}")

    def slide(self, position: int) -> float:
        """Move the slider to 0 ... 1000; the threshold that it means."""
        self.page.evaluate(
            "p => { const s = document.getElementById('theta'); s.value = p; s.dispatchEvent(new Event('input')); }",
            position,
        )
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return float(self.page.input_value("#theta-number"))

    def alarms(self) -> list[tuple[int, int]]:
        """Frames of the listed alarms of the open video."""
        rows = "rows => rows.map(row => [+row.dataset.start, +row.dataset.end])"
        return [tuple(pair) for pair in self.page.locator("#events tbody tr").evaluate_all(rows)]

    def figure(self, name: str) -> str:
        """An operating figure as shown, without its unit."""
        return str(self.page.evaluate("n => document.querySelector(`#figures .${n} dd`).firstChild.textContent", name))

    def click_curve(self, share: float) -> None:
        """Click on the curve at a share of its width."""
        self.page.evaluate("document.getElementById('timeline').scrollIntoView({block: 'center'})")
        box = self.page.locator("#timeline").bounding_box()
        assert box is not None
        left, right = 42, 14
        self.page.mouse.click(box["x"] + left + share * (box["width"] - left - right), box["y"] + 100)

    def video_time(self) -> float:
        """currentTime of the video beside the curve once it has settled."""
        self.until("(v => v && v.readyState >= 2 && !v.seeking)(document.querySelector('#stage video'))")
        return float(self.page.evaluate("document.querySelector('#stage video').currentTime"))
