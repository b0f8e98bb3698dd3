"""Which native frames a stored clip speaks for, also when the video was resampled."""

from __future__ import annotations

from pipelines.spans import native_stride, stored_spans
from tests.extraction.fakes import facts


def test_native_clips() -> None:
    assert stored_spans(facts(20), 2).tolist() == [[0, 8], [8, 16]]
    assert native_stride(facts(20)) == 8


def test_clip_past_the_end_speaks_for_the_last_frame() -> None:
    assert stored_spans(facts(12), 3).tolist() == [[0, 8], [8, 12], [11, 12]]


def test_clips_of_a_halved_rate_cover_twice_the_frames() -> None:
    resampled = facts(40, extra={"n_sampled": 20})
    assert stored_spans(resampled, 2).tolist() == [[0, 16], [16, 32]]
    assert native_stride(resampled) == 16


def test_clips_of_a_doubled_rate_cover_half_the_frames_and_never_none() -> None:
    resampled = facts(5, clip_len=1, stride=1, extra={"n_sampled": 10})
    spans = stored_spans(resampled, 10)
    assert (spans[:, 1] > spans[:, 0]).all() and spans[-1].tolist() == [4, 5] and spans.max() == 5


def test_last_resampled_frame_ends_with_the_video() -> None:
    resampled = facts(37, clip_len=4, stride=4, extra={"n_sampled": 16})  # 30 to 13 frames a second
    spans = stored_spans(resampled, 4)
    assert spans[0, 0] == 0 and spans[-1, 1] == 37 and (spans[1:, 0] == spans[:-1, 1]).all()
