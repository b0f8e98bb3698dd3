"""The report's page at UCF-Crime's size: 290 videos, 1.1 million frames, 13 anomaly classes; file size and first paint.

    python benchmarks/report.py                      clip scores (16 frames), as evaluations keep them
    python benchmarks/report.py --smooth gaussian:8  every frame has a score of its own

Needs Chromium and Playwright for the times; without them it prints the sizes alone. Times are from the navigation's
start to the browser's first contentful paint, to the list being there, and to everything, median of --rounds.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipelines import evaluate
from pipelines.report import html
from pipelines.scoring.protocol import Protocol

VIDEOS, FRAMES, CLIP, CLASSES = 290, 1_111_808, 16, 13
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def world(root: Path, *, videos: int, frames: int) -> None:
    """A manifest, lists, truth and scores with class probabilities; lengths are log-normal, like real ones."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(0, 1, videos)
    lengths = np.maximum(200, lengths / lengths.sum() * frames).astype(int)
    names = ["normal", *(f"class {i}" for i in range(1, CLASSES + 1))]
    rows, events, arrays = [], [], {}
    for index, length in enumerate(lengths):
        video, label = f"video{index:04d}", names[0] if index % 2 else names[1 + index // 2 % CLASSES]
        rows.append((video, f"{video}.mp4", "test", label, length, 30))
        clips = -(-int(length) // CLIP)
        scores = rng.beta(1, 6, clips).astype(np.float32)
        if label != names[0]:
            start = int(rng.integers(0, clips // 2))
            end = start + max(2, clips // 8)
            events.append((video, start * CLIP, min(end * CLIP, int(length)), label))
            scores[start:end] = rng.beta(4, 2, end - start)
        arrays[video] = scores
        arrays[f"{video}|classes"] = rng.dirichlet(np.ones(len(names)), clips).astype(np.float32)
    _table(root / "videos.csv", ("video", "path", "split", "label", "frames", "fps"), rows)
    _table(root / "events.csv", ("video", "start", "end", "label"), events)
    entry = {
        "title": "UCF-Crime sized",
        "root": ".",
        "classes": names,
        "splits": {"default": {"table": {"files": "videos.csv"}}},
        "truths": {"intervals": {"reader": "csv", "file": "events.csv", "unit": "frames"}},
    }
    (root / "data_manifest.yaml").write_text(yaml.safe_dump({"schema": 1, "datasets": {"sized": entry}}))
    np.savez(root / "scores.npz", **arrays)


def page(root: Path, smooth: str) -> tuple[Path, float]:
    """The page's path, and the processor seconds that it took to make."""
    places: dict[str, Any] = {"manifest": root / "data_manifest.yaml", "runs_dir": root / "runs"}
    found = evaluate.run(
        evaluate.EvalRequest(
            run=None,
            scores=root / "scores.npz",
            dataset="sized",
            clip_frames=CLIP,
            protocol=Protocol(rounds=0, floors="none", smooth=smooth, threshold=0.6),
            plots="leave out",
            cache_dir=str(root / "cache"),
            **places,
        )
    )
    started = time.process_time()
    made = html.run(html.ReportRequest(run=str(found.evals[0].folder), out=root / "report.html", **places))
    return made.path, time.process_time() - started


def times(path: Path, rounds: int) -> dict[str, float]:
    """Milliseconds to the first paint, to the list, to everything, and of one threshold change."""
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("VAD_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    found: dict[str, list[float]] = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(rounds):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(path.as_uri())
            while tab.evaluate("document.documentElement.dataset.ready") != "all":
                tab.wait_for_timeout(20)
            row = tab.evaluate(
                "({ list: +document.documentElement.dataset.list, all: +document.documentElement.dataset.all })"
            )
            row["first paint"] = tab.evaluate(PAINT)
            row["threshold"] = tab.evaluate(
                """() => { const s = document.getElementById('theta'), t = performance.now(); s.value = 600;
                s.dispatchEvent(new Event('input'));
                return new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now() - t)))); }"""
            )
            for key, value in row.items():
                found.setdefault(key, []).append(float(value))
            tab.close()
        browser.close()
    return {key: statistics.median(values) for key, values in found.items()}


def _table(path: Path, head: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([head, *rows])


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smooth", default="none")
    parser.add_argument("--videos", type=int, default=VIDEOS)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="a folder that stays")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = args.keep or Path(scratch)
        root.mkdir(parents=True, exist_ok=True)
        world(root, videos=args.videos, frames=args.frames)
        path, seconds = page(root, args.smooth)
        print(f"{path.stat().st_size / 1e6:.2f} MB, made in {seconds:.1f} processor seconds")
        for key, value in times(path, args.rounds).items():
            print(f"{key}: {value:.0f} ms")


if __name__ == "__main__":
    main()
