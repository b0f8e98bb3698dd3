"""Mean and deviation over seeds: hand-worked, with nulls, nested protocols and sweeps."""

from __future__ import annotations

import pytest

from pipelines.report.seeds import mean_sd, summarise, summarise_settings


def seed(number: int, metrics: dict, setting: str = "group") -> dict:
    model = {"seed": number, "run": f"id{number}", "folder": f"/runs/{setting}/seed-{number}"}
    return {"schema": 1, "dataset": "d", "split": "s", "videos": 2, "frames": 10, "metrics": metrics, "model": model}


def test_the_deviation_has_n_minus_1_below_the_line():
    assert mean_sd([1.0, 2.0, 6.0]) == (3.0, pytest.approx(((4 + 1 + 9) / 2) ** 0.5))


def test_values_and_nested_protocols_are_averaged():
    metrics = [
        {"auc": {"value": v, "ci": [0, 1], "n": 10}, "map-iou": {"vadclip": {"0.1": 2 * v, "avg": v, "ci": [0, 1]}}}
        for v in (0.6, 0.8)
    ]
    found = summarise([seed(i, m) for i, m in enumerate(metrics)])
    auc = found["metrics"]["auc"]
    assert auc["value"] == pytest.approx(0.7)
    assert auc["sd"] == pytest.approx(0.02**0.5)
    assert (auc["seeds"], auc["n"]) == ([0.6, 0.8], 10)
    assert (auc["ci"], found["interval"]) == ([0, 1], "of seed 0 alone")  # no rounds on disk
    detection = found["metrics"]["map-iou"]["vadclip"]
    assert (detection["avg"], detection["0.1"]) == (pytest.approx(0.7), pytest.approx(1.4))
    assert detection["sd_at"]["avg"] == pytest.approx(0.02**0.5)
    assert (found["seeds"], found["runs"]) == ([0, 1], ["id0", "id1"])


def test_what_one_seed_lacks_is_null():
    found = summarise([seed(0, {"auc": {"value": 0.5}}), seed(1, {"auc": {"value": None, "reason": "why"}})])
    assert found["metrics"]["auc"] == {"value": None, "reason": "why"}


def test_one_seed_is_itself():
    only = seed(0, {"auc": {"value": 0.5}})
    assert summarise([only]) == only


def test_settings_of_a_sweep_stay_apart():
    found = summarise_settings(
        [seed(i, {"auc": {"value": v}}, s) for i, v, s in ((0, 0.5, "k=1"), (1, 0.7, "k=1"), (0, 0.9, "k=2"))]
    )
    assert found["settings"]["k=1"]["metrics"]["auc"]["value"] == pytest.approx(0.6)
    assert found["settings"]["k=2"]["metrics"]["auc"]["value"] == 0.9
