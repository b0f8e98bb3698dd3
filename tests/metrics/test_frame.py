"""Frame metrics: hand-worked cases, scikit-learn, published curves, invariances."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st
from sklearn.metrics import auc as area
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from pipelines.errors import VerificationError
from pipelines.metrics import frame
from pipelines.metrics._base import MetricOptions, UndefinedMetricError
from tests.metrics.build import given
from tests.metrics.reference import auc as pairwise_auc

OPTIONS = MetricOptions()


def value(name, data):
    return frame.measure(name, data, OPTIONS).value


def test_pooled_auc_counts_pairs_and_halves_ties():
    # positives 3, 2; negatives 2, 1, 0: pairs won 3 + 2.5 of 6
    data = given([[3.0, 2.0, 0.0], [2.0, 1.0]], [[1, 0, 0], [1, 0]])
    assert value("auc", data) == pytest.approx(5.5 / 6)


def test_ap_by_steps_and_by_trapezoids_on_a_tied_toy():
    # thresholds 2: tp 1 fp 0; 1: tp 2 fp 2; 0: tp 2 fp 3
    data = given([[2.0, 1.0, 1.0, 1.0, 0.0]], [[1, 1, 0, 0, 0]])
    assert value("ap", data) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    assert value("ap-trapezoid", data) == pytest.approx(0.5 * 1 + 0.5 * (1 + 0.5) / 2)


def test_abnormal_only_metrics_pool_the_frames_of_abnormal_videos():
    data = given([[0.9, 0.1], [0.2, 0.4], [5.0, 5.0]], [[1, 0], [1, 0], [0, 0]])
    assert value("ano-auc", data) == pytest.approx(3 / 4)  # .9 beats both, .2 beats .1 only
    assert value("ano-ap", data) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_minmax_metric_scales_each_video_and_zeroes_constant_ones():
    data = given([[10.0, 20.0], [0.1, 0.2], [7.0, 7.0]], [[0, 1], [0, 1], [0, 1]])
    found = frame.measure("auc-minmax", data, OPTIONS)
    assert found.value == pytest.approx(
        (2 * 3 + 1.5) / 9
    )  # ones beat three zeros; the constant positive ties with three
    assert found.extra["constant_videos"] == ["v2"]


def test_macro_auc_skips_single_class_videos_and_names_them():
    found = frame.measure("macro-auc", given([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1, 0], [1, 0], [1, 1]]), OPTIONS)
    assert found.value == pytest.approx(0.5)
    assert (found.extra["n_used"], found.extra["skipped"]) == (2, ["v2"])


def test_padded_macro_scales_then_adds_a_zero_and_a_one():
    # [2, 4] -> [0, 1]: negatives 0 (pad), 0; positives 1, 1 (pad) -> 1. All-abnormal [3, 1, 2] -> negative 0 against 1, 0, .5, 1.
    data = given([[2.0, 4.0], [3.0, 1.0, 2.0]], [[0, 1], [1, 1, 1]])
    assert value("macro-auc-pad", data) == pytest.approx((1.0 + 3.5 / 4) / 2)


def test_missing_variant_pads_only_videos_without_normal_frames():
    data = given([[2.0, 4.0], [3.0, 1.0, 2.0], [1.0, 2.0]], [[1, 0], [1, 1, 1], [0, 0]])
    found = frame.measure("macro-auc-pad-missing", data, OPTIONS)
    assert found.value == pytest.approx((0.0 + 2.5 / 3) / 2)
    assert found.extra["skipped"] == ["v2"]


def test_class_metrics_are_one_against_the_rest_and_drop_absent_classes():
    scores = [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.5, 0.4, 0.1]]
    data = given([np.zeros(4)], [[0, 1, 0, 0]], events=[[(1, 2, "b")]], classes=("n", "b", "c"), class_scores=[scores])
    found = frame.measure("class-auc", data, OPTIONS)
    assert found.extra["per_class"] == {"b": 1.0}
    assert found.extra["dropped"] == ["c"]
    assert frame.measure("class-ap", data, OPTIONS).value == 1.0


@pytest.mark.parametrize("labels", [[[0, 0], [0, 0]], [[1, 1], [1, 1]]])
@pytest.mark.parametrize("name", ["auc", "ap", "ap-trapezoid", "auc-minmax", "macro-auc"])
def test_single_class_labels_are_undefined_with_a_reason(name, labels):
    with pytest.raises(UndefinedMetricError, match=r"class|video"):
        value(name, given([[0.1, 0.2], [0.3, 0.4]], labels))


def test_a_nan_names_the_video_and_its_first_frame():
    with pytest.raises(VerificationError, match=r"'v1'.*frame 2 is nan"):
        given([[0.0, 1.0], [0.0, 1.0, np.nan]], [[0, 1], [0, 1, 0]]).check()


def test_wrong_length_names_the_video_and_both_numbers():
    with pytest.raises(VerificationError, match="'v0': 2 frame scores but 3 frame labels"):
        given([[0.0, 1.0]], [[0, 1, 0]]).check()


@settings(max_examples=150, deadline=None, derandomize=True)
@cases(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60))
def test_curve_agrees_with_scikit_learn_and_with_counting_pairs(items):
    scores, labels = np.array([s for s, _ in items], float), np.array([y for _, y in items])
    if labels.all() or not labels.any():
        return
    found = frame.curve(scores, labels)
    assert found.auc() == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.auc() == pytest.approx(pairwise_auc(scores, labels), abs=1e-12)
    assert found.ap_step() == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = precision_recall_curve(labels, scores)
    assert found.ap_trapezoid() == pytest.approx(area(recall, precision), abs=1e-12)
    assert frame.roc_area(*found.roc()) == pytest.approx(found.auc(), abs=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@cases(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=30).filter(
        lambda r: any(y and w for _, y, w in r) and any(not y and w for _, y, w in r)
    )
)
def test_weights_mean_copies(rows):
    scores, labels = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    weights = np.array([r[2] for r in rows])
    weighted, copied = (
        frame.curve(scores, labels, weights),
        frame.curve(np.repeat(scores, weights), np.repeat(labels, weights)),
    )
    for pick in (frame.Curve.auc, frame.Curve.ap_step, frame.Curve.ap_trapezoid):
        assert pick(weighted) == pytest.approx(pick(copied), abs=1e-12)


def test_monotone_maps_and_video_order_change_nothing():
    rng = np.random.default_rng(3)
    scores = [np.round(rng.random(n), 1) for n in (30, 50, 20, 40)]
    labels = [rng.random(len(s)) < 0.3 for s in scores]
    labels[3][:] = False
    plain = given(scores, labels)
    mapped = given([np.exp(3 * s) - 7 for s in scores], labels)
    turned = given(scores[::-1], labels[::-1])
    for name in ("auc", "ap", "ap-trapezoid", "ano-auc", "ano-ap", "macro-auc"):
        assert value(name, mapped) == pytest.approx(value(name, plain), abs=1e-12)
        assert value(name, turned) == pytest.approx(value(name, plain), abs=1e-12)


def test_published_roc_curves_have_their_stored_areas(shared):
    folder = shared / "annotations" / "ucf-crime"
    rows = list(csv.DictReader((folder / "roc_auc.csv").open(encoding="utf-8")))
    assert len(rows) == 4
    for row in rows:
        points = np.loadtxt(folder / row["file"], delimiter=",", skiprows=1)
        assert frame.roc_area(points[:, 0], points[:, 1]) == pytest.approx(float(row["stored_auc"]), abs=1e-9)


@pytest.mark.parametrize(("kind", "expected"), [("i3d", 0.730), ("c3d", 0.699)])
def test_published_shanghaitech_snippet_scores_give_their_known_auc(shared, kind, expected):
    folder = shared / "annotations" / "shanghaitech"
    masks = np.load(folder / "test_frame_mask.npz")
    clips = np.load(folder / f"mist_train_snippet_scores_{kind}.npz")
    videos = [v for v in clips.files if v in masks.files]
    assert len(videos) == 63
    lengths = [min(16 * len(clips[v]), len(masks[v])) for v in videos]
    data = given(
        [np.repeat(clips[v], 16)[:n] for v, n in zip(videos, lengths, strict=True)],
        [masks[v][:n] for v, n in zip(videos, lengths, strict=True)],
    )
    assert value("auc", data) == pytest.approx(expected, abs=5e-4)
