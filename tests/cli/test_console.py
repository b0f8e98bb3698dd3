"""The output sink: tables, JSON, progress off a tty, and what the terminal allows."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest

from vadcli import console
from vadcli.console import Console, Mode, Reporter


def test_numbers_stand_right_and_words_left():
    text = console.render_table("T", ("name", "n"), [["a", "7"], ["long", "1234"]])
    assert text.splitlines() == ["T", "name     n", "----  ----", "a        7", "long  1234"]


def test_a_tty_table_fits_the_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    text = console.render_table("", ("path", "n"), [["x" * 90, "1"]])
    assert max(map(len, text.splitlines())) <= 40
    assert "…" in text


def test_cells():
    shown = [console.cell(v) for v in (None, True, 0.87326, float("nan"), 3, "x")]
    assert shown == ["-", "yes", "0.8733", "-", "3", "x"]


def test_json_has_the_schema_and_no_nan(capsys):
    Console(Mode.JSON).json({"a": math.nan, "b": np.float64(0.5), "c": Path("x"), "d": (1, np.int64(2)), "e": math.inf})
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "a": None, "b": 0.5, "c": "x", "d": [1, 2], "e": None}


def test_each_mode_gives_one_answer(capsys):
    for mode, expected in ((Mode.HUMAN, "text\n"), (Mode.QUIET, "text\n")):
        sink = Console(mode)
        sink.text("text")
        sink.json({})
        assert capsys.readouterr().out == expected
    sink = Console(Mode.JSON)
    sink.text("text")
    sink.table("t", ("a",), [["1"]])
    sink.json({})
    assert json.loads(capsys.readouterr().out) == {"schema": 1}


def test_off_a_tty_progress_is_a_line_at_the_start_and_at_the_end(capsys):
    reporter = Reporter()
    reporter.start(3, "extracting")
    reporter.advance()
    reporter.note("failed: v: no frames")
    reporter.advance(2)
    reporter.finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["extracting: 3 videos", "failed: v: no frames"]
    assert re.fullmatch(r"extracting: 3 videos in 0:0\d", lines[2])
    assert len(lines) == 3


def test_the_heartbeat_says_how_far_and_how_long(capsys, monkeypatch):
    monkeypatch.setattr(console, "HEARTBEAT_S", 0.05)
    reporter = Reporter()
    reporter.start(40, "extracting")
    reporter.advance(10)
    for _ in range(100):
        time.sleep(0.02)
        if "25 %" in (seen := capsys.readouterr().err):
            break
    reporter.finish()
    assert re.search(r"extracting: 10/40 videos \(25 %\), .* left", seen)


def test_quiet_keeps_warnings_only(capsys):
    reporter = Reporter(quiet=True)
    reporter.start(1, "x")
    reporter.note("note")
    reporter.warn("careful")
    reporter.finish()
    assert capsys.readouterr().err == "warning: careful\n"


def test_a_new_task_closes_the_one_before(capsys):
    reporter = Reporter()
    reporter.start(1, "first")
    reporter.start(1, "second")
    reporter.finish()
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "first",
        "first",
        "second",
        "second",
    ]


@pytest.mark.parametrize(
    ("term", "columns", "rich"), [("xterm", "80", True), ("dumb", "80", False), ("xterm", "20", False)]
)
def test_a_bar_needs_a_real_terminal(monkeypatch, term, columns, rich):
    class Tty:
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", columns)
    assert console.is_rich_terminal(Tty()) is rich
