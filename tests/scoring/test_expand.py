"""Clip scores to frame scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st

from pipelines.errors import UsageError, VerificationError
from pipelines.records import Scores
from pipelines.scoring.expand import expand, mean_over_spans
from pipelines.spans import clip_spans


def scores(clips, spans, n_frames, *, stride=4, crops=("center",), **more):
    clips = np.atleast_2d(np.asarray(clips, dtype=np.float32))
    return Scores("v", clips, np.asarray(spans, dtype=np.int64), n_frames, stride, crops, **more)


def test_repeat_gives_each_frame_its_clip_and_holds_the_tail():
    found = expand(scores([1, 2], [(0, 4), (4, 8)], 10))
    assert found.scores.tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    assert (found.covered, found.n_frames) == (10, 10)


def test_truncate_stops_at_the_last_clip():
    found = expand(scores([1, 2], [(0, 4), (4, 8)], 10), tail="truncate")
    assert (found.covered, found.n_frames) == (8, 10)


def test_a_tail_of_a_stride_or_more_is_an_error_that_names_the_video():
    with pytest.raises(VerificationError, match=r"'v'.*frame 8.*12 frames"):
        expand(scores([1, 2], [(0, 4), (4, 8)], 12))


def test_overlapping_spans_are_averaged():
    found = expand(scores([1, 2, 6], [(0, 4), (2, 6), (4, 8)], 8, stride=2))
    assert found.scores.tolist() == [1, 1, 1.5, 1.5, 4, 4, 6, 6]


def test_gaps_take_the_frame_before_and_a_late_start_the_first_clip():
    found = expand(scores([1, 2], [(1, 2), (4, 5)], 6, stride=3))
    assert found.scores.tolist() == [1, 1, 1, 1, 2, 2]


@settings(max_examples=150, deadline=None, derandomize=True)
@cases(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["drop", "repeat"]), st.integers(0, 9))
def test_repeat_is_the_mean_over_covering_clips(n_frames, clip_len, stride, last_clip, seed):
    spans = clip_spans(n_frames, clip_len=clip_len, stride=stride, last_clip=last_clip)
    values = np.random.default_rng(seed).random((len(spans), 2))
    found = mean_over_spans(values, spans, n_frames)
    for frame in range(n_frames):
        cover = [values[i] for i, (a, b) in enumerate(spans) if a <= frame < b]
        if cover:
            assert found[frame] == pytest.approx(np.mean(cover, axis=0))
        else:
            assert found[frame] == pytest.approx(found[frame - 1])


def test_equal_values_stay_equal_under_overlap():
    spans = clip_spans(50, clip_len=7, stride=3)
    assert len(np.unique(mean_over_spans(np.full(len(spans), 0.1), spans, 50)[3:40])) <= 3


def test_linear_runs_between_centres_and_is_flat_outside():
    found = expand(scores([0, 4], [(0, 3), (4, 7)], 8), how="linear")
    assert found.scores.tolist() == [0, 0, 1, 2, 3, 4, 4, 4]


def test_a_pyramid_is_the_mean_of_its_levels():
    level = (np.array([[10.0]], dtype=np.float32),)
    found = expand(scores([0, 4], [(0, 3), (4, 7)], 8, levels=level, level_spans=(np.array([[0, 7]]),)), how="linear")
    assert found.scores.tolist() == [5, 5, 5.5, 6, 6.5, 7, 7, 7]


def test_bins_give_the_remainder_to_the_last():
    found = expand(
        scores(np.arange(32), clip_spans(70, clip_len=16, stride=2)[:28].repeat(2, 0)[:32], 70), how="bins32"
    )
    assert found.scores[:6].tolist() == [0, 0, 1, 1, 2, 2]
    assert found.scores[62:].tolist() == [31] * 8


def test_crops_are_averaged_or_chosen_by_name():
    given = scores([[0, 2], [1, 4]], [(0, 4), (4, 8)], 8, crops=("center", "tl"))
    assert expand(given).scores[[0, 7]].tolist() == [0.5, 3]
    assert expand(given, crop="tl").scores[[0, 7]].tolist() == [1, 4]
    with pytest.raises(UsageError, match=r"no crop 'centre'.*did you mean 'center'"):
        expand(given, crop="centre")


def test_class_scores_follow_their_clips():
    classes = np.array([[[0.9, 0.1], [0.2, 0.8]]], dtype=np.float32)
    found = expand(scores([0, 1], [(0, 4), (4, 8)], 9, classes=classes), how="linear")
    assert found.classes.shape == (9, 2)
    assert found.classes[[0, 3, 4, 8]] == pytest.approx(np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]))


def test_a_wrong_number_of_spans_or_a_nan_names_the_video():
    with pytest.raises(VerificationError, match=r"'v'.*spans of shape"):
        expand(scores([1, 2, 3], [(0, 4), (4, 8)], 8))
    with pytest.raises(VerificationError, match=r"'v'.*nan"):
        expand(scores([1, np.nan], [(0, 4), (4, 8)], 8))
