"""The feature store: layout, commit rule, listing, failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.records import Failure
from pipelines.store import features, listing
from pipelines.store.features import FeatureStore, find_stores, serves, serving_stores
from tests.extraction.fakes import facts, vectors

ODD = (
    "a=b",
    "x#y",
    "with space",
    "Bad.Boys.1995__#00",
    "007",
    "cam/1",
    "50%",
    ".dot",
    "__x",
    "é日本",
    "a\\b",
    "v.zarr",
)


def make(folder: Path, **recipe: object) -> FeatureStore:
    values = {"encoder": "fake", "crops": ["center"]} | recipe
    return FeatureStore.create(folder, artifacts.make("features", "0" * 64, values))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return make(tmp_path / "s")


def test_what_is_written_is_read(store: FeatureStore) -> None:
    data = vectors(7, 3, 5)
    crops = ("center", "tl", "tr")
    assert store.write("a", data, facts(56, crops=crops, extra={"note": 1}))
    np.testing.assert_array_equal(store.read("a"), data)
    assert store.shape("a") == (7, 3, 5) and store.facts("a") == facts(56, crops=crops, extra={"note": 1})


def test_zarr_itself_reads_the_array(store: FeatureStore) -> None:
    store.write("a", vectors(7, 3, 5), facts(56))
    array = zarr.open_group(str(store.group), mode="r")["a"]
    assert array.shape == (7, 3, 5) and array.dtype == np.float16
    assert array.metadata.dimension_names == ("clip", "crop", "dim")
    assert array.attrs["n_frames"] == 56 and array.attrs["stride"] == 8
    np.testing.assert_array_equal(array[...], vectors(7, 3, 5))


def test_long_videos_are_split_along_time(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MAX_CHUNK_BYTES", 3 * 2 * 4 * 2)  # three clips of 2 crops and 4 numbers
    data = vectors(8, 2, 4)
    store.write("a", data, facts(64))
    assert len(list((store.path("a") / "c").iterdir())) == 3
    np.testing.assert_array_equal(store.read("a"), data)
    np.testing.assert_array_equal(zarr.open_array(str(store.path("a")), mode="r")[...], data)


def test_a_zarr_array_of_another_layout_is_read_through_zarr(store: FeatureStore) -> None:
    data = vectors(6, 2, 4)
    zarr.create_array(str(store.path("a")), data=data, chunks=(2, 1, 4))
    np.testing.assert_array_equal(store.read("a"), data)


@pytest.mark.parametrize("name", ODD)
def test_odd_ids_come_back(store: FeatureStore, name: str) -> None:
    store.write(name, vectors(), facts())
    assert store.videos() == {name} and name in store
    np.testing.assert_array_equal(store.read(name), vectors())


def test_odd_ids_have_names_of_their_own() -> None:
    assert len({artifacts.folder_name(name) for name in (*ODD, "a/b", "a%2Fb", "cam%2F1")}) == len(ODD) + 3


def test_an_id_too_long_for_a_file_name_is_refused(store: FeatureStore) -> None:
    with pytest.raises(UsageError, match="201 bytes"):
        store.write("x" * 201, vectors(), facts())


def test_first_writer_wins(store: FeatureStore) -> None:
    assert store.write("a", vectors(seed=1), facts())
    assert not store.write("a", vectors(seed=2), facts())
    np.testing.assert_array_equal(store.read("a"), vectors(seed=1))
    assert list((store.folder / features.STAGING).iterdir()) == []


def test_replace_swaps_and_leaves_nothing_behind(store: FeatureStore) -> None:
    store.write("a", vectors(seed=1), facts())
    store.replace("a", vectors(seed=2), facts())
    np.testing.assert_array_equal(store.read("a"), vectors(seed=2))
    assert list((store.folder / features.STAGING).iterdir()) == []


@pytest.mark.parametrize("shape", [(0, 1, 4), (2, 4), (2, 1, 0)])
def test_empty_or_flat_features_are_refused(store: FeatureStore, shape: tuple[int, ...]) -> None:
    with pytest.raises(VerificationError, match="expected"):
        store.write("a", np.zeros(shape, np.float16), facts())
    assert store.videos() == set()


def test_missing_video_and_short_chunk_are_named(store: FeatureStore) -> None:
    with pytest.raises(MissingArtifactError, match="'nope'"):
        store.read("nope")
    store.write("a", vectors(), facts())
    chunk = store.path("a") / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-2])
    with pytest.raises(VerificationError, match=r"'a'.*short"):
        store.read("a")


def test_failures_keep_the_newest_and_forget_the_done(store: FeatureStore) -> None:
    store.record_failure(Failure("a", "first", "2026-01-01T00:00:00Z"))
    store.record_failure(Failure("a", "second", "2026-01-02T00:00:00Z"))
    store.record_failure(Failure("b", "other", "2026-01-01T00:00:00Z"))
    with next((store.folder / listing.FAILURES).iterdir()).open("a") as handle:
        handle.write('{"video_id": "c", "rea')  # a killed writer's last line
    assert {id: failure.reason for id, failure in store.failures().items()} == {"a": "second", "b": "other"}
    store.write("a", vectors(), facts())
    assert set(store.failures()) == {"b"}


def test_group_has_no_attributes_and_no_consolidated_metadata(store: FeatureStore) -> None:
    store.write("a", vectors(), facts())
    assert json.loads((store.group / "zarr.json").read_text()) == {
        "zarr_format": 3, "node_type": "group", "attributes": {}
    }  # fmt: skip


def test_umask_is_respected(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.umask(0o002)\n"
        "from pathlib import Path\n"
        "from tests.store.test_features import make, vectors, facts\n"
        "make(Path(sys.argv[1])).write('a', vectors(), facts())\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=True, cwd=root, timeout=60)
    made = [tmp_path / "s", *(tmp_path / "s").rglob("*")]
    assert all(path.stat().st_mode & 0o020 for path in made)


def test_reading_imports_neither_zarr_nor_torch(store: FeatureStore) -> None:
    store.write("a", vectors(), facts())
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipelines.store.features import FeatureStore\n"
        "FeatureStore(Path(sys.argv[1])).read('a')\n"
        "sys.exit(any(name in sys.modules for name in ('zarr', 'torch', 'pandas', 'av')))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(store.folder)], check=True, timeout=60)


def test_serves_needs_the_crops_and_all_else_equal() -> None:
    ten = {"encoder": "e", "crops": ["center", "tl"], "stride": 16}
    assert serves(ten, {"encoder": "e", "crops": ["center"], "stride": 16})
    assert not serves(ten, {"encoder": "e", "crops": ["br"], "stride": 16})
    assert not serves(ten, {"encoder": "e", "crops": ["center"], "stride": 8})
    assert not serves(ten, {"encoder": "other", "crops": ["center"], "stride": 16})


def test_exact_recipe_comes_before_wider_ones_and_upper_layers_before_lower(tmp_path: Path) -> None:
    upper, lower = tmp_path / "up", tmp_path / "low"
    wide = make(upper / "features" / "set" / "wide", crops=["center", "tl"])
    deep = make(lower / "features" / "set" / "exact")
    own = make(upper / "features" / "set" / "exact")
    wanted = {"encoder": "fake", "crops": ["center"]}
    found = serving_stores([upper, lower], "set", wanted)
    assert [store.folder for store in found] == [own.folder, deep.folder, wide.folder]
    assert len(find_stores([upper, lower], "set")) == 3 and find_stores([upper], "other") == []
