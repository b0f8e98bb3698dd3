"""Plain implementations of the definitions, frame sets and loops, to check the fast ones against (and to time them)."""

from __future__ import annotations

import numpy as np

NORMAL_LABEL = "A"


def proposals(probabilities, unit=16, one=False):
    """(class, start, end, score) of one video, by walking over its frames."""
    n_frames, n_classes = probabilities.shape
    top = n_frames // unit or (1 if one else 0)
    found = []
    for c in range(n_classes):
        column = [float(x) for x in probabilities[:, c]]
        q = sum(sorted(column, reverse=True)[:top]) / top
        threshold = max(column) - 0.6 * (max(column) - min(column))
        start = None
        for t in range(n_frames + 1):
            above = t < n_frames and column[t] > threshold
            if above and start is None:
                start = t
            if not above and start is not None:
                if t - start >= 2:
                    found.append((c, start, t, max(column[start:t]) + 0.7 * q))
                start = None
    return found


def iou(a, b):
    """Intersection over union of two frame sets."""
    one, two = set(range(int(a[0]), int(a[1]))), set(range(int(b[0]), int(b[1])))
    return len(one & two) / len(one | two)


def map_iou(videos, classes, protocol, tious):
    """{tiou: mAP}, {(tiou, class): AP}. `videos` is a list of (probabilities (N, Y), events [(start, end, label)], abnormal)."""
    everything, truth = [], []
    for number, (probabilities, events, abnormal) in enumerate(videos):
        if protocol != "vadclip" and not abnormal:
            continue
        n_frames = len(probabilities)
        if protocol == "vadclip":
            probabilities = probabilities[: n_frames // 16 * 16]
        for c, start, end, score in proposals(probabilities, one=protocol != "vadclip"):
            if protocol == "vadclip" or c > 0:
                everything.append((c, -score, number, start, end))
        mine = []
        for start, end, label in events:
            if label not in classes or (classes.index(label) == 0 and protocol != "vadclip"):
                continue
            if protocol == "abnormal-only":
                end = min(end, n_frames)
                if start >= end:
                    continue
            if protocol == "activitynet" and (start, end, label) in mine:
                continue
            mine.append((start, end, label))
        if protocol == "vadclip" and not abnormal and classes[0] == NORMAL_LABEL:
            mine.append((0, n_frames // 16 * 16, NORMAL_LABEL))
        truth += [(number, classes.index(label), start, end) for start, end, label in mine]
    means, aps = {}, {}
    for tiou in tious:
        scored = []
        for c in range(len(classes)):
            ranked = sorted(p for p in everything if p[0] == c)
            wanted = [t for t in truth if t[1] == c]
            value = average_precision(ranked, wanted, tiou, protocol)
            if value is None:
                continue
            aps[tiou, c] = value
            scored.append(value)
        missing = protocol == "vadclip" and any(not [p for p in everything if p[0] == c] for c in range(len(classes)))
        means[tiou] = 0.0 if missing else float(np.mean(scored))
    return means, aps


def average_precision(ranked, wanted, tiou, protocol):
    """AP of one class, or None where the protocol leaves a class without truth out."""
    if not wanted:
        return 0.0 if protocol == "vadclip" else None
    free, hits = list(wanted), []
    for _, _, number, start, end in ranked:
        best, best_overlap = None, -1.0
        for candidate in free:
            overlap = iou((start, end), candidate[2:]) if candidate[0] == number else 0.0
            if candidate[0] == number and overlap >= tiou and overlap > best_overlap:
                best, best_overlap = candidate, overlap
        hits.append(best is not None)
        if best is not None:
            free.remove(best)
    precision = [sum(hits[: i + 1]) / (i + 1) for i in range(len(hits))]
    if protocol == "activitynet":
        precision = [max(precision[i:]) for i in range(len(precision))]
    return sum(p for p, hit in zip(precision, hits, strict=True) if hit) / len(wanted)


def auc(scores, labels):
    """Share of (positive, negative) pairs in the right order, ties one half."""
    scores, labels = np.asarray(scores, dtype=float), np.asarray(labels, dtype=bool)
    difference = scores[labels][:, None] - scores[~labels][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
