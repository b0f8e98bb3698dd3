"""One artefact in one file and back: verified, first-wins, and no entry leaves its folder."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.recipe import fingerprint
from pipelines.records import Failure
from pipelines.store import listing
from pipelines.store.features import FeatureStore, artifact_folder
from pipelines.store.maintenance import verify
from pipelines.store.packing import Pack, pack, read_pack, unpack
from tests.extraction.fakes import facts, vectors

RECIPE = {"encoder": "toy", "crops": ["center"], "weights_sha256": "0" * 64}
IDS = ("a", "b/c", "Ünï #1")


def store_in(root: Path, ids: tuple[str, ...] = IDS, *, seed: int = 0) -> FeatureStore:
    id = fingerprint(RECIPE)
    store = FeatureStore.create(artifact_folder(root, "set", RECIPE, id=id), artifacts.make("features", id, RECIPE))
    for index, video in enumerate(ids):
        store.write(video, vectors(seed=seed + index), facts())
    return store


@pytest.fixture
def packed(tmp_path: Path) -> Pack:
    store = store_in(tmp_path / "from")
    store.record_failure(Failure("bad", "x", artifacts.utc_now()))
    (store.folder / ".staging" / "left").mkdir()
    return pack(listing.rows([tmp_path / "from"])[0], tmp_path / "a.zip")


def test_a_pack_unpacks_into_the_same_artefact(tmp_path: Path, packed: Pack) -> None:
    found = read_pack(packed.path)
    assert [artifacts.video_id_of(name) for name in found.videos] == sorted(IDS, key=artifacts.folder_name)
    done = unpack(found, tmp_path / "to")
    store, source = FeatureStore(done.folder), store_in(tmp_path / "from")
    assert done.folder.relative_to(tmp_path / "to") == source.folder.relative_to(tmp_path / "from")
    assert store.videos() == set(IDS) and verify(store) == [] and store.failures() == {}
    for video in IDS:
        np.testing.assert_array_equal(store.read(video), source.read(video))
    assert store.artifact == source.artifact and len(done.added) == 3


def test_it_is_a_plain_zip_without_compression_and_the_same_bytes_again(tmp_path: Path, packed: Pack) -> None:
    with zipfile.ZipFile(packed.path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None
    again = pack(listing.rows([tmp_path / "from"])[0], tmp_path / "b.zip")
    assert again.path.read_bytes() == packed.path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        pack(listing.rows([tmp_path / "from"])[0], packed.path)


def test_what_is_there_wins_and_what_is_missing_is_added(tmp_path: Path, packed: Pack) -> None:
    mine = store_in(tmp_path / "to", ("a",), seed=50)
    before = np.array(mine.read("a"))
    done = unpack(read_pack(packed.path), tmp_path / "to")
    assert (len(done.added), done.kept) == (2, ("a",))
    np.testing.assert_array_equal(FeatureStore(done.folder).read("a"), before)
    assert unpack(read_pack(packed.path), tmp_path / "to").added == ()


def rewrite(
    path: Path, out: Path, *, change: dict[str, bytes | None] | None = None, add: dict[str, bytes] | None = None
) -> Path:
    """A copy of a pack with some entries replaced (None: left out) and others added."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = (change or {}).get(info.filename, old.read(info.filename))
            if data is not None:
                new.writestr(info, data)
        for name, data in (add or {}).items():
            new.writestr(name, data)
    return out


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "features.zarr/../../evil", "a//b", "C:/evil", "a\\..\\evil", "./x"]
)
def test_entries_that_leave_the_folder_are_refused(tmp_path: Path, packed: Pack, name: str) -> None:
    bad = rewrite(packed.path, tmp_path / "bad.zip", add={name: b"x"})
    with pytest.raises(VerificationError, match="not a plain file"):
        read_pack(bad)
    assert not (tmp_path / "to").exists()


def test_links_compressed_doubled_and_unlisted_entries_are_refused(tmp_path: Path, packed: Pack) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    bad = rewrite(packed.path, tmp_path / "link.zip")
    with zipfile.ZipFile(bad, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(VerificationError, match="not a plain file"):
        read_pack(bad)
    bad = rewrite(packed.path, tmp_path / "bomb.zip")
    with zipfile.ZipFile(bad, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(1 << 20))
    with pytest.raises(VerificationError, match="compressed"):
        read_pack(bad)
    with pytest.raises(VerificationError, match="own list"):
        read_pack(rewrite(packed.path, tmp_path / "more.zip", add={"extra": b"x"}))
    with pytest.raises(VerificationError, match="own list"):
        read_pack(rewrite(packed.path, tmp_path / "less.zip", change={"features.zarr/a/c/0/0/0": None}))


@pytest.mark.parametrize(
    ("key", "value"), [("dataset", "../../x"), ("folder", ".."), ("folder", "a/b"), ("dataset", "")]
)
def test_a_place_outside_the_cache_is_refused(tmp_path: Path, packed: Pack, key: str, value: str) -> None:
    with zipfile.ZipFile(packed.path) as archive:
        listed = json.loads(archive.read("pack.json"))
    bad = rewrite(packed.path, tmp_path / "bad.zip", change={"pack.json": json.dumps(listed | {key: value}).encode()})
    with pytest.raises((VerificationError, UsageError)):
        read_pack(bad)


def test_a_foreign_id_is_refused(tmp_path: Path, packed: Pack) -> None:
    with zipfile.ZipFile(packed.path) as archive:
        told = json.loads(archive.read("artifact.json"))
        listed = json.loads(archive.read("pack.json"))
    told["id"] = "ff" * 32
    data = json.dumps(told).encode()
    listed["files"]["artifact.json"] = [len(data), "0" * 64]
    change = {"artifact.json": data, "pack.json": json.dumps(listed).encode()}
    with pytest.raises(VerificationError, match="not that of its recipe"):
        read_pack(rewrite(packed.path, tmp_path / "bad.zip", change=change))


def test_flipped_bits_are_found_and_the_videos_before_them_are_kept(tmp_path: Path, packed: Pack) -> None:
    name = f"features.zarr/{artifacts.folder_name('b/c')}/c/0/0/0"
    with zipfile.ZipFile(packed.path) as archive:
        data = bytearray(archive.read(name))
    data[3] ^= 1
    bad = rewrite(packed.path, tmp_path / "bad.zip", change={name: bytes(data)})  # the zip's own sum is right again
    with pytest.raises(VerificationError, match="not the file that was packed"):
        unpack(read_pack(bad), tmp_path / "to")
    (row,) = listing.rows([tmp_path / "to"])
    assert listing.stored_ids(row.group) == {"a"} and os.listdir(row.folder / ".staging") == []
    raw = bytearray(packed.path.read_bytes())
    at = raw.index(bytes(vectors(seed=1).tobytes()[:32]))
    raw[at] ^= 1
    (tmp_path / "raw.zip").write_bytes(bytes(raw))
    with pytest.raises(VerificationError, match="damaged"):
        unpack(read_pack(tmp_path / "raw.zip"), tmp_path / "to2")


def test_cut_files_and_others_are_no_packs(tmp_path: Path, packed: Pack) -> None:
    data = packed.path.read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.zip").write_text("hello")
    for name in ("cut.zip", "text.zip"):
        with pytest.raises(VerificationError, match="not a pack"):
            read_pack(tmp_path / name)
    with pytest.raises(MissingArtifactError):
        read_pack(tmp_path / "none.zip")
