"""Truth of a video: unions, clamping, tails, classes; the arithmetic is half-open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import labels
from pipelines.data.lists import Problem, Row
from pipelines.data.manifest import Dataset, load
from pipelines.data.schema import Entry, Label
from pipelines.errors import VerificationError
from pipelines.records import Event
from tests.datasets import Planned, make_weak_dataset

EVENTS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=6)


def entry(**changes: object) -> Entry:
    base = {
        "title": "t",
        "root": ".",
        "classes": ["normal", "fight", "fire"],
        "splits": {"default": {"table": "v.csv"}},
    }
    return Entry.model_validate({**base, **changes})


def dataset(folder: Path, *videos: Planned, **options: object) -> Dataset:
    return load(make_weak_dataset(folder, planned=videos, **options)).dataset("toy")  # type: ignore[arg-type]


@given(EVENTS, st.integers(1, 80))
def test_the_union_is_a_set_of_frames(pairs: list[tuple[int, int]], n_frames: int) -> None:
    events = [Event(start, start + length, "fight") for start, length in pairs]
    kept, clamped, lost = labels.cut(events, n_frames, "v", "drop")
    wanted = {frame for start, length in pairs for frame in range(start, start + length) if frame < n_frames}
    assert set(np.flatnonzero(labels.union(kept, n_frames)).tolist()) == wanted
    assert lost == sum(event.start_frames >= n_frames for event in events)
    assert clamped == sum(event.start_frames < n_frames < event.end_frames for event in events)
    assert all(0 <= event.start_frames < event.end_frames <= n_frames for event in kept)


def test_an_event_that_ends_past_the_video_is_cut_and_counted(tmp_path: Path) -> None:
    data = dataset(tmp_path, Planned("a", "test", "fight", 40, ((30, 50), (5, 10))))
    truth = data.truth(data.video("a"), 40)
    assert truth.clamped == 1 and truth.n_frames == 40
    assert [(event.start_frames, event.end_frames) for event in truth.events] == [(30, 40), (5, 10)]
    assert int(truth.labels.sum()) == 15 and truth.labels[39] and not truth.labels[10]


def test_an_event_that_begins_at_the_end_is_an_error_and_under_truncate_lost(tmp_path: Path) -> None:
    data = dataset(tmp_path, Planned("a", "test", "fight", 48, ((40, 48),)))
    video = data.video("a")
    with pytest.raises(VerificationError, match="'a' has 40 frames, but an event begins at frame 40") as caught:
        data.truth(video, 40)
    assert caught.value.exit_code == 5
    truth = data.truth(video, 40, past_end="drop")
    assert truth.lost == 1 and truth.events == () and not truth.labels.any()


def test_a_normal_video_is_all_zeros_whether_annotated_or_not(tmp_path: Path) -> None:
    data = dataset(tmp_path, Planned("a", "test", "normal", 20), Planned("b", "test", "fight", 20, ((0, 20),)))
    truth = data.truth(data.video("a"), 20)
    assert not truth.labels.any() and truth.events == () and not truth.is_abnormal
    assert data.truth(data.video("b"), 20).labels.all()


def test_abnormal_without_annotation_and_normal_with_one_are_errors(tmp_path: Path) -> None:
    data = dataset(
        tmp_path,
        Planned("a", "test", "fight", 20),
        Planned("b", "test", "normal", 20, ((1, 5),)),
        Planned("c", "test", "fight", 20, ((1, 5),)),
    )
    csv = tmp_path / "toy" / "events.csv"
    csv.write_text(csv.read_text().replace("b,1,5,normal", "b,1,5,fight"))
    with pytest.raises(VerificationError, match=r"'a' is fight but .*events\.csv does not name it"):
        data.truth(data.video("a"), 20)
    with pytest.raises(VerificationError, match="'b' is listed as normal but has 1 events"):
        data.truth(data.video("b"), 20)


@pytest.mark.parametrize("seconds", [False, True])
def test_frames_and_seconds_give_the_same_labels(tmp_path: Path, seconds: bool) -> None:
    data = dataset(tmp_path, Planned("a", "test", "fight", 60, ((12, 37),)), seconds=seconds)
    truth = data.truth(data.video("a"), 60)
    assert np.flatnonzero(truth.labels).tolist() == list(range(12, 37))


def test_seconds_take_the_rate_of_the_decoded_file_over_the_list(tmp_path: Path) -> None:
    data = dataset(tmp_path, Planned("a", "test", "fight", 60, ((12, 24),)), seconds=True)
    truth = data.truth(data.video("a"), 60, fps=24.0)
    assert [(event.start_frames, event.end_frames) for event in truth.events] == [(24, 48)]


def test_overlapping_events_stay_apart_and_unite_in_the_labels(tmp_path: Path) -> None:
    data = dataset(tmp_path, Planned("a", "test", "fight", 30, ((0, 10), (5, 15))))
    truth = data.truth(data.video("a"), 30)
    assert len(truth.events) == 2 and int(truth.labels.sum()) == 15


def test_a_whole_video_truth_marks_every_frame(tmp_path: Path) -> None:
    path = make_weak_dataset(tmp_path, test=(1, 1))
    path.write_text(path.read_text().replace("frames: {reader: csv, file: events.csv}", "video: {reader: video-label}"))
    data = load(path).dataset("toy")
    assert not data.temporal()
    normal, abnormal = data.videos(part="test")
    assert data.truth(abnormal, 9).labels.all() and not data.truth(normal, 9).labels.any()


@pytest.mark.parametrize(
    ("text", "classes"),
    [("fight", ("fight",)), ("FIGHT", ("fight",)), ("fight|fire", ("fight", "fire")), ("normal", ("normal",)),
     ("0", ("normal",)), ("Normal", ("normal",)), ("brawl", ("fight",))],
)  # fmt: skip
def test_labels_of_a_column(text: str, classes: tuple[str, ...]) -> None:
    problems: list[Problem] = []
    given = entry(class_aliases={"brawl": "fight"})
    assert labels.classes_of(given, Row("a", "a", "a.mp4", "v.csv:2", label=text), Label(), problems) == classes
    assert not problems


def test_zero_and_one_mean_the_two_classes() -> None:
    two = entry(classes=["ok", "fight"])
    for text, wanted in (("0", "ok"), ("1", "fight"), ("1.0", "fight"), ("abnormal", "fight"), ("normal", "ok")):
        assert labels.class_name(two, text) == wanted
    assert labels.class_name(entry(), "1") is None, "with three classes 1 says nothing"


@pytest.mark.parametrize(
    ("text", "says"),
    [("flight", "'flight' is no class"), ("normal|fight", "normal and abnormal at once"), ("", "no label")],
)
def test_a_label_that_is_no_class_is_a_problem_with_its_line(text: str, says: str) -> None:
    problems: list[Problem] = []
    row = Row("a", "a", "a.mp4", "v.csv:7", label=text or None)
    assert labels.classes_of(entry(), row, Label(), problems) == ()
    assert problems[0].message.startswith("v.csv:7: ") and says in problems[0].message and problems[0].video == "a"


def test_xd_codes_are_joined_by_hyphens_and_zero_is_an_empty_slot() -> None:
    xd = entry(classes=["A", "B1", "B2", "G"])
    rule = Label(rule="name", pattern=r"_label_(?P<label>.+)$", separator="-")
    for name, wanted in (
        ("v=x__#1_label_B2-G-0", ("B2", "G")),
        ("v=x__#1_label_A", ("A",)),
        ("v=x__#1_label_G", ("G",)),
    ):
        assert labels.classes_of(xd, Row(name, name, name, "l:1"), rule, []) == wanted
