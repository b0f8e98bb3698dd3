"""Where it works and where not: the same metrics on groups of events or of videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.metrics._base import MetricInput
from pipelines.recipe import suggest
from pipelines.records import Event

BY = ("duration", "area", "class", "camera", "video-length")
THIRDS = ("low", "middle", "high")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """One group of a breakdown: its name, what it holds in words, and the input restricted to it."""

    name: str
    description: str
    data: MetricInput
    videos: int
    events: int


def groups(
    data: MetricInput, by: str, *, cameras: Sequence[str | None] = (), areas: Sequence[Sequence[float]] = ()
) -> list[Group]:
    """The groups of `by`; empty where the data does not know it.

    `camera` and `video-length` (thirds) take whole videos. `duration`, `area` (thirds) and `class` take events: normal
    videos stay, abnormal videos stay if they hold an event of the group, frames of other events alone are left out, and
    other events are not looked for. Thirds come from the truth, never from scores.

    Raises:
        UsageError: an unknown `by`.
    """
    if by not in BY:
        raise UsageError(f"unknown breakdown {by!r}{suggest(by, BY)}", hint=", ".join(BY))
    if by == "camera":
        return _by_camera(data, cameras)
    if by == "video-length":
        return _by_length(data)
    if by == "class":
        return _by_class(data)
    return _by_thirds(data, by, areas)


def _by_camera(data: MetricInput, cameras: Sequence[str | None]) -> list[Group]:
    names = sorted({c for c in cameras if c})
    return [_videos(data, n, f"camera {n}", np.array([c == n for c in cameras])) for n in names]


def _by_length(data: MetricInput) -> list[Group]:
    lengths = data.lengths.astype(np.float64)
    third, edges = _thirds(lengths)
    return [
        _videos(data, n, _range(edges, i, "frames"), third == i) for i, n in enumerate(THIRDS) if (third == i).any()
    ]


def _by_class(data: MetricInput) -> list[Group]:
    found = []
    for label in data.classes[1:]:
        group = _events(data, label, f"events of class {label}", lambda v, i, e, label=label: e.label == label)
        found += [group] if group.events else []
    return found


def _by_thirds(data: MetricInput, by: str, areas: Sequence[Sequence[float]]) -> list[Group]:
    values, unit = _event_values(data, by, areas)
    if not values:
        return []
    order = {key: place for place, key in enumerate(values)}
    third, edges = _thirds(np.array(list(values.values())))
    found = []
    for index, name in enumerate(THIRDS):
        wanted = {key for key, place in order.items() if third[place] == index}
        if wanted:
            found.append(_events(data, name, _range(edges, index, unit), lambda v, i, e, w=wanted: (v, i) in w))
    return found


def _event_values(
    data: MetricInput, by: str, areas: Sequence[Sequence[float]]
) -> tuple[dict[tuple[int, int], float], str]:
    if by == "area":
        return {(v, i): float(a) for v, row in enumerate(areas) for i, a in enumerate(row)}, "of the picture"
    seconds = len(data.fps) == len(data) and all(data.fps)
    found = {}
    for video, events in enumerate(data.events):
        for index, event in enumerate(events):
            frames = event.end_frames - event.start_frames
            found[(video, index)] = frames / float(data.fps[video] or 1) if seconds else float(frames)
    return found, "s" if seconds else "frames"


def _videos(data: MetricInput, name: str, description: str, keep: NDArray[np.bool_]) -> Group:
    chosen = data.subset(keep)
    return Group(name, description, chosen, len(chosen), sum(len(e) for e in chosen.events))


def _events(data: MetricInput, name: str, description: str, wanted: Callable[..., bool]) -> Group:
    """Normal videos, and abnormal ones with a wanted event; frames that only other events cover are cut out."""
    kept_events = [tuple(e for i, e in enumerate(ev) if wanted(v, i, e)) for v, ev in enumerate(data.events)]
    use = np.array([bool(kept_events[v]) or not data.abnormal[v] for v in range(len(data))], dtype=bool)
    masks = [_use_frames(data, v, kept_events[v]) for v in range(len(data))]
    chosen = replace(
        data,
        scores=tuple(s[m] for s, m in zip(data.scores, masks, strict=True)),
        labels=tuple(y[m] for y, m in zip(data.labels, masks, strict=True)),
        events=tuple(kept_events),
        class_scores=None,
        pixel_scores=None,
        pixel_masks=None,
    )
    # detection needs the uncut time axis: it runs on videos whose events are all wanted
    return Group(name, description, chosen.subset(use), int(use.sum()), sum(len(e) for e in kept_events))


def detection_input(data: MetricInput, group: Group) -> MetricInput:
    """For detection within a group of events: its videos with their whole time axis, without videos that also hold
    events outside the group."""
    inside = dict(zip(group.data.video_ids, group.data.events, strict=True))
    keep = [
        v in inside and len(inside[v]) == len(events) for v, events in zip(data.video_ids, data.events, strict=True)
    ]
    return data.subset(np.array(keep, dtype=bool))


def _use_frames(data: MetricInput, video: int, events: Sequence[Event]) -> NDArray[np.bool_]:
    mine = np.zeros(len(data.labels[video]), dtype=bool)
    for event in events:
        mine[max(0, event.start_frames) : event.end_frames] = True
    return ~data.labels[video] | mine


def _thirds(values: Floats) -> tuple[NDArray[np.int64], Floats]:
    edges = np.quantile(values, [0, 1 / 3, 2 / 3, 1])
    return np.searchsorted(edges[1:3], values, side="left"), edges


def _range(edges: Floats, index: int, unit: str) -> str:
    return f"{edges[index]:.4g} to {edges[index + 1]:.4g} {unit}"
