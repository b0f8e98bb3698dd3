"""`vad data check` names what is wrong; every known inconsistency is a few lines on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.data.check import Report, check
from pipelines.data.manifest import Dataset, load, packaged_path
from tests.cli.process import vad
from tests.datasets import Planned, make_weak_dataset, synthesise, touch, write_lines


def own(folder: Path, *videos: Planned, **options: object) -> Dataset:
    path = make_weak_dataset(folder, planned=videos, **options)  # type: ignore[arg-type]
    for video in videos:
        touch(folder / "toy" / f"{video.id}.mp4")
    return load(path).dataset("toy")


def messages(report: Report, level: str = "error") -> str:
    return "\n".join(f"{f.kind}: {f.message}" for f in report.findings if f.level == level)


FINE = (
    Planned("n", "train", "normal", 40), Planned("f", "train", "fight", 40),
    Planned("a", "test", "fight", 40, ((5, 9),)), Planned("b", "test", "normal", 40),
)  # fmt: skip


def test_a_dataset_in_order_has_no_finding(tmp_path: Path) -> None:
    report = check(own(tmp_path, *FINE))
    assert report.findings == ()
    assert report.counts["default"]["test"] == {"videos": 2, "abnormal": 1, "frames": 80, "positives": 4}


def test_a_missing_and_an_extra_video_are_named(tmp_path: Path) -> None:
    data = own(tmp_path, *FINE)
    (tmp_path / "toy" / "a.mp4").unlink()
    touch(tmp_path / "toy" / "forgotten.mp4")
    report = check(data)
    assert {(f.kind, f.video) for f in report.errors} == {("missing", "a"), ("extra", None)}
    assert "a.mp4" in messages(report) and "forgotten.mp4: in no list" in messages(report)


def test_no_footage_at_all_is_one_warning(tmp_path: Path) -> None:
    data = load(make_weak_dataset(tmp_path, planned=FINE)).dataset("toy")
    report = check(data)
    assert not report.errors and "none of the 4 videos is there" in messages(report, "warning")


def test_a_wrong_count_names_both_numbers(tmp_path: Path) -> None:
    own(tmp_path, *FINE)
    path = tmp_path / "data_manifest.yaml"
    path.write_text(
        path.read_text()
        + "    expected: {default: {train: {videos: 3, abnormal: 1}, test: {videos: 2, abnormal: 2}}}\n"
    )
    report = check(load(path).dataset("toy"))
    assert messages(report).splitlines() == [
        "count: default/train: 2 videos, 3 are expected",
        "count: default/test: 1 abnormal videos, 2 are expected",
    ]


def test_a_label_that_is_no_class_is_named_with_its_line(tmp_path: Path) -> None:
    own(tmp_path, *FINE)
    listed = tmp_path / "toy" / "videos.csv"
    listed.write_text(listed.read_text().replace("f,f.mp4,fight", "f,f.mp4,fihgt"))
    report = check(load(tmp_path / "data_manifest.yaml").dataset("toy"))
    assert "videos.csv:3: 'f': 'fihgt' is no class (classes: normal, fight)" in messages(report)


def test_a_class_of_an_event_that_is_none_is_named_once(tmp_path: Path) -> None:
    own(tmp_path, *FINE)
    events = tmp_path / "toy" / "events.csv"
    events.write_text(events.read_text().replace("fight", "brawl"))
    report = check(load(tmp_path / "data_manifest.yaml").dataset("toy"))
    assert messages(report).count("'brawl' is no class of the dataset") == 1


def test_a_group_on_two_sides_is_an_error_and_for_a_published_split_a_warning(tmp_path: Path) -> None:
    videos = (Planned("n", "train", "normal", 9, group="film"), Planned("m", "test", "normal", 9, group="film"))
    own(tmp_path, *videos)
    path = tmp_path / "data_manifest.yaml"
    report = check(load(path).dataset("toy"))
    assert "default: the group 'film' is in test and train" in messages(report)
    path.write_text(path.read_text() + "    group: {published_overlap: true}\n")
    report = check(load(path).dataset("toy"))
    assert not report.errors and "1 groups have videos on two sides" in messages(report, "warning")


def test_an_event_past_its_videos_end_is_an_error_and_one_that_ends_past_it_is_cut(tmp_path: Path) -> None:
    videos = (Planned("a", "test", "fight", 40, ((40, 44),)), Planned("b", "test", "fight", 40, ((30, 41),)))
    report = check(own(tmp_path, *videos))
    assert "event: a: an event begins at frame 40, the video ends at 40" in messages(report)
    assert "1 events end after their video and are cut there: b" in messages(report, "warning")


def test_lengths_of_stored_features_win_over_the_list_and_the_header(tmp_path: Path) -> None:
    report = check(own(tmp_path, *FINE), lengths={"a": 38, "b": 40}, expected_frames={"a": 41, "b": 40})
    shown = messages(report, "warning")
    assert "header: a: the file promises 41 frames, 38 decode; the decoded count is used" in shown
    assert "length: a: 38 frames decode, the list says 40" in shown
    assert report.counts["default"]["test"]["frames"] == 78


def test_annotated_videos_are_measured_where_nothing_says_their_length(tmp_path: Path) -> None:
    data = own(tmp_path, *FINE, frames_column=False)
    seen: list[str] = []

    def probe(path: Path) -> tuple[int, float | None]:
        seen.append(path.stem)
        return 4, 12.0

    assert "a: an event begins at frame 5, the video ends at 4" in messages(check(data, probe=probe))
    assert seen == ["a"]


def test_events_in_seconds_are_checked_at_the_files_rate(tmp_path: Path) -> None:
    data = own(tmp_path, Planned("a", "test", "fight", 40, ((24, 36),)), seconds=True)
    assert "begins at frame 24" in messages(check(data, lengths={"a": 20}))


def test_abnormal_without_annotation_annotated_but_unlisted_and_normal_with_events(tmp_path: Path) -> None:
    own(tmp_path, *FINE, Planned("c", "test", "fight", 40))
    events = tmp_path / "toy" / "events.csv"
    events.write_text(events.read_text() + "b,1,2,fight\nghost,1,2,fight\n")
    report = check(load(tmp_path / "data_manifest.yaml").dataset("toy"))
    assert "c: is fight, but truth 'frames' does not name it" in messages(report)
    assert "b: listed as normal, truth 'frames' has 1 events" in messages(report)
    assert "ghost is annotated but in no list" in messages(report, "warning")


def test_an_id_listed_twice_is_named_with_both_places(tmp_path: Path) -> None:
    own(tmp_path, *FINE, Planned("a", "train", "fight", 40))
    report = check(load(tmp_path / "data_manifest.yaml").dataset("toy"))
    assert "'a' is listed twice" in messages(report) and "(train)" in messages(report) and "(test)" in messages(report)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAD_DATA", str(tmp_path))
    monkeypatch.delenv("VAD_ANNOTATIONS", raising=False)
    return tmp_path


def published(name: str) -> Dataset:
    return load(packaged_path()).dataset(name)


def test_a_stem_in_two_folders_of_a_published_set_is_reported(installed: Path) -> None:
    synthesise("ucf-crime", installed)
    touch(installed / "ucf-crime" / "Normal_Videos_for_Event_Recognition" / "Normal_Videos_003_x264.mp4")
    assert "Normal_Videos_003_x264: in two folders" in messages(check(published("ucf-crime")), "warning")
    video = published("ucf-crime").video("Normal_Videos_003_x264")
    assert video.path.parent.name == "Testing_Normal_Videos_Anomaly", "the folder that the list names"


def test_five_videos_by_ten_crops_are_five_videos(installed: Path) -> None:
    synthesise("ucf-crime", installed)
    names = [f"Vandalism/Vandalism{number:03d}_x264__{crop}.npy" for number in range(5) for crop in range(10)]
    write_lines(installed / "ucf-crime" / "Anomaly_Test.txt", names)
    report = check(published("ucf-crime"))
    assert "default/test: 5 videos, 290 are expected" in messages(report)
    assert "default/test: 5 abnormal videos, 140 are expected" in messages(report)


def test_xd_truths_that_differ_and_overlap_are_told_in_plain_words(installed: Path) -> None:
    synthesise("xd-violence", installed)
    path = installed / "xd-violence" / "annotations.txt"
    path.write_text(path.read_text().replace("10 20 30 50", "10 21 30 50"))
    notes = messages(check(published("xd-violence")), "note")
    assert "truths 'binary' and 'multiclass' differ on 1 frames in 1 videos" in notes
    assert "0 pairs of events of one class and 1 pairs of two classes overlap" in notes


def test_videos_that_are_abnormal_throughout_are_named(tmp_path: Path) -> None:
    report = check(own(tmp_path, Planned("a", "test", "fight", 20, ((0, 20),)), Planned("b", "test", "normal", 20)))
    assert "abnormal in every frame: a" in messages(report, "note")


def test_the_command_exits_5_with_the_findings_and_0_without(tmp_path: Path) -> None:
    own(tmp_path, *FINE)
    fine = vad("data", "check", "toy", cwd=tmp_path)
    assert (fine.returncode, "toy: 0 errors" in fine.stdout) == (0, True), fine.stderr
    (tmp_path / "toy" / "a.mp4").unlink()
    wrong = vad("data", "check", "toy", "--json", cwd=tmp_path)
    assert wrong.returncode == 5 and '"kind": "missing"' in wrong.stdout and '"schema": 1' in wrong.stdout
    assert "1 errors in toy" in wrong.stderr
