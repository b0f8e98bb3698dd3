"""map-iou: hand-worked proposals and matches, the protocols' quirks, and brute force on random cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st

from pipelines.errors import UsageError, VerificationError
from pipelines.metrics import detection
from pipelines.metrics._base import PROTOCOLS, TIOUS, Detections, MetricOptions, UndefinedMetricError
from pipelines.metrics._matching import average_precisions
from pipelines.scoring.bootstrap import map_samples
from tests.metrics.build import detection_input
from tests.metrics.reference import map_iou, proposals

CLASSES = ("Normal", "a", "b")


def column(*pieces):
    """A column of probabilities from (frames, value) pieces."""
    return np.concatenate([np.full(n, v, dtype=np.float32) for n, v in pieces])


def result(given_videos, protocol, classes=CLASSES, tious=TIOUS, **more):
    return detection.evaluate(detection_input(given_videos, classes), protocol, tious=tious, **more)


def perfect(n_frames, events, classes):
    """Class probabilities that say exactly what the events say."""
    table = np.zeros((n_frames, len(classes)), dtype=np.float32)
    table[:, 0] = 1
    for start, end, label in events:
        table[start:end, classes.index(label)], table[start:end, 0] = 1, 0
    return table


def test_proposals_are_the_strict_runs_above_the_lower_two_fifths():
    # max 5, min 0: threshold 2; the piece at exactly 2 is out, a single frame is too short
    line = column((16, 0.0), (4, 2.5), (8, 2.0), (1, 4.0), (3, 0.0), (16, 5.0))
    found = detection.propose(np.stack([line, np.ones_like(line)], axis=1))
    assert found.label.tolist() == [0, 0]
    assert list(zip(found.start, found.end, strict=True)) == [(16, 20), (32, 48)]
    # 48 frames: mean of the 3 largest is 5
    assert found.score == pytest.approx([2.5 + 3.5, 5.0 + 3.5])


def test_a_constant_column_has_no_proposal():
    assert not len(detection.propose(np.full((64, 2), 0.3, dtype=np.float32)))


def test_repeating_frames_changes_nothing_but_the_video_score_counts_frames():
    rng = np.random.default_rng(0)
    clips = rng.random((20, 3)).astype(np.float32)
    found = detection.propose(np.repeat(clips, 16, axis=0))
    plain = proposals(np.repeat(clips, 16, axis=0))
    assert [tuple(row) for row in zip(found.label, found.start, found.end, strict=True)] == [p[:3] for p in plain]
    assert found.score == pytest.approx([p[3] for p in plain], abs=1e-9)


def test_perfect_predictions_reach_13_of_14_where_the_normal_class_has_no_truth():
    names = ("Normal", *(f"c{i}" for i in range(13)))
    videos = [(perfect(160, [(32, 96, n)], names), [(32, 96, n)], True) for n in names[1:]]
    videos.append((np.tile(np.linspace(0.2, 0.4, 160, dtype=np.float32)[:, None], (1, 14)), [], False))
    assert result(videos, "vadclip", names).values == pytest.approx([13 / 14] * 5)
    assert result(videos, "abnormal-only", names).values == pytest.approx([1.0] * 5)


def test_a_class_without_proposals_zeroes_every_map_of_vadclip_only():
    a = perfect(64, [(16, 32, "a")], CLASSES)
    videos = [(a, [(16, 32, "a")], True)]  # column b is constant
    assert result(videos, "vadclip").values.tolist() == [0.0] * 5
    assert result(videos, "abnormal-only").values.tolist() == [1.0] * 5
    assert detection.as_json(result(videos, "abnormal-only"), CLASSES)["left_out"] == ["Normal", "b"]


def test_one_proposal_over_two_intervals_takes_the_one_it_overlaps_most():
    line = column((16, 0.0), (48, 1.0), (16, 0.0))  # one proposal [16, 64)
    table = np.stack([1 - line, line], axis=1)
    videos = [(table, [(16, 32, "a"), (32, 64, "a")], True)]
    found = result(videos, "abnormal-only", ("Normal", "a"))
    assert found.matched.n_truth.tolist() == [[0, 2]]
    # IoU 1/3 and 2/3: one true positive at rank 1 of 2 intervals, none above 2/3
    assert found.values == pytest.approx([0.5] * 5)
    assert result(videos, "abnormal-only", ("Normal", "a"), tious=(0.7,)).values == pytest.approx([0.0])


def test_activitynet_lets_a_second_proposal_match_the_next_best_and_interpolates():
    # ranked: [0, 40) hits (0, 40); [48, 96) hits nothing; [112, 128) hits (112, 128)
    line = column((40, 0.9), (8, 0.0), (48, 0.8), (16, 0.0), (16, 0.7), (32, 0.0))
    table = np.stack([1 - line, line], axis=1)
    events = [(0, 40, "a"), (112, 128, "a"), (112, 128, "a")]
    plain = result([(table, events[:2], True)], "abnormal-only", ("Normal", "a"))
    assert plain.values == pytest.approx([(1 + 2 / 3) / 2] * 5)
    found = result([(table, events, True)], "activitynet", ("Normal", "a"))
    assert found.counters["duplicates"] == 1
    assert found.values == pytest.approx([(1 + 2 / 3) / 2] * 5)


def test_interpolated_precision_is_the_running_maximum_from_the_right():
    # two classes so that the maximum of the later class must not leak into the first: a: FP, TP, TP; b: TP
    a = column((16, 0.9), (4, 0.0), (16, 0.8), (4, 0.0), (16, 0.7), (8, 0.0))
    b = column((48, 0.0), (16, 1.0))
    table = np.stack([np.zeros(64, np.float32), a, b], axis=1)
    videos = [(table, [(20, 36, "a"), (40, 56, "a"), (48, 64, "b")], True)]
    assert result(videos, "abnormal-only").per_class[0].tolist()[1:] == pytest.approx([(1 / 2 + 2 / 3) / 2, 1.0])
    assert result(videos, "activitynet").per_class[0].tolist()[1:] == pytest.approx([2 / 3, 1.0])


def test_normal_videos_are_scored_as_whole_segments_only_where_the_class_is_called_A():
    wave = column((40, 0.9), (40, 0.1))
    rest = np.stack([1 - wave, wave], axis=1)
    event = (perfect(80, [(16, 64, "G")], ("A", "G")), [(16, 64, "G")], True)
    normal = (np.stack([column((75, 0.9), (5, 0.1)), wave], axis=1), [], False)
    assert result([event, normal], "vadclip", ("A", "G")).matched.n_truth.tolist() == [[0, 1], [1, 0]]
    assert result([event, (rest, [], False)], "vadclip", ("Normal", "G")).matched.n_truth.tolist() == [[0, 1], [0, 0]]
    assert result([event, normal], "abnormal-only", ("A", "G")).counters["n_truth"] == 1


def test_truth_past_the_scores_is_kept_by_vadclip_and_clipped_or_lost_elsewhere():
    line = column((16, 0.0), (16, 1.0))
    table = np.stack([1 - line, line], axis=1)
    videos = [(table, [(16, 64, "a"), (40, 64, "a")], True)]
    kept = result(videos, "vadclip", ("Normal", "a"))
    assert kept.per_class[:, 1] == pytest.approx([0.5, 0.5, 0.5, 0, 0])  # IoU 16/48
    clipped = result(videos, "abnormal-only", ("Normal", "a"))
    assert (clipped.counters["clipped"], clipped.counters["lost"]) == (1, 1)
    assert clipped.values == pytest.approx([1.0] * 5)


def test_vadclip_cuts_its_own_lengths_to_whole_snippets():
    line = column((16, 0.0), (16, 1.0), (10, 1.0))
    videos = [(np.stack([1 - line, line], axis=1), [(16, 32, "a")], True)]
    found = result(videos, "vadclip", ("Normal", "a"), tious=(1.0,))
    assert found.per_class[0, 1] == 1.0
    assert result(videos, "abnormal-only", ("Normal", "a"), tious=(1.0,)).values[0] == 0.0


def test_a_video_under_sixteen_frames_is_undefined_for_vadclip_and_works_elsewhere():
    line = column((4, 0.0), (6, 1.0))
    videos = [(np.stack([1 - line, line], axis=1), [(4, 10, "a")], True)]
    with pytest.raises(UndefinedMetricError, match="'v0' has 10 frames"):
        result(videos, "vadclip", ("Normal", "a"))
    assert result(videos, "abnormal-only", ("Normal", "a")).average == 1.0


def test_nan_names_the_video():
    table = np.full((32, 2), 0.5, dtype=np.float32)
    table[7, 1] = np.nan
    with pytest.raises(VerificationError, match=r"'v0'.*frame 7"):
        result([(table, [(0, 16, "a")], True)], "vadclip", ("Normal", "a"))


def test_activitynet_over_all_videos_counts_predictions_in_normal_ones():
    wave = column((16, 0.95), (48, 0.0))
    normal = (np.stack([1 - wave, wave], axis=1), [], False)
    line = column((16, 0.0), (16, 0.8), (32, 0.0))
    event = (np.stack([1 - line, line], axis=1), [(16, 32, "a")], True)
    both = [event, normal]
    assert result(both, "activitynet", ("Normal", "a")).average == 1.0
    assert result(both, "activitynet", ("Normal", "a"), videos="all").average == 0.5


def test_ties_are_counted_and_do_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(1)
    n = 60
    rows = Detections(
        rng.integers(0, 3, n),
        rng.integers(1, 3, n),
        4.0 * rng.integers(0, 8, n),
        40.0 + rng.integers(0, 8, n),
        rng.integers(0, 3, n) / 2,
    )
    ranked = detection.rank(rows, n_classes=3)
    again = detection.rank(rows.take(rng.permutation(n)), n_classes=3)
    for name in ("video", "label", "start", "end", "score"):
        assert np.array_equal(getattr(ranked, name), getattr(again, name))
    assert detection._ties(ranked)["tied_share"] > 0.9


def test_recall_looks_at_the_best_proposals_of_each_video():
    # proposals by score: [0, 16) .9, [32, 48) .8, [64, 80) .7; the event is the second
    line = column((16, 0.9), (16, 0.0), (16, 0.8), (16, 0.0), (16, 0.7), (16, 0.0))
    videos = [(np.stack([1 - line, line], axis=1), [(32, 48, "a")], True)]
    recall = detection.proposal_recall(detection_input(videos, ("Normal", "a")))
    assert recall == {"1": 0.0, "5": 1.0, "10": 1.0, "50": 1.0}


def test_ready_segments_replace_the_proposals():
    data = detection_input([(np.zeros((64, 2)), [(16, 32, "a")], True)], ("Normal", "a"))
    rows = Detections(np.array([0]), np.array([1]), np.array([16.0]), np.array([30.0]), np.array([0.2]))
    from dataclasses import replace

    found = detection.evaluate(replace(data, segments=rows, class_scores=None), "activitynet", tious=(0.5, 0.9))
    assert found.values.tolist() == [1.0, 0.0]


def test_unknown_protocol_says_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'vadclip'"):
        result([(np.zeros((32, 2)), [(0, 16, "a")], True)], "vadclp", ("Normal", "a"))


def test_measure_writes_one_object_a_protocol():
    videos = [(perfect(64, [(16, 32, "a")], CLASSES), [(16, 32, "a")], True)]
    found = detection.measure("map-iou", detection_input(videos, CLASSES), MetricOptions())
    assert set(found.extra) == set(PROTOCOLS)
    assert found.extra["abnormal-only"]["avg"] == 1.0
    assert found.extra["abnormal-only"]["per_class"]["a"]["0.5"] == 1.0


@st.composite
def small_cases(draw, grains=(3, 6, 1000)):
    """A few videos with coarse probabilities (ties on purpose) and overlapping, late or repeated events."""
    classes = ("A" if draw(st.booleans()) else "Normal", "a", "b", "c")[: draw(st.integers(2, 4))]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    videos = []
    for index in range(draw(st.integers(1, 5))):
        n = int(rng.integers(16, 90))
        width = int(rng.choice([1, 4, 8]))
        levels = int(rng.choice(grains))
        clips = rng.integers(0, levels, (n // width + 1, len(classes))) / levels
        table = np.repeat(clips, width, axis=0)[:n].astype(np.float32)
        events = []
        for _ in range(int(rng.integers(1, 4)) if index == 0 or rng.random() < 0.7 else 0):
            start = int(rng.integers(0, n - 1))
            end = int(min(start + rng.integers(1, 40), n + 8))
            events.append((start, end, str(rng.choice(classes[1:]))))
        if events and rng.random() < 0.2:
            events.append(events[0])
        videos.append((table, events, bool(events)))
    return videos, classes


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=1000, deadline=None, derandomize=True)
@cases(case=small_cases())
def test_agrees_with_frame_sets_and_loops(protocol, case):
    videos, classes = case
    tious = (0.1, 0.3, 0.5)
    found = result(videos, protocol, classes, tious=tious)
    means, aps = map_iou(videos, classes, protocol, tious)
    assert found.values == pytest.approx([means[t] for t in tious], abs=1e-9)
    for (tiou, label), ap in aps.items():
        assert found.per_class[tious.index(tiou), label] == pytest.approx(ap, abs=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=60, deadline=None, derandomize=True)
@cases(case=small_cases(grains=(10**6,)), seed=st.integers(0, 1000))
def test_reweighting_equals_evaluating_copies(protocol, case, seed):
    videos, classes = case
    weights = np.random.default_rng(seed).integers(0, 3, len(videos))
    weights[0] = 1
    copies = [v for v, w in zip(videos, weights, strict=True) for _ in range(w)]
    tious = (0.1, 0.5)
    whole = result(videos, protocol, classes, tious=tious)
    drawn = map_samples(whole, weights[None, :].astype(np.int64))[0]
    direct = result(copies, protocol, classes, tious=tious)
    assert drawn[:-1] == pytest.approx(direct.values, abs=1e-9)
    plain = average_precisions(whole.matched, None, protocol=protocol)
    ones = average_precisions(whole.matched, np.ones(len(videos), dtype=np.int64), protocol=protocol)
    assert np.array_equal(plain, ones, equal_nan=True)
