"""`vad data init`: from a folder of videos to a dataset, again and again, without touching what its user wrote."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pipelines.data.check import check
from pipelines.data.init import init
from pipelines.data.manifest import load
from pipelines.errors import MissingArtifactError, UsageError
from tests.cli.process import vad
from tests.datasets import frame_folder, touch


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.fixture
def footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for label, count in (("normal", 7), ("fight", 7)):
        for index in range(count):
            touch(tmp_path / "my videos" / label / f"{label[0]}{index}.mp4")
    return tmp_path / "my videos"


def test_class_folders_become_labels_and_the_dataset_works(footage: Path) -> None:
    done = init(footage)
    assert (done.name, done.added, done.kept, done.entry_written) == ("my-videos", 14, 0, True)
    assert done.classes == ("normal", "fight")
    data = load().dataset("my-videos")
    assert len(data.videos(part="train")) == 10 and len(data.videos(part="test")) == 4
    assert {data.is_abnormal(video) for video in data.videos(part="test")} == {True, False}
    assert all(video.path.is_file() for video in data.all_videos())
    assert check(data).errors == ()
    assert not data.temporal(), "events.csv has no row yet: the video's label is used"
    assert data.truth(next(v for v in data.videos(part="test") if data.is_abnormal(v)), 10).labels.all()


def test_events_that_are_filled_in_become_the_truth(footage: Path) -> None:
    done = init(footage)
    tested = [video.id for video in load().dataset("my-videos").videos(part="test") if video.classes == ("fight",)]
    with done.events_csv.open("a") as handle:
        handle.writelines(f"{name},0.5,1.0,fight\n" for name in tested)
    data = load().dataset("my-videos")
    assert data.temporal()
    truth = data.truth(data.video(tested[0]), 40, fps=20)
    assert [(event.start_frames, event.end_frames) for event in truth.events] == [(10, 20)]


def test_again_it_adds_only_new_videos_and_keeps_every_edit(footage: Path) -> None:
    done = init(footage)
    edited = done.videos_csv.read_text().replace("f0,fight/f0.mp4,fight,train,", "f0,fight/f0.mp4,fight,test,camera 3")
    edited = edited.replace("f0,fight/f0.mp4,fight,test,\n", "f0,fight/f0.mp4,fight,test,camera 3\n")
    done.videos_csv.write_text(edited)
    manifest = done.manifest.read_text().replace("clip_len: 16", "clip_len: 8  # mine")
    done.manifest.write_text(manifest)
    touch(footage / "fight" / "new.mp4")
    (footage / "normal" / "n0.mp4").unlink()
    again = init(footage)
    assert (again.added, again.kept, again.gone, again.entry_written) == (1, 14, ("normal/n0.mp4",), False)
    assert again.videos_csv.read_text().startswith(edited)
    assert rows(again.videos_csv)[-1]["video"] == "new" and rows(again.videos_csv)[-1]["label"] == "fight"
    assert done.manifest.read_text() == manifest
    once_more = init(footage)
    assert once_more.added == 0 and once_more.videos_csv.read_text() == again.videos_csv.read_text()


def test_a_flat_folder_leaves_labels_to_fill_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for index in range(5):
        touch(tmp_path / "clips" / f"clip {index:02d}.avi")
    done = init(tmp_path / "clips")
    assert done.classes == ("normal", "anomaly") and {row["label"] for row in rows(done.videos_csv)} == {""}
    assert any("fill in the columns label" in line for line in done.next)
    data = load().dataset("clips")
    assert len(data.all_videos()) == 5
    done.videos_csv.write_text(done.videos_csv.read_text().replace(".avi,,", ".avi,anomaly,"))
    assert len(load().dataset("clips").videos()) == 5


def test_split_folders_are_kept_as_splits(tmp_path: Path) -> None:
    for path in ("train/normal/a.mp4", "train/fire/b.mp4", "test/normal/c.mp4", "Testing/fire/d.mkv", "val/fire/e.mp4"):
        touch(tmp_path / "set" / path)
    done = init(tmp_path / "set", manifest=tmp_path / "m.yaml")
    found = {row["video"]: (row["split"], row["label"]) for row in rows(done.videos_csv)}
    assert found == {
        "a": ("train", "normal"), "b": ("train", "fire"), "c": ("test", "normal"), "d": ("test", "fire"), "e": ("val", "fire"),
    }  # fmt: skip


def test_equal_stems_get_their_folder_into_the_id(tmp_path: Path) -> None:
    for path in ("normal/cam 1/x.mp4", "normal/cam 2/x.mp4", "fight/y.mp4"):
        touch(tmp_path / "set" / path)
    done = init(tmp_path / "set", manifest=tmp_path / "m.yaml")
    assert {row["video"] for row in rows(done.videos_csv)} == {"normal_cam 1_x", "normal_cam 2_x", "y"}
    load(tmp_path / "m.yaml").dataset("set").all_videos()


def test_folders_of_images_are_videos(tmp_path: Path) -> None:
    for name in ("normal/a", "fall/b"):
        frame_folder(tmp_path / "set" / name, 4)
    init(tmp_path / "set", manifest=tmp_path / "m.yaml")
    data = load(tmp_path / "m.yaml").dataset("set")
    assert {video.id: video.path.is_dir() for video in data.all_videos()} == {"a": True, "b": True}
    assert data.classes == ("normal", "fall")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("schema: 1\ndatasets: {}\n", ""),
        ("schema: 1\n", ""),
        ("# mine\nschema: 1\ndatasets:\n    a:\n        title: A  # kept\n        root: .\n        classes: [n, b]\n"
         "        splits: {default: {table: a.csv}}\n\n# the cache\ncache_dir: cache\n", "cache_dir: cache"),
    ],
)  # fmt: skip
def test_the_entry_goes_into_a_manifest_without_touching_other_lines(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(before)
    touch(tmp_path / "set" / "normal" / "a.mp4")
    init(tmp_path / "set", manifest=path)
    text = path.read_text()
    assert load(path).dataset("set").root == tmp_path / "set"
    assert [line for line in before.splitlines() if line.strip() and line != "datasets: {}"] == [
        line for line in text.splitlines() if line in before.splitlines() and line.strip() and line != "datasets: {}"
    ]
    assert after in text


def test_a_folder_elsewhere_is_named_absolutely_and_its_csv_stands_by_the_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "footage" / "normal" / "a.mp4")
    home = tmp_path / "project"
    home.mkdir()
    done = init(tmp_path / "footage", manifest=home / "data_manifest.yaml", name="cams")
    assert done.videos_csv == home / "cams" / "videos.csv"
    data = load(done.manifest).dataset("cams")
    assert data.root == tmp_path / "footage" and data.all_videos()[0].path.is_file()


def test_no_normal_folder_is_said_and_can_be_named(tmp_path: Path) -> None:
    for label in ("street", "brawl"):
        touch(tmp_path / "set" / label / f"{label}.mp4")
    assert any("--normal" in note for note in init(tmp_path / "set", manifest=tmp_path / "a.yaml").notes)
    assert init(tmp_path / "set", manifest=tmp_path / "b.yaml", normal="street").classes == ("street", "brawl")


def test_an_empty_or_missing_folder_and_a_broken_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match="no folder"):
        init(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingArtifactError, match="no video in"):
        init(tmp_path / "empty", manifest=tmp_path / "m.yaml")
    touch(tmp_path / "set" / "a.mp4")
    (tmp_path / "m.yaml").write_text("schema: 1\ndatasets: [a]\n")
    with pytest.raises(UsageError):
        init(tmp_path / "set", manifest=tmp_path / "m.yaml")
    assert (tmp_path / "m.yaml").read_text() == "schema: 1\ndatasets: [a]\n"


def test_the_commands_say_what_to_type_next(footage: Path) -> None:
    done = vad("data", "init", footage, cwd=footage.parent)
    assert done.returncode == 0 and "vad extract my-videos" in done.stdout, done.stderr
    listed = vad("data", "ls", "--json", cwd=footage.parent)
    first = json.loads(listed.stdout)["datasets"][0]
    assert (first["name"], first["here"], first["classes"]) == ("my-videos", "yes", 2)
    shown = vad("data", "show", "my-videos", "--json", cwd=footage.parent)
    parts = {row["part"]: row["videos"] for row in json.loads(shown.stdout)["parts"]}
    assert parts == {"train": 10, "test": 4}
    unknown = vad("data", "show", "my-video", cwd=footage.parent)
    assert unknown.returncode == 2 and "did you mean 'my-videos'" in unknown.stderr


def test_events_of_watch_are_normal_where_somebody_said_false_alarm(tmp_path):
    """Three kept events of one camera: a false alarm, a true one, and one that nobody looked at."""
    for name, mark, label in (("e1", "false-alarm", None), ("e2", "true-alarm", "fight"), ("e3", None, None)):
        place = tmp_path / "events" / "door" / name
        place.mkdir(parents=True)
        (place / "clip.mp4").write_bytes(b"x")
        (place / "snapshot.jpg").write_bytes(b"x")
        (place / "event.json").write_text(json.dumps({"camera": "door", "class": label}))
        if mark:
            (place / mark).touch()
    made = init(tmp_path / "events", manifest=tmp_path / "data_manifest.yaml")
    assert [(row["path"], row["label"], row["group"]) for row in rows(made.videos_csv)] == [
        ("door/e1/clip.mp4", "normal", "door"),
        ("door/e2/clip.mp4", "fight", "door"),
    ]
    assert made.classes == ("normal", "fight") and "1 of 3 events of vad watch are left out" in made.notes[0]
