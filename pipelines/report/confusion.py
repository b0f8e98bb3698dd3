"""Which class is taken for which: frames by their true class and by the class with the highest score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Event

if TYPE_CHECKING:
    from pipelines.metrics._base import MetricInput

SHOWN = 20  # classes with a row and a column of their own
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Confusion:
    """counts (R, R): frames of the true class `names[row]` whose highest class score is `names[column]`.

    `ambiguous` frames, which several classes claim, are left out.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    ambiguous: int


def confusion(data: MetricInput) -> Confusion | None:
    """The matrix over all frames, the normal class first; None without class scores or with one anomaly class.

    Classes without a true frame that are never chosen are left out; of more than SHOWN the rarest become one.
    """
    if data.class_scores is None or len(data.classes) < 3:
        return None
    size = len(data.classes)
    counts, ambiguous = np.zeros((size, size), dtype=np.int64), 0
    for index, scores in enumerate(data.class_scores):
        true, claims = _true_classes(data.events[index], data.classes, len(scores))
        clear = claims < 2
        ambiguous += int((~clear).sum())
        pairs = true[clear] * size + scores[clear].argmax(axis=1)
        counts += np.bincount(pairs, minlength=size * size).reshape(size, size)
    return _shown(data.classes, counts, ambiguous)


def _true_classes(
    events: Sequence[Event], classes: Sequence[str], n_frames: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each frame its true class (0 where there is none) and how many classes claim it, both (N,)."""
    true, claims = np.zeros(n_frames, dtype=np.int64), np.zeros(n_frames, dtype=np.int64)
    for label in {event.label for event in events} & set(classes[1:]):
        line = np.zeros(n_frames, dtype=bool)
        for event in events:
            if event.label == label:
                line[max(0, event.start_frames) : event.end_frames] = True
        claims += line
        true[line] = list(classes).index(label)
    return true, claims


def _shown(classes: tuple[str, ...], counts: NDArray[np.int64], ambiguous: int) -> Confusion:
    weight = counts.sum(axis=1) + counts.sum(axis=0)
    used = [i for i in range(len(classes)) if i == 0 or weight[i]]
    own = sorted([0, *sorted(used[1:], key=lambda i: (-counts[i].sum(), -weight[i]))[: SHOWN - 1]])
    rest = [i for i in used if i not in own]
    if not rest:
        return Confusion(tuple(classes[i] for i in own), counts[np.ix_(own, own)], ambiguous)
    place = np.full(len(classes), len(own))
    place[own] = np.arange(len(own))
    merged = np.zeros((len(own) + 1, len(own) + 1), dtype=np.int64)
    np.add.at(merged, (place[:, None], place[None, :]), counts)
    return Confusion((*(classes[i] for i in own), f"{len(rest)} {OTHERS}"), merged, ambiguous)
