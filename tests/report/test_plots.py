"""Pictures: they are drawn, they show what is true, and they say it within their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.records import Event
from pipelines.report import plots
from pipelines.report.plots import Curve

SHADE = np.array([245, 221, 166])  # orange at 35 % on white


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.int64)


def share_of(image: np.ndarray, colour: np.ndarray) -> float:
    return float((np.abs(image - colour).max(axis=2) <= 3).mean())


def test_the_true_interval_is_shaded_in_proportion(tmp_path: Path):
    scores = np.zeros(100)
    plots.curve(tmp_path / "none.png", Curve("v", scores, ()))
    plots.curve(tmp_path / "ten.png", Curve("v", scores, (Event(40, 50, "fire"),)))
    plots.curve(tmp_path / "half.png", Curve("v", scores, (Event(40, 90, "fire"),)))
    none, ten, half = (share_of(pixels(tmp_path / f"{name}.png"), SHADE) for name in ("none", "ten", "half"))
    assert none == 0
    assert ten > 0.04
    assert half / ten == pytest.approx(5, rel=0.15)


def test_an_event_that_runs_past_the_scores_is_shaded_up_to_their_end_alone(tmp_path: Path):
    scores = np.zeros(100)
    plots.curve(tmp_path / "whole.png", Curve("v", scores, (Event(50, 100, "fire"),)))
    plots.curve(tmp_path / "past.png", Curve("v", scores, (Event(50, 150, "fire"),)))
    whole, past = (share_of(pixels(tmp_path / f"{name}.png"), SHADE) for name in ("whole", "past"))
    assert past == pytest.approx(whole, rel=0.02)


def test_a_picture_has_the_size_that_was_asked_for(tmp_path: Path):
    plots.curve(tmp_path / "one.png", Curve("v", np.linspace(0, 1, 50)), size_px=(600, 300))
    assert pixels(tmp_path / "one.png").shape == (300, 600, 3)


def test_a_grid_draws_every_video_and_survives_odd_ones(tmp_path: Path):
    rng = np.random.default_rng(0)
    curves = [
        Curve("x" * 80, rng.random(20_000), (Event(10, 9000, "a"),), fps=25.0, threshold=0.5),
        Curve("one frame", np.array([0.3])),
        Curve("constant", np.full(50, -7.0), (Event(0, 50, "b"),)),
    ]
    plots.grid(tmp_path / "grid.png", curves, title="t")
    assert pixels(tmp_path / "grid.png").shape[1] == 440 * 3 + 40


def test_long_noise_keeps_its_highest_peak_in_sight(tmp_path: Path):
    scores = np.random.default_rng(0).random(50_000) * 0.1
    plots.curve(tmp_path / "flat.png", Curve("v", np.append(scores, 1.0)[:-1], threshold=1.0))
    scores[25_000] = 1.0
    plots.curve(tmp_path / "peak.png", Curve("v", scores, threshold=1.0))
    flat, peak = pixels(tmp_path / "flat.png"), pixels(tmp_path / "peak.png")
    middle = slice(560, 700)
    assert np.abs(flat[60:200, middle] - peak[60:200, middle]).sum() > 0  # the peak reaches the upper half


def test_roc_and_precision_recall_points_are_exact():
    labels = np.array([True, False, True, False])
    x, y = plots.roc_points(labels, np.array([0.9, 0.8, 0.7, 0.1]))
    assert list(zip(x, y, strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    recall, precision = plots.pr_points(labels, np.array([0.9, 0.8, 0.7, 0.7]))
    np.testing.assert_allclose(recall, [0.5, 0.5, 1.0])
    np.testing.assert_allclose(precision, [1, 0.5, 0.5])


def test_the_chosen_videos_spread_from_best_to_worst():
    auc = {f"a{i}": i / 10 for i in range(10)} | {"blind": None}
    peak = {f"n{i}": i / 10 for i in range(5)}
    chosen = plots.choose(auc, [f"a{i}" for i in range(10)] + ["blind"], list(peak), peak)
    assert chosen[0] == "a9"
    assert chosen[5] == "blind"
    assert chosen[6:] == ["n4", "n3", "n2"]
    assert plots.choose({}, [], ["n0"], {"n0": 1.0}) == ["n0"]
