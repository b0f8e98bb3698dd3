"""Where it works and where not: the same metrics on groups of events or of videos."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.metrics._base import MetricInput
from pipelines.recipe import suggest
from pipelines.records import Event

BY = ("duration", "area", "class", "camera", "video-length")
THIRDS = {
    "duration": ("short", "medium", "long"),
    "area": ("small", "medium", "large"),
    "video-length": ("short", "medium", "long"),
}
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

    `camera` and `video-length` take whole videos. `duration`, `area` and `class` take events: normal videos stay,
    abnormal videos stay if they hold an event of the group, frames of other events alone are left out, and other events
    are not looked for. `duration`, `area` (share of the picture that an event's mask fills, mean over its frames) and
    `video-length` are cut in thirds, which come from the truth and never from scores, or at stated edges:
    `duration:1:10` has the groups below 1, from 1 to below 10, and from 10 on.

    Raises:
        UsageError: an unknown `by`, or edges that are no rising numbers.
    """
    by, edges = parse_by(by)
    if by == "camera":
        return _by_camera(data, cameras)
    if by == "video-length":
        return _by_length(data, edges)
    if by == "class":
        return _by_class(data)
    return _by_size(data, by, areas, edges)


def parse_by(text: str) -> tuple[str, Floats | None]:
    """`duration:1:10` as its kind and its edges; None where no edges are stated.

    Raises:
        UsageError: an unknown kind, or edges that are no rising numbers.
    """
    by, *words = text.split(":")
    if by not in BY:
        raise UsageError(f"unknown breakdown {by!r}{suggest(by, BY)}", hint=", ".join(BY))
    if not words:
        return by, None
    try:
        edges = np.array([float(word) for word in words])
    except ValueError:
        edges = np.zeros(2)
    if by not in THIRDS or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise UsageError(
            f"the breakdown {text!r} has no rising edges",
            hint="for example duration:1:10 (s), area:0.01:0.05 (share of the picture), video-length:1000 (frames)",
        )
    return by, edges


def _by_camera(data: MetricInput, cameras: Sequence[str | None]) -> list[Group]:
    names = sorted({c for c in cameras if c})
    return [_videos(data, n, f"camera {n}", np.array([c == n for c in cameras])) for n in names]


def _by_length(data: MetricInput, edges: Floats | None) -> list[Group]:
    part, bins = _binned(data.lengths.astype(np.float64), "video-length", "frames", edges)
    return [_videos(data, name, words, part == i) for i, (name, words) in enumerate(bins) if (part == i).any()]


def _by_class(data: MetricInput) -> list[Group]:
    found = []
    for label in data.classes[1:]:
        group = _events(data, label, f"events of class {label}", lambda v, i, e, label=label: e.label == label)
        found += [group] if group.events else []
    return found


def _by_size(data: MetricInput, by: str, areas: Sequence[Sequence[float]], edges: Floats | None) -> list[Group]:
    values, unit = _event_values(data, by, areas)
    if not values:
        return []
    order = {key: place for place, key in enumerate(values)}
    part, bins = _binned(np.array(list(values.values())), by, unit, edges)
    found = []
    for index, (name, words) in enumerate(bins):
        wanted = {key for key, place in order.items() if part[place] == index}
        if wanted:
            found.append(_events(data, name, words, lambda v, i, e, w=wanted: (v, i) in w))
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
        boxes=None,
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


def _binned(
    values: Floats, by: str, unit: str, edges: Floats | None
) -> tuple[NDArray[np.int64], list[tuple[str, str]]]:
    """Which part each value falls in, and the parts' names and descriptions: thirds, or cut at stated edges."""
    if edges is None:
        cuts = np.quantile(values, [0, 1 / 3, 2 / 3, 1])
        ranges = [f"{cuts[i]:.4g} to {cuts[i + 1]:.4g} {unit}" for i in range(3)]
        return np.searchsorted(cuts[1:3], values, side="left"), list(zip(THIRDS[by], ranges, strict=True))
    words = [f"{edge:g}" for edge in edges]
    names = [f"< {words[0]}", *(f"{a} - {b}" for a, b in itertools.pairwise(words)), f">= {words[-1]}"]
    return np.searchsorted(edges, values, side="right"), [(name, unit) for name in names]
