"""`vad run` on this machine: order, answers passed on, what is done skipped, failures that stop only what needs them."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from pipelines.cluster import local
from tests.cli.process import start, vad
from tests.cluster import world

RECIPE = """
schema: 1
title: noise
vars: {steps: 20}
steps:
  - {name: extract, run: extract mine --encoder motion --clip-len 8 --device cpu}
  - {name: train, needs: extract, run: train mine --method mil-rank --set steps=$steps --seeds 2 --device cpu}
  - {name: eval, run: "eval --run ${train.group} --metric video-auc --no-plots --no-ci --device cpu"}
"""


LIGHT = """
schema: 1
title: no training
steps:
  - {name: extract, run: extract mine --encoder motion --clip-len 8 --device cpu}
  - {name: show, run: "cache show ${extract.artifacts.0.id}"}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = world.make(tmp_path_factory.mktemp("run"))
    (folder / "noise.yaml").write_text(RECIPE)
    (folder / "light.yaml").write_text(LIGHT)
    return folder


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "w")


def steps_of(answer: str) -> dict[str, dict[str, object]]:
    return {step["name"]: step for step in json.loads(answer)["steps"]}


def test_a_recipe_runs_in_order_and_again_does_nothing_new(place: Path) -> None:
    done = vad("run", "noise.yaml", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    steps = steps_of(done.stdout)
    assert [step["state"] for step in steps.values()] == ["done"] * 3
    group = steps["train"]["answer"]["group"]
    assert steps["eval"]["argv"][2] == group and Path(group).is_dir()
    assert [run["status"] for run in steps["train"]["answer"]["runs"]] == ["trained"] * 2
    again = vad("run", "noise.yaml", cwd=place)
    assert again.returncode == 0 and "2 up to date" in again.stderr and "0 new, 0 failed" in again.stderr
    assert "up to date" in again.stdout  # the evaluation's own answer


def test_a_failed_step_stops_what_needs_it_and_nothing_else(place: Path) -> None:
    (place / "r.yaml").write_text(
        "schema: 1\ntitle: t\nsteps:\n"
        "  - {name: a, run: train mine}\n"
        "  - {name: b, run: 'eval --run ${a.group}'}\n"
        "  - {name: c, run: extract mine --encoder motion --clip-len 8 --device cpu}\n"
    )
    done = vad("run", "r.yaml", "--json", cwd=place)
    steps = steps_of(done.stdout)
    assert {name: step["state"] for name, step in steps.items()} == {"a": "failed", "b": "not run", "c": "done"}
    assert done.returncode == 4  # the failed step's own code: it had no features
    assert "vad extract mine" in done.stderr and "a: exit 4" in done.stderr


def test_failed_videos_stop_a_chain_above_max_failed_only(place: Path) -> None:
    (place / "mine" / "odd" / "v001.mp4").write_bytes(b"no video")
    refused = vad("run", "light.yaml", cwd=place)
    assert refused.returncode == 3 and "show: not run" in refused.stderr
    done = vad("run", "light.yaml", "--max-failed", "1", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert list(steps_of(done.stdout)["extract"]["answer"]["failures"]) == ["v001"]
    assert steps_of(done.stdout)["show"]["state"] == "done"


def test_one_step_alone_takes_the_answers_that_are_there(place: Path) -> None:
    missing = vad("run", "light.yaml", "--step", "show", cwd=place)
    assert missing.returncode == 4 and "'extract' has given no answer yet" in missing.stderr
    assert vad("run", "light.yaml", "--step", "extract", cwd=place).returncode == 0
    shown = vad("run", "light.yaml", "--step", "show", cwd=place)
    assert shown.returncode == 0 and "motion" in shown.stdout


def test_a_stop_reaches_the_running_command_and_the_same_command_goes_on(place: Path) -> None:
    process = start("run", "noise.yaml", "--with", "steps=100000", cwd=place)
    deadline = time.monotonic() + 60
    while not list(place.glob("vad_runs/mine/mil-rank/*/seed-0/train.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert list(place.glob("vad_runs/mine/mil-rank/*/seed-0/state.pt"))  # saved by the training, which was waited for


def test_independent_tasks_run_at_once_and_each_gets_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    code = (
        "import os, sys, time, pathlib; here = pathlib.Path(sys.argv[1]); (here / sys.argv[2]).touch()\n"
        "while len(list(here.iterdir())) < 2: time.sleep(0.01)\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    monkeypatch.setattr(local, "COMMAND", (local.COMMAND[0], "-c", code))
    meet, out = tmp_path / "meet", tmp_path / "out"
    meet.mkdir()
    out.mkdir()
    outcomes = local.run(
        [local.Task("a"), local.Task("b")],
        lambda name: local.Launch((str(meet), name), out / name),
        workers=2,
    )
    assert {outcome.state for outcome in outcomes.values()} == {"done"}  # each waited for the other
    assert {(out / name).read_text().strip() for name in "ab"} == {"4", "7"}
