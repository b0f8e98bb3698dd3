"""The generator of the re-cut set: its plan, its truth, its files."""

from __future__ import annotations

import csv
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks import recut


def piece(name: str, *, fight: bool = False, frames: int = 20, fps: str = "20", part: str = "train") -> recut.Piece:
    return recut.Piece(name, Path(f"{name}.mp4"), fight, f"g-{part}", part, frames, Fraction(fps))


def write_clip(path: Path, *, frames: int, level: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            image = np.full((48, 64, 3), level + index, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def clips_csv(tmp_path):
    """Two tiny clips stand for many: 12 calm and 3 fights per group, groups a-f to train (a, f held out), t to test."""
    write_clip(tmp_path / "calm.mp4", frames=6, level=40)
    write_clip(tmp_path / "fight.mp4", frames=8, level=140)
    rows = [("video", "path", "label", "group", "split", "frames", "fps")]
    for group in "abcdeft":
        split = "test" if group == "t" else "train"
        rows += [(f"{group}-n{i}", "calm.mp4", "noFight", group, split, 6, "24") for i in range(12)]
        rows += [(f"{group}-f{i}", "fight.mp4", "fight", group, split, 8, "24") for i in range(3)]
    rows.append(("slow", "calm.mp4", "noFight", "b", "train", 6, "11.99"))
    path = tmp_path / "clips.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_piece_keeps_its_duration_by_skipping_frames():
    half = piece("x", frames=10, fps="24")
    assert half.frames == 5 and half.picks() == [0, 2, 4, 6, 8]
    assert piece("x", frames=30, fps="30").picks() == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]
    assert piece("x", frames=1, fps="30").frames == 1


def test_fights_that_touch_are_one_event():
    pieces = (piece("a"), piece("b", fight=True), piece("c", fight=True), piece("d"), piece("e", fight=True))
    video = recut.Recut("v", "train", True, pieces)
    assert video.bounds == [0, 12, 24, 36, 48, 60]
    assert video.events == [(12, 36), (48, 60)]


def test_every_fifth_training_group_is_val_and_slow_clips_are_left_out(clips_csv):
    pieces = recut.read_pieces(clips_csv)
    assert {p.group for p in pieces if p.part == "val"} == {"a", "f"}
    assert {p.group for p in pieces if p.part == "test"} == {"t"}
    assert "slow" not in {p.name for p in pieces}


def test_a_group_in_train_and_test_is_refused(clips_csv):
    clips_csv.write_text(clips_csv.read_text() + "late,calm.mp4,noFight,b,test,6,24\r\n")
    with pytest.raises(ValueError, match="train and test: b"):
        recut.read_pieces(clips_csv)


def test_plans_hold_what_they_promise(clips_csv):
    planned = recut.plan_all(recut.read_pieces(clips_csv), {"train": 40, "val": 10, "test": 10})
    assert len(planned) == 60 and sum(v.abnormal for v in planned) == 30
    for video in planned:
        names = [p.name for p in video.pieces]
        assert 6 <= len(names) <= 12 and len(set(names)) == len(names)
        assert sum(p.fight for p in video.pieces) in ((1, 2, 3) if video.abnormal else (0,))
        assert {p.part for p in video.pieces} == {video.part}
    assert len({tuple(p.name for p in v.pieces) for v in planned}) == 60


def test_a_small_set_is_a_part_of_the_large_one(clips_csv):
    pieces = recut.read_pieces(clips_csv)
    large = {v.name: v for v in recut.plan_all(pieces, {"train": 40, "val": 10, "test": 10})}
    small = recut.plan_all(pieces, {"train": 4, "val": 2, "test": 3})
    assert len(small) == 9 and all(large[v.name] == v for v in small)
    assert recut.plan_all(pieces, {"train": 4}, seed=1) != recut.plan_all(pieces, {"train": 4}, seed=0)


def test_written_videos_decode_to_the_planned_frames_and_truth(clips_csv, tmp_path):
    out = tmp_path / "out"
    counts = {"train": 2, "val": 2, "test": 2}
    planned = recut.generate(clips_csv, out, counts)
    video = next(v for v in planned if v.abnormal)
    with av.open(str(out / "videos" / f"{video.name}.mp4")) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(frames) == video.bounds[-1] and frames[0].shape == (240, 320)
    bright = np.array([frame.mean() > 95 for frame in frames])  # fights are drawn brighter than calm clips
    truth = np.zeros(len(frames), bool)
    for start, end in video.events:
        truth[start:end] = True
    assert (bright == truth).all()
    written = (out / "annotations.csv").read_text().splitlines()
    assert written[0] == "video,start_frame,end_frame,class"
    assert f"{video.name},{video.events[0][0]},{video.events[0][1]},fight" in written
    assert (out / "val.txt").read_text() == "val_normal_000,0\nval_abnormal_000,1\n"
    ends = [row.split(",") for row in (out / "composition.csv").read_text().splitlines()[1:]]
    mine = [(int(a), int(b)) for name, _, _, a, b in ends if name == video.name]
    assert mine == list(pairwise(video.bounds))


def test_videos_that_are_there_are_kept(clips_csv, tmp_path):
    counts = {"train": 1, "val": 0, "test": 0}
    (video,) = recut.generate(clips_csv, tmp_path / "out", counts)
    path = tmp_path / "out" / "videos" / f"{video.name}.mp4"
    path.write_bytes(b"mine")
    recut.generate(clips_csv, tmp_path / "out", counts)
    assert path.read_bytes() == b"mine"


def test_a_clip_of_another_length_than_listed_stops(clips_csv, tmp_path):
    write_clip(clips_csv.parent / "calm.mp4", frames=5, level=40)
    with pytest.raises(ValueError, match="5 frames decoded, the list says 6"):
        recut.generate(clips_csv, tmp_path / "out", {"train": 1, "val": 0, "test": 0})
    assert not list((tmp_path / "out" / "videos").glob("*[0-9].mp4"))


@pytest.mark.real
def test_the_public_clips_give_the_known_totals(shared):
    planned = recut.plan_all(recut.read_pieces(shared / "surv-fight" / "clips.csv"), recut.PARTS)
    assert list(recut.summary(planned)) == [
        "train: 120 videos (60 abnormal), 27182 frames, 3471 positive, 97 events",
        "val: 30 videos (15 abnormal), 6753 frames, 670 positive, 22 events",
        "test: 50 videos (25 abnormal), 11138 frames, 1325 positive, 37 events",
    ]
