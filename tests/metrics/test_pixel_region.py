"""Pixel AUC, RBDC and TBDC on toys that fit on paper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pipelines.errors import VerificationError
from pipelines.metrics import pixel, region
from pipelines.metrics._base import Boxes, MetricOptions, UndefinedMetricError
from tests.metrics.build import given

OPTIONS = MetricOptions()


def boxes(*rows):
    """From (video, frame, x1, y1, x2, y2, value)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Boxes(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:6], table[:, 6])


def test_pixel_auc_pools_every_pixel_and_halves_ties():
    rng = np.random.default_rng(0)
    maps = [rng.integers(-3, 4, (2, 5, 6)).astype(np.float32), rng.integers(-3, 4, (3, 4, 4)).astype(np.float32)]
    masks = [rng.random(m.shape) < 0.3 for m in maps]
    data = given([[0.0] * 2, [0.0] * 3], [[0, 1], [0, 1, 0]], pixel_scores=tuple(maps), pixel_masks=tuple(masks))
    expected = roc_auc_score(np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps]))
    found = pixel.measure("pixel-auc", data, OPTIONS)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.n == 2 * 30 + 3 * 16


def test_pixel_keys_keep_the_order_of_floats():
    values = np.array([-np.inf, -2.0, -1e-20, -0.0, 0.0, 1e-20, 0.5, 1.0, 1.001, np.inf], dtype=np.float32)
    keys = pixel.sort_keys(values)
    assert keys[3] == keys[4]
    assert (np.diff(np.delete(keys, 3)) > 0).all()


def test_pixel_auc_says_what_is_missing_and_refuses_another_count_of_frames():
    with pytest.raises(UndefinedMetricError, match="maps"):
        pixel.measure("pixel-auc", given([[0.0]], [[0]]), OPTIONS)
    wrong = given(
        [[0.0]], [[1]], pixel_scores=(np.zeros((2, 2, 2), np.float32),), pixel_masks=(np.zeros((1, 2, 2), bool),)
    )
    with pytest.raises(VerificationError, match="'v0'"):
        pixel.measure("pixel-auc", wrong, OPTIONS)


def test_smaller_maps_are_enlarged_as_it_is_said():
    maps = np.array([[[0.0, 1.0]]], dtype=np.float32)  # one frame of 1 x 2, masks of 2 x 4
    masks = np.zeros((1, 2, 4), bool)
    masks[0, :, 3] = True
    data = given([[0.0]], [[1]], pixel_scores=(maps,), pixel_masks=(masks,))
    (nearest,) = pixel.enlarged(maps, (2, 4), "nearest")
    (bilinear,) = pixel.enlarged(maps, (2, 4), "bilinear")
    # centres of 4 cells over 2 lie at -1/4, 1/4, 3/4, 5/4 of the old centres: flat outside, straight between
    np.testing.assert_allclose(nearest, [[0, 0, 1, 1]] * 2)
    np.testing.assert_allclose(bilinear, [[0, 0.25, 0.75, 1]] * 2)
    found = pixel.measure("pixel-auc", data, OPTIONS)
    assert (found.value, found.extra["enlarged"], found.extra["maps"]) == (1.0, "bilinear", ["1x2"])
    near = pixel.measure("pixel-auc", data, replace(OPTIONS, map_resize="nearest"))
    assert near.value == pytest.approx((4 + 2 / 2) / 6)  # the two positives tie with 2 of 6 negatives
    assert near.extra["enlarged"] == "nearest"


