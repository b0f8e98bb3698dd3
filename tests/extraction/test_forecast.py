"""`vad extract --dry-run`: bytes and files that come true, time from a sample, and nothing written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.extract import make_plan, predict_cost, run
from pipelines.extraction.forecast import FILES_OF_A_VIDEO, forecast
from pipelines.extraction.plan import Sampling
from pipelines.extraction.survey import PART_FRAMES, survey
from pipelines.records import Video
from pipelines.video.decode import probe, read_frames
from tests import media
from tests.extraction.fakes import noise_videos, request


def entries(folder: Path) -> int:
    """Files and folders below `folder`."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


class Clock:
    """Extracts nothing: every frame takes 1/50 s, a video 0.1 s more, and each run 2 s to start."""

    def __init__(self, frames: dict[str, int]) -> None:
        self.frames, self.batches = frames, list[int]()

    def __call__(self, videos: Sequence[Video], cache: Path) -> tuple[int, float]:
        self.batches.append(len(videos))
        frames = sum(self.frames[video.id] for video in videos)
        return frames, 2.0 + frames / 50


def test_time_is_that_of_starting_once_and_of_all_frames(tmp_path: Path) -> None:
    videos = noise_videos(tmp_path / "v", 12, n_frames=20)
    planned = make_plan(request(videos, tmp_path / "c"))
    clock = Clock({video.id: 20 for video in videos})
    found = forecast(planned, clock, budget_s=60)
    assert clock.batches == [1, 1, 4, 8]  # loading, starting, then growing batches
    assert (found.n_videos, found.n_frames, found.sampled_frames) == (12, 240, 240)
    assert found.seconds == pytest.approx(2.0 + 240 / 50)


def test_no_budget_measures_nothing_but_counts(tmp_path: Path) -> None:
    videos = noise_videos(tmp_path / "v", 3)
    clock = Clock({})
    found = forecast(make_plan(request(videos, tmp_path / "c")), clock, budget_s=0)
    assert clock.batches == [] and found.seconds is None and found.why == "nothing was sampled"
    assert found.n_frames == 60 and found.streams[0].n_inodes == 3 * 6


@pytest.mark.parametrize("encoders", ["motion", "effnet:lite0"])
def test_bytes_and_inodes_come_true(tmp_path: Path, encoders: str) -> None:
    videos = noise_videos(tmp_path / "v", 5, n_frames=30)
    wanted = request(videos, tmp_path / "c", encoders)
    found = predict_cost(wanted, make_plan(wanted), budget_s=0)
    assert not (tmp_path / "c").exists()
    result = run(wanted)
    group = result.artifacts[0].folder / "features.zarr"
    assert found.streams[0].n_inodes == entries(group) - 1  # all but the group's own zarr.json
    written = sum(path.stat().st_size for path in group.rglob("*") if path.is_file())
    assert found.streams[0].n_bytes == pytest.approx(written, rel=0.1)


def test_a_real_sample_gives_a_time_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    videos = noise_videos(tmp_path / "v", 5, n_frames=30)
    (tmp_path / "v" / "bad.mp4").write_text("not a video")
    bad = Video("bad", tmp_path / "v" / "bad.mp4", "train", ())
    wanted = request((*videos, bad), tmp_path / "c")
    found = predict_cost(wanted, make_plan(wanted), budget_s=1)
    assert found.seconds is not None and found.seconds > 0 and found.sampled_frames >= 30
    assert list((tmp_path / "tmp").iterdir()) == [] and not (tmp_path / "c").exists()


def test_a_part_is_cut_from_the_middle_of_a_long_video(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "long.mp4", 2000)
    short = media.write_coded(tmp_path / "short.avi", 40, codec="mpeg4", options={})
    (tmp_path / "parts").mkdir()
    asked = [("long", path, True), ("short", short, True), ("far", path, False), ("none", tmp_path / "x.mp4", True)]
    seen = survey(asked, tmp_path / "parts", timeout_s=60)
    assert (seen["long"].frames, seen["far"].frames, seen["none"].frames) == (2000, 2000, None)
    assert seen["short"].part == short and seen["far"].part is None and seen["none"].part is None
    part = seen["long"].part
    assert part is not None and 0.9 * PART_FRAMES <= probe(part).expected_frames <= PART_FRAMES
    first = media.number_of(read_frames(part)[0])
    assert 900 <= first <= 1000  # the key frame before the middle


def test_images_are_counted_and_cut_too(tmp_path: Path) -> None:
    folder = media.image_folder(tmp_path / "v", range(500), width=24, height=16)
    (tmp_path / "parts").mkdir()
    seen = survey([("v", folder, True)], tmp_path / "parts", timeout_s=60)["v"]
    assert seen.frames == 500 and seen.part is not None and len(list(seen.part.iterdir())) == PART_FRAMES
    assert media.number_of(read_frames(seen.part)[0]) == 130


def test_a_survey_that_takes_too_long_gives_what_it_has(tmp_path: Path) -> None:
    path = media.write_coded(tmp_path / "v.mp4", 10)
    assert survey([("v", path, False)] * 3, tmp_path, timeout_s=0.001) == {}


def test_lengths_that_no_header_tells_follow_from_sizes(tmp_path: Path) -> None:
    videos = noise_videos(tmp_path / "v", 4, n_frames=25)
    odd = tmp_path / "v" / "odd.mp4"
    odd.write_bytes(b"x" * 2 * videos[0].path.stat().st_size)
    wanted = request((*videos, Video("odd", odd, "train", ())), tmp_path / "c", sampling=Sampling(5, 5))
    found = predict_cost(wanted, make_plan(wanted), budget_s=0)
    assert found.n_frames == pytest.approx(4 * 25 + 50, rel=0.05)
    assert FILES_OF_A_VIDEO == 3
