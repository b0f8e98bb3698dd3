"""The text readers: each format's convention becomes 0-based half-open; errors carry file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import annotations
from pipelines.data.annotations import Interval, by_rule
from pipelines.data.schema import Reader
from pipelines.errors import VerificationError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def spans(found: annotations.Annotations, video: str) -> list[tuple[float, float]]:
    return [(one.start, one.end) for one in found.intervals[video]]


def test_the_three_rules() -> None:
    assert by_rule(165, 240, "half_open") == (165, 240)
    assert by_rule(165, 240, "inclusive") == (165, 241)
    assert by_rule(165, 240, "one_based") == (164, 240)


@pytest.mark.parametrize(
    ("row", "length"),
    [
        ("Abuse028_x264.mp4  Abuse  165  240  -1  -1  ", None),
        ("Abuse028_x264  Abuse  165  240  -1  -1", None),
        ("Abuse028_x264.mp4\tAbuse\t165\t240\t-1\t-1\t1412", 1412),
        ("Abuse/Abuse028_x264.mp4 1412 Abuse 165 240 -1 -1", 1412),
    ],
)
def test_every_spelling_of_ucf_rows_is_the_same_event(tmp_path: Path, row: str, length: int | None) -> None:
    found = annotations.read_ucf_text(write(tmp_path / "a.txt", row + "\n"))
    assert spans(found, "Abuse028_x264") == [(165, 240)]
    assert found.intervals["Abuse028_x264"][0].label == "Abuse"
    assert found.lengths.get("Abuse028_x264") == length


def test_ucf_normal_rows_have_no_event_and_two_events_are_kept(tmp_path: Path) -> None:
    text = "Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\nStealing019_x264.mp4  Stealing  1  4  6  9\n"
    found = annotations.read_ucf_text(write(tmp_path / "a.txt", text), rule="inclusive")
    assert found.intervals["Normal_Videos_003_x264"] == ()
    assert spans(found, "Stealing019_x264") == [(1, 5), (6, 10)]


def test_xd_rows_join_with_and_without_mp4_and_without_a_last_newline(tmp_path: Path) -> None:
    text = "v=a__#1_label_B4-0-0 0 1517 1970 3038\nv=b__#1_label_G-0-0.mp4 150 779"
    found = annotations.read_xd_text(write(tmp_path / "a.txt", text))
    assert spans(found, "v=a__#1_label_B4-0-0") == [(0, 1517), (1970, 3038)]
    assert spans(found, "v=b__#1_label_G-0-0") == [(150, 779)]


def test_xd_multi_class_rows_keep_overlapping_events_of_a_class(tmp_path: Path) -> None:
    found = annotations.read_xd_text(write(tmp_path / "a.txt", "v=a__#1_label_B1-B2-0 B1 0 10 B2 5 20 B1 8 12\n"))
    assert [(one.label, one.start, one.end) for one in found.intervals["v=a__#1_label_B1-B2-0"]] == [
        ("B1", 0, 10), ("B2", 5, 20), ("B1", 8, 12),
    ]  # fmt: skip


def test_ucsd_m_is_one_based_with_the_end_included(tmp_path: Path) -> None:
    text = "TestVideoFile = {};\nTestVideoFile{end+1}.gt_frame = [61:180];\nTestVideoFile{end+1}.gt_frame = [5:90, 140 : 200, 7];% x\n"
    found = annotations.read_ucsd_m(write(tmp_path / "UCSDped2.m", text))
    assert spans(found, "01") == [(60, 180)]
    assert spans(found, "02") == [(4, 90), (139, 200), (6, 7)]


def test_ubnormal_tracks_include_their_end_and_new_tracks_replace_old_ones(tmp_path: Path) -> None:
    write(tmp_path / "abnormal_scene_1_scenario_1_tracks.txt", "1,0,99\n")
    write(tmp_path / "abnormal_scene_1_scenario_1_new_tracks.txt", "1.0,10.0,19.0\n2,15,24\n")
    write(tmp_path / "abnormal_scene_1_scenario_2_tracks.txt", "")
    found = annotations.read_ubnormal_tracks(sorted(tmp_path.iterdir()))
    assert spans(found, "abnormal_scene_1_scenario_1") == [(10, 20), (15, 25)]
    assert found.intervals["abnormal_scene_1_scenario_2"] == ()


def test_activitynet_seconds_wait_for_the_frame_rate(tmp_path: Path) -> None:
    data = {"database": {"a": {"annotations": [{"segment": [1.0, 2.5], "label": "fight"}]}, "b": {"annotations": []}}}
    found = annotations.read_activitynet(write(tmp_path / "a.json", json.dumps(data)))
    (one,) = found.intervals["a"]
    assert one.frames(10) == (10, 25) and one.label == "fight"
    assert found.intervals["b"] == ()
    with pytest.raises(VerificationError, match="frame rate is not known"):
        one.frames(None)


def test_an_event_shorter_than_a_frame_is_one_frame_long() -> None:
    assert Interval(1.0, 1.001, seconds=True).frames(25) == (25, 26)


def test_csv_columns_say_frames_or_seconds(tmp_path: Path) -> None:
    frames = annotations.read_csv(
        write(tmp_path / "f.csv", "video,start_frame,end_frame,class\na.mp4,3,9,fight\nb,,,\n")
    )
    assert spans(frames, "a") == [(3, 9)] and frames.intervals["b"] == ()
    seconds = annotations.read_csv(write(tmp_path / "s.csv", "video,start_s,end_s,class\na,0.5,1.25,fight\n"))
    assert seconds.intervals["a"][0].frames(4) == (2, 5)
    renamed = annotations.read_csv(
        write(tmp_path / "r.csv", "clip,from,to\na,1,4\n"),
        unit="frames", rule="one_based", columns={"video": "clip", "start": "from", "end": "to"},
    )  # fmt: skip
    assert spans(renamed, "a") == [(0, 4)]


def test_csv_ids_with_leading_zeros_dots_and_spaces_are_text(tmp_path: Path) -> None:
    text = "video,start_frame,end_frame\n0007,0,1\n01_0015,0,1\na b=c#.d,0,1\n"
    found = annotations.read_csv(write(tmp_path / "a.csv", text))
    assert list(found.intervals) == ["0007", "01_0015", "a b=c#.d"]


@pytest.mark.parametrize(
    ("reader", "text", "line"),
    [
        ("ucf-text", "a Abuse 1 2 -1 -1\nb Abuse 9 4 -1 -1\n", 2),
        ("ucf-text", "a Abuse 1 x -1 -1\n", 1),
        ("ucf-text", "justaname\n", 1),
        ("xd-text", "\na 5 5\n", 2),
        ("xd-text", "a 5\n", 1),
        ("xd-text", "a B1 5\n", 1),
        ("ucsd-m", "T{end+1}.gt_frame = [a:b];\n", 1),
        ("ubnormal-tracks", "1,2\n", 1),
        ("csv", "video,start_frame,end_frame\na,1,2\nb,2,x\n", 3),
        ("csv", "video,start_frame,end_frame\na,1.5,2\n", 2),
        ("csv", "video,start_frame,end_frame\na,1,2,3\n", 2),
        ("csv", "video,begin,end\na,1,2\n", 1),
        ("csv", "video,start_s,end_s\na,2,1\n", 2),
    ],
)
def test_a_malformed_row_is_named_with_file_and_line(tmp_path: Path, reader: str, text: str, line: int) -> None:
    path = write(tmp_path / "bad_tracks.txt", text)
    spec = Reader.model_validate({"reader": reader, "file": path.name})
    with pytest.raises(VerificationError, match=rf"bad_tracks\.txt:{line}: ") as caught:
        annotations.read(spec, [tmp_path], published=False)
    assert caught.value.exit_code == 5


def test_what_is_not_there_is_none_and_the_first_folder_wins(tmp_path: Path) -> None:
    spec = Reader.model_validate({"reader": "csv", "file": "a.csv"})
    assert annotations.read(spec, [tmp_path], published=False) is None
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write(tmp_path / "two" / "a.csv", "video,start_frame,end_frame\na,1,2\n")
    assert annotations.read(spec, [tmp_path / "one", tmp_path / "two"], published=False) is not None
    write(tmp_path / "one" / "a.csv", "video,start_frame,end_frame\n")
    header_alone = annotations.read(spec, [tmp_path / "one", tmp_path / "two"], published=False)
    assert header_alone is not None and header_alone.intervals == {}


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 80)), min_size=1, max_size=6))
def test_every_rule_writes_and_reads_the_same_interval(pairs: list[tuple[int, int]]) -> None:
    wanted = [(start, start + length) for start, length in pairs]
    written = {
        "half_open": [(s, e) for s, e in wanted],
        "inclusive": [(s, e - 1) for s, e in wanted],
        "one_based": [(s + 1, e) for s, e in wanted],
    }
    for rule, rows in written.items():
        assert [by_rule(a, b, rule) for a, b in rows] == wanted  # type: ignore[arg-type]


@given(st.floats(0, 500), st.floats(0.05, 60), st.sampled_from([12.0, 25.0, 29.97, 30.0]))
def test_seconds_round_to_the_nearest_frame_and_never_vanish(start: float, length: float, fps: float) -> None:
    first, last = Interval(start, start + length, seconds=True).frames(fps)
    assert first == round(start * fps) and last >= first + 1
    assert abs(last - (start + length) * fps) <= 1
