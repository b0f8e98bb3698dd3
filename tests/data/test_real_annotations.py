"""The readers on the public annotation files: the known totals and inconsistencies of the datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.data import annotations, masks
from pipelines.data.annotations import normalise_id
from pipelines.data.check import check, difference, overlaps
from pipelines.data.manifest import Dataset, load, packaged_path
from pipelines.data.totals import known_totals

pytestmark = pytest.mark.real
NINE_SHORT = 9


@pytest.fixture
def real(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAD_ANNOTATIONS", str(shared / "annotations"))
    monkeypatch.setenv("VAD_DATA", str(shared))
    return shared / "annotations"


def dataset(name: str) -> Dataset:
    return load(packaged_path()).dataset(name)


def arrays(path: Path) -> dict[str, NDArray[np.uint8]]:
    with np.load(path, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def totals(data: Dataset, lengths: dict[str, int], gt: str | None = None, split: str | None = None) -> tuple[int, int]:
    truths = [data.truth(v, lengths[v.id], gt=gt, past_end="drop") for v in data.videos(split, "test")]
    return sum(truth.n_frames for truth in truths), sum(int(truth.labels.sum()) for truth in truths)


def decoded(data: Dataset, split: str | None = None) -> dict[str, int]:
    return {video.id: video.n_frames or 0 for video in data.videos(split, "test")}


def test_ucf_has_its_lists_classes_and_events(real: Path) -> None:
    data = dataset("ucf-crime")
    train, test = data.videos(part="train"), data.videos(part="test")
    assert (len(train), sum(map(data.is_abnormal, train)), len(test), sum(map(data.is_abnormal, test))) == (
        1610,
        810,
        290,
        140,
    )
    assert sum(len(video.segments or ()) for video in test) == 156
    counts = {name: sum(video.classes == (name,) for video in train) for name in data.classes[1:]}
    assert counts == {
        "Abuse": 48, "Arrest": 45, "Arson": 41, "Assault": 47, "Burglary": 87, "Explosion": 29, "Fighting": 45,
        "RoadAccidents": 127, "Robbery": 145, "Shooting": 27, "Shoplifting": 29, "Stealing": 95, "Vandalism": 45,
    }  # fmt: skip


def test_ucf_positive_counts_under_three_rules_and_four_lengths(real: Path) -> None:
    data = dataset("ucf-crime")
    lengths = decoded(data)
    rules = {
        1_111_808: lengths,
        1_109_824: {key: value // 16 * 16 for key, value in lengths.items()},
        1_109_680: {key: len(value) for key, value in arrays(real / "ucf-crime" / "pel4vad_frame_gt.npz").items()},
        1_114_144: {key: -(-value // 16) * 16 for key, value in lengths.items()},
    }
    found = {(gt, *totals(data, rule, gt)) for rule in rules.values() for gt in data.truths}
    assert found == {(row.truth, row.frames, row.positives) for row in known_totals("ucf-crime")}


def test_ucf_half_open_is_pel4vad_frame_by_frame_and_nine_videos_are_short(real: Path) -> None:
    data = dataset("ucf-crime")
    published = arrays(real / "ucf-crime" / "pel4vad_frame_gt.npz")
    lengths = decoded(data)
    for video in data.videos(part="test"):
        assert np.array_equal(data.truth(video, len(published[video.id])).labels, published[video.id] != 0), video.id
    whole = [key for key, value in lengths.items() if value % 16 == 0]
    assert len(whole) == 20 and sum(len(published[key]) < lengths[key] for key in whole) == NINE_SHORT


def test_ucf_five_events_are_cut_and_rules_differ_in_136_of_140_videos(real: Path) -> None:
    data = dataset("ucf-crime")
    lengths = decoded(data)
    cut = {
        video.id.removesuffix("_x264"): data.truth(video, lengths[video.id]).clamped
        for video in data.videos(part="test")
    }
    assert {key for key, value in cut.items() if value} == {
        "Arson011",
        "Arson016",
        "Explosion033",
        "Fighting003",
        "Shooting015",
    }
    differ = [
        int((data.truth(video, lengths[video.id]).labels != data.truth(video, lengths[video.id], gt="inclusive").labels).sum())
        for video in data.videos(part="test")
    ]  # fmt: skip
    assert sum(value > 0 for value in differ) == 136 and set(differ) == {0, 1, 2}


def test_every_ucf_file_spells_the_same_ids_and_events(real: Path) -> None:
    folder = real / "ucf-crime"
    first = annotations.read_ucf_text(folder / "Temporal_Anomaly_Annotation_for_Testing_Videos.txt")
    plain = {key: [(one.start, one.end) for one in value] for key, value in first.intervals.items()}
    for name in (
        "Temporal_Anomaly_Annotation.txt",
        "Temporal_Anomaly_Annotation_num_frames.mist.txt",
        "UCF_Annotation_with_num_frames.urdmu.txt",
    ):
        other = annotations.read_ucf_text(folder / name)
        assert {key: [(one.start, one.end) for one in value] for key, value in other.intervals.items() if value} == {
            key: value for key, value in plain.items() if value
        }, name
        if other.lengths:
            assert sum(other.lengths.values()) in (1_111_808, sum(other.lengths.values())) and len(other.lengths) >= 140
    ids = {video.id for video in dataset("ucf-crime").videos()}
    for name in (
        "vadclip_ucf_CLIP_rgb.csv",
        "vadclip_ucf_CLIP_rgbtest.csv",
        "rtfm_ucf-i3d.list",
        "rtfm_ucf-i3d-test.list",
    ):
        lines = (folder / name).read_text().splitlines()
        named = {normalise_id(line.split(",")[0]) for line in lines if ".npy" in line}
        assert named <= ids and len(named) in (290, 1610), name


def test_xd_totals_and_classes_are_those_of_pel4vad(real: Path) -> None:
    data = dataset("xd-violence")
    train, test = data.videos(part="train"), data.videos(part="test")
    assert (len(train), sum(map(data.is_abnormal, train)), len(test), sum(map(data.is_abnormal, test))) == (
        3954,
        1905,
        800,
        500,
    )
    published = arrays(real / "xd-violence" / "pel4vad_frame_gt.npz")
    assert totals(data, {key: len(value) for key, value in published.items()}) == (2_330_384, 537_805)
    for video in test:
        assert np.array_equal(data.truth(video, len(published[video.id])).labels, published[video.id] != 0), video.id


def test_xd_names_in_mp4_join_and_a_naive_join_would_lose_8520_frames(real: Path) -> None:
    lines = (real / "xd-violence" / "annotations.txt").read_text().splitlines()
    lost = [normalise_id(line.split()[0]) for line in lines if line.split()[0].endswith(".mp4")]
    assert len(lines) == 500 and len(lost) == 14
    data = dataset("xd-violence")
    ids = {video.id for video in data.videos(part="test")}
    found = data.truth_file()
    assert found.labels is not None and set(found.labels.intervals) <= ids and len(found.labels.intervals) == 500
    published = arrays(real / "xd-violence" / "pel4vad_frame_gt.npz")
    assert sum(int(data.truth(data.video(name), len(published[name])).labels.sum()) for name in lost) == 8_520


def test_xd_events_overlaps_and_the_five_videos_that_differ(real: Path) -> None:
    data = dataset("xd-violence")
    binary, multi = data.truth_file("binary"), data.truth_file("multiclass")
    assert binary.labels is not None
    assert sum(len(value) for value in binary.labels.intervals.values()) == 1_238
    assert sum(len(value) for value in multi.events.intervals.values()) == 1_272
    assert overlaps(multi.events) == (4, 18)
    differ = [difference(binary, multi, video.id, None) for video in data.videos(part="test")]
    assert sorted(value for value in differ if value) == [1, 1, 1, 1, 139]


def test_xd_events_end_past_the_feature_lengths_never_by_more_than_16(real: Path) -> None:
    data = dataset("xd-violence")
    lengths = {key: len(value) for key, value in arrays(real / "xd-violence" / "pel4vad_frame_gt.npz").items()}
    binary = data.truth_file("binary").labels
    assert binary is not None
    for source, wanted in ((binary, 71), (data.truth_file("multiclass").events, 72)):
        past = {
            key: max((one.end for one in value), default=0) - lengths[key] for key, value in source.intervals.items()
        }
        assert sum(value > 0 for value in past.values()) == wanted and max(past.values()) <= 16


def test_xd_annotation_wins_in_one_video(real: Path) -> None:
    data = dataset("xd-violence")
    differ = []
    for video in data.videos(part="test"):
        named = set(video.id.rsplit("_label_", 1)[1].split("-")) - {"0"}
        if data.is_abnormal(video) and not named & set(video.classes):
            differ.append((video.id, video.classes))
    assert len(differ) == 1 and "Ip.Man.2008" in differ[0][0] and differ[0][1] == ("B1",)


def test_xd_lists_with_five_and_ten_crops_name_the_same_videos(real: Path) -> None:
    folder = real / "xd-violence"
    ids = {part: {video.id for video in dataset("xd-violence").videos(part=part)} for part in ("train", "test")}  # type: ignore[arg-type]
    for name, part in (
        ("rgb.list", "train"),
        ("rgb_test.list", "test"),
        ("vadclip_xd_CLIP_rgb.csv", "train"),
        ("vadclip_xd_CLIP_rgbtest.csv", "test"),
        ("audio.list", "train"),
    ):
        named = {
            normalise_id(line.split(",npy")[0].rsplit(",", 1)[0])
            for line in (folder / name).read_text().splitlines()
            if ".npy" in line
        }
        assert named == ids[part], name


def test_shanghaitech_totals_of_its_three_splits(real: Path) -> None:
    data = dataset("shanghaitech")
    assert totals(data, decoded(data, "one-class"), split="one-class") == (40_791, 17_326)
    assert totals(data, decoded(data, "weak"), split="weak") == (141_870, 7_962)
    assert len(data.videos("one-class", "train")) == 330 and len(data.videos("hr", "test")) == 101
    train, test = data.videos("weak", "train"), data.videos("weak", "test")
    assert (len(train), sum(map(data.is_abnormal, train)), len(test), sum(map(data.is_abnormal, test))) == (
        238,
        63,
        199,
        44,
    )
    lengths = decoded(data, "weak")
    assert sum(value // 16 * 16 for value in lengths.values()) == 140_704
    assert sum(-(-value // 16) * 16 for value in lengths.values()) == 143_680


def test_shanghaitech_rtfm_file_is_the_masks_padded_to_16_with_the_last_label(real: Path) -> None:
    data = dataset("shanghaitech")
    flat = arrays(real / "shanghaitech" / "weakly_supervised_test_gt.npz")["rtfm_gt_sh"]
    listed = [
        normalise_id(line)
        for line in (real / "shanghaitech" / "rtfm_shanghai-i3d-test-10crop.list").read_text().split()
    ]
    videos = {video.id: video for video in data.videos("weak", "test")}
    assert [data.is_abnormal(videos[name]) for name in listed] == [True] * 44 + [False] * 155
    offset = 0
    for name in listed[:44]:
        labels = data.truth(videos[name], videos[name].n_frames or 0).labels
        padded = np.pad(labels, (0, -len(labels) % 16), mode="edge")
        assert np.array_equal(flat[offset : offset + len(padded)] != 0, padded), name
        offset += len(padded)
    assert not flat[offset:].any() and int(flat.sum()) == 8_028


def test_avenue_has_two_truths_441_frames_apart(real: Path) -> None:
    data = dataset("avenue")
    assert totals(data, decoded(data)) == (15_324, 3_712)
    assert totals(data, decoded(data), gt="interval") == (15_324, 3_867)
    first, second = data.truth_file("pixel"), data.truth_file("interval")
    differ = [difference(first, second, video.id, video.n_frames) for video in data.videos(part="test")]
    assert (sum(differ), sum(value > 0 for value in differ)) == (441, 15)


def test_ped2_is_the_same_from_every_file(real: Path, shared: Path) -> None:
    folder = shared / "ped2"
    lengths = {video.id: video.n_frames or 0 for video in dataset("ped2").videos(part="test")}
    found = [
        annotations.read_ucsd_m(folder / "UCSDped2.m"),
        masks.read_mat([folder / "ped2.mat"]),
        masks.read_frame_masks([folder / "gt_masks.npz"]),
        masks.read_flat_labels(folder / "frame_labels_ped2.npy", lengths),
    ]
    spans = [
        {k: [(one.start, one.end) for one in v] for k, v in one_.intervals.items()}
        for one_ in found
        if one_ is not None
    ]
    assert len(spans) == 4 and all(one == spans[0] for one in spans)
    assert totals(dataset("ped2"), lengths) == (2_010, 1_648)


def test_ped2_pixel_masks_agree_with_the_frame_labels(real: Path) -> None:
    data = dataset("ped2")
    video = data.video("03")
    found = data.pixel_mask(video)
    assert found is not None and found.shape == (150, 240, 360)
    assert np.array_equal(found.any(axis=(1, 2)), data.truth(video, 150).labels)


@pytest.mark.parametrize(
    ("name", "all_abnormal"), [("ped2", "08, 09, 10, 11"), ("avenue", "08, 18"), ("shanghaitech", "04_0011")]
)
def test_check_finds_no_error_and_names_videos_that_are_abnormal_throughout(
    real: Path, name: str, all_abnormal: str
) -> None:
    report = check(dataset(name))
    assert report.errors == ()
    assert any(f"abnormal in every frame: {all_abnormal}" in finding.message for finding in report.findings)


@pytest.mark.parametrize("name", ["ucf-crime", "xd-violence", "surv-fight"])
def test_check_finds_no_error_in_the_real_lists(real: Path, name: str) -> None:
    assert check(dataset(name)).errors == ()


def test_surv_fight_has_its_groups_on_one_side(real: Path) -> None:
    data = dataset("surv-fight")
    train, test = data.videos(part="train"), data.videos(part="test")
    assert (len(train), len(test)) == (164, 64)
    assert (len({v.group for v in train}), len({v.group for v in test})) == (28, 9)
    assert all(video.path.is_file() for video in data.all_videos()) and not data.temporal()


def test_shanghaitech_pel4vad_file_is_the_masks_cut_to_16_and_24_videos_one_clip_shorter(real: Path) -> None:
    data = dataset("shanghaitech")
    flat = arrays(real / "shanghaitech" / "weakly_supervised_test_gt.npz")["pel4vad_sh_gt"] != 0
    rows = (real / "shanghaitech" / "pel4vad_test.list").read_text().split()
    listed = list(dict.fromkeys(row.rsplit("/", 1)[-1].rpartition("_")[0] for row in rows))
    videos = {video.id: video for video in data.videos("weak", "test")}
    abnormal = [videos[name] for name in listed if data.is_abnormal(videos[name])]
    assert [video.id for video in abnormal] == listed[:44]
    reached = {(0, 0)}  # (frames used, videos cut one clip short): the file says no lengths, so every fit is followed
    for video in abnormal:
        labels = data.truth(video, video.n_frames or 0).labels
        whole = len(labels) // 16 * 16
        reached = {
            (start + n, short + (n < whole))
            for start, short in reached
            for n in (whole, whole - 16)
            if np.array_equal(flat[start : start + n], labels[:n])
        }
    normal = [(videos[name].n_frames or 0) for name in listed[44:]]
    rest = len(flat) - sum(n // 16 * 16 for n in normal) + 16 * sum(n % 16 == 0 for n in normal)
    assert {short for used, short in reached if used == rest} == {24}
    assert (int(flat.sum()), len(flat), sum(n % 16 == 0 for n in normal)) == (7_874, 140_112, 13)
