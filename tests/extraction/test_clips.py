"""Cutting a stream of frames gives the clips that pipelines.spans defines, whatever the sampling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import UsageError
from pipelines.extraction.clips import ClipCutter
from pipelines.extraction.jobs import DecodeJob
from pipelines.spans import clip_frame_indices, clip_spans


@dataclass
class Numbered:
    """A frame whose every pixel is its number."""

    number: int
    time_s: float | None = None

    def write(self, out: np.ndarray) -> None:
        out[...] = self.number


class Collected:
    """A sink with batches of `size` clips that remembers what was committed; the memory is filled with junk."""

    def __init__(self, size: int) -> None:
        self.size, self.clips = size, []
        self.buffer: np.ndarray | None = None

    def acquire(self, clip_shape: tuple[int, ...]) -> np.ndarray:
        self.buffer = np.full((self.size, *clip_shape), 255, np.uint8)
        return self.buffer

    def commit(self, first_clip: int, count: int) -> None:
        assert first_clip == len(self.clips) and 0 < count <= self.size
        self.clips += list(self.buffer[:count, :, 0, 0, 0].astype(int))


@st.composite
def jobs(draw: st.DrawFn) -> DecodeJob:
    clip_len = draw(st.integers(1, 12))
    positions = draw(st.sets(st.integers(0, clip_len - 1), min_size=1))
    return DecodeJob(
        video_id="v",
        path=Path("v.mp4"),
        clip_len=clip_len,
        stride=draw(st.integers(1, 16)),
        positions=tuple(sorted(positions)),
        last_clip=draw(st.sampled_from(["drop", "repeat", "pad"])),
    )


@settings(max_examples=400, deadline=None)
@given(job=jobs(), n_frames=st.integers(1, 60), size=st.integers(1, 5))
def test_clips_are_those_of_the_span_arithmetic(job: DecodeJob, n_frames: int, size: int) -> None:
    sink = Collected(size)
    cutter = ClipCutter(job, 2, 2, sink)
    for number in range(n_frames):
        cutter.add(Numbered(number))
    counted, total = cutter.finish(Numbered(n_frames - 1))
    rule = {"clip_len": job.clip_len, "stride": job.stride, "last_clip": job.last_clip}
    expected = clip_frame_indices(n_frames, **rule)[:, list(job.positions)]
    assert counted == n_frames
    assert total == len(expected)
    np.testing.assert_array_equal(np.array(sink.clips), expected)
    spans = clip_spans(n_frames, **rule)
    assert (spans[:, 0] < spans[:, 1]).all()


def test_no_frames_give_no_clips() -> None:
    sink = Collected(2)
    job = DecodeJob("v", Path("v.mp4"), 4, 4, (0, 1))
    assert ClipCutter(job, 2, 2, sink).finish(None) == (0, 0)
    assert sink.clips == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"positions": ()},
        {"positions": (3, 1)},
        {"positions": (1, 1)},
        {"positions": (0, 8)},
        {"positions": (-1, 2)},
        {"stride": 0},
        {"clip_len": 0},
        {"fps": 0.0},
        {"fps": float("nan")},
    ],
)
def test_impossible_jobs_are_refused(wrong: dict[str, object]) -> None:
    good = {"video_id": "v", "path": Path("v.mp4"), "clip_len": 8, "stride": 8, "positions": (0, 7)}
    assert DecodeJob(**good)
    with pytest.raises(UsageError):
        DecodeJob(**{**good, **wrong})


def test_a_job_survives_its_journey_to_the_child() -> None:
    job = DecodeJob("a=b #1", Path("/x/ü.mp4"), 8, 4, (0, 3), "pad", 12.5, "keep")
    assert DecodeJob.from_json(job.to_json()) == job
