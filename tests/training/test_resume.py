"""A stopped training goes on to the same weights, bit for bit: SIGTERM, Ctrl-C, kill -9 between saved states."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.errors import UsageError
from pipelines.train import TrainRequest, run
from pipelines.training.group import only_one
from pipelines.training.trackers import read_log
from tests import toy

STEPS = 120
# Dropout, windows and a schedule: everything that is random or depends on the step.
SETS = (
    f"steps={STEPS}",
    "dropout=0.3",
    "data.length=window",
    "data.size=4",
    "optim.schedule=cosine",
    "data.batch_normal=5",
)
CHILD = """
import sys, time
from pathlib import Path
from pipelines.methods import mil_rank
from pipelines.train import TrainRequest, run
from vadcli.app import main
step = mil_rank.MilRank.losses
def slow(self, bag):
    time.sleep(0.02)
    print(bag.extras["step"], flush=True)
    return step(self, bag)
mil_rank.MilRank.losses = slow
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("toy"), train=16)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """The run that was never stopped."""
    result = run(request(place, tmp_path_factory.mktemp("whole")))
    return result.runs[0].folder


def request(place: toy.Toy, runs: Path, **values) -> TrainRequest:
    return TrainRequest(
        dataset="toy", sets=SETS, device="cpu", manifest=place.manifest, cache_dir=place.cache, runs_dir=runs, **values
    )


def child(place: toy.Toy, runs: Path, *more: str) -> subprocess.Popen[str]:
    """`vad train` in a process of its own, slowed down; prints each step."""
    words = [
        "train",
        "toy",
        "--device",
        "cpu",
        "--manifest",
        str(place.manifest),
        "--cache-dir",
        str(place.cache),
        "--runs-dir",
        str(runs),
    ]
    for item in SETS:
        words += ["--set", item]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *words, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for_step(process: subprocess.Popen[str], step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit() and int(line) >= step:
            return
    raise AssertionError(f"the child ended before step {step}: {process.stderr.read() if process.stderr else ''}")


def same(a: Path, b: Path) -> None:
    one, two = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key
    rows = [
        [{k: v for k, v in row.items() if not k.startswith("data_")} for row in read_log(x / "train.csv")]
        for x in (a, b)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_run_ends_at_the_same_weights(place, whole, tmp_path, number, code):
    process = child(place, tmp_path)
    wait_for_step(process, 30)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "everything is saved" in told
    assert not list(tmp_path.rglob("artifact.json")) and not (tmp_path / "latest").exists()
    result = run(request(place, tmp_path, resume=True))
    assert [o.status for o in result.runs] == ["resumed"]
    same(result.runs[0].folder, whole)


def test_a_killed_run_goes_on_from_its_last_saved_state(place, whole, tmp_path):
    process = child(place, tmp_path, "--save-every", "20")
    wait_for_step(process, 33)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    state = next(tmp_path.rglob("state.pt"))
    assert torch.load(state, weights_only=True)["step"] == 20
    result = run(request(place, tmp_path))
    assert [o.status for o in result.runs] == ["resumed"]
    same(result.runs[0].folder, whole)


@pytest.mark.slow
def test_two_stops_change_nothing_either(place, whole, tmp_path):
    for step in (10, 60):
        process = child(place, tmp_path)
        wait_for_step(process, step)
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 75
    same(run(request(place, tmp_path)).runs[0].folder, whole)


def test_a_kill_before_the_first_state_starts_again(place, whole, tmp_path):
    process = child(place, tmp_path)
    wait_for_step(process, 5)
    process.kill()
    process.communicate(timeout=60)
    result = run(request(place, tmp_path))
    assert [o.status for o in result.runs] == ["trained"]
    same(result.runs[0].folder, whole)


def test_a_run_that_another_process_trains_is_refused(tmp_path):
    with only_one(tmp_path), pytest.raises(UsageError, match="another process"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass
