"""Video-level and operating figures, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics import operating, video
from pipelines.metrics._base import MetricOptions, UndefinedMetricError
from tests.metrics.build import given


def test_video_scores_are_the_maximum_or_the_mean_of_the_top_frames():
    data = given([[0.0] * 31 + [1.0], [0.5] * 16], [[0] * 31 + [1], [0] * 16])
    assert video.video_scores(data).tolist() == [1.0, 0.5]
    assert video.video_scores(data, "topk").tolist() == pytest.approx([1 / 3, 0.5])  # 32 // 16 + 1 = 3


def test_video_metrics_rank_videos():
    data = given([[0.9], [0.3], [0.5], [0.1]], [[1], [1], [0], [0]])
    options = MetricOptions(threshold=0.4)
    assert video.measure("video-auc", data, options).value == pytest.approx(3 / 4)
    assert video.measure("video-ap", data, options).value == pytest.approx((1 + 2 / 3) / 2)
    assert video.measure("video-acc", data, options).value == pytest.approx(2 / 4)


def test_accuracy_needs_a_threshold_that_somebody_learnt():
    with pytest.raises(UndefinedMetricError, match="threshold"):
        video.measure("video-acc", given([[0.9], [0.1]], [[1], [0]]), MetricOptions())


def test_thresholds_by_video_go_before_the_common_one():
    data = given([[0.9], [0.3], [0.5]], [[1], [1], [0]])
    options = MetricOptions(threshold=0.0, thresholds_by_video=np.array([0.8, 0.2, 0.6]))
    assert video.measure("video-acc", data, options).value == 1.0


def scene():
    """10 frames a second. A normal video of 60 s with alarms at 1.0-1.2 s, 1.5 s (same alarm), 10 s; one abnormal video."""
    quiet = np.zeros(600)
    quiet[10:12], quiet[15], quiet[100] = 0.9, 0.8, 0.7
    loud, truth = np.zeros(100), np.zeros(100, bool)
    truth[20:40], truth[60:70] = True, True
    loud[25:45] = 0.9  # overlaps the first event: 15 of 25 frames
    loud[90:92] = 0.6
    return given([quiet, loud], [np.zeros(600, bool), truth], fps=[10.0, 10.0])


def test_operating_figures_by_hand():
    found = operating.measure("operating", scene(), MetricOptions(threshold=0.5)).extra
    assert found["far@theta"] == pytest.approx(4 / 600)
    assert found["far@0.5"] == pytest.approx(4 / 600)
    assert found["fa_per_hour"] == pytest.approx(2 * 60)  # two alarms in a minute: the first two are under 1 s apart
    assert found["hit_rate"] == pytest.approx(1 / 2)
    assert found["delay_s"] == pytest.approx(0.5)
    assert found["event_precision"] == pytest.approx(1 / 4)
    assert found["event_recall"] == pytest.approx(1 / 2)


def test_what_is_unknown_is_null_with_its_reason():
    data = given([[0.0, 2.0, 1.0]], [[0, 1, 0]])
    found = operating.measure("operating", data, MetricOptions()).extra
    assert "no threshold" in found["hit_rate"]["reason"]
    assert (
        "no normal video"
        in operating.measure("operating", data, MetricOptions(threshold=1)).extra["far@theta"]["reason"]
    )
    assert "probabilities" in found["brier"]["reason"]
    seen = operating.measure("operating", given([[0.0], [2.0]], [[0], [1]]), MetricOptions(threshold=1)).extra
    assert "frame rate" in seen["fa_per_hour"]["reason"]


def test_equal_error_rate_and_false_positives_at_a_rate_run_on_straight_lines():
    fpr, tpr = np.array([0.0, 0.2, 1.0]), np.array([0.0, 0.6, 1.0])
    # from (.2, .6) to (1, 1): fpr = 1 - tpr at .2 + .8 s = .4 - .4 s, s = 1/6
    assert operating.equal_error_rate(fpr, tpr) == pytest.approx(1 / 3)
    assert operating.fpr_at_tpr(fpr, tpr, 0.95) == pytest.approx(0.9)
    assert operating.equal_error_rate(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])) == 0.0


def test_brier_and_calibration_by_hand():
    data = given([[0.1, 0.1, 0.9, 0.9]], [[0, 1, 1, 1]])
    assert operating.brier(data) == pytest.approx((0.01 + 0.81 + 0.01 + 0.01) / 4)
    # bins of .1 and of .9: |.1 - .5| and |.9 - 1|, half the frames each
    assert operating.calibration_error(data) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert operating.calibration_error(given([[1.0, 0.0]], [[1, 0]])) == 0.0


def test_alarms_join_only_below_the_gap():
    mask = np.array([1, 0, 0, 1, 0, 0, 0, 1], bool)
    assert operating.alarm_runs(mask, 3.0).tolist() == [[0, 4], [7, 8]]
    assert operating.alarm_runs(mask, 0.0).tolist() == [[0, 1], [3, 4], [7, 8]]


def test_an_event_is_found_once():
    truth = np.zeros(40, bool)
    truth[0:40] = True
    scores = np.ones(40)
    scores[18:22] = 0
    found = operating.events_found(given([scores], [truth]), np.array([0.5]))
    assert (found["precision"], found["recall"]) == (0.5, 1.0)
