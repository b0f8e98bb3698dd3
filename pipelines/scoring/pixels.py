"""Pixel truth beside the scores: masks, score maps, boxes, tracks made of masks, and the area of each event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VerificationError
from pipelines.metrics._base import Boxes
from pipelines.metrics.region import derived_tracks
from pipelines.records import Event, Scores
from pipelines.scoring.expand import mean_over_spans
from pipelines.store.scores import MAP

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset
    from pipelines.scoring.gather import Gathered
    from pipelines.scoring.prepare import EvalData

AREA = "area"
METRICS = ("pixel-auc", "rbdc", "tbdc")
DERIVED_TRACKS = "derived-tracks"
Masks = Sequence[NDArray[np.bool_]]


def with_pixels(
    data: EvalData,
    gathered: Gathered,
    scores: Mapping[str, Scores],
    dataset: Dataset,
    *,
    metrics: Sequence[str],
    by: Sequence[str],
    boxes: Path | None,
) -> EvalData:
    """`data` with what pixel metrics and `--by area` need; itself where nothing asks for it.

    Masks are read where a pixel metric is asked for by name, or maps or boxes are there to be measured, or events are
    to be told apart by area.

    Raises:
        VerificationError: masks of another number of frames than the video, or of different sizes.
    """
    maps = _maps(gathered, scores)
    by_area = any(word.partition(":")[0] == AREA for word in by)
    if not (maps or boxes or by_area or set(metrics) & set(METRICS)):
        return data
    masks = _masks(gathered, dataset)
    found = replace(data, pixel_scores=maps, pixel_masks=masks, boxes=_boxes(boxes, gathered, dataset))
    if masks is None:
        return found
    areas = [_areas(mask, events) for mask, events in zip(masks, gathered.annotated, strict=True)]
    tracks = derived_tracks(masks) if boxes else None
    return replace(found, areas=areas, tracks=tracks, tracks_from=DERIVED_TRACKS if tracks else "")


def _maps(gathered: Gathered, scores: Mapping[str, Scores]) -> list[NDArray[np.float32]] | None:
    """Per video (M, h, w), M the frames that carry a score; None where no video has a map."""
    given = [scores[video.id] for video in gathered.videos]
    having = [record.video_id for record in given if MAP in record.maps]
    if not having:
        return None
    lacking = [record.video_id for record in given if MAP not in record.maps]
    if lacking:
        raise VerificationError(
            f"video {lacking[0]!r} has no score maps, {len(having)} other videos have", hint="all or none"
        )
    return [_frames(record, one.covered) for record, one in zip(given, gathered.frames, strict=True)]


def _frames(record: Scores, covered: int) -> NDArray[np.float32]:
    """A map a frame from maps a clip (T, h, w): the mean over the clips that cover the frame, the last one held."""
    values = record.maps[MAP]
    if values.ndim != 3 or len(values) != len(record.spans):
        raise VerificationError(
            f"video {record.video_id!r}: maps of shape {values.shape}, expected ({len(record.spans)}, h, w)"
        )
    if len(values) == covered and (np.diff(record.spans, axis=1) == 1).all():
        return values
    flat = mean_over_spans(values.reshape(len(values), -1), record.spans, covered)
    return flat.reshape(covered, *values.shape[1:]).astype(np.float32)


def _masks(gathered: Gathered, dataset: Dataset) -> list[NDArray[np.bool_]] | None:
    """Per video (M, H, W); a normal video's are empty; None where an abnormal one has none."""
    read = [dataset.pixel_mask(video) for video in gathered.videos]
    sizes = {mask.shape[1:] for mask in read if mask is not None}
    if not sizes:
        return None
    found: list[NDArray[np.bool_]] = []
    for mask, truth, one in zip(read, gathered.truths, gathered.frames, strict=True):
        if mask is None:
            if truth.is_abnormal:
                return None
            mask = np.broadcast_to(np.False_, (truth.n_frames, *next(iter(sizes))))
        if len(mask) != truth.n_frames:
            raise VerificationError(
                f"video {one.video_id!r}: {len(mask)} pixel masks, but the video has {truth.n_frames} frames"
            )
        found.append(mask[: one.covered])
    return found


def _areas(mask: NDArray[np.bool_], events: Sequence[Event]) -> list[float]:
    """Per event the share of the picture that is masked, mean over the event's frames; 0 for one past the end."""
    share = mask.mean(axis=(1, 2))
    parts = [share[event.start_frames : event.end_frames] for event in events]
    return [float(part.mean()) if len(part) else 0.0 for part in parts]


def _boxes(path: Path | None, gathered: Gathered, dataset: Dataset) -> Boxes | None:
    from pipelines.data.ids import normalise_id, own_id
    from pipelines.store.boxes import read_boxes

    if path is None:
        return None
    spell: Callable[[str], str] = normalise_id if dataset.entry.ids == "published" else own_id
    ids = [video.id for video in gathered.videos]
    return read_boxes(path, ids, [truth.n_frames for truth in gathered.truths], normalise=spell)
