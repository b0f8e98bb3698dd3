"""Layouts of others: each is written and read back bit for bit, and bad files cost only themselves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.records import Video
from pipelines.store.exporters import plan_export, run_export
from pipelines.store.feature_files import read_names, read_npy
from pipelines.store.features import FeatureStore, values_checksum
from pipelines.store.importers import ImportPlan, plan_import, run_import
from pipelines.store.layouts import LAYOUTS, ORDERS, crop_names
from pipelines.store.maintenance import verify
from pipelines.video.crops import CROPS
from tests.extraction.fakes import FakeDataset, facts

RNG = np.random.default_rng(0)
IDS = ("Abuse001_x264", "cam__1", "Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0", "a/b")


def dataset(*ids: str) -> FakeDataset:
    """Videos of which the first is abnormal."""
    classes = [("abuse",), *[("normal",)] * (len(ids) - 1)]
    return FakeDataset(tuple(Video(i, Path(f"{i}.mp4"), "train", c) for i, c in zip(ids, classes, strict=True)))


def store_of(
    folder: Path, crops: tuple[str, ...], dim: int, *, lengths: tuple[int, ...] = (3, 7, 12, 5), stride: int = 16
) -> FeatureStore:
    """A features artefact of random values, every float16 bit pattern class among them."""
    recipe = {
        "encoder": "toy",
        "crops": list(crops),
        "clip_len": stride,
        "stride": stride,
        "fps": None,
        "last_clip": "drop",
    }
    store = FeatureStore.create(folder, artifacts.make("features", "ab" * 32, recipe))
    for video, t in zip(IDS, lengths, strict=True):
        values = RNG.normal(size=(t, len(crops), dim)).astype(np.float16)
        values.flat[:4] = (0.0, -0.0, 6.1e-5, 5.96e-8)  # zeros, the smallest normal and the smallest number
        store.write(video, values, facts(t * stride, crops=crops, clip_len=stride, stride=stride, fps=None))
    return store


def imported(plan: ImportPlan) -> FeatureStore:
    assert plan.bad == {}
    store = run_import(plan)
    assert verify(store) == []
    return store


ROUND_TRIPS = {
    "vadclip": (CROPS["ten"], 512, {}),
    "ur-dmu": (ORDERS["ur-dmu"], 1024, {}),
    "rtfm": (ORDERS["torchvision"], 2048, {}),
    "mgfn": (ORDERS["torchvision"], 2048, {}),
    "xd": (CROPS["five"], 1024, {}),
    "pel4vad": (CROPS["ten"], 1024, {}),
    "vggish": (("all",), 128, {}),
    "c3d": (("unknown",), 4096, {"lengths": (32, 32, 32, 32)}),
    "hdf5": (CROPS["ten"], 40, {"stride": 8}),
    "npy": (("unknown_0", "unknown_1", "unknown_2"), 6, {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_export_and_import_give_the_same_bits(tmp_path: Path, layout: str) -> None:
    crops, dim, options = ROUND_TRIPS[layout]
    store = store_of(tmp_path / "store", crops, dim, **options)
    known = dataset(*IDS)
    run_export(plan_export(store, layout, tmp_path / "out"), known.all_videos())
    lists = [tmp_path / "out" / "names.csv"] if layout == "npy" else []
    back = imported(plan_import(known, layout, source_of(tmp_path / "out", layout), root=tmp_path / "c", lists=lists))
    assert back.videos() == set(IDS)
    for video in IDS:
        assert values_checksum(back.read(video)) == values_checksum(store.read(video)), video
        assert back.facts(video).crops == crops
        assert back.facts(video).stride == options.get("stride", 16)


def source_of(out: Path, layout: str) -> Path:
    return out / "features.npy" if layout == "npy" else out


def test_every_layout_has_a_round_trip() -> None:
    assert set(ROUND_TRIPS) == set(LAYOUTS)


def test_float16_files_hold_the_same_bits_in_half_the_bytes(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", ORDERS["torchvision"], 2048)
    half = plan_export(store, "rtfm", tmp_path / "half", dtype="float16")
    assert plan_export(store, "rtfm", tmp_path / "full").n_bytes == 2 * half.n_bytes
    run_export(half)
    assert np.load(tmp_path / "half" / "Abuse001_x264_i3d.npy").dtype == np.float16
    back = imported(plan_import(dataset(*IDS), "rtfm", tmp_path / "half", root=tmp_path / "c"))
    assert values_checksum(back.read("cam__1")) == values_checksum(store.read("cam__1"))


# ---- orders ----------------------------------------------------------------------------------------------------


def test_orders_are_the_ten_crops_each_once() -> None:
    for name, order in ORDERS.items():
        assert len(set(order)) == 10
        assert name == "unknown" or set(order) == set(CROPS["ten"])


def test_crops_of_the_mirrored_frame_are_named_by_what_they_show() -> None:
    """torchvision cuts the mirrored frame's top left corner sixth: that is the frame's top right corner, mirrored."""
    picture = np.arange(6 * 8).reshape(6, 8)
    corners = {"tl": picture[:4, :4], "tr": picture[:4, -4:], "bl": picture[-4:, :4], "br": picture[-4:, -4:]}
    mirrored = picture[:, ::-1]
    at = {"tl": mirrored[:4, :4], "tr": mirrored[:4, -4:], "bl": mirrored[-4:, :4], "br": mirrored[-4:, -4:]}
    for order, corner_names in (
        ("torchvision", ("tl", "tr", "bl", "br")),
        ("ur-dmu", ("tl", "tr", "center", "bl", "br")),
    ):
        for place, corner in enumerate(corner_names):
            if corner != "center":
                shown = ORDERS[order][5 + place].removesuffix("_m")
                np.testing.assert_array_equal(at[corner], corners[shown][:, ::-1])


@pytest.mark.parametrize("order", ["roc-ng", "ur-dmu", "torchvision"])
def test_each_crop_stands_where_the_order_says(tmp_path: Path, order: str) -> None:
    store = store_of(tmp_path / "store", CROPS["ten"], 2048)
    run_export(plan_export(store, "rtfm", tmp_path / "out", order=order))
    values = np.load(tmp_path / "out" / "Abuse001_x264_i3d.npy")
    for place, name in enumerate(ORDERS[order]):
        np.testing.assert_array_equal(values[:, place], store.read("Abuse001_x264")[:, CROPS["ten"].index(name)])


def test_an_order_can_be_written_out() -> None:
    assert crop_names("center,tl", 2) == ("center", "tl")
    assert crop_names("torchvision", 5) == ("tl", "tr", "bl", "br", "center")
    for wrong, words in (("center,middle", "middle"), ("center,center", "twice"), ("roc", "unknown crop order")):
        with pytest.raises(UsageError, match=words):
            crop_names(wrong, 2)


def test_crops_of_unknown_order_are_not_given_names_by_an_export(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", ORDERS["unknown"], 1024)
    assert plan_export(store, "ur-dmu", tmp_path / "out").crops == ORDERS["unknown"]
    with pytest.raises(UsageError, match="which crop is which"):
        plan_export(store, "ur-dmu", tmp_path / "out", order="torchvision")


def test_a_layout_of_ten_crops_is_not_written_from_one(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", ("center",), 512)
    with pytest.raises(UsageError, match="lacks tl"):
        plan_export(store, "vadclip", tmp_path / "out")
    single = plan_export(store, "vadclip", tmp_path / "out", crops=["center"])
    assert "have 10 crops" in single.warnings[0]
    run_export(single)
    assert (tmp_path / "out" / "cam__1__0.npy").is_file()
    with pytest.raises(UsageError, match="one vector a clip"):
        plan_export(store_of(tmp_path / "five", CROPS["five"], 128), "vggish", tmp_path / "o")


# ---- lists -----------------------------------------------------------------------------------------------------


def test_vadclip_lists_have_labels_and_one_crop_for_tests(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", CROPS["ten"], 512)
    videos = [
        Video(IDS[1], Path("x"), "train", ("normal",)),
        Video(IDS[0], Path("x"), "train", ("abuse", "riot")),
        Video(IDS[2], Path("x"), "test", ("normal",)),
    ]
    run_export(plan_export(store, "vadclip", tmp_path / "out"), videos)
    rows = list(csv.reader((tmp_path / "out" / "train.csv").open()))
    assert rows[0] == ["path", "label"] and rows[1] == ["Abuse001_x264__0.npy", "abuse-riot"]
    assert len(rows) == 21 and rows[11] == ["cam__1__0.npy", "normal"]
    assert len((tmp_path / "out" / "test.csv").read_text().splitlines()) == 2


def test_other_lists_put_abnormal_videos_first(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", CROPS["ten"], 1024)
    run_export(plan_export(store, "pel4vad", tmp_path / "out"), dataset(*reversed(IDS)).all_videos())
    lines = (tmp_path / "out" / "train.list").read_text().splitlines()
    assert lines[:2] == ["a%2Fb.npy 1.0", "a%2Fb__1.npy 1.0"] and lines[10] == "Abuse001_x264.npy 0.0"


@pytest.mark.parametrize("layout", ["rtfm", "vadclip"])
def test_a_stopped_export_goes_on_and_another_folder_is_left_alone(tmp_path: Path, layout: str) -> None:
    crops, dim, _ = ROUND_TRIPS[layout]
    store = store_of(tmp_path / "store", crops, dim)
    out = tmp_path / "out"
    run_export(plan_export(store, layout, out))
    one = sorted(out.glob("*.npy"))[0]
    one.unlink()
    run_export(plan_export(store, layout, out))
    assert one.is_file()
    with pytest.raises(UsageError, match="holds other files"):
        plan_export(store, "hdf5", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds other files"):
        plan_export(store, layout, tmp_path / "mine")


# ---- names of published files ------------------------------------------------------------------------------------


def npy(folder: Path, name: str, shape: tuple[int, ...], *, value: float | None = None) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    data = RNG.normal(size=shape).astype(np.float32) if value is None else np.full(shape, value, np.float32)
    np.save(folder / name, data)
    return data


def test_pel4vad_names_in_both_spellings(tmp_path: Path) -> None:
    for k in range(10):
        npy(tmp_path / "in" / "UCF", "Abuse001_x264.npy" if k == 0 else f"Abuse001_x264__{k}.npy", (4, 1024))
        npy(tmp_path / "in" / "SHT", f"01_0015_{k}.npy", (4, 1024))
    plan = plan_import(dataset("Abuse001_x264", "01_0015"), "pel4vad", tmp_path / "in", root=tmp_path / "c")
    store = imported(plan)
    assert store.facts("01_0015").crops == CROPS["ten"]
    first = np.load(tmp_path / "in" / "UCF" / "Abuse001_x264.npy").astype(np.float16)
    np.testing.assert_array_equal(store.read("Abuse001_x264")[:, 0], first)


def test_sound_belongs_to_no_crop_and_may_lack_a_clip(tmp_path: Path) -> None:
    id = "Bad.Boys.1995__#00-26-51_00-27-53_label_B2-0-0"
    npy(tmp_path / "in", f"{id}__vggish.npy", (5, 128))
    known = FakeDataset((Video(id, Path("x"), "train", ("normal",), n_frames=111),))
    store = imported(plan_import(known, "vggish", tmp_path / "in", root=tmp_path / "c"))
    assert store.crops == ("all",) and store.folder.name.startswith("import-vggish-all-")


def test_c3d_bins_speak_for_the_whole_video(tmp_path: Path) -> None:
    from pipelines.spans import stored_spans

    (tmp_path / "in").mkdir()
    rows = RNG.normal(size=(32, 4096)).astype(np.float32)
    (tmp_path / "in" / "Abuse001_x264.txt").write_text(
        "\n".join(" ".join(f"{v:.5f}" for v in row) + " " for row in rows)
    )
    known = FakeDataset((Video("Abuse001_x264", Path("x"), "train", ("abuse",), n_frames=2729),))
    store = imported(plan_import(known, "c3d", tmp_path / "in", root=tmp_path / "c"))
    np.testing.assert_allclose(store.read("Abuse001_x264")[:, 0], rows, atol=2e-3)
    spans = stored_spans(store.facts("Abuse001_x264"), 32)
    assert spans[0].tolist() == [0, 85] and spans[-1].tolist() == [2644, 2729]  # 2729 / 32 = 85.3 frames each


def test_hdf5_of_others_one_group_or_dataset_a_video(tmp_path: Path) -> None:
    data = {"a": RNG.normal(size=(6, 10, 20)), "b": RNG.normal(size=(9, 10, 20))}
    with h5py.File(tmp_path / "flat.h5", "w") as file, h5py.File(tmp_path / "deep.hdf5", "w") as deep:
        for id, values in data.items():
            file[f"train/{id}_x264"] = values.astype(np.float32)
            deep[f"{id}/features"] = values.transpose(1, 0, 2).astype(np.float32)
    known = dataset("a_x264", "b_x264")
    flat = imported(plan_import(known, "hdf5", tmp_path / "flat.h5", root=tmp_path / "c"))
    assert flat.crops == ORDERS["unknown"]
    deep = imported(plan_import(dataset("a", "b"), "hdf5", tmp_path / "deep.hdf5", root=tmp_path / "c2"))
    for id in data:
        np.testing.assert_array_equal(flat.read(f"{id}_x264"), data[id].astype(np.float32).astype(np.float16))
        np.testing.assert_array_equal(deep.read(id), flat.read(f"{id}_x264"))


def test_one_array_of_all_videos_with_lengths_or_an_entry_each(tmp_path: Path) -> None:
    rows = npy(tmp_path, "all.npy", (7, 30))
    (tmp_path / "names.csv").write_text("video,clips\n/home/me/a.mp4,3\nC:\\data\\b.npy,4\n")
    plan = plan_import(
        dataset("a", "b"), "npy", tmp_path / "all.npy", root=tmp_path / "c", lists=[tmp_path / "names.csv"]
    )
    np.testing.assert_array_equal(imported(plan).read("b")[:, 0], rows[3:].astype(np.float16))
    blocks = npy(tmp_path, "blocks.npy", (2, 32, 30))
    (tmp_path / "two.list").write_text("a\nb\n")
    plan = plan_import(
        dataset("a", "b"), "npy", tmp_path / "blocks.npy", root=tmp_path / "d", lists=[tmp_path / "two.list"]
    )
    np.testing.assert_array_equal(imported(plan).read("b")[:, 0], blocks[1].astype(np.float16))
    (tmp_path / "short.csv").write_text("a,3\n")
    for lists, words in (([tmp_path / "short.csv"], "counts 3 clips"), ([], "which rows are whose")):
        with pytest.raises(UsageError, match=words):
            plan_import(dataset("a", "b"), "npy", tmp_path / "all.npy", root=tmp_path / "c", lists=lists)


def test_lists_in_every_published_form(tmp_path: Path) -> None:
    (tmp_path / "a.list").write_text(
        "test/01_0015_0.npy 1.0\nG:\\UCF\\Abuse001_x264_i3d.npy\n/x/A.B__#1_label_A__0.npy\n"
    )
    assert [name for name, _ in read_names(tmp_path / "a.list")] == [
        "test/01_0015_0.npy", "G:\\UCF\\Abuse001_x264_i3d.npy", "/x/A.B__#1_label_A__0.npy"
    ]  # fmt: skip
    (tmp_path / "b.csv").write_text("path,label\n/home/u/Abuse001_x264__0.npy,Abuse\n")
    assert read_names(tmp_path / "b.csv") == [("/home/u/Abuse001_x264__0.npy", None)]


# ---- axes ------------------------------------------------------------------------------------------------------


def test_axis_is_found_by_shape_and_told_where_it_is_not(tmp_path: Path) -> None:
    data = npy(tmp_path / "in", "a_i3d.npy", (10, 10, 2048))
    plan = plan_import(dataset("a"), "rtfm", tmp_path / "in", root=tmp_path / "c")
    assert "does not say which axis" in plan.bad["a"]
    told = plan_import(dataset("a"), "rtfm", tmp_path / "in", root=tmp_path / "c", axis=0)
    np.testing.assert_array_equal(imported(told).read("a"), data.transpose(1, 0, 2).astype(np.float16))


def test_axis_of_files_without_a_layout_is_the_one_that_does_not_vary(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = RNG.normal(size=(4, 7, 3)), RNG.normal(size=(4, 9, 3))
    assert imported(plan_import(dataset("a", "b"), "hdf5", tmp_path / "a.h5", root=tmp_path / "c")).shape("b") == (
        9,
        4,
        3,
    )
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["a"] = np.ones((4, 7, 3), np.float32)
    with pytest.raises(UsageError, match="does not say which axis"):
        plan_import(dataset("a"), "hdf5", tmp_path / "b.h5", root=tmp_path / "c")


# ---- bad files -------------------------------------------------------------------------------------------------


def test_each_bad_file_is_reported_and_the_others_are_stored(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    npy(folder, "good_i3d.npy", (4, 10, 2048))
    npy(folder, "narrow_i3d.npy", (4, 10, 1024))
    npy(folder, "swapped_i3d.npy", (2048, 10, 4))
    npy(folder, "nan_i3d.npy", (4, 10, 2048), value=np.nan)
    npy(folder, "large_i3d.npy", (4, 10, 2048), value=1e6)
    npy(folder, "four_i3d.npy", (2, 3, 4, 5))
    np.save(folder / "pickled_i3d.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "words_i3d.npy", np.array(["a", "b"]))
    header_lie(folder / "lie_i3d.npy", (10**9, 10, 2048))
    whole = (folder / "good_i3d.npy").read_bytes()
    (folder / "cut_i3d.npy").write_bytes(whole[: len(whole) // 2])
    (folder / "empty_i3d.npy").write_bytes(b"")
    (folder / "text_i3d.npy").write_text("<html>404</html>")
    words = {
        "narrow": "vectors of 1024, expected 2048", "swapped": "are the axes swapped", "nan": "NaN", "large": "float16",
        "four": "shape", "pickled": "allow_pickle=False", "words": "are not numbers", "lie": "header claims 81920000000000 bytes",
        "cut": "the header claims", "empty": "EOF", "text": "magic string",
    }  # fmt: skip
    plan = plan_import(dataset("good", *words), "rtfm", folder, root=tmp_path / "c")
    assert set(plan.bad) == set(words)
    for id, part in words.items():
        assert part in plan.bad[id], (id, plan.bad[id])
    store = run_import(plan)
    assert store.videos() == {"good"} and set(store.failures()) == set(words)


def header_lie(path: Path, shape: tuple[int, ...]) -> None:
    """An .npy file of 64 bytes of values whose header claims `shape`."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        file.write(bytes(64))


