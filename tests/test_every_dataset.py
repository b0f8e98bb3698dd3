"""Every dataset of the packaged manifest, in its published layout, synthesised on disk in a few lines each."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.check import check
from pipelines.data.manifest import Dataset, Manifest, load, packaged_path
from pipelines.data.schema import PARTS
from pipelines.errors import MissingArtifactError, UsageError
from tests.datasets import LAYOUTS, synthesise

NAMES = load(packaged_path()).names()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, tuple[int, int]]]]:
    data = tmp_path_factory.mktemp("data")
    return data, {name: synthesise(name, data) for name in LAYOUTS}


@pytest.fixture
def manifest(installed: tuple[Path, object], monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setenv("VAD_DATA", str(installed[0]))
    monkeypatch.delenv("VAD_ANNOTATIONS", raising=False)
    return load(packaged_path())


@pytest.fixture
def dataset(manifest: Manifest, request: pytest.FixtureRequest) -> Dataset:
    return manifest.dataset(request.param)


def test_every_dataset_of_the_manifest_is_synthesised() -> None:
    assert set(NAMES) == set(LAYOUTS)


@pytest.mark.parametrize("dataset", NAMES, indirect=True)
def test_states_its_title_licence_link_citation_and_counts(dataset: Dataset) -> None:
    assert dataset.title and dataset.licence and dataset.citation and dataset.link.startswith("http")
    assert dataset.primary_metrics
    for split in dataset.splits:
        expected = dataset.expected(split, "test")
        assert expected is not None and expected.videos


@pytest.mark.parametrize("dataset", NAMES, indirect=True)
def test_train_and_test_of_every_split_are_read_with_footage_found(dataset: Dataset) -> None:
    for split in dataset.splits:
        for part in ("train", "test"):
            videos = dataset.videos(split, part)
            assert videos, (split, part)
            assert all(video.path.exists() for video in videos), split
            assert all(video.classes and set(video.classes) <= set(dataset.classes) for video in videos)
            assert {video.split for video in videos} == {part}


@pytest.mark.parametrize("dataset", NAMES, indirect=True)
def test_a_one_class_training_part_is_normal_and_a_weak_one_has_both(dataset: Dataset) -> None:
    for split in dataset.splits:
        kinds = {dataset.is_abnormal(video) for video in dataset.videos(split, "train")}
        assert kinds == ({False} if dataset.kind == "one-class" and split != "weak" else {False, True})


@pytest.mark.parametrize("dataset", NAMES, indirect=True)
def test_frame_labels_of_test_videos_have_the_positives_of_the_annotation(
    dataset: Dataset, installed: tuple[Path, dict[str, dict[str, tuple[int, int]]]]
) -> None:
    wanted = installed[1][dataset.name]
    found = {}
    for video in dataset.videos(part="test"):
        frames = wanted[video.id][0]
        truth = dataset.truth(video, frames)
        found[video.id] = (truth.n_frames, int(truth.labels.sum()))
        assert truth.is_abnormal == bool(wanted[video.id][1])
    assert found == wanted


@pytest.mark.parametrize("dataset", NAMES, indirect=True)
def test_ids_are_unique_over_all_splits_and_fit_file_names(dataset: Dataset) -> None:
    ids = [video.id for video in dataset.all_videos()]
    assert len(set(ids)) == len(ids)
    listed = {video.id for split in dataset.splits for part in PARTS for video in dataset.videos(split, part)}
    assert set(ids) == listed


@pytest.mark.parametrize("dataset", NAMES, indirect=True)
def test_segments_of_val_and_test_videos_come_from_the_default_truth(dataset: Dataset) -> None:
    for video in dataset.videos():
        if not dataset.is_abnormal(video):
            assert video.segments == ()
        elif video.split == "train" or not dataset.temporal():
            assert video.segments is None
        else:
            assert video.segments and all(event.label in dataset.classes[1:] for event in video.segments)


@pytest.mark.parametrize("dataset", NAMES, indirect=True)
def test_check_finds_nothing_but_the_small_counts_wrong(dataset: Dataset) -> None:
    report = check(dataset)
    assert [finding.message for finding in report.errors if finding.kind != "count"] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_that_is_not_here_is_a_missing_artefact(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_DATA", str(tmp_path))
    monkeypatch.delenv("VAD_ANNOTATIONS", raising=False)
    dataset = load(packaged_path()).dataset(name)
    if name in ("avenue", "ped2"):  # their few ids stand in the manifest itself; the truth does not
        with pytest.raises(MissingArtifactError):
            dataset.truth(dataset.videos(part="test")[0], 100)
    else:
        with pytest.raises(MissingArtifactError):
            dataset.videos(part="test")


def test_an_unset_variable_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAD_DATA", raising=False)
    monkeypatch.delenv("VAD_ANNOTATIONS", raising=False)
    with pytest.raises(MissingArtifactError, match="VAD_DATA is not set") as caught:
        _ = load(packaged_path()).dataset("ucf-crime").root
    assert caught.value.exit_code == 4 and "export VAD_DATA=" in caught.value.hint


def test_truth_lives_apart_from_footage_where_the_annotations_folder_exists(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = tmp_path / "truth" / "surv-fight-untrimmed"
    apart.mkdir(parents=True)
    (apart / "annotations.csv").write_text("video,start_frame,end_frame,class\ntest_abnormal_000,0,10,fight\n")
    monkeypatch.setenv("VAD_ANNOTATIONS", str(tmp_path / "truth"))
    dataset = manifest.dataset("surv-fight-untrimmed")
    video = dataset.video("test_abnormal_000")
    assert dataset.annotations == apart
    assert int(dataset.truth(video, 100).labels.sum()) == 10  # and the lists still come from the root
    assert video.path.is_file()


def test_annotations_alone_are_enough_for_the_truth(
    installed: tuple[Path, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAD_ANNOTATIONS", str(installed[0]))
    monkeypatch.delenv("VAD_DATA", raising=False)
    dataset = load(packaged_path()).dataset("ucf-crime")
    video = dataset.videos(part="test")[0]
    assert int(dataset.truth(video, 300).labels.sum()) == 75
    with pytest.raises(MissingArtifactError, match="VAD_DATA"):
        _ = dataset.root


def test_named_truths_of_ucf_and_avenue_differ_as_their_conventions_say(manifest: Manifest) -> None:
    ucf = manifest.dataset("ucf-crime")
    video = ucf.video("Abuse028_x264")
    counts = {name: int(ucf.truth(video, 300, gt=name).labels.sum()) for name in ucf.truths}
    assert counts == {"half_open": 75, "inclusive": 76, "one_based": 76}
    avenue = manifest.dataset("avenue")
    video = avenue.video("01")
    assert int(avenue.truth(video, 1439, gt="pixel").labels.sum()) == 7
    assert avenue.truth(video, 1439, gt="interval").events[0].start_frames == 4
    with pytest.raises(UsageError, match="did you mean 'interval'"):
        avenue.truth(video, 1439, gt="intervals")


def test_the_human_related_subset_drops_its_videos(manifest: Manifest) -> None:
    dataset = manifest.dataset("shanghaitech")
    assert {video.id for video in dataset.videos("hr", "test")} == {"01_0014", "02_0128"}
    assert {video.camera for video in dataset.videos("hr", "test")} == {"01", "02"}


def test_the_annotation_wins_over_the_file_name_of_an_xd_video(manifest: Manifest) -> None:
    dataset = manifest.dataset("xd-violence")
    video = dataset.videos(part="test")[0]
    assert video.id.endswith("label_B4-0-0")
    assert video.classes == ("B1", "B2")
    assert video.group == "Ip.Man.2008"


def test_xd_frame_labels_come_from_the_binary_list_and_events_from_the_multi_class_one(manifest: Manifest) -> None:
    dataset = manifest.dataset("xd-violence")
    truth = dataset.truth(dataset.videos(part="test")[0], 64)
    assert int(truth.labels.sum()) == 30
    assert [(e.start_frames, e.end_frames, e.label) for e in truth.events] == [
        (10, 20, "B1"),
        (30, 50, "B2"),
        (40, 45, "B1"),
    ]
