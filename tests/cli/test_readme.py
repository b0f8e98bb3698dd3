"""The README does what it says: its examples run as they stand, and every command in it exists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

from tests.cli.process import SMALL, vad
from vadcli import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
MARKED = dict(re.findall(r"<!-- readme: (\S+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL))
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("vad ")
]


def run_block(name: str, cwd: Path) -> list[str]:
    """Run a marked block line by line; stdout of each command."""
    shown = []
    for line in MARKED[name].splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "vad"
        done = vad(*words[1:], cwd=cwd)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        shown.append(done.stdout)
    return shown


@pytest.fixture(scope="module")
def folder(small_demo, tmp_path_factory) -> Path:
    """A copy of the demo's folder with the README's files in it."""
    copy = shutil.copytree(small_demo[0], tmp_path_factory.mktemp("readme") / "vad-demo")
    for name, text in MARKED.items():
        if "." in name:
            (copy / name).write_text(text, encoding="utf-8")
    return copy


def test_the_install_commands_name_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert (ROOT / "constraints.txt").is_file()
    for block in ("install", "develop"):
        (extra,) = re.findall(r"pip install -c constraints\.txt -e '\.\[(\w+)\]'", MARKED[block])
        assert extra in extras


def test_ci_installs_with_the_readmes_own_command():
    assert "pip install -q -c constraints.txt -e '.[dev]'" in (ROOT / ".ci" / "run").read_text()
    assert "-c constraints.txt -e '.[dev]'" in MARKED["develop"]


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_and_option_exists(command):
    words = shlex.split(command)[1:]
    verb = next(verb for verb in app.VERBS if verb.name == words[0])
    path = words[:2] if verb.attribute == "app" else words[:1]
    done = vad(*path, "--help", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", done.stdout), f"{option} is no option of {' '.join(path)}"


def test_the_three_sentences_are_there():
    for sentence in ("vad extract ucf-crime", "vad train --method fine-vad", "vad eval --metric map-iou"):
        assert any(command == sentence for command in COMMANDS)


def test_exit_codes_are_those_of_the_program():
    rows = re.findall(r"^\| (\d+) \| (.+?) \|$", TEXT, re.MULTILINE)
    assert [(int(code), meaning) for code, meaning in rows] == list(app.EXIT_CODES)


def test_the_method_example_trains_and_learns(folder):
    trained, evaluated = run_block("try-method", folder)
    assert "top" in trained
    metrics = json.loads(vad("eval", "--metric", "auc", "--json", cwd=folder).stdout)
    assert "top-linear" in json.dumps(metrics)
    assert "auc" in evaluated


def test_the_encoder_example_makes_features(folder):
    run_block("try-encoder", folder)
    (made,) = (folder / "vad_cache" / "features" / "vad-demo").glob("colours-*")
    recipe = json.loads((made / "artifact.json").read_text())["recipe"]
    assert (recipe["encoder"], recipe["options"]) == ("colours", {"cells": 4})
    assert len([p for p in (made / "features.zarr").iterdir() if p.is_dir()]) == SMALL


def test_the_dataset_example_passes_the_check(folder):
    (shown,) = run_block("try-dataset", folder)
    assert "0 errors" in shown


def test_own_videos_from_a_folder_to_a_number(small_demo, tmp_path):
    for source in sorted((small_demo[0] / "videos").glob("train-*.mp4")):
        label = "normal" if source.stem.endswith("normal") else "odd"
        (tmp_path / "cameras" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "cameras" / label)
    shown = run_block("own-videos", tmp_path)
    assert "auc" in shown[-1]
