"""Arithmetic on boxes: float32 (M, 4) of x1, y1, x2, y2 in pixels of the frame, the far edges exclusive."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.recipe import Config

Boxes = NDArray[np.float32]

NEIGHBOUR = 0.1  # of the smaller area: from here on two boxes are neighbours [ours]
FRAME_SHARE, MEDIAN_SHARE = 0.25, 6.0  # a component beyond either is a crowd, and falls back [ours]
COVERED = 0.65  # `drop`: a box that a larger one covers by more [code] HF2-VAD, AI-VAD


class RegionConfig(Config):
    """How one frame's proposals become its regions, in this order (one-class reference, 2.2)."""

    max_boxes: int = Field(50, ge=1, description="the best proposals of a frame that are kept")
    min_side_px: float = Field(10.0, ge=0, description="a proposal with a shorter side is dropped")
    overlap: Literal["merge", "drop", "keep"] = Field(
        "merge", description="boxes that overlap: joined (paper), dropped where a larger one covers them, or kept"
    )
    enlarge: float = Field(1.25, ge=1, description="factor on width and height about the centre")
    square: bool = Field(True, description="extend the short side to the long one")


def regions_of(boxes: Boxes, scores: NDArray[np.float32], config: RegionConfig, *, size: tuple[int, int]) -> Boxes:
    """One frame's regions from its proposals: select -> overlap rule -> enlarge -> square -> shift inside.

    Args:
        boxes, scores: (M, 4) and (M,).
        size: (height, width) of the frame in pixels. A region larger than the frame still sticks out (`cut` pads it).
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = np.flatnonzero((sides >= config.min_side_px).all(axis=1))
    kept = kept[np.argsort(-scores[kept], kind="stable")][: config.max_boxes]
    chosen = boxes[kept]
    if config.overlap == "merge":
        chosen = merge(chosen, size=size)
    elif config.overlap == "drop":
        chosen = drop_covered(chosen)
    grown = enlarge(chosen, config.enlarge)
    return shift_inside(square(grown) if config.square else grown, size=size)


def area(boxes: Boxes) -> NDArray[np.float32]:
    """(M, 4) -> (M,) square pixels."""
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1), dtype=np.float32)


def intersection(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """(M, 4), (N, 4) -> (M, N) square pixels that each pair shares."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray((high - low).clip(min=0).prod(axis=2), dtype=np.float32)


def iou(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """(M, 4), (N, 4) -> (M, N) intersection over union; 0 for empty boxes."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-6), dtype=np.float32)


def smaller_share(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """(M, 4), (N, 4) -> (M, N) intersection over the smaller area; 0 for empty boxes."""
    smaller = np.minimum(area(a)[:, None], area(b)[None])
    return np.asarray(intersection(a, b) / np.maximum(smaller, 1e-6), dtype=np.float32)


def nms(boxes: Boxes, scores: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Greedy class-agnostic suppression: indices that stay, best first; a box goes when its IoU with a better one exceeds."""
    order = np.argsort(-scores, kind="stable")
    overlap = iou(boxes, boxes)
    kept: list[int] = []
    for index in order:
        if all(overlap[index, other] <= threshold for other in kept):
            kept.append(int(index))
    return np.array(kept, dtype=np.int64)


def merge(boxes: Boxes, *, size: tuple[int, int]) -> Boxes:
    """Boxes united with their neighbours: each connected component becomes its hull.

    A component whose hull covers more than 25 % of the frame, or 6 times its median member, is a crowd: there each box
    is united with its single best neighbour alone (transitive merging would make one giant box of it). [ours]
    """
    if len(boxes) < 2:
        return boxes
    share = smaller_share(boxes, boxes)
    np.fill_diagonal(share, 0.0)
    found = [part for members in _components(share > NEIGHBOUR) for part in _united(boxes, share, members, size)]
    return np.unique(np.stack(found), axis=0)


def drop_covered(boxes: Boxes) -> Boxes:
    """Boxes that no larger one covers by more than 65 %; of equal ones the first stays."""
    inside = intersection(boxes, boxes) / np.maximum(area(boxes)[:, None], 1e-6)
    sizes, places = area(boxes), np.arange(len(boxes))
    larger = (sizes[None] > sizes[:, None]) | ((sizes[None] == sizes[:, None]) & (places[None] < places[:, None]))
    kept = ~((inside > COVERED) & larger).any(axis=1)
    return np.asarray(boxes[kept], dtype=np.float32)


def enlarge(boxes: Boxes, factor: float) -> Boxes:
    """Width and height times `factor` about the centre."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.concatenate([centre - half * factor, centre + half * factor], axis=1)


def square(boxes: Boxes) -> Boxes:
    """The short side extended to the long one about the centre."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def shift_inside(boxes: Boxes, *, size: tuple[int, int]) -> Boxes:
    """Boxes moved, at their size, so that they stick out as little as possible; one larger than the frame is centred."""
    limit = np.array([size[1], size[0]], dtype=np.float32)
    low, side = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    moved = np.where(side <= limit, low.clip(0, np.maximum(limit - side, 0)), (limit - side) / 2)
    return np.concatenate([moved, moved + side], axis=1).astype(np.float32)


def _components(joined: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    count, labels = connected_components(csr_array(joined), directed=False)
    return [np.flatnonzero(labels == index) for index in range(count)]


def _united(
    boxes: Boxes, share: NDArray[np.float32], members: NDArray[np.int64], size: tuple[int, int]
) -> list[NDArray[np.float32]]:
    whole = _hull(boxes[members])
    extent = float(area(whole[None])[0])
    crowd = extent > FRAME_SHARE * size[0] * size[1] or extent > MEDIAN_SHARE * float(np.median(area(boxes[members])))
    if len(members) == 1 or not crowd:
        return [whole]
    return [_hull(boxes[[index, int(share[index].argmax())]]) for index in members]


def _hull(boxes: Boxes) -> NDArray[np.float32]:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
