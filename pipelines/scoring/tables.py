"""The tables beside the metrics: per video, per class, counts, recipe, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics import detection, frame
from pipelines.metrics._base import UndefinedMetricError
from pipelines.scoring import bootstrap
from pipelines.scoring.prepare import EvalData, EvalOptions, Prepared


def per_video(data: EvalData, ready: Prepared) -> list[dict[str, Any]]:
    rows = []
    aucs = frame.video_aucs(ready.data)
    for index, name in enumerate(ready.data.video_ids):
        labels, scores = ready.data.labels[index], ready.data.scores[index]
        defined = not np.isnan(aucs[index])
        rows.append(
            {
                "video": name,
                "frames": len(labels),
                "real_frames": data.truths[index].n_frames,
                "positives": int(labels.sum()),
                "abnormal": bool(ready.data.abnormal[index]),
                "classes": list(data.truths[index].classes),
                "events": len(data.truths[index].events),
                "auc": float(aucs[index]) if defined else None,
                "reason": "" if defined else ("no normal frame" if labels.any() else "no abnormal frame"),
                "max_score": float(scores.max()),
                "mean_score": float(scores.mean()),
            }
        )
    return rows


def per_class(ready: Prepared, results: Mapping[str, detection.Result]) -> list[dict[str, Any]]:
    """One row a class with labelled frames or events (and class 0); AUC and AP only where there are class scores."""
    data = ready.data
    curves: dict[str, frame.Curve] = {}
    if data.class_scores is not None and len(data.classes) > 1:
        try:
            curves = frame.class_curves(data)
        except UndefinedMetricError:
            curves = {}
    rows = []
    for column, label in enumerate(data.classes):
        events = [e for ev in data.events for e in ev if e.label == label]
        row: dict[str, Any] = {
            "class": label,
            "events": len(events),
            "videos": sum(any(e.label == label for e in ev) for ev in data.events),
            "positives": sum(int(line.sum()) for line in frame.class_labels(data, label)) if events else 0,
            "auc": curves[label].auc() if label in curves else None,
            "ap": curves[label].ap_step() if label in curves else None,
        }
        for protocol, result in results.items():
            value = float(result.per_class[:, column].mean())
            row[f"map-iou {protocol}"] = None if np.isnan(value) else value
        rows.append(row)
    return rows


def counts(data: EvalData, ready: Prepared) -> dict[str, Any]:
    given = ready.data
    return {
        "videos": len(given),
        "abnormal": int(given.abnormal.sum()),
        "normal": int((~given.abnormal).sum()),
        "frames": int(given.lengths.sum()),
        "real_frames": sum(t.n_frames for t in data.truths),
        "positives": sum(int(y.sum()) for y in given.labels),
        "real_positives": sum(int(t.labels.sum()) for t in data.truths),
        "events": sum(len(t.events) for t in data.truths),
        "clamped_events": sum(t.clamped for t in data.truths),
        "events_past_scores": ready.cut_events,
        "tied_share": tied_share(given.scores),
        "constant_videos": list(ready.constant_videos),
    }


def tied_share(scores: Sequence[NDArray[np.float64]]) -> float:
    """Share of the distinct (video, score) pairs whose score also occurs in another video."""
    values = np.concatenate([np.unique(s) for s in scores])
    _, times = np.unique(values, return_counts=True)
    return float(times[times > 1].sum() / max(len(values), 1))


def recipe(ready: Prepared, options: EvalOptions) -> dict[str, Any]:
    process = ready.process
    return {
        "preset": options.preset,
        "smooth": str(process.smooth),
        "clip_filter": f"{process.clip_filter.kind}:{process.clip_filter.width}" if process.clip_filter else None,
        "normalise": process.normalise,
        "length": process.length,
        "drop_first": process.drop_first,
        "drop_last": process.drop_last,
        "protocols": list(options.protocols),
        "tious": list(options.tious),
        "detection_videos": options.detection_videos,
        "video_score": options.video_score,
        "threshold": options.threshold,
        "threshold_source": options.threshold_source,
        "thresholds_by_camera": dict(options.thresholds_by_camera),
        "bootstrap": {"rounds": options.rounds, "seed": options.seed, "level": bootstrap.LEVEL, "unit": "video"},
        "floor_seeds": options.floor_seeds if options.floors == "all" else 0,
    }


def warnings(found: Mapping[str, Any], results: Mapping[str, detection.Result], ready: Prepared) -> list[str]:
    said = []
    auc = found.get("auc", {}).get("value")
    if auc is not None and auc < 0.5:
        said.append(f"pooled AUC {auc:.3f} is below 0.5: do these scores mean regularity instead of abnormality?")
    for name, entry in found.items():
        low = (entry.get("ci") or [None])[0]
        for floor, value in (entry.get("floor") or {}).items():
            if low is not None and value is not None and floor != "random_sd" and value >= low:
                said.append(f"{name} {entry['value']:.3f} is within its interval of the floor {floor!r} ({value:.3f})")
    for protocol, result in results.items():
        if result.counters["tied_share"] > detection.TIE_WARNING:
            share = 100 * result.counters["tied_share"]
            said.append(
                f"map-iou {protocol}: {share:.1f} % of the proposals' scores are tied (order: video, then start)"
            )
    if ready.constant_videos:
        said.append(f"{len(ready.constant_videos)} videos have a constant score and were set to 0 by min-max")
    return said
