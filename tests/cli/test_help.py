"""`vad --help` and the verbs: complete, light, and helpful about typing errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.cli.process import COMMAND, environment, on_a_tty, vad
from vadcli import app

NOT_FOR_HELP = {"torch", "numpy", "rich", "yaml", "pydantic", "zarr", "pandas"}
GROUPS = [verb.name for verb in app.present() if verb.attribute == "app"]


def imported(*arguments: str, cwd=None) -> set[str]:
    """Top-level packages that a command imports, from the interpreter's own log."""
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True, cwd=cwd)
    return {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}


def test_help_lists_every_verb_and_every_exit_code():
    text = vad("--help").stdout
    for verb in app.present():
        assert re.search(rf"^\W*{verb.name}\s{{2,}}", text, re.M), verb.name
    for code, meaning in app.EXIT_CODES:
        assert re.search(rf"^\W*{code}\s+{re.escape(meaning[:20])}", text, re.M), code
    assert {code for code, _ in app.EXIT_CODES} == {0, 1, 2, 3, 4, 5, 75, 130}


def test_without_a_verb_the_overview_is_shown():
    done = vad()
    assert done.returncode == 0
    assert done.stdout == vad("--help").stdout


def test_help_imports_nothing_heavy():
    assert not imported("--help") & NOT_FOR_HELP


@pytest.mark.parametrize("group", [name for name in GROUPS if name in {"methods", "encoders", "metrics"}])
def test_listing_parts_imports_nothing_heavy(group, tmp_path):
    assert not imported(group, "ls", cwd=tmp_path) & NOT_FOR_HELP


@pytest.mark.parametrize("group", [name for name in GROUPS if name in {"data", "cache", "runs", "weights"}])
def test_other_lists_import_no_torch(group, tmp_path):
    assert not imported(group, "ls", cwd=tmp_path) & {
        "torch",
        "zarr",
        "pandas",
        "sklearn",
        "matplotlib",
        "transformers",
    }


@pytest.mark.parametrize("verb", [verb.name for verb in app.present()])
def test_every_verb_explains_itself(verb):
    done = vad(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_an_unknown_verb_gets_a_proposal():
    done = vad("predct", "x.mp4")
    assert done.returncode == 2
    assert "'predict'" in done.stderr
    assert done.stdout == ""


def test_an_unknown_option_gets_a_proposal():
    done = vad("predict", "x.mp4", "--treshold", "1")
    assert done.returncode == 2
    assert "--threshold" in done.stderr
    assert "vad predict --help" in done.stderr


def test_version():
    assert re.fullmatch(r"vadcli \d+\.\d+\.\d+\n", vad("--version").stdout)


def test_narrow_terminals_get_no_boxes_and_no_long_lines():
    text = vad("--help", COLUMNS="48").stdout
    assert "╭" not in text
    assert max(len(line) for line in text.splitlines() if line.startswith("  ") and "vad " not in line) <= 48


def test_a_terminal_that_knows_ascii_only_gets_ascii():
    done = vad("--help", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0
    assert "╭" not in done.stdout


def test_colour_on_a_tty_and_none_with_no_color():
    assert "\x1b[" in on_a_tty("--help")[1]
    assert "\x1b[" not in on_a_tty("--help", NO_COLOR="1")[1]
    assert "\x1b[" not in on_a_tty("--help", TERM="dumb")[1]


def test_a_reader_that_leaves_early_is_no_error():
    command = " ".join(COMMAND) + " --help | head -1; exit ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, "")


def test_both_scripts_are_the_same_program(tmp_path):
    import importlib.metadata

    scripts = {
        e.name: e.value for e in importlib.metadata.entry_points(group="console_scripts") if e.name in ("vad", "vadcli")
    }
    assert scripts == {"vad": "vadcli.app:main", "vadcli": "vadcli.app:main"}


def complete(line: str, *, cwd=None, **env: str) -> list[str]:
    words = line.split(" ")
    done = subprocess.run(
        [*COMMAND],
        env=environment(_VAD_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1), **env),
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    return done.stdout.split()


def test_completion_of_verbs_and_names(tmp_path):
    assert complete("vad pre") == ["predict"]
    assert complete("vad demo --method mil") == ["mil-rank"]
    (tmp_path / "data_manifest.yaml").write_text(
        "schema: 1\ndatasets:\n  my-cameras:\n    title: t\n    root: .\n    classes: [normal, x]\n"
        "    splits: {default: {table: {files: a.csv}}}\n"
    )
    if "extract" in [verb.name for verb in app.present()]:
        assert complete("vad extract my", cwd=tmp_path) == ["my-cameras"]


def test_json_of_doctor_is_one_object_with_a_schema():
    done = vad("doctor", "--json")
    assert done.returncode in (0, 5)
    assert json.loads(done.stdout)["schema"] == 1
