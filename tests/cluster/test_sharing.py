"""One cache for several people and several schedulers: groups, read-only layers, shards of any kind, local processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import artifacts
from pipelines.errors import VadError
from pipelines.extraction.writer import disk_errors
from pipelines.records import Failure
from pipelines.store.features import FeatureStore
from pipelines.store.maintenance import clean_staging, record_rate, verify
from tests.cli.process import start, vad
from tests.cluster import world
from tests.extraction.fakes import facts, vectors

ANN, BOB, GROUP = 64001, 64002, 64100  # ids that no account needs to have
RECIPE = {"encoder": "fake", "crops": ["center"]}


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A setgid folder of the group, below a path that everybody may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as two people")
    folder = Path(tempfile.mkdtemp(prefix="vad-group-"))
    folder.chmod(0o755)
    cache = folder / "cache"
    cache.mkdir()
    os.chown(cache, 0, GROUP)
    cache.chmod(0o2775)
    yield cache
    shutil.rmtree(folder)


def person(uid: int, umask: int, work: Callable[[], None]) -> int:
    """Begin `work` in a process of another user of the group; its pid. The exit code is a VadError's, 0 without one."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setgroups([])
        os.setgid(GROUP)
        os.setuid(uid)
        os.umask(umask)
        work()
        code = 0
    except VadError as error:
        code = error.exit_code
    except BaseException as error:  # noqa: BLE001  a forked child must not return into the tests
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def ended(*pids: int) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def write_all(cache: Path, who: int, at: float, made: artifacts.Artifact) -> None:
    """What an extraction does to a store: make it, commit, record failures and the rate, clean up.

    `made` comes from before the change of user, who may not read root's Python installation.
    """
    time.sleep(max(0.0, at - time.time()))
    store = FeatureStore.create(cache / "features" / "fake" / "a", made)
    with disk_errors(store):
        for index in range(20):
            store.write(f"v{index}", vectors(t=20, d=16, seed=index), facts(160, extra={"by": who}))
        store.record_failure(Failure(f"bad-{who}", "broken", artifacts.utc_now(), None))
        store.replace("v0", vectors(t=20, d=16, seed=0), facts(160, extra={"by": who}))
        record_rate(store, frames_per_s=1.0, device="cpu")
        clean_staging(store)


def test_two_people_of_a_group_fill_one_cache(shared_folder: Path) -> None:
    made, at = artifacts.make("features", "0" * 64, RECIPE), time.time() + 0.2
    pids = [person(uid, 0o002, lambda uid=uid: write_all(shared_folder, uid, at, made)) for uid in (ANN, BOB)]
    assert ended(*pids) == [0, 0]
    store = FeatureStore(shared_folder / "features" / "fake" / "a")
    assert len(store.videos()) == 20 and verify(store) == [] and set(store.failures()) == {f"bad-{ANN}", f"bad-{BOB}"}
    assert list((store.folder / ".staging").iterdir()) == []
    for path in [store.folder, *store.folder.rglob("*")]:
        found = path.stat()
        assert found.st_gid == GROUP and found.st_uid in (ANN, BOB), path
        assert stat.S_IMODE(found.st_mode) & stat.S_IWGRP, path  # umask 002 was respected, the group may write
        if path.is_dir():
            assert found.st_mode & stat.S_ISGID, path  # and what comes later belongs to the group too


def test_a_closed_umask_keeps_the_other_out_with_a_message_and_loses_nothing(shared_folder: Path) -> None:
    made, now = artifacts.make("features", "0" * 64, RECIPE), time.time()
    assert ended(person(ANN, 0o022, lambda: write_all(shared_folder, ANN, now, made))) == [0]
    assert ended(person(BOB, 0o002, lambda: write_all(shared_folder, BOB, now, made))) == [
        1
    ]  # a VadError, no traceback
    store = FeatureStore(shared_folder / "features" / "fake" / "a")
    assert len(store.videos()) == 20 and verify(store) == []
    assert not store.folder.stat().st_mode & stat.S_IWGRP  # the first one's umask was respected


def test_what_another_may_not_write_is_told_with_the_way_out(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "s", artifacts.make("features", "0" * 64, RECIPE))
    with pytest.raises(VadError, match="cannot write") as caught, disk_errors(store):
        raise PermissionError(13, "Permission denied")
    assert "umask 002" in caught.value.hint


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.make(tmp_path_factory.mktemp("w"), videos=6)


