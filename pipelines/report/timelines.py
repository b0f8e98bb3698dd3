"""What the report's page knows of each video: lossless scores as steps, truth, class curves for the eye."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics.operating import runs
from pipelines.records import Event

if TYPE_CHECKING:
    from pipelines.scoring.prepare import Prepared

CLASS_BYTES = 1_500_000  # of all class curves together; longer ones are drawn from the maximum of neighbouring steps
MIN_CLASS_STEPS = 64
SHOWN_CLASSES = 16  # of one video: its true ones, then those with the highest peaks
LEVELS = 255


def timelines(ready: Prepared, rows: Mapping[str, Mapping[str, Any]], *, derived: bool) -> list[dict[str, Any]]:
    """One JSON-ready object a video, in the order of `ready.data`.

    Args:
        ready: post-processed scores beside truth, as the evaluation measured them.
        rows: per_video.csv by video id.
        derived: class scores were made of the clip score, so that their curves say nothing more.
    """
    data, theta = ready.data, ready.options.thresholds_by_video
    room = _class_steps(len(data), min(len(data.classes) - 1, SHOWN_CLASSES))
    found = []
    for index, video in enumerate(data.video_ids):
        row = rows.get(video, {})
        one: dict[str, Any] = {
            "id": video,
            "classes": [name for name in str(row.get("classes", "")).split("|") if name],
            "abnormal": bool(data.abnormal[index]),
            "frames": len(data.scores[index]),
            "offset": ready.process.drop_first,
            "fps": _number(data.fps[index] if data.fps else None),
            "auc": _number(row.get("auc")),
            "events": [[e.start_frames, e.end_frames, e.label] for e in _events(data.events, index)],
            "positives": runs(data.labels[index]).tolist(),
            **encode_steps(data.scores[index]),
        }
        if theta is not None and math.isfinite(theta[index]):
            one["theta"] = float(theta[index])
        if data.class_scores is not None and not derived and len(data.classes) > 2:
            one["curves"] = class_curves(data.class_scores[index], data.classes, one["classes"], room=room)
        found.append(one)
    return found


def steps(scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(edges (S + 1,), values (S,)): frames [edges[i], edges[i + 1]) have the score values[i]; nothing is lost."""
    change = np.flatnonzero(np.diff(scores)) + 1
    edges = np.concatenate([[0], change, [len(scores)]]).astype(np.int64)
    return edges, scores[edges[:-1]]


def encode_steps(scores: NDArray[np.float64]) -> dict[str, Any]:
    """Scores (N,) as base64: `values` little-endian, 32 bits where those hold every one exactly and else 64 (`wide`);
    `edges` uint32 (S + 1,), left out where each frame is a step of its own."""
    edges, values = steps(scores)
    narrow = values.astype("<f4")
    wide = not np.array_equal(narrow.astype(np.float64), values)
    found: dict[str, Any] = {"values": _base64(values.astype("<f8") if wide else narrow)}
    if wide:
        found["wide"] = True
    if len(values) < len(scores):
        found["edges"] = _base64(edges.astype("<u4"))
    return found


def class_curves(
    scores: NDArray[np.float32], classes: Sequence[str], own: Sequence[str], *, room: int
) -> dict[str, Any]:
    """Class scores (N, Y) as curves for the eye: `names`, `edges` uint32, `values` uint8 (names x steps), 255 = `top`.

    At most `room` steps; where there are more, a step is the maximum of its neighbours, so that no peak is lost.
    The normal class is left out, and of many classes those that never rise.
    """
    change = np.flatnonzero(np.any(scores[1:] != scores[:-1], axis=1)) + 1
    starts = np.concatenate([[0], change])
    starts = starts[:: max(1, math.ceil(len(starts) / room))]
    highest = np.maximum.reduceat(scores, starts, axis=0)
    chosen = _chosen(highest, classes, own)
    values = highest[:, chosen]
    top = max(1.0, float(values.max(initial=0.0)))
    return {
        "names": [classes[i] for i in chosen],
        "edges": _base64(np.append(starts, len(scores)).astype("<u4")),
        "values": _base64(np.rint(np.clip(values / top, 0, 1) * LEVELS).astype(np.uint8).T),
        "top": top,
    }


def limits(ready: Prepared) -> tuple[float, float]:
    """The score axis of all videos: [0, 1] where the scores fill much of it, else their own range."""
    low = min(float(scores.min()) for scores in ready.data.scores)
    high = max(float(scores.max()) for scores in ready.data.scores)
    if low >= 0.0 and 0.5 <= high <= 1.0:
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _chosen(highest: NDArray[np.float32], classes: Sequence[str], own: Sequence[str]) -> list[int]:
    peaks = highest.max(axis=0)
    ranked = sorted(range(1, len(classes)), key=lambda i: (classes[i] not in own, -float(peaks[i]), i))
    return sorted(ranked[:SHOWN_CLASSES])


def _class_steps(videos: int, classes: int) -> int:
    return max(MIN_CLASS_STEPS, CLASS_BYTES // max(1, videos * classes))


def _events(events: Sequence[tuple[Event, ...]], index: int) -> tuple[Event, ...]:
    return events[index] if events else ()


def _number(value: Any) -> float | None:
    """A finite number; None for what is none (an empty cell of a csv)."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
