"""RBDC and TBDC: region- and track-based detection criteria (Ramachandra and Jones, Street Scene, WACV 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.metrics._base import (
    Bools,
    Boxes,
    Floats,
    Ints,
    Measure,
    MetricInput,
    MetricOptions,
    UndefinedMetricError,
)

NAME = "region"
SUMMARY = "region- and track-based detection criteria (RBDC, TBDC)"
METRICS = ("rbdc", "tbdc")
DEFINITIONS = {"rbdc": "rbdc", "tbdc": "tbdc"}
BETA = 0.1  # IoU at which a detection covers a box
ALPHA = 0.1  # share of a track's boxes that makes it found


@dataclass(frozen=True, slots=True)
class RegionCurves:
    """RBDR and TBDR (P,) against false positives per frame (P,), best score first."""

    rbdr: Floats
    tbdr: Floats
    fpr: Floats


def box_overlaps(boxes: Floats, others: Floats) -> Floats:
    """(P, G) intersection over union of boxes x1, y1, x2, y2 with inclusive pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.maximum(high - low + 1, 0).prod(axis=2)
    area, other = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1), (others[:, 2:] - others[:, :2] + 1).prod(axis=1)
    return np.asarray(shared / (area[:, None] + other[None, :] - shared))


def region_curves(tracks: Boxes, boxes: Boxes, n_frames: int) -> RegionCurves:
    """Detections of all videos by falling score (stable); each adds newly found boxes, or counts as a false positive.

    A detection covers every box of its frame with IoU >= 0.1. One that covers none is a false positive; one whose
    boxes were all found before is neither. A track is found once a tenth of its boxes is.
    """
    order = np.lexsort((boxes.frame, boxes.video, -boxes.value))
    covered = _covered(tracks, boxes)
    track_id, track = np.unique(np.stack([tracks.video, tracks.value.astype(np.int64)]), axis=1, return_inverse=True)
    track = track.reshape(-1)
    sizes = np.bincount(track)
    found_in_track = np.zeros(len(sizes), dtype=np.int64)
    found: Bools = np.zeros(len(track), dtype=bool)
    regions, hit_tracks, false = np.zeros(len(order)), np.zeros(len(order)), np.zeros(len(order))
    n_regions, n_tracks, n_false = 0, 0, 0
    for rank, index in enumerate(order):
        mine = covered[int(index)]
        new = mine[~found[mine]]
        found[new] = True
        for one in track[new]:
            before = found_in_track[one] >= ALPHA * sizes[one]
            found_in_track[one] += 1
            n_tracks += int(not before and found_in_track[one] >= ALPHA * sizes[one])
        n_regions, n_false = n_regions + len(new), n_false + int(len(mine) == 0)
        regions[rank], hit_tracks[rank], false[rank] = n_regions, n_tracks, n_false
    return RegionCurves(regions / len(track), hit_tracks / track_id.shape[1], false / n_frames)


def derived_tracks(masks: Sequence[Bools]) -> Boxes:
    """Tracks made of pixel masks, per video (N, H, W): connected components, linked to the next frame's by overlap.

    A component continues the track of the component before it that shares most pixels with it; where two continue one,
    the larger overlap keeps it and the other starts anew ([ours]: name such results `derived-tracks`).
    """
    rows: list[tuple[float, ...]] = []
    for video, frames in enumerate(masks):
        last, numbers, count = np.zeros(frames.shape[1:], dtype=np.int64), np.zeros(1, dtype=np.int64), 0
        for frame, mask in enumerate(frames):
            parts, n_parts = label_parts(mask)
            numbers, count = _continue(parts, n_parts, last, numbers, count)
            for part in range(1, n_parts + 1):
                y, x = np.nonzero(parts == part)
                rows.append((video, frame, x.min(), y.min(), x.max(), y.max(), numbers[part]))
            last = parts
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)
    return Boxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:6], table[:, 6])


def label_parts(mask: Bools) -> tuple[Ints, int]:
    """(H, W) numbers 1, 2, ... of the 8-connected components of a mask, and how many there are."""
    from scipy import ndimage

    parts, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int64))
    return np.asarray(parts, dtype=np.int64), int(count)


def area_to_one(fpr: Floats, rate: Floats) -> float:
    """Trapezoid under `rate` over [0, 1]; the last value runs on flat, points beyond 1 are cut on a straight line."""
    x, y = np.concatenate([[0.0], fpr]), np.concatenate([[0.0], rate])
    inside = x <= 1.0
    if inside.all():
        x, y = np.append(x, 1.0), np.append(y, y[-1])
    else:
        edge = float(np.interp(1.0, x, y))
        x, y = np.append(x[inside], 1.0), np.append(y[inside], edge)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
    """`rbdc` or `tbdc`; see `MetricModule.measure`."""
    if data.tracks is None or data.boxes is None:
        raise UndefinedMetricError(
            "there are no boxes"
            if data.boxes is None
            else "there are no region tracks, and no pixel masks to make any",
            hint="--boxes FILE: csv of video, frame, x1, y1, x2, y2, score",
        )
    if not len(data.tracks.video):
        raise UndefinedMetricError("there is no labelled region")
    n_frames = int(data.lengths.sum())
    curves = region_curves(data.tracks, data.boxes, n_frames)
    value = area_to_one(curves.fpr, curves.rbdr if name == "rbdc" else curves.tbdr)
    return Measure(
        value,
        DEFINITIONS[name],
        n_frames,
        {"boxes": len(data.tracks.video), "detections": len(data.boxes.video), "tracks": data.tracks_from or "given"},
    )


def _covered(tracks: Boxes, boxes: Boxes) -> list[Ints]:
    """Per detection the indices of the truth boxes it covers."""
    by_frame: dict[tuple[int, int], list[int]] = {}
    for index, key in enumerate(zip(tracks.video.tolist(), tracks.frame.tolist(), strict=True)):
        by_frame.setdefault(key, []).append(index)
    found = []
    for index, key in enumerate(zip(boxes.video.tolist(), boxes.frame.tolist(), strict=True)):
        here = np.array(by_frame.get(key, []), dtype=np.int64)
        if len(here):
            here = here[box_overlaps(boxes.box[index : index + 1], tracks.box[here])[0] >= BETA]
        found.append(here)
    return found


def _continue(parts: Ints, n_parts: int, last: Ints, numbers: Ints, count: int) -> tuple[Ints, int]:
    """Track numbers of this frame's components (index 0 unused), given the last frame's, and the tracks so far."""
    shared = (parts > 0) & (last > 0)
    pairs, times = np.unique(np.stack([parts[shared], last[shared]]), axis=1, return_counts=True)
    found = np.full(n_parts + 1, -1, dtype=np.int64)
    taken: set[int] = set()
    for index in np.argsort(-times, kind="stable"):
        part, before = int(pairs[0, index]), int(pairs[1, index])
        if found[part] < 0 and before not in taken:
            found[part] = numbers[before]
            taken.add(before)
    for part in range(1, n_parts + 1):
        if found[part] < 0:
            found[part], count = count, count + 1
    return found, count
