"""Published feature files: layouts, matching, crops, lengths, what is recorded."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import MissingArtifactError, UsageError
from pipelines.records import Video
from pipelines.store.importers import plan_import, run_import
from pipelines.store.layouts import ORDERS
from pipelines.store.maintenance import verify
from pipelines.video.crops import CROPS
from tests.extraction.fakes import FakeDataset

RNG = np.random.default_rng(0)


def dataset(*ids: str, **lengths: int) -> FakeDataset:
    return FakeDataset(tuple(Video(id, Path(f"{id}.mp4"), "train", (), n_frames=lengths.get(id)) for id in ids))


def crops_of(folder: Path, id: str, *, n: int = 5, dim: int = 512, crops: int = 10) -> np.ndarray:
    """Ten files a video, as VadCLIP publishes; returns (T, K, D)."""
    folder.mkdir(parents=True, exist_ok=True)
    data = RNG.normal(size=(n, crops, dim)).astype(np.float32)
    for crop in range(crops):
        np.save(folder / f"{id}__{crop}.npy", data[:, crop])
    return data


def test_vadclip_files_become_crops_in_their_order(tmp_path: Path) -> None:
    data = crops_of(tmp_path / "in" / "Abuse", "Abuse001_x264")
    planned = plan_import(dataset("Abuse001_x264"), "vadclip", tmp_path / "in", root=tmp_path / "c")
    store = run_import(planned)
    np.testing.assert_array_equal(store.read("Abuse001_x264"), data.astype(np.float16))
    facts = store.facts("Abuse001_x264")
    assert facts.crops == CROPS["ten"] and facts.crops[0] == "center" and facts.crops[5] == "center_m"
    assert store.folder.name == f"import-vadclip-ten-{planned.id[:8]}" and verify(store) == []


def test_files_are_hashed_and_the_norm_is_measured(tmp_path: Path) -> None:
    data = crops_of(tmp_path / "in", "v")
    store = run_import(plan_import(dataset("v"), "vadclip", tmp_path / "in", root=tmp_path / "c"))
    digest = hashlib.sha256((tmp_path / "in" / "v__3.npy").read_bytes()).hexdigest()
    assert store.facts("v").extra["files"]["v__3.npy"] == digest
    norm = np.linalg.norm(data.astype(np.float16).astype(np.float32), axis=2).mean()
    assert store.artifact.recorded["mean_norm"] == pytest.approx(norm, rel=1e-5)


def test_csv_with_its_authors_paths_is_matched_by_name(tmp_path: Path) -> None:
    crops_of(tmp_path / "in" / "Abuse", "Abuse001_x264")
    crops_of(tmp_path / "in" / "Arson", "Arson002_x264")
    rows = "path,label\n" + "".join(f"/home/xbgydx/Desktop/U/Abuse/Abuse001_x264__{k}.npy,Abuse\n" for k in range(10))
    rows += "D:\\features\\Abuse\\Absent009_x264__5.npy,Abuse\n"
    (tmp_path / "list.csv").write_text(rows)
    known = dataset("Abuse001_x264", "Arson002_x264", "Absent009_x264")
    planned = plan_import(known, "vadclip", tmp_path / "in", root=tmp_path / "c", lists=[tmp_path / "list.csv"])
    assert [item.video.id for item in planned.good] == ["Abuse001_x264"] and planned.missing == ("Absent009_x264",)


def test_missing_and_extra_are_listed(tmp_path: Path) -> None:
    for id in ("a", "stranger"):
        crops_of(tmp_path / "in", id)
    planned = plan_import(dataset("a", "b"), "vadclip", tmp_path / "in", root=tmp_path / "c")
    assert (planned.missing, planned.extra) == (("b",), ("stranger",))


def test_xd_names_keep_their_double_underscore(tmp_path: Path) -> None:
    id = "Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0"
    crops_of(tmp_path / "in", id)
    planned = plan_import(dataset(id), "vadclip", tmp_path / "in", root=tmp_path / "c")
    assert run_import(planned).videos() == {id}


def test_ur_dmu_arrays_with_crops_on_either_axis(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = RNG.normal(size=(7, 10, 1024)).astype(np.float32)
    np.save(tmp_path / "in" / "a_i3d.npy", data.transpose(1, 0, 2))
    np.save(tmp_path / "in" / "b_i3d.npy", data)
    store = run_import(plan_import(dataset("a", "b"), "ur-dmu", tmp_path / "in", root=tmp_path / "c"))
    for id in "ab":
        np.testing.assert_array_equal(store.read(id), data.astype(np.float16))
    assert store.facts("a").crops == ORDERS["ur-dmu"] and store.facts("a").crops[2] == "center"


def test_ambiguous_crop_axis_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a_i3d.npy", np.ones((10, 10, 1024), np.float32))
    planned = plan_import(dataset("a"), "ur-dmu", tmp_path / "in", root=tmp_path / "c")
    assert "does not say which axis" in planned.bad["a"]


def test_ten_ur_dmu_files_have_crops_of_unknown_order_unless_told(tmp_path: Path) -> None:
    crops_of(tmp_path / "in", "a", dim=1024)
    planned = plan_import(dataset("a"), "ur-dmu", tmp_path / "in", root=tmp_path / "c")
    assert planned.recipe["crops"] == [f"unknown_{k}" for k in range(10)]
    told = plan_import(dataset("a"), "ur-dmu", tmp_path / "in", root=tmp_path / "c", order="torchvision")
    assert told.recipe["crops"][4] == "center" and told.id != planned.id


@pytest.mark.parametrize(
    ("n_frames", "ok"),
    [(80, True), (64, True), (63, False), (65, True), (95, True), (96, True), (97, False), (None, True)],
)
def test_lengths_within_a_clip_of_the_published_one(tmp_path: Path, n_frames: int | None, ok: bool) -> None:
    """|16 n - F| <= 16 with n = 5."""
    crops_of(tmp_path / "in", "a", n=5)
    (one,) = dataset("a").videos
    known = FakeDataset((replace(one, n_frames=n_frames),))
    planned = plan_import(known, "vadclip", tmp_path / "in", root=tmp_path / "c")
    assert (planned.bad == {}) == ok
    if ok:
        assert verify(run_import(planned)) == []


@pytest.mark.parametrize(
    ("n_frames", "stored", "rule"), [(80, 80, "drop"), (95, 95, "drop"), (79, 79, "repeat"), (96, 80, "drop")]
)
def test_stored_length_makes_the_vectors_that_are_there(tmp_path: Path, n_frames: int, stored: int, rule: str) -> None:
    crops_of(tmp_path / "in", "a", n=5)
    facts = run_import(plan_import(dataset("a", a=n_frames), "vadclip", tmp_path / "in", root=tmp_path / "c")).facts(
        "a"
    )
    assert (facts.n_frames, facts.last_clip) == (stored, rule)
    assert facts.extra.get("published_frames", n_frames) == n_frames


def test_unusable_videos_are_failures_and_the_others_are_stored(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for id in ("good", "few", "narrow", "ragged", "nan", "pickled"):
        crops_of(folder, id)
    (folder / "few__9.npy").unlink()
    crops_of(folder, "narrow", dim=511)
    np.save(folder / "ragged__4.npy", np.ones((6, 512), np.float32))
    np.save(folder / "nan__4.npy", np.full((5, 512), np.nan, np.float32))
    np.save(folder / "pickled__0.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    known = dataset("good", "few", "narrow", "ragged", "nan", "pickled")
    planned = plan_import(known, "vadclip", folder, root=tmp_path / "c")
    store = run_import(planned)
    assert store.videos() == {"good"}
    assert set(store.failures()) == set(planned.bad) == {"few", "narrow", "ragged", "nan", "pickled"}
    assert "9 of 10 crops" in planned.bad["few"] and "511" in planned.bad["narrow"] and "NaN" in planned.bad["nan"]
    assert "allow_pickle" in planned.bad["pickled"]


def test_single_crop_can_be_kept(tmp_path: Path) -> None:
    data = crops_of(tmp_path / "in", "a")
    for crop in set(range(10)) - {5}:
        (tmp_path / "in" / f"a__{crop}.npy").unlink()
    planned = plan_import(dataset("a"), "vadclip", tmp_path / "in", root=tmp_path / "c", crops=["center_m"])
    np.testing.assert_array_equal(run_import(planned).read("a")[:, 0], data[:, 5].astype(np.float16))


def test_id_is_the_content(tmp_path: Path) -> None:
    crops_of(tmp_path / "in", "a")
    first = plan_import(dataset("a"), "vadclip", tmp_path / "in", root=tmp_path / "c")
    (tmp_path / "in").rename(tmp_path / "moved")
    assert plan_import(dataset("a"), "vadclip", tmp_path / "moved", root=tmp_path / "d").id == first.id
    crops_of(tmp_path / "moved", "a")
    assert plan_import(dataset("a"), "vadclip", tmp_path / "moved", root=tmp_path / "c").id != first.id


def test_import_again_changes_nothing(tmp_path: Path) -> None:
    crops_of(tmp_path / "in", "a")
    planned = plan_import(dataset("a"), "vadclip", tmp_path / "in", root=tmp_path / "c")
    store = run_import(planned)
    inode = store.path("a").stat().st_ino
    assert run_import(planned).path("a").stat().st_ino == inode


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match="no file or folder"):
        plan_import(dataset("a"), "vadclip", tmp_path / "in", root=tmp_path / "c")
    (tmp_path / "in").mkdir()
    with pytest.raises(MissingArtifactError, match=r"no \.npy files"):
        plan_import(dataset("a"), "vadclip", tmp_path / "in", root=tmp_path / "c")
    crops_of(tmp_path / "in", "stranger")
    with pytest.raises(UsageError, match="none of the 1 names"):
        plan_import(dataset("a"), "vadclip", tmp_path / "in", root=tmp_path / "c")


def test_two_files_for_one_crop_are_refused(tmp_path: Path) -> None:
    crops_of(tmp_path / "in" / "x", "a")
    crops_of(tmp_path / "in" / "y", "a")
    with pytest.raises(UsageError, match="two files for one crop"):
        plan_import(dataset("a"), "vadclip", tmp_path / "in", root=tmp_path / "c")