def test_a_lying_header_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    header_lie(tmp_path / "a.npy", (10**15, 512))
    with pytest.raises(ValueError, match="claims"):
        read_npy(tmp_path / "a.npy")


def test_bad_hdf5_and_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["good"] = np.ones((4, 8), np.float32)
        file.create_dataset("hollow", shape=(10**9, 8), dtype="f4", chunks=(64, 8))  # claims 32 GB, stores nothing
        file["words"] = np.array([[b"a", b"b"]])
        file["link"] = h5py.ExternalLink("/etc/passwd", "/x")
    plan = plan_import(dataset("good", "hollow", "words", "link"), "hdf5", tmp_path / "a.h5", root=tmp_path / "c")
    assert set(plan.bad) == {"hollow", "words"} and plan.missing == ("link",)
    assert "stores 0" in plan.bad["hollow"] and "not numbers" in plan.bad["words"]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.txt").write_text("1 2 3\n4 5\n")
    (tmp_path / "t" / "b.txt").write_text("words\n")
    assert set(plan_import(dataset("a", "b"), "c3d", tmp_path / "t", root=tmp_path / "c").bad) == {"a", "b"}
    with pytest.raises(UsageError, match="not an HDF5 file"):
        plan_import(dataset("a"), "hdf5", tmp_path / "t" / "a.txt", root=tmp_path / "c")
    with pytest.raises(MissingArtifactError, match=r"no \.txt"):
        plan_import(dataset("a"), "c3d", tmp_path / "c", root=tmp_path / "c") if (
            tmp_path / "c"
        ).mkdir() is None else None