def test_two_frames_two_tracks_by_hand():
    # track 0 in both frames, track 1 in the second; 2 frames
    tracks = boxes((0, 0, 0, 0, 9, 9, 0), (0, 1, 0, 0, 9, 9, 0), (0, 1, 50, 50, 59, 59, 1))
    found = boxes(
        (0, 0, 0, 0, 9, 9, 0.9),  # finds a box of track 0: RBDR 1/3, TBDR 1/2
        (0, 0, 1, 1, 9, 9, 0.8),  # already found: neither
        (0, 1, 80, 80, 89, 89, 0.7),  # misses: FPR 1/2
        (0, 1, 0, 0, 9, 9, 0.6),  # RBDR 2/3
        (0, 0, 90, 90, 95, 95, 0.5),  # FPR 1
        (0, 1, 50, 50, 59, 59, 0.4),  # RBDR 1, TBDR 1, at FPR 1
    )
    curves = region.region_curves(tracks, found, 2)
    assert curves.rbdr == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert curves.tbdr == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.5, 1])
    assert curves.fpr == pytest.approx([0, 0, 0.5, 0.5, 1, 1])
    data = given([[0.0, 0.0]], [[1, 1]], tracks=tracks, boxes=found)
    assert region.measure("rbdc", data, OPTIONS).value == pytest.approx(0.5 / 3 + 0.5 * 2 / 3)
    assert region.measure("tbdc", data, OPTIONS).value == pytest.approx(0.5)


def test_one_detection_may_cover_two_boxes_with_inclusive_pixels():
    tracks = boxes((0, 0, 0, 0, 0, 9, 0), (0, 0, 9, 0, 9, 9, 1))
    found = boxes((0, 0, 0, 0, 9, 9, 1.0))
    assert region.box_overlaps(found.box, tracks.box)[0] == pytest.approx([0.1, 0.1])  # 10 of 100 pixels: just enough
    assert region.region_curves(tracks, found, 1).rbdr.tolist() == [1.0]


def test_the_last_rate_runs_on_and_points_beyond_one_are_cut():
    assert region.area_to_one(np.array([0.0, 0.5]), np.array([0.2, 0.6])) == pytest.approx(0.5 * 0.4 + 0.5 * 0.6)
    assert region.area_to_one(np.array([0.0, 2.0]), np.array([0.0, 1.0])) == pytest.approx(0.25)


def test_a_detection_in_another_video_or_frame_finds_nothing():
    tracks = boxes((0, 0, 0, 0, 9, 9, 0))
    curves = region.region_curves(tracks, boxes((1, 0, 0, 0, 9, 9, 1.0), (0, 3, 0, 0, 9, 9, 0.5)), 4)
    assert curves.rbdr.tolist() == [0, 0]
    assert curves.fpr.tolist() == [0.25, 0.5]


def test_derived_tracks_follow_overlap_and_split_to_the_larger_share():
    masks = np.zeros((4, 8, 12), dtype=bool)
    masks[0, 1:3, 0:6] = True  # one piece
    masks[1, 1:3, 0:4], masks[1, 1:3, 5:6] = True, True  # splits: the left part shares more
    masks[2, 1:3, 1:5], masks[2, 6:8, 9:12] = True, True  # the left goes on, a new piece appears
    found = region.derived_tracks([masks])
    assert list(zip(found.frame.tolist(), found.value.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 2),
    ]
    assert found.box[0].tolist() == [0, 1, 5, 2]
    assert found.box[-1].tolist() == [9, 6, 11, 7]


def test_perfect_boxes_over_the_derived_tracks_of_ped2_reach_one(shared):
    arrays = np.load(shared / "ped2" / "gt_masks.npz", allow_pickle=False)
    masks = [arrays[v] for v in sorted(arrays.files)]
    tracks = region.derived_tracks(masks)
    perfect = Boxes(tracks.video, tracks.frame, tracks.box, np.ones(len(tracks.video)))
    labels = [m.any(axis=(1, 2)) for m in masks]
    data = given([y * 1.0 for y in labels], labels, tracks=tracks, boxes=perfect)
    assert region.measure("rbdc", data, OPTIONS).value == 1.0
    assert region.measure("tbdc", data, OPTIONS).value == 1.0
    assert len(set(zip(tracks.video.tolist(), tracks.frame.tolist(), strict=True))) == 1648
