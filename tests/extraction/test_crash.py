"""A killed process loses no finished video, shows no half-written one, and the same command finishes the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines import artifacts, extract
from pipelines.errors import Stopped
from pipelines.extraction.stop import stop_on_signals
from pipelines.store.features import FeatureStore, values_checksum
from pipelines.store.maintenance import clean_staging, verify
from tests.extraction.fakes import copies, facts, noise_videos, request, vectors, write_noise

ROOT = Path(__file__).parents[2]
WRITE_STEPS = ("staged", "written", "flushed", "renamed", "done")
REPLACE_STEPS = ("staged", "written", "aside", "flushed", "renamed", "done")
DIE = """
import os, sys
from pathlib import Path
from pipelines.store.features import FeatureStore
from tests.extraction.fakes import facts, vectors

folder, how, when, seed = sys.argv[1:]
store = FeatureStore(Path(folder))


def step(name):
    if name == when:
        os.kill(os.getpid(), 9)


getattr(store, how)("new", vectors(t=40, d=64, seed=int(seed)), facts(320), step=step)
"""
RUN = """
import sys
from pathlib import Path
from pipelines import extract
from pipelines.errors import VadError
from tests.extraction.fakes import request, video

videos = tuple(video(path) for path in sorted(Path(sys.argv[1]).glob("*.mp4")))
try:
    extract.run(request(videos, Path(sys.argv[2])))
except VadError as error:
    sys.exit(error.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    recipe = {"encoder": "fake", "crops": ["center"]}
    made = FeatureStore.create(tmp_path / "store", artifacts.make("features", "0" * 64, recipe))
    made.write("old", vectors(t=40, d=64), facts(320))
    return made


def die(store: FeatureStore, how: str, step: str, seed: int = 1) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIE, str(store.folder), how, step, str(seed)], cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("step", WRITE_STEPS)
def test_killed_at_each_step_of_a_commit(store: FeatureStore, step: str) -> None:
    die(store, "write", step)
    if "new" in store:  # visible means complete
        assert values_checksum(store.read("new")) == store.checksum("new")
    assert ("new" in store) == (step in ("renamed", "done"))
    np.testing.assert_array_equal(store.read("old"), vectors(t=40, d=64))
    clean_staging(store)
    assert list((store.folder / ".staging").iterdir()) == []
    store.write("new", vectors(t=40, d=64, seed=1), facts(320))
    np.testing.assert_array_equal(store.read("new"), vectors(t=40, d=64, seed=1))
    assert verify(store) == []


@pytest.mark.parametrize("step", REPLACE_STEPS)
def test_killed_at_each_step_of_a_replacement_keeps_one_version(store: FeatureStore, step: str) -> None:
    store.write("new", vectors(t=40, d=64, seed=1), facts(320))
    die(store, "replace", step, seed=2)
    clean_staging(store)
    values = np.array(store.read("new"))
    seed = 2 if step in ("renamed", "done") else 1
    np.testing.assert_array_equal(values, vectors(t=40, d=64, seed=seed))
    assert verify(store) == [] and store.videos() == {"old", "new"}


def test_staging_of_a_living_writer_is_left_alone(store: FeatureStore) -> None:
    staged = store.stage("new", vectors(), facts())
    assert clean_staging(store) == 0 and staged.exists()


def test_staging_of_another_host_is_left_alone_until_it_is_old(store: FeatureStore) -> None:
    other = store.folder / ".staging" / f"elsewhere-{os.getpid()}-abc"
    other.mkdir()
    assert clean_staging(store) == 0
    os.utime(other, (1, 1))
    assert clean_staging(store) == 1


def start(footage: Path, cache: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(footage), str(cache)], cwd=ROOT)


def wait_for(cache: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many videos are committed, or the process is over."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(cache.glob("features/fake/*/features.zarr/v*"))) >= count:
            return
        time.sleep(0.002)


def descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_real_kills_lose_nothing_and_the_same_command_finishes(tmp_path: Path) -> None:
    videos = noise_videos(tmp_path / "v", 12, n_frames=60)
    undisturbed = FeatureStore(extract.run(request(videos, tmp_path / "whole")).artifacts[0].folder)
    finished: dict[str, int] = {}
    for count in (2, 5, 8):
        process = start(tmp_path / "v", tmp_path / "c")
        wait_for(tmp_path / "c", count, process)
        children = descendants(process.pid) if process.poll() is None else []
        process.kill()
        process.wait(timeout=30)
        arrays = {path.name: path.stat().st_ino for path in (tmp_path / "c").glob("features/fake/*/features.zarr/v*")}
        assert finished.items() <= arrays.items()  # the very same arrays are still there
        finished = arrays
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]  # no decoder outlives its parent
        store = FeatureStore(next((tmp_path / "c" / "features" / "fake").iterdir()))
        assert verify(store) == []
    assert start(tmp_path / "v", tmp_path / "c").wait(timeout=60) == 0
    assert store.videos() == {one.id for one in videos}
    for one in videos:
        np.testing.assert_array_equal(store.read(one.id), undisturbed.read(one.id))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_signals_stop_with_everything_committed(tmp_path: Path, number: int, code: int) -> None:
    source = write_noise(tmp_path / "source.mp4", n_frames=40)
    videos = copies(source, tmp_path / "v", [f"v{index:03d}" for index in range(150)])
    process = start(tmp_path / "v", tmp_path / "c")
    wait_for(tmp_path / "c", 1, process)
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    store = FeatureStore(next((tmp_path / "c" / "features" / "fake").iterdir()))
    assert verify(store) == [] and store.failures() == {} and list((store.folder / ".staging").iterdir()) == []
    assert 0 < len(store.videos()) < len(videos)
    assert extract.run(request(videos[:20], tmp_path / "c")).failures == {}


def test_sigterm_raises_at_once_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"), stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_swallowed_stop_is_raised_by_the_next_check() -> None:
    with stop_on_signals() as stop:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Stopped:
            pass
        with pytest.raises(Stopped):
            stop.check()
