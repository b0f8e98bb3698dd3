"""On a real Slurm: arrays over real clips, preemption, chains in order and cancelled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.store.maintenance import verify
from tests.cli.process import start, vad
from tests.cluster import world

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]
SLURM = ("--executor", "slurm", "--timeout", "10m")


def until(true: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    """What `true` gives once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def slurm(*command: str) -> str:
    return subprocess.run(list(command), capture_output=True, text=True, check=True, timeout=60).stdout


def jobs_in_queue() -> str:
    return slurm("squeue", "-h", "-r", "-o", "%i %T %r")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """`mine` over a few real clips where they are at hand, drawn ones else; v003 is damaged."""
    root = os.environ.get("VAD_TEST_DATA")
    folder = world.make(tmp_path, videos=6, n_frames=40)
    if root and (Path(root) / "surv-fight").is_dir():
        real = sorted((Path(root) / "surv-fight").rglob("*.mp4"), key=lambda path: path.stat().st_size)[:6]
        for source, target in zip(real, sorted((folder / "mine").rglob("*.mp4")), strict=True):
            shutil.copyfile(source, target)
    next((folder / "mine").rglob("v003.mp4")).write_bytes(b"no video at all")
    return folder


def test_an_array_over_clips_with_a_corrupt_one(clips: Path) -> None:
    extract = ("extract", "mine", *world.ENCODE, *SLURM, "--shards", "2", "--gres", "gpu:1")
    done = vad(
        *extract, "--wait", "--json", cwd=clips, SLURM_JOB_ID="999", SBATCH_PARTITION="nowhere", SLURM_NTASKS="7"
    )
    assert done.returncode == 3, done.stderr  # the front command; an inherited SBATCH_PARTITION would have refused it
    answer = json.loads(done.stdout)
    assert answer["done"] == 5 and list(answer["failures"]) == ["v003"] and answer["missing"] == []
    store = world.store(clips)
    assert store.videos() == {"v000", "v001", "v002", "v004", "v005"} and verify(store) == []
    folder = Path(answer["job_folder"])
    assert {path.read_text() for path in (folder / "done").iterdir()} <= {"0\n", "3\n"}  # both tasks count as done
    assert json.loads((folder / "finalised.json").read_text())["lacking"].keys() == {"v003"}
    (script,) = (folder / "logs").glob(f"{answer['submitted']}_submission.sh")
    assert "#SBATCH --array=0-1" in script.read_text() and "--signal=USR2@" in script.read_text()
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["precision"] == "float32" and all("--precision" in task["argv"] for task in plan["tasks"])
    assert all(answer["artifacts"][0]["id"] in task["argv"] for task in plan["tasks"])
    again = vad(*extract, "--wait", cwd=clips)
    assert again.returncode == 0 and "nothing to submit" in again.stdout
    light = vad("status", answer["submitted"], "--json", cwd=clips)
    assert json.loads(light.stdout)["done"] == 5 and json.loads(light.stdout)["live"] is False


def test_options_that_slurm_refuses_leave_nothing_behind(clips: Path) -> None:
    extract = ("extract", "mine", *world.ENCODE, "--executor", "slurm")
    refused = vad(*extract, "--partition", "nowhere", cwd=clips)
    assert refused.returncode == 2 and "invalid partition" in refused.stderr.lower()
    too_long = vad(*extract, "--timeout", "3h", cwd=clips)
    assert too_long.returncode == 2 and "the partition gpu takes 60 at most" in too_long.stderr
    assert list((clips / "vad_runs" / "jobs").iterdir()) == [] and jobs_in_queue() == ""


def test_a_preempted_extraction_is_complete_and_nothing_is_done_twice(tmp_path: Path, cluster: Path) -> None:
    folder = world.make(tmp_path, videos=6, n_frames=64)
    encoder = world.slow_encoder(folder)
    front = start(
        *("extract", "mine", "--encoder", encoder, "--clip-len", "8", "--device", "cpu", "--set", "pause=2"),
        *(*SLURM, "--shards", "1", "--decoders", "1", "--wait", "--json"),
        cwd=folder,
    )
    arrays = until(lambda: list(folder.glob("vad_cache/features/mine/slow-*/features.zarr/v*")), "a first video")
    assert arrays
    before = world.inodes(world.store(folder, "slow"))
    nodes = slurm("sinfo", "-h", "-o", "%D", "-p", "urgent").strip()
    urgent = slurm(
        "sbatch", "--parsable", "-p", "urgent", "-N", nodes, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 2"
    ).strip()
    out, err = front.communicate(timeout=200)
    assert front.returncode == 0, err
    answer = json.loads(out)
    assert answer["done"] == 6 and answer["missing"] == [] and answer["lost"] == []
    store = world.store(folder, "slow")
    after = world.inodes(store)
    assert before.items() <= after.items() and len(after) == 6 and verify(store) == [] and store.failures() == {}
    log = (Path(answer["job_folder"]) / "logs" / f"{answer['submitted']}_0_log.err").read_text()
    assert log.count("task 0: vad extract") == 2, log  # it really was ended and began again
    assert f" {6 - len(before)} to do" in log or log.count("to do") == 2
    assert urgent not in jobs_in_queue()


CHAIN = """
schema: 1
title: a chain
steps:
  - {name: extract, run: extract mine --encoder motion --clip-len 8 --device cpu, slurm: {shards: 2}}
  - {name: train, needs: extract, run: train mine --method mil-rank --set steps=5 --seeds 2 --device cpu}
  - {name: eval, run: "eval --run ${train.group} --metric video-auc --no-plots --no-ci --device cpu"}
"""


def test_a_chain_runs_in_order_and_a_second_time_submits_nothing(tmp_path: Path) -> None:
    folder = world.make(tmp_path, videos=6)
    (folder / "chain.yaml").write_text(CHAIN)
    done = vad("run", "chain.yaml", *SLURM, "--wait", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr + "".join(p.read_text() for p in folder.glob("vad_runs/jobs/*/logs/*err"))
    answer = json.loads(done.stdout)
    assert answer["states"] == {"extract": "done", "train": "done", "eval": "done"}
    (group,) = folder.glob("vad_runs/mine/mil-rank/*-*")  # both seeds' tasks found one group
    assert len(list(group.glob("seed-*/evals/*/metrics.json"))) == 2
    last_features = max(world.inodes_times(world.store(folder)))
    first_log = min(path.stat().st_mtime for path in group.glob("seed-*/config.yaml"))
    first_eval = min(path.stat().st_mtime for path in group.glob("seed-*/evals/*/metrics.json"))
    last_weights = max(path.stat().st_mtime for path in group.glob("seed-*/model.safetensors"))
    assert last_features <= first_log and last_weights <= first_eval
    again = vad("run", "chain.yaml", *SLURM, "--wait", "--json", cwd=folder)
    assert again.returncode == 0 and [s["job"] for s in json.loads(again.stdout)["steps"].values()] == [None] * 3


def test_a_chain_is_cancelled_when_its_extraction_fails_and_the_wait_ends(tmp_path: Path) -> None:
    folder = world.make(tmp_path, videos=4)
    next((folder / "mine").rglob("v001.mp4")).write_bytes(b"no video at all")
    (folder / "chain.yaml").write_text(CHAIN)
    done = vad("run", "chain.yaml", *SLURM, "--wait", "--json", cwd=folder)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["states"] == {
        "extract": "done, 1 failed", "train": "not finished", "eval": "not finished"
    }  # fmt: skip
    assert not (folder / "vad_runs" / "mine").exists() and "train: task 0: no log" in done.stderr
    assert jobs_in_queue() == ""
