"""A small evaluated dataset with real videos, names that would be HTML, and the page made of it."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipelines import evaluate
from pipelines.evaluate import EvalRequest, EvalResult
from pipelines.report import html
from pipelines.report.html import ReportRequest, ReportResult
from pipelines.scoring.protocol import Protocol
from tests import media

EVIL = "<!--<script>window.pwned=1;"
QUOTED = "\"><img src=x onerror='window.pwned=1'>"
EVIL_CLASS = "</script><script>window.pwned=1</script>&amp;"
CLASSES = ("normal", EVIL_CLASS, "fight")
FPS, CLIP, FRAMES = 10, 5, 60
TRUTH = {
    EVIL: [(10, 25, EVIL_CLASS)],
    "two fights": [(5, 15, "fight"), (40, 50, "fight")],
    QUOTED: [(30, 60, "fight")],
    "calm": [],
    "loud": [],
    "gone": [],
}
LONG, PEAK = 20_000, 12_345  # frames of `gone`, and where its one high clip lies


def frames_of(video: str) -> int:
    """The video's length."""
    return LONG if video == "gone" else FRAMES


@dataclass(frozen=True)
class Page:
    """The dataset's folder, the request that was evaluated, its result, and the page."""

    root: Path
    request: EvalRequest
    evaluated: EvalResult
    report: ReportResult

    def evaluate(self, **protocol: Any) -> EvalResult:
        """The same again under another protocol."""
        changed = replace(self.request, protocol=replace(self.request.protocol, **protocol))
        return evaluate.run(changed)

    def again(self, **changes: Any) -> ReportResult:
        """Another page of the same evaluation."""
        return html.run(request(self.root, run=str(self.evaluated.evals[0].folder), **changes))


def make(root: Path, *, classes: tuple[str, ...] = CLASSES, **protocol: Any) -> Page:
    """Six videos of six seconds with clip scores of every size; `gone` has no file."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    rows, events = [], []
    for index, (video, truth) in enumerate(TRUTH.items()):
        if video != "gone":
            media.write_coded(root / f"v {index}#.mp4", FRAMES, fps=FPS)
        rows.append((video, f"v {index}#.mp4", "test", truth[0][2] if truth else "normal", frames_of(video), FPS))
        events += [(video, *event) for event in truth]
        arrays[video], arrays[f"{video}|classes"] = _scores(rng, truth, classes, frames_of(video))
    arrays["gone"][PEAK // CLIP] = 0.98
    _table(root / "videos.csv", ("video", "path", "split", "label", "frames", "fps"), rows)
    _table(root / "events.csv", ("video", "start", "end", "label"), events)
    (root / "data_manifest.yaml").write_text(yaml.safe_dump({"schema": 1, "datasets": {"clips": _entry(classes)}}))
    np.savez(root / "theirs.npz", **arrays)
    asked = EvalRequest(
        run=None,
        scores=root / "theirs.npz",
        dataset="clips",
        clip_frames=CLIP,
        protocol=Protocol(rounds=20, **({"threshold": 0.55} | protocol)),
        plots="leave out",
        manifest=root / "data_manifest.yaml",
        cache_dir=str(root / "cache"),
        runs_dir=root / "runs",
        command="vad eval --scores theirs.npz",
    )
    evaluated = evaluate.run(asked)
    made = html.run(request(root, run=str(evaluated.evals[0].folder), out=root / "pages" / "report.html"))
    return Page(root, asked, evaluated, made)


def request(root: Path, **changes: Any) -> ReportRequest:
    """A request on the folder's own manifest, cache and runs."""
    places = {"manifest": root / "data_manifest.yaml", "cache_dir": str(root / "cache"), "runs_dir": root / "runs"}
    return ReportRequest(**(places | changes))


def _scores(rng: np.random.Generator, truth: list[Any], classes: tuple[str, ...], frames: int) -> tuple[Any, Any]:
    count = frames // CLIP
    scores = rng.uniform(0, 0.7, count).astype(np.float32)
    inside = np.zeros(count, dtype=bool)
    for start, end, _ in truth:
        inside[start // CLIP : -(-end // CLIP)] = True
    scores[inside] += np.float32(0.25)
    probabilities = rng.dirichlet(np.ones(len(classes)), count).astype(np.float32)
    return scores, probabilities


def _table(path: Path, head: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([head, *rows])


def _entry(classes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "title": "Clips <i>of</i> something",
        "root": ".",
        "classes": list(classes),
        "splits": {"default": {"table": {"files": "videos.csv"}}},
        "truths": {"intervals": {"reader": "csv", "file": "events.csv", "unit": "frames"}},
        "licence": "none",
        "link": "none",
        "citation": "none",
    }
