"""Several processes that write the same artefact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipelines import artifacts
from pipelines.store.features import FeatureStore
from pipelines.store.maintenance import verify
from tests.extraction.fakes import noise_videos, vectors

ROOT = Path(__file__).parents[2]
WRITER = """
import json, sys, time
from pathlib import Path
from pipelines import artifacts
from pipelines.store.features import FeatureStore
from tests.extraction.fakes import facts, vectors

folder, seed, start = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
time.sleep(max(0, start - time.time()))
store = FeatureStore.create(folder, artifacts.make("features", "0" * 64, {"encoder": "fake", "crops": ["center"]}))
wins = [i for i in range(30) if store.write(f"v{i}", vectors(t=30, d=64, seed=seed), facts(240, extra={"by": seed}))]
print(json.dumps(wins))
"""


def test_exactly_one_of_several_writers_wins_each_video(tmp_path: Path) -> None:
    import time

    start = time.time() + 2
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "s"), str(seed), str(start)], cwd=ROOT, stdout=subprocess.PIPE
        )
        for seed in range(4)
    ]
    wins = {seed: json.loads(writer.communicate(timeout=60)[0]) for seed, writer in enumerate(writers)}
    assert sorted(index for won in wins.values() for index in won) == list(range(30))
    store = FeatureStore(tmp_path / "s")
    assert len(store.videos()) == 30 and verify(store) == []
    for seed, won in wins.items():
        for index in won:
            assert store.facts(f"v{index}").extra["by"] == seed
            np.testing.assert_array_equal(store.read(f"v{index}"), vectors(t=30, d=64, seed=seed))
    assert list((store.folder / ".staging").iterdir()) == []


def test_two_extractions_at_once_agree(tmp_path: Path) -> None:
    from tests.extraction.test_crash import start

    noise_videos(tmp_path / "v", 6)
    both = [start(tmp_path / "v", tmp_path / "c") for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    store = FeatureStore(next((tmp_path / "c" / "features" / "fake").iterdir()))
    assert len(store.videos()) == 6 and verify(store) == [] and store.failures() == {}
    assert artifacts.read(store.folder).kind == "features"
