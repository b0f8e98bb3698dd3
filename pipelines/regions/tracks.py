"""Tracks: which region of a frame continues which region of the frames before; and the tubes that follow them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.regions.boxes import Boxes, iou

MIN_IOU = 0.3
PATIENCE = 2  # frames that a track may be lost for

TubeKind = Literal["fixed", "tracked"]


def link(
    frame: NDArray[np.int64], box: Boxes, *, min_iou: float = MIN_IOU, patience: int = PATIENCE
) -> NDArray[np.int64]:
    """Track number of each region: (M,) int64, numbered in order of appearance.

    Regions of a frame are assigned to the last region of each open track so that the summed IoU is largest
    (Hungarian); a pair below `min_iou` is none. A track closes after `patience` frames without a region.

    Args:
        frame: (M,) sorted.
        box: (M, 4).
    """
    from scipy.optimize import linear_sum_assignment

    track = np.full(len(frame), -1, dtype=np.int64)
    last: dict[int, int] = {}  # open track -> its last row
    count = 0
    for now in np.unique(frame):
        rows = np.flatnonzero(frame == now)
        last = {number: row for number, row in last.items() if now - frame[row] <= patience + 1}
        numbers = list(last)
        if numbers:
            overlap = iou(box[[last[number] for number in numbers]], box[rows])
            for old, new in zip(*linear_sum_assignment(-overlap), strict=True):
                if overlap[old, new] >= min_iou:
                    track[rows[new]] = numbers[old]
        for row in rows:
            if track[row] < 0:
                track[row] = count
                count += 1
            last[int(track[row])] = int(row)
    return track


def tube_boxes(
    frame: NDArray[np.int64], box: Boxes, track: NDArray[np.int64], *, before: int, after: int = 0, kind: TubeKind
) -> Boxes:
    """Each region's box at the frames from `before` before it to `after` after it: (M, before + 1 + after, 4).

    `fixed` repeats the region. `tracked` takes its track's box at each frame: between two sightings the line between
    them, beyond the first and last sighting that one's box.
    """
    steps = np.arange(-before, after + 1)
    if kind == "fixed":
        return np.repeat(box[:, None], len(steps), axis=1)
    tubes = np.empty((len(frame), len(steps), 4), dtype=np.float32)
    order = np.lexsort((frame, track))
    for rows in np.split(order, np.flatnonzero(np.diff(track[order])) + 1) if len(order) else []:
        when = frame[rows][:, None] + steps  # (n, P)
        for axis in range(4):
            tubes[rows, :, axis] = np.interp(when, frame[rows], box[rows, axis])
    return tubes


def previous(frame: NDArray[np.int64], track: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row of the same track in the frame just before, or -1: (M,) int64."""
    found = np.full(len(frame), -1, dtype=np.int64)
    order = np.lexsort((frame, track))
    same = (track[order][1:] == track[order][:-1]) & (frame[order][1:] == frame[order][:-1] + 1)
    found[order[1:][same]] = order[:-1][same]
    return found
