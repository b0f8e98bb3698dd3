"""Small MetricInputs for tests."""

from __future__ import annotations

import numpy as np

from pipelines.metrics._base import MetricInput
from pipelines.metrics.operating import runs
from pipelines.records import Event


def given(scores, labels, *, events=None, classes=("normal", "abnormal"), class_scores=None, fps=(), **more):
    """A MetricInput of videos v0, v1, ...; events are the runs of the labels unless given as (start, end, label)."""
    labels = tuple(np.asarray(y, dtype=bool) for y in labels)
    if events is None:
        events = [[(int(a), int(b), classes[1]) for a, b in runs(y)] for y in labels]
    made = tuple(tuple(Event(*e) for e in ev) for ev in events)
    return MetricInput(
        video_ids=tuple(f"v{i}" for i in range(len(labels))),
        scores=tuple(np.asarray(s, dtype=np.float64) for s in scores),
        labels=labels,
        abnormal=np.array([bool(ev) for ev in made]),
        events=made,
        classes=tuple(classes),
        class_scores=None if class_scores is None else tuple(np.asarray(c, dtype=np.float32) for c in class_scores),
        fps=tuple(fps),
        **more,
    )


def detection_input(videos, classes):
    """From (probabilities (N, Y), events [(start, end, label)], abnormal)."""
    probabilities = [np.asarray(p, dtype=np.float32) for p, _, _ in videos]
    events = [e for _, e, _ in videos]
    blank = [np.zeros(len(p)) for p in probabilities]
    return given(blank, [b.astype(bool) for b in blank], events=events, classes=classes, class_scores=probabilities)
