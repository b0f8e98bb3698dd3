"""The long tier on a real Slurm: kills, limits, cancelled jobs, two people, nodes that go down, thousands of videos."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.store.maintenance import clean_staging, verify
from tests.cli.process import start, vad
from tests.cluster import world
from tests.cluster.conftest import running
from tests.cluster.test_slurm import slurm, until
from tests.extraction.fakes import write_noise

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
BATCH = ("--executor", "slurm", "--timeout", "10m", "--decoders", "1")
MANY = int(os.environ.get("VAD_TEST_MANY", "5000"))


def extract(encoder: str, pause: float) -> tuple[str, ...]:
    return ("extract", "mine", "--encoder", encoder, "--clip-len", "8", "--device", "cpu", "--set", f"pause={pause}")


def commands_of(folder: Path) -> list[psutil.Process]:
    """The `vad extract --videos` processes that work in a folder, not the ones that wait."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "vadcli" in words and "--videos" in words and any(str(folder) in word for word in words):
            found.append(process)
    return found


def arrays(folder: Path) -> list[Path]:
    return list(folder.glob("vad_cache/features/mine/*/features.zarr/*/zarr.json"))


@pytest.mark.usefixtures("cluster")
def test_a_killed_task_is_lost_and_the_same_command_does_only_what_is_missing(tmp_path: Path) -> None:
    folder = world.make(tmp_path, videos=8, n_frames=64)
    command = (*extract(world.slow_encoder(folder), 0.5), *BATCH, "--shards", "2", "--wait", "--json")
    front = start(*command, cwd=folder)
    until(lambda: len(arrays(folder)) >= 2 and len(commands_of(folder)) == 2, "two tasks at work")
    victim = commands_of(folder)[0]
    victim.kill()
    out, err = front.communicate(timeout=200)
    assert front.returncode == 1 and "were not done" in err, err
    first = json.loads(out)
    assert 0 < len(first["missing"]) < 8 and len(first["lost"]) == 1 and "_log.err" in first["lost"][0]
    before = world.inodes(world.store(folder, "slow"))
    second = vad(*command, cwd=folder)
    assert second.returncode == 0, second.stderr
    answer = json.loads(second.stdout)
    plan = json.loads((Path(answer["job_folder"]) / "plan.json").read_text())
    assert sorted(video for task in plan["tasks"] for video in task["videos"]) == sorted(first["missing"])
    store = world.store(folder, "slow")
    assert before.items() <= world.inodes(store).items() and len(store.videos()) == 8 and verify(store) == []
    third = vad(*command, cwd=folder)
    assert third.returncode == 0 and json.loads(third.stdout)["submitted"] is None


@pytest.mark.usefixtures("cluster")
def test_a_time_limit_is_a_pause(tmp_path: Path) -> None:
    folder = world.make(tmp_path, videos=24, n_frames=64)
    done = vad(
        *extract(world.slow_encoder(folder), 10.0),
        *("--executor", "slurm", "--timeout", "1m", "--decoders", "1", "--shards", "1", "--wait", "--json"),
        cwd=folder,
        timeout=500,
    )  # 24 batches of 10 s on two threads: 120 s in a limit of 60
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    log = (Path(answer["job_folder"]) / "logs" / f"{answer['submitted']}_0_log.err").read_text()
    assert log.count("task 0: vad extract") >= 2, log
    store = world.store(folder, "slow")
    assert len(store.videos()) == 24 and verify(store) == [] and store.failures() == {}


@pytest.mark.usefixtures("cluster")
def test_a_cancelled_job_does_not_hang_the_wait_and_is_not_requeued(tmp_path: Path) -> None:
    folder = world.make(tmp_path, videos=6, n_frames=64)
    command = (*extract(world.slow_encoder(folder), 1.0), *BATCH, "--shards", "2", "--wait", "--json")
    front = start(*command, cwd=folder)
    until(lambda: arrays(folder), "a first video")
    submitted = json.loads(next(folder.glob("vad_runs/jobs/*/submitted.json")).read_text())["ids"]
    slurm("scancel", submitted[0])
    out, err = front.communicate(timeout=100)
    assert front.returncode == 1, err
    assert json.loads(out)["missing"] and slurm("squeue", "-h", "-j", ",".join(submitted)) == ""
    assert vad(*command, cwd=folder).returncode == 0
    assert len(world.store(folder, "slow").videos()) == 6


