"""Box arithmetic and the rules that make regions of proposals, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.regions.boxes import (
    RegionConfig,
    drop_covered,
    enlarge,
    iou,
    merge,
    nms,
    regions_of,
    shift_inside,
    smaller_share,
    square,
)

SIZE = (240, 360)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_overlap_measures_by_hand():
    a, b = boxes((0, 0, 10, 10)), boxes((5, 0, 15, 10), (0, 0, 5, 2), (20, 20, 30, 30))
    np.testing.assert_allclose(iou(a, b), [[50 / 150, 10 / 100, 0]], rtol=1e-6)
    np.testing.assert_allclose(smaller_share(a, b), [[0.5, 1.0, 0]], rtol=1e-6)


def test_nms_keeps_the_best_of_each_pile():
    found = nms(boxes((0, 0, 10, 10), (1, 0, 11, 10), (50, 50, 60, 60)), np.array([0.5, 0.9, 0.1], np.float32), 0.5)
    assert found.tolist() == [1, 2]


def test_neighbours_are_joined_and_others_stay():
    rider, bicycle, far = (100, 50, 120, 90), (98, 80, 124, 100), (200, 50, 220, 90)
    assert sorted(map(tuple, merge(boxes(rider, bicycle, far), size=SIZE).tolist())) == [(98, 50, 124, 100), far]
    # boxes that touch by less than a tenth of the smaller one are no neighbours
    apart = boxes((0, 0, 20, 20), (19, 0, 39, 20))
    assert len(merge(apart, size=SIZE)) == 2


def test_a_crowd_does_not_become_one_giant_box():
    chain = boxes(*((20 + 15 * i, 100, 40 + 15 * i, 140) for i in range(10)))  # each overlaps the next by a quarter
    hull = 155 * 40
    assert hull > 6 * 800  # the component is more than six times its median member: the rule falls back
    found = merge(chain, size=SIZE)
    assert found[:, 2].max() - found[:, 0].min() == 155
    assert ((found[:, 2] - found[:, 0]) == 35).all()  # pairs
    assert len(merge(chain[:4], size=SIZE)) == 1  # 65 * 40 stays below the limit


def test_a_component_over_a_quarter_of_the_frame_falls_back_too():
    large = boxes((0, 0, 150, 130), (140, 0, 290, 130), (280, 0, 350, 130))
    assert (290 - 0) * 130 > 0.25 * 240 * 360
    assert len(merge(large, size=SIZE)) > 1


def test_enlarging_squaring_and_shifting_in_that_order():
    grown = enlarge(boxes((100, 100, 120, 140)), 1.25)
    np.testing.assert_allclose(grown, [[97.5, 95, 122.5, 145]])
    np.testing.assert_allclose(square(grown), [[85, 95, 135, 145]])
    np.testing.assert_allclose(shift_inside(boxes((-10, 220, 40, 270)), size=SIZE), [[0, 190, 50, 240]])
    # a region larger than the frame is centred and sticks out on both sides
    np.testing.assert_allclose(shift_inside(boxes((0, 0, 300, 300)), size=SIZE), [[0, -30, 300, 270]])
    found = regions_of(boxes((100, 100, 120, 140)), np.ones(1, np.float32), RegionConfig(), size=SIZE)
    np.testing.assert_allclose(found, [[85, 95, 135, 145]])


def test_selection_takes_the_best_and_drops_the_narrow():
    given = boxes((0, 0, 9, 40), (100, 100, 120, 120), (200, 100, 220, 120), (300, 100, 320, 120))
    config = RegionConfig(max_boxes=2, overlap="keep", enlarge=1.0, square=False)
    found = regions_of(given, np.array([0.9, 0.2, 0.8, 0.5], np.float32), config, size=SIZE)
    assert found[:, 0].tolist() == [200, 300]


def test_no_boxes_stay_no_boxes():
    for overlap in ("merge", "drop", "keep"):
        found = regions_of(boxes(), np.zeros(0, np.float32), RegionConfig(overlap=overlap), size=SIZE)
        assert found.shape == (0, 4) and found.dtype == np.float32


def test_dropping_covered_boxes_keeps_the_larger_and_one_of_equals():
    found = drop_covered(boxes((0, 0, 10, 10), (0, 0, 40, 40), (50, 50, 60, 60), (50, 50, 60, 60)))
    assert found.tolist() == [[0, 0, 40, 40], [50, 50, 60, 60]]


@pytest.mark.parametrize("name", ["max_boxes", "enlarge"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ValueError):
        RegionConfig(**{name: 0})
