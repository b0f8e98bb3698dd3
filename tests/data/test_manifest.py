"""The manifest: where it is found, what is refused and how it says so; datasets as their users meet them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.data.manifest import load, packaged_path
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from tests.datasets import Planned, make_weak_dataset, write_csv, write_lines


def manifest(folder: Path, body: str) -> Path:
    path = folder / "data_manifest.yaml"
    path.write_text("schema: 1\ndatasets:\n" + body)
    return path


ENTRY = (
    "  mine:\n    title: Mine\n    root: .\n    classes: [normal, fight]\n    splits: {default: {table: videos.csv}}\n"
)


def test_the_order_of_discovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    option, variable = (make_weak_dataset(tmp_path / name, name=name) for name in ("option", "variable"))
    inner = tmp_path / "work" / "deep"
    inner.mkdir(parents=True)
    parent = make_weak_dataset(tmp_path / "work", name="parent")
    monkeypatch.chdir(inner)
    monkeypatch.delenv("VAD_MANIFEST", raising=False)
    assert load().path == parent
    monkeypatch.setenv("VAD_MANIFEST", str(variable))
    assert load().path == variable
    assert load(option).path == option
    monkeypatch.delenv("VAD_MANIFEST")
    monkeypatch.chdir("/")
    assert load().path == packaged_path()


def test_a_named_manifest_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match="there is no manifest"):
        load(tmp_path / "no.yaml")


def test_packaged_entries_stay_below_a_users_own_and_the_users_win(tmp_path: Path) -> None:
    path = manifest(tmp_path, ENTRY + ENTRY.replace("mine", "ped2").replace("Mine", "My Ped2"))
    loaded = load(path)
    assert loaded.names()[:2] == ["mine", "ped2"] and "ucf-crime" in loaded.names()
    assert loaded.dataset("ped2").title == "My Ped2"
    assert loaded.dataset("ucf-crime").title == "UCF-Crime"


def test_extends_starts_from_the_packaged_entry(tmp_path: Path) -> None:
    path = manifest(tmp_path, "  ucf:\n    extends: ucf-crime\n    root: footage\n    crops: center\n")
    dataset = load(path).dataset("ucf")
    assert dataset.root == tmp_path / "footage" and dataset.crops == "center"
    assert len(dataset.classes) == 14 and dataset.truths == ("half_open", "inclusive", "one_based")
    with pytest.raises(UsageError, match=r"extends 'ucf-crim'.*did you mean 'ucf-crime'"):
        load(manifest(tmp_path, "  ucf: {extends: ucf-crim}\n"))


def test_an_unknown_dataset_proposes_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no dataset 'ucf_crime'.*did you mean 'ucf-crime'") as caught:
        load(packaged_path()).dataset("ucf_crime")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("title: Mine", "titel: Mine"), r"data_manifest\.yaml:4: datasets\.mine\.titel: unknown key 'titel'.*did you mean 'title'"),
        (("root: .", "root: 5"), r"data_manifest\.yaml:5: datasets\.mine\.root = 5: must be text; quote it"),
        (("[normal, fight]", "[normal, off]"), r"data_manifest\.yaml:6: .*must be text; quote it"),
        (("[normal, fight]", "[normal]"), "at least two different names"),
        (("videos.csv", "../other.csv"), "escapes its root"),
        (("videos.csv", "/etc/passwd"), "escapes its root"),
        (("table: videos.csv", "base: none"), "'default' is based on 'none', which is no plain split"),
        (("root: .", "root: .\n    stride: zero"), r"stride = 'zero': .*integer"),
        (("root: .", "root: .\n    crops: six"), r"crops = 'six': Input should be 'center', 'five' or 'ten'"),
        (("root: .", "root: .\n    truths: {a: {reader: cvs, file: a}}"), "reader = 'cvs'"),
        (("root: .", "root: .\n    group: {pattern: '('}"), "not a regular expression"),
        (("    root: .\n", ""), "root: the key is missing"),
        (("root: .", "root: .\n    root: /data"), "the key 'root' is written twice"),
        (("{default: {table: videos.csv}}", "{default: {table: videos.csv}, hr: {base: default, drop: [01_0130]}}"), "drop.*must be text; quote it"),
    ],
)  # fmt: skip
def test_errors_name_the_line_the_value_and_the_nearest_key(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        load(manifest(tmp_path, ENTRY.replace(*change)))
    assert caught.value.exit_code == 2


def test_all_errors_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load(manifest(tmp_path, ENTRY.replace("title", "titel").replace("root: .", "root: 5")))
    assert "titel" in caught.value.message and "root = 5" in caught.value.message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "schema: 2\n", "schema: 1\ndatasets: [a]\n", "a: b: c\n", "\x00"])
def test_files_that_are_no_manifest_are_usage_errors(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(UsageError):
        load(path)


def test_a_csv_of_ones_own_with_odd_ids_keeps_them(tmp_path: Path) -> None:
    ids = ["0007", "01_0015", "a=b#c", "front door.2", "cam__1", "1e-4"]
    planned = [Planned(name, "train", "normal", 10) for name in ids]
    data = load(make_weak_dataset(tmp_path, planned=planned)).dataset("toy")
    assert [video.id for video in data.videos()] == ids
    assert data.video("0007").path == tmp_path / "toy" / "0007.mp4"


def test_rows_without_an_id_take_the_files_stem_and_two_equal_stems_are_refused(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "videos.csv",
        ["path", "label", "split"],
        [("a/x.mp4", "normal", "train"), ("b/y.mp4", "fight", "train")],
    )
    data = load(manifest(tmp_path, ENTRY)).dataset("mine")
    assert [video.id for video in data.videos()] == ["x", "y"]
    write_csv(
        tmp_path / "videos.csv",
        ["path", "label", "split"],
        [("a/x.mp4", "normal", "train"), ("b/x.mp4", "fight", "test")],
    )
    data = load(manifest(tmp_path, ENTRY)).dataset("mine")
    with pytest.raises(VerificationError, match=r"'x' is listed twice: .*a/x\.mp4 \(train\) and .*b/x\.mp4 \(test\)"):
        data.videos()


def test_a_row_that_escapes_the_root_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "videos.csv", ["path", "label", "split"], [("../x.mp4", "normal", "train")])
    with pytest.raises(VerificationError, match=r"videos\.csv:2: '\.\./x\.mp4' escapes the root"):
        load(manifest(tmp_path, ENTRY)).dataset("mine").videos()


def test_a_csv_without_a_known_column_and_a_row_too_long_are_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "videos.csv", ["name", "label"], [("x", "normal")])
    with pytest.raises(VerificationError, match=r"videos\.csv:1: no column 'video' or 'path'"):
        load(manifest(tmp_path, ENTRY)).dataset("mine").videos()
    write_lines(tmp_path / "videos.csv", ["video,label,split", "a,normal,train,extra"])
    with pytest.raises(VerificationError, match=r"videos\.csv:2: more fields"):
        load(manifest(tmp_path, ENTRY)).dataset("mine").videos()


def test_renamed_columns_and_part_words(tmp_path: Path) -> None:
    body = ENTRY.replace("videos.csv", "{files: videos.csv, columns: {video: clip, label: category}}")
    write_csv(
        tmp_path / "videos.csv", ["clip", "category", "split"], [("x", "normal", "Training"), ("y", "1", "testing")]
    )
    data = load(manifest(tmp_path, body)).dataset("mine")
    assert [(v.id, v.split, v.classes) for v in data.videos()] == [
        ("x", "train", ("normal",)),
        ("y", "test", ("fight",)),
    ]


def test_unlabelled_videos_can_be_extracted_but_not_trained_on(tmp_path: Path) -> None:
    write_csv(tmp_path / "videos.csv", ["path", "label", "split"], [("x.mp4", "", "train")])
    data = load(manifest(tmp_path, ENTRY)).dataset("mine")
    assert [video.id for video in data.all_videos()] == ["x"]
    with pytest.raises(VerificationError, match="'x' has no label"):
        data.videos()


def test_unknown_splits_and_parts_are_refused(tmp_path: Path) -> None:
    data = load(make_weak_dataset(tmp_path)).dataset("toy")
    with pytest.raises(UsageError, match=r"no split 'defualt'.*did you mean 'default'"):
        data.videos("defualt")
    with pytest.raises(UsageError, match=r"no part 'tests'.*did you mean 'test'"):
        data.videos(part="tests")  # type: ignore[arg-type]


def test_fingerprints_follow_labels_and_not_the_order_of_rows(tmp_path: Path) -> None:
    path = make_weak_dataset(tmp_path, seed=1)
    listed = tmp_path / "toy" / "videos.csv"
    before = load(path).dataset("toy").fingerprint("default", "train")
    header, *rows = listed.read_text().splitlines()
    listed.write_text("\n".join([header, *reversed(rows)]) + "\n")
    assert load(path).dataset("toy").fingerprint("default", "train") == before
    listed.write_text(listed.read_text().replace(",normal,train", ",fight,train", 1))
    assert load(path).dataset("toy").fingerprint("default", "train") != before


def test_an_edited_interval_changes_the_truths_fingerprint(tmp_path: Path) -> None:
    path = make_weak_dataset(tmp_path, planned=[Planned("a", "test", "fight", 40, ((5, 9),))])
    before = load(path).dataset("toy").truth_fingerprint()
    run = load(path).dataset("toy").fingerprint()
    events = tmp_path / "toy" / "events.csv"
    events.write_text(events.read_text().replace("a,5,9", "a,5,10"))
    assert load(path).dataset("toy").truth_fingerprint() != before
    assert load(path).dataset("toy").fingerprint() == run


def test_cache_dir_is_relative_to_the_manifest(tmp_path: Path) -> None:
    path = tmp_path / "data_manifest.yaml"
    path.write_text("schema: 1\ncache_dir: cache\n")
    assert load(path).cache_dir == str(tmp_path / "cache")
    assert load(packaged_path()).cache_dir is None


def test_reading_the_manifest_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipelines.data.manifest import load, packaged_path; load(packaged_path());"
        "print([m for m in ('torch', 'numpy', 'pandas', 'scipy', 'zarr', 'av') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_listing_builds_no_models() -> None:
    code = "import sys; from pipelines.data.discovery import summary; summary(); print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_phrases_stand_for_classes_and_unknown_classes_are_named(tmp_path: Path) -> None:
    dataset = load(manifest(tmp_path, ENTRY + "    phrases: {fight: two people fighting}\n")).dataset("mine")
    assert dataset.phrases == {"fight": "two people fighting"}
    assert load(packaged_path()).dataset("ucf-crime").phrases["RoadAccidents"] == "road accident"
    assert load(packaged_path()).dataset("xd-violence").phrases["B6"] == "car accident"  # its title
    with pytest.raises(UsageError, match=r"'fihgt' is no class \(did you mean 'fight'\?\)"):
        load(manifest(tmp_path, ENTRY + "    phrases: {fihgt: x}\n"))
    with pytest.raises(UsageError, match="words of 'fight' are empty"):
        load(manifest(tmp_path, ENTRY + "    phrases: {fight: ' '}\n"))