def test_origin_and_what_is_not_known_are_recorded_as_such(tmp_path: Path) -> None:
    npy(tmp_path / "in", "a_i3d.npy", (4, 10, 2048))
    plan = plan_import(dataset("a"), "rtfm", tmp_path / "in", root=tmp_path / "c", origin="https://example.org/x")
    store = imported(plan)
    assert store.artifact.recorded["origin"] == "https://example.org/x"
    recipe = store.artifact.recipe
    assert recipe["decoder"] == recipe["precision"] == recipe["preprocess"]["interpolation"] == "unknown"
    assert recipe["preprocess"]["mean"] is None and store.facts("a").fps is None and store.facts("a").width is None
    assert json.dumps(plan.recorded)


@pytest.mark.real
def test_the_published_shanghaitech_features(tmp_path: Path, shared: Path) -> None:
    """481 frames are 30 clips of 16; ten crops on axis 1 of (30, 10, 2048)."""
    known = FakeDataset((Video("01_002", Path("x"), "train", ("normal",), n_frames=481),))
    store = imported(plan_import(known, "rtfm", shared / "shanghaitech-pair", root=tmp_path / "c"))
    assert store.shape("01_002") == (30, 10, 2048) and store.facts("01_002").n_frames == 481
    published = np.load(shared / "shanghaitech-pair" / "01_002.npy")
    np.testing.assert_array_equal(store.read("01_002"), published.astype(np.float16))


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "layout", "lists", "videos", "dim"),
    [
        ("ucf-crime", "rtfm", ("rtfm_ucf-i3d.list", "rtfm_ucf-i3d-test.list"), 1900, 2048),
        ("ucf-crime", "vadclip", ("vadclip_ucf_CLIP_rgb.csv", "vadclip_ucf_CLIP_rgbtest.csv"), 1900, 512),
        ("xd-violence", "xd", ("rgb.list", "rgb_test.list"), 4754, 1024),
        ("xd-violence", "vggish", ("audio.list", "audio_test.list"), 4754, 128),
        ("shanghaitech", "rtfm", ("rtfm_shanghai-i3d-train-10crop.list", "rtfm_shanghai-i3d-test-10crop.list"), 437, 2048),
        ("shanghaitech", "pel4vad", ("pel4vad_test.list",), 199, 1024),
    ],
)  # fmt: skip
def test_names_of_published_lists_are_found(
    shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, layout: str, lists: tuple[str, ...], videos: int, dim: int
) -> None:
    """Every line of the lists, with its author's absolute path, is a video of the dataset."""
    from pipelines.data.manifest import load, packaged_path
    from pipelines.store.feature_files import stem_of
    from pipelines.store.importers import _matcher

    monkeypatch.setenv("VAD_ANNOTATIONS", str(shared / "annotations"))
    match = _matcher(load(packaged_path()).dataset(name))
    lines = [line for file in lists for line, _ in read_names(shared / "annotations" / name / file)]
    stems = {stem_of(line.replace("\\", "/").rpartition("/")[2], LAYOUTS[layout])[0] for line in lines}
    found = {stem: match(stem) for stem in stems}
    assert not [stem for stem, video in found.items() if video is None]
    assert len({video.id for video in found.values() if video}) == len(stems) == videos
