"""Tracks, tubes and crops: followed by hand, and cut where the frame ends."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.regions.crops import cut_regions
from pipelines.regions.descriptors import geometry, motion_of_tracks
from pipelines.regions.tracks import link, previous, tube_boxes

# two objects cross: one moves right by 4 a frame, the other left; the second is not seen in frame 2
FRAME = np.array([0, 0, 1, 1, 2, 3, 3])
BOX = np.array(
    [
        [0, 0, 20, 20], [100, 40, 120, 60],
        [4, 0, 24, 20], [96, 40, 116, 60],
        [8, 0, 28, 20],
        [88, 40, 108, 60], [12, 0, 32, 20],
    ],
    np.float32,
)  # fmt: skip


def test_objects_keep_their_track_over_a_gap():
    track = link(FRAME, BOX)
    assert track.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert link(FRAME, BOX, patience=0).tolist() == [0, 1, 0, 1, 0, 2, 0]
    assert previous(FRAME, track).tolist() == [-1, -1, 0, 1, 2, -1, 4]


def test_tubes_stay_or_follow_and_fill_gaps_on_a_line():
    track = link(FRAME, BOX)
    fixed = tube_boxes(FRAME, BOX, track, before=2, kind="fixed")
    assert fixed.shape == (7, 3, 4) and (fixed[6] == BOX[6]).all()
    tracked = tube_boxes(FRAME, BOX, track, before=2, after=1, kind="tracked")
    assert tracked[6, :, 0].tolist() == [4, 8, 12, 12]  # beyond the last sighting the box stays
    assert tracked[5, :, 0].tolist() == [96, 92, 88, 88]  # frame 2 lies halfway between 96 and 88
    assert tracked[0, :, 0].tolist() == [0, 0, 0, 4]


def test_no_regions_make_no_tubes():
    none = np.zeros(0, np.int64)
    assert link(none, np.zeros((0, 4), np.float32)).shape == (0,)
    for kind in ("fixed", "tracked"):
        assert tube_boxes(none, np.zeros((0, 4), np.float32), none, before=1, kind=kind).shape == (0, 2, 4)
    assert motion_of_tracks(none, np.zeros((0, 4), np.float32), none, size=(10, 10)).shape == (0, 2)


def test_descriptors_of_boxes_by_hand():
    track = link(FRAME, BOX)
    np.testing.assert_allclose(geometry(FRAME, BOX, track, size=(100, 200))[1], [1.1, 0.5, 0.2, 0.2])
    speed, aspect = motion_of_tracks(FRAME, BOX, track, size=(100, 200)).T
    np.testing.assert_allclose(speed[[0, 2, 4, 6]], 4 / 20)  # the first takes the speed of its next sighting
    np.testing.assert_allclose(aspect, 1.0)


def test_crops_hold_the_box_and_repeat_the_edge():
    frame = np.zeros((40, 60, 3), np.uint8)
    frame[10:20, 30:40] = (255, 0, 7)
    (inside,) = cut_regions(frame[None], np.array([[[30, 10, 40, 20]]], np.float32), size=(10, 10))
    assert inside.shape == (1, 10, 10, 3) and (inside == torch.tensor([255, 0, 7], dtype=torch.uint8)).all()
    frame[:, :5] = 99
    (padded,) = cut_regions(frame[None], np.array([[[-10, 0, 10, 20]]], np.float32), size=(20, 20))
    assert (padded[0, :, :15] == 99).all() and (padded[0, :, 15:] == 0).all()
    outside = cut_regions(frame[None], np.array([[[-30, -30, -10, -10]]], np.float32), size=(4, 4))
    assert (outside == 99).all()


def test_a_tube_is_cut_frame_by_frame():
    frames = np.zeros((2, 20, 20, 3), np.uint8)
    frames[0, :10], frames[1, 10:] = 10, 20
    tube = np.array([[[0, 0, 10, 10], [0, 10, 10, 20]]], np.float32)
    crops = cut_regions(frames, tube, size=(8, 8))
    assert crops.shape == (1, 2, 8, 8, 3) and (crops[0, 0] == 10).all() and (crops[0, 1] == 20).all()