@pytest.mark.usefixtures("cluster")
def test_two_people_at_once_into_one_cache(tmp_path: Path) -> None:
    folder = world.make(tmp_path, videos=12, n_frames=64)
    command = (*extract(world.slow_encoder(folder), 0.3), *BATCH, "--shards", "2", "--wait", "--json")
    fronts = [start(*command, cwd=folder, VAD_RUNS=str(tmp_path / f"runs{person}")) for person in range(2)]
    for front in fronts:
        out, err = front.communicate(timeout=300)
        assert front.returncode == 0, err
        assert json.loads(out)["missing"] == []
    store = world.store(folder, "slow")
    clean_staging(store)
    assert len(store.videos()) == 12 and verify(store) == [] and list((store.folder / ".staging").iterdir()) == []


@pytest.mark.usefixtures("cluster")
def test_a_node_that_goes_down_costs_nothing(tmp_path: Path) -> None:
    folder = world.make(tmp_path, videos=8, n_frames=64)
    front = start(*extract(world.slow_encoder(folder), 1.0), *BATCH, "--shards", "1", "--wait", "--json", cwd=folder)
    until(lambda: arrays(folder), "a first video")
    before = world.inodes(world.store(folder, "slow"))
    node = slurm("squeue", "-h", "-t", "RUNNING", "-o", "%N").split()[0]
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        out, err = front.communicate(timeout=300)
    finally:
        resume(node)
    assert front.returncode == 0, err
    store = world.store(folder, "slow")
    assert json.loads(out)["missing"] == [] and len(store.videos()) == 8 and verify(store) == []
    assert before.items() <= world.inodes(store).items()


def resume(node: str) -> None:
    """Bring a node back; one that has registered again by itself refuses, which is as good."""
    subprocess.run(["scontrol", "update", f"nodename={node}", "state=resume"], capture_output=True, timeout=60)


def strike(rng: random.Random, folder: Path) -> str | None:
    """One misfortune: a task killed, stopped, cancelled, or a node that goes down and comes back."""
    tasks = commands_of(folder)
    kind = rng.choice(["kill", "kill", "term", "cancel", "node"])
    if not tasks:
        return None
    if kind in ("kill", "term"):
        rng.choice(tasks).send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
    else:
        running = slurm("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i %N").splitlines()
        if not running:
            return None
        job, node = rng.choice(running).split()
        if kind == "cancel":
            slurm("scancel", job)
        else:
            slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
            resume(node)
    return kind


def test_thousands_of_videos_on_sixteen_nodes_with_random_kills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Zero lost, zero half-written, zero double."""
    rng = random.Random(0)
    folder = world.make(tmp_path, videos=2, n_frames=16)
    many = folder / "many"
    sources = [write_noise(tmp_path / f"s{index}.mp4", n_frames=16, seed=index, size=(32, 48)) for index in range(8)]
    for index in range(MANY):
        target = many / ("odd" if index % 2 else "normal") / f"v{index:05d}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(sources[index % 8], target)
    world.init(many, name="many", manifest=folder / "data_manifest.yaml")
    command = (
        "extract",
        "many",
        *world.ENCODE,
        *BATCH,
        "--shards",
        "32",
        "--array-parallelism",
        "16",
        "--wait",
        "--json",
    )
    struck: list[str] = []
    kept: dict[str, int] = {}
    began, rounds, answer = time.monotonic(), 0, dict[str, Any]()
    with running(tmp_path / "slurm", 16):
        while rounds < 12:
            rounds += 1
            front = start(*command, cwd=folder)
            while front.poll() is None and len(struck) < 24:
                time.sleep(rng.uniform(2, 5))
                kind = strike(rng, folder)
                struck += [kind] if kind else []
            out, err = front.communicate(timeout=1800)
            answer = json.loads(out)
            group = next(folder.glob("vad_cache/features/many/motion-*/features.zarr"))
            now = {path.name: path.stat().st_ino for path in group.iterdir() if path.is_dir()}
            assert kept.items() <= now.items(), "an array was written a second time"
            kept = now
            if answer.get("submitted") is None:
                break
            assert front.returncode in (0, 1), err
    wall = time.monotonic() - began
    from pipelines.store.features import find_stores

    (store,) = find_stores([folder / "vad_cache"], "many")
    clean_staging(store)
    assert len(store.videos()) == MANY and store.failures() == {}
    assert verify(store) == []
    alone = time.monotonic()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(
        [sys.executable, "-m", "vadcli", "extract", "many", *world.ENCODE, "--cache-dir", str(tmp_path / "alone")],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    alone, spent = time.monotonic() - alone, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - spent
    kinds = {kind: struck.count(kind) for kind in sorted(set(struck))}
    with capsys.disabled():
        print(
            f"\n{MANY} videos, 16 nodes, {len(struck)} misfortunes {kinds}, {rounds - 1} submissions: "
            f"{wall:.0f} s, {1000 * wall / MANY:.1f} ms a video; one process undisturbed: {alone:.0f} s, "
            f"{1000 * alone / MANY:.1f} ms a video ({spent:.0f} processor seconds)"
        )