@pytest.fixture
def place(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "w")


def test_a_read_only_group_cache_under_a_personal_one(place: Path) -> None:
    first = vad("extract", "mine", *world.ENCODE, "--limit", "4", "--cache-dir", place / "group", cwd=place)
    assert first.returncode == 0, first.stderr
    for path in [place / "group", *(place / "group").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted((str(path), path.stat().st_mtime_ns) for path in (place / "group").rglob("*"))
    stacked = f"{place / 'own'}:{place / 'group'}"
    done = vad("extract", "mine", *world.ENCODE, "--workers", "2", "--json", cwd=place, VAD_CACHE=stacked)
    assert done.returncode == 0, done.stderr
    (artifact,) = json.loads(done.stdout)["artifacts"]
    assert (
        artifact["done_before"] == 6
    )  # two processes did the two that the group lacks; nothing was left for the caller
    (own,) = (place / "own" / "features" / "mine").iterdir()
    assert len(FeatureStore(own).videos()) == 2
    assert sorted((str(path), path.stat().st_mtime_ns) for path in (place / "group").rglob("*")) == before
    trained = vad("train", "mine", "--set", "steps=2", "--device", "cpu", cwd=place, VAD_CACHE=stacked)
    assert trained.returncode == 0, trained.stderr


def test_local_processes_divide_the_work_and_the_caller_answers(place: Path) -> None:
    next((place / "mine").rglob("v001.mp4")).write_bytes(b"no video")
    done = vad("extract", "mine", *world.ENCODE, "--workers", "2", "--json", cwd=place)
    assert done.returncode == 3 and "v001" in done.stderr
    logs = [path.read_text() for path in sorted(place.glob("vad_runs/jobs/*/logs/*.log"))]
    assert len(logs) == 2 and all(" 3 to do" in log for log in logs)
    assert len(world.store(place).videos()) == 5


def test_any_scheduler_by_its_array_variable(place: Path) -> None:
    """Three tasks that each work out their own part; the last one's check decides what failures mean."""
    next((place / "mine").rglob("v001.mp4")).write_bytes(b"no video")
    tasks = [
        start("extract", "mine", *world.ENCODE, "--num-shards", "3", cwd=place, SGE_TASK_ID=str(n), SGE_TASK_FIRST="1")
        for n in (1, 2, 3)
    ]
    told = [task.communicate(timeout=120)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0, 0], told  # a recorded failure does not break an array
    assert len(world.store(place).videos()) == 5
    assert vad("status", "mine", "--finalise", cwd=place).returncode == 1
    assert vad("status", "mine", "--finalise", "--max-failed", "1", cwd=place).returncode == 0
    nobody = vad("extract", "mine", *world.ENCODE, "--num-shards", "3", cwd=place)
    assert nobody.returncode == 2 and "no array variable" in nobody.stderr


def test_other_features_than_planned_end_a_task_before_it_writes(place: Path) -> None:
    done = vad("extract", "mine", *world.ENCODE, "--expect", "0" * 64, cwd=place)
    assert done.returncode == 5 and "planned was 00000000" in done.stderr and not (place / "vad_cache").exists()


def test_a_stop_reaches_every_local_process(place: Path) -> None:
    encoder = world.slow_encoder(place)
    process = start(
        *("extract", "mine", "--encoder", encoder, "--clip-len", "8", "--device", "cpu", "--set", "pause=2"),
        *("--workers", "2", "--decoders", "1"),
        cwd=place,
    )
    deadline = time.monotonic() + 60
    while len(list(place.glob("vad_runs/jobs/*/logs/*.log"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=90)[1] is not None and process.returncode == 75
    logs = [path.read_text() for path in place.glob("vad_runs/jobs/*/logs/*.log")]
    assert len(logs) == 2 and all("stopped by SIGTERM" in log for log in logs), logs


def test_status_of_jobs_needs_no_torch(place: Path) -> None:
    import subprocess
    import sys

    from tests.cli.process import environment

    vad("extract", "mine", *world.ENCODE, "--workers", "2", cwd=place)
    job = next(place.glob("vad_runs/jobs/*"))
    code = "import sys; from vadcli.app import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    for words, heavy in ((["status", str(job)], {"torch", "zarr", "numpy"}), (["status"], {"torch", "zarr"})):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=place, env=environment(), capture_output=True, text=True
        )
        assert "6" in done.stdout, done.stderr
        assert not heavy & set(done.stderr.split()), words
