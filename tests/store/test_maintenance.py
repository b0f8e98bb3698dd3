"""Listing, verifying, garbage, removal and counts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.records import Failure
from pipelines.store import listing, maintenance
from pipelines.store.features import FeatureStore
from pipelines.store.listing import find_row, rows, status
from pipelines.store.maintenance import garbage, remove, set_broken_aside, verify
from tests.extraction.fakes import facts, vectors


def make(
    root: Path, dataset: str = "set", encoder: str = "fake:one", number: int = 0, **recipe: object
) -> FeatureStore:
    values = {"encoder": encoder, "crops": ["center"], "weights_sha256": "0"} | recipe
    id = f"{number:08d}" + "0" * 56
    folder = root / "features" / dataset / f"{encoder.replace(':', '-')}-center-{id[:8]}"
    return FeatureStore.create(folder, artifacts.make("features", id, values))


# ---- verify ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = make(tmp_path)
    made.write("good", vectors(4), facts(32))
    return made


def whats(store: FeatureStore) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in verify(store):
        found.setdefault(problem.video_id, []).append(problem.what)
    return found


def test_good_store_has_no_problems(store: FeatureStore) -> None:
    assert verify(store) == []


def test_length_must_fit_the_frames(store: FeatureStore) -> None:
    store.write("long", vectors(4), facts(40))
    assert whats(store) == {"long": ["4 clips, but 40 frames make 5"]}


def test_left_over_frames_are_a_normal_tail(store: FeatureStore) -> None:
    store.write("tail", vectors(4), facts(39))
    assert verify(store) == []


def test_resampled_length_counts(store: FeatureStore) -> None:
    store.write("slow", vectors(2), facts(32, extra={"n_sampled": 16}))
    assert verify(store) == []


def test_nan_is_found(store: FeatureStore) -> None:
    data = vectors(4)
    data[1, 0, 2] = np.nan
    store.write("nan", data, facts(32))
    assert "NaN or infinite values in 1 of 4 clips" in whats(store)["nan"]


def test_zero_clips_and_constants_are_found(store: FeatureStore) -> None:
    data = vectors(4)
    data[2] = 0
    store.write("hole", data, facts(32))
    store.write("flat", np.full((4, 1, 4), 0.5, np.float16), facts(32))
    assert whats(store) == {"hole": ["1 of 4 clips are all zeros"], "flat": ["every value is 0.5"]}


def test_zeros_of_a_descriptor_without_weights_are_a_remark(tmp_path: Path) -> None:
    store = make(tmp_path, weights_sha256=None)
    store.write("still", np.zeros((4, 1, 4), np.float16), facts(32))
    (problem,) = verify(store)
    assert not problem.serious
    chunk = store.path("still") / "c" / "0" / "0" / "0"
    store.write("lost", vectors(4), facts(32))
    lost = store.path("lost") / "c" / "0" / "0" / "0"
    lost.write_bytes(chunk.read_bytes())  # as a lost write reads back: the checksum tells
    assert {p.video_id for p in verify(store) if p.serious} == {"lost"}


def test_flipped_bit_is_found(store: FeatureStore) -> None:
    chunk = store.path("good") / "c" / "0" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[0] ^= 1
    chunk.write_bytes(data)
    assert whats(store) == {"good": ["the values do not match their checksum"]}


@pytest.mark.parametrize("damage", ["short", "gone", "metadata", "attributes"])
def test_array_that_does_not_open_is_found(store: FeatureStore, damage: str) -> None:
    folder = store.path("good")
    if damage == "short":
        (folder / "c" / "0" / "0" / "0").write_bytes(b"ab")
    elif damage == "gone":
        (folder / "c" / "0" / "0" / "0").unlink()
    elif damage == "metadata":
        (folder / "zarr.json").write_text("{")
    else:
        data = json.loads((folder / "zarr.json").read_text())
        data["attributes"] = {}
        (folder / "zarr.json").write_text(json.dumps(data))
    assert whats(store)["good"][0].startswith("does not open")


def test_broken_videos_are_set_aside(store: FeatureStore) -> None:
    store.write("flat", np.zeros((4, 1, 4), np.float16), facts(32))
    aside = set_broken_aside(store, ["flat"])
    assert store.videos() == {"good"} and (aside / "flat" / "zarr.json").is_file() and verify(store) == []


# ---- listing ---------------------------------------------------------------------------------------------------


def test_rows_of_all_layers(tmp_path: Path) -> None:
    make(tmp_path / "a", number=1).write("v", vectors(), facts())
    make(tmp_path / "b", "other", number=2).record_failure(Failure("x", "why", "2026-01-01T00:00:00Z"))
    found = rows([tmp_path / "a", tmp_path / "b"])
    assert [(r.dataset, r.layer, r.n_videos, r.n_failed) for r in found] == [("set", 0, 1, 0), ("other", 1, 0, 1)]
    assert [r.dataset for r in rows([tmp_path / "a", tmp_path / "b"], dataset="other")] == ["other"]


def test_reference_by_id_folder_name_and_encoder(tmp_path: Path) -> None:
    first, second = make(tmp_path, number=1), make(tmp_path, encoder="motion", number=22)
    for reference in (first.artifact.id, "00000001", str(first.folder), first.folder.name, "fake:one", "set/fake:one"):
        assert find_row([tmp_path], reference).folder == first.folder
    assert find_row([tmp_path], "motion").folder == second.folder


def test_reference_that_means_two_lists_both(tmp_path: Path) -> None:
    make(tmp_path, number=1)
    make(tmp_path, number=2)
    with pytest.raises(UsageError, match="means 2 artefacts") as raised:
        find_row([tmp_path], "fake:one")
    assert "00000001" in raised.value.message and "00000002" in raised.value.message
    with pytest.raises(MissingArtifactError, match=r"no artefact 'fake:tow'.*fake:one"):
        find_row([tmp_path], "fake:tow")


def test_same_artefact_in_two_layers_is_one(tmp_path: Path) -> None:
    upper, _ = make(tmp_path / "a", number=1), make(tmp_path / "b", number=1)
    assert find_row([tmp_path / "a", tmp_path / "b"], "fake:one").folder == upper.folder


def test_status_counts_over_layers(tmp_path: Path) -> None:
    make(tmp_path / "a", number=1).write("v1", vectors(), facts())
    lower = make(tmp_path / "b", number=1)
    lower.write("v2", vectors(), facts())
    lower.write("old", vectors(), facts())
    lower.record_failure(Failure("v3", "why", "2026-01-01T00:00:00Z"))
    lower.record_failure(Failure("v1", "why", "2026-01-01T00:00:00Z"))  # another layer has it
    (found,) = status([tmp_path / "a", tmp_path / "b"], "set", ["v1", "v2", "v3", "v4"])
    assert (found.done, found.failed, found.missing, found.stray, found.missing_ids) == (2, 1, 1, 1, ("v4",))


def test_status_opens_no_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path)
    for index in range(50):
        (store.group / f"v{index}").mkdir()
    monkeypatch.setattr(FeatureStore, "metadata", None)
    (found,) = status([tmp_path], "set", [f"v{index}" for index in range(60)])
    assert (found.done, found.missing) == (50, 10)


# ---- garbage ---------------------------------------------------------------------------------------------------


def test_garbage_spares_what_runs_and_manifest_use(tmp_path: Path) -> None:
    used, named, idle = (make(tmp_path / "c", number=n) for n in (1, 2, 3))
    run = artifacts.make("run", "9" * 64, {}, inputs={"features:fake:one": used.artifact.id})
    artifacts.write(tmp_path / "runs" / "set" / "m" / "x" / "seed-0", run)
    found = garbage(
        tmp_path / "c", named={("set", named.artifact.id), ("other", idle.artifact.id)}, runs=tmp_path / "runs"
    )
    assert [item.path for item in found] == [idle.folder] and found[0].n_bytes > 0


def test_leftovers_of_dead_writers_are_garbage(tmp_path: Path) -> None:
    store = make(tmp_path / "c", number=1)
    dead = store.folder / ".staging" / f"{os.uname().nodename}-4194303-abc"
    dead.mkdir()
    (store.folder / "broken" / "x").mkdir(parents=True)
    store.new_staging()  # of a living process
    found = garbage(tmp_path / "c", named={("set", store.artifact.id)}, runs=tmp_path / "none")
    assert {item.path for item in found} == {dead, store.folder / "broken" / "x"}


def test_removed_is_gone_at_once(tmp_path: Path) -> None:
    store = make(tmp_path)
    remove(store.folder)
    assert rows([tmp_path]) == [] and list(store.folder.parent.iterdir()) == []


def test_rate_is_remembered(tmp_path: Path) -> None:
    store = make(tmp_path)
    assert listing.known_rate(store.folder) is None
    maintenance.record_rate(store, frames_per_s=123.0, device="cpu")
    assert listing.known_rate(store.folder) == 123.0
    maintenance.record_rate(store, frames_per_s=0.0, device="cpu")  # a run that decoded nothing says nothing
    assert listing.known_rate(store.folder) == 123.0
