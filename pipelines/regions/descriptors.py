"""What boxes say without their pixels: where and how large they are, and how their tracks move."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipelines.regions.boxes import Boxes
from pipelines.regions.tracks import previous


def geometry(
    frame: NDArray[np.int64], box: Boxes, track: NDArray[np.int64], *, size: tuple[int, int]
) -> NDArray[np.float32]:
    """(M, 4): centre x, centre y, width, height, all in heights of the frame (one-class reference, `boxes`)."""
    low, high = box[:, :2], box[:, 2:]
    return np.asarray(np.concatenate([(low + high) / 2, high - low], axis=1) / size[0], dtype=np.float32)


def motion_of_tracks(
    frame: NDArray[np.int64], box: Boxes, track: NDArray[np.int64], *, size: tuple[int, int], window: int = 5
) -> NDArray[np.float32]:
    """(M, 2): speed of the track in box heights a frame over the last `window` frames, and width / height (`tracks`).

    A track that begins in this frame takes the speed of its next sighting; one that is seen once has none (0).
    """
    centre, sides = (box[:, :2] + box[:, 2:]) / 2, np.maximum(box[:, 2:] - box[:, :2], 1e-3)
    speed = np.zeros(len(frame), dtype=np.float32)
    before, earliest = previous(frame, track), np.arange(len(frame))
    for _ in range(window):
        earliest = np.where(before[earliest] >= 0, before[earliest], earliest)
    steps = frame - frame[earliest]
    moved = np.linalg.norm(centre - centre[earliest], axis=1)
    known = steps > 0
    speed[known] = moved[known] / steps[known] / sides[known, 1]
    for row in np.flatnonzero(~known):
        later = np.flatnonzero((before == row) & known)
        speed[row] = speed[later[0]] if len(later) else 0.0
    return np.stack([speed, sides[:, 0] / sides[:, 1]], axis=1).astype(np.float32)


DESCRIPTORS: dict[str, Callable[..., NDArray[np.float32]]] = {"boxes": geometry, "tracks": motion_of_tracks}
WIDTHS = {"boxes": 4, "tracks": 2}
