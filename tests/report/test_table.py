"""Tables of results: what is marked, what is refused, and every form."""

from __future__ import annotations

import csv
import io

import pytest

from pipelines.errors import UsageError
from pipelines.report.table import (
    MARK,
    Number,
    ResultRow,
    metric_table,
    our_row,
    paper_rows,
    protocol_words,
    render,
    results_table,
)


def row(method="ours-1", protocol="plain", selection="last", source="ours", value=0.5, seeds=1):
    return ResultRow(method, source, "clip", protocol, selection, seeds, {"auc": Number("auc", value)})


def evaluation(metrics):
    return {
        "dataset": "tiny",
        "videos": 2,
        "metrics": metrics,
        "recipe": {"smooth": "none", "normalise": "none"},
        "ground_truth": {"version": "tiny:exact"},
        "scores": {"expand": "repeat", "tail": "hold", "crops": [["center"]], "crop_rule": "mean"},
    }


def test_rows_of_different_protocols_are_refused_in_one_column():
    rows = [row(), row("ours-2", protocol="smooth gaussian:3")]
    with pytest.raises(UsageError, match="2 protocols") as error:
        results_table(rows, ["auc"])
    assert "ours-2: smooth gaussian:3" in error.value.message
    table = results_table(rows, ["auc"], split_protocols=True)
    assert table.columns[-2:] == ("auc [A]", "auc [B]")
    assert [line[-2:] for line in table.rows] == [("50.00", "-"), ("-", "50.00")]


def test_a_choice_on_the_test_set_is_marked():
    table = results_table([row(selection="best-on-test"), row("honest")], ["auc"])
    assert [line[-1] for line in table.rows] == [f"50.00{MARK}", "50.00"]
    assert any("chosen on the test set" in note for note in table.notes)


def test_papers_stand_below_with_what_they_state():
    results = [
        {"dataset": "tiny", "features": "i3d", "metric": "auc", "value": 84.1, "source": "RTFM"},
        {"dataset": "tiny", "features": "clip", "metric": "map-iou", "values": (3.0, 1.0), "avg": 2.0},
        {"dataset": "tiny", "features": "clip", "metric": "auc", "value": 50.0, "set": "k=3"},
        {"dataset": "other", "features": "clip", "metric": "auc", "value": 99.0},
    ]
    rows = paper_rows("m", results, "tiny", ["auc", "map-iou:vadclip"])
    assert [(r.source, r.features) for r in rows] == [("RTFM", "i3d"), ("paper", "clip")]
    assert rows[0].values["auc"].value == pytest.approx(0.841)
    assert rows[1].values["map-iou:vadclip"].value == pytest.approx(0.02)
    table = results_table([row(), *rows], ["auc"])
    assert [line[-1] for line in table.rows] == ["50.00", "84.10", "-"]


def test_a_row_of_seeds_has_mean_and_deviation():
    summary = evaluation({"auc": {"value": 0.8, "sd": 0.01}}) | {"seeds": [0, 1, 2]}
    made = our_row("m", ["clip"], summary, "last", ["auc"])
    assert made.seeds == 3
    assert results_table([made], ["auc"]).rows[0][-1] == "80.00 ± 1.00"


def test_a_value_within_its_interval_of_a_floor_is_flagged():
    floor = {"constant": 0.5, "random": 0.51, "random_sd": 0.2, "length": 0.65, "video-oracle": 0.8}
    near = {"value": 0.7, "ci": [0.6, 0.8], "n": 10, "floor": floor}
    clear = near | {"ci": [0.66, 0.8]}
    table = metric_table(evaluation({"auc": near, "ap": clear}))
    assert [line[3] for line in table.rows] == ["65.00 length !", "65.00 length"]
    assert table.notes[0].endswith("knows nothing of the video: auc")
    assert "auc 80.00" in table.notes[1]  # the video label is told apart: it knows the truth


def test_what_cannot_be_computed_is_a_sentence():
    reason = "the scores hold no class probabilities"
    metrics = {"auc": {"value": 0.5, "n": 10}, "class-auc": {"value": None, "reason": reason}}
    table = metric_table(evaluation(metrics | {"map-iou": {"value": None, "reason": reason}}))
    assert [line[0] for line in table.rows] == ["auc"]
    assert f"no class-auc, map-iou: {reason}" in table.notes


def test_detection_has_a_row_a_protocol():
    entry = {"vadclip": {"avg": 0.1, "ci": [0.05, 0.2]}, "abnormal-only": {"avg": 0.12}, "activitynet": {"avg": 0.2}}
    table = metric_table(evaluation({"map-iou": entry}))
    assert [line[:3] for line in table.rows] == [
        ("map-iou vadclip", "10.00", "[5.00, 20.00]"),
        ("map-iou abnormal-only", "12.00", "-"),
    ]


def test_protocol_words_name_what_differs():
    metrics = evaluation({})
    assert protocol_words(metrics) == "truth tiny:exact, smooth none, expand repeat, tail hold"
    assert "val part, not test" in protocol_words(metrics | {"part": "val"})
    assert "split weak" in protocol_words(metrics | {"split": "weak"})
    metrics["recipe"] = {"smooth": "gaussian:3:reflect", "normalise": "minmax", "drop_first": 4}
    metrics["ground_truth"]["missing"] = ["a"]
    words = protocol_words(metrics)
    for part in ("smooth gaussian:3:reflect", "minmax per video", "4 first", "2 videos only"):
        assert part in words


def test_every_form_holds_the_same_cells():
    table = results_table([row("a_b & c|d", value=0.123456)], ["auc"])
    assert list(csv.reader(io.StringIO(render(table, "csv")))) == [list(table.columns), list(table.rows[0])]
    assert r"a_b & c\|d" in render(table, "markdown").splitlines()[2]
    latex = render(table, "latex")
    assert r"a\_b \& c|d & ours" in latex
    assert latex.count(r"\\") == 2
    assert render(table, "text").splitlines()[2].split()[-1] == "12.35"
