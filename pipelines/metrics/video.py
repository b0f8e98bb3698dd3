"""Video-level metrics: one score a video against its own label."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.metrics._base import Bools, Floats, Measure, MetricInput, MetricOptions, UndefinedMetricError
from pipelines.metrics.frame import curve

NAME = "video"
SUMMARY = "ROC-AUC, average precision and accuracy of whole videos"
METRICS = ("video-auc", "video-ap", "video-acc")
DEFINITIONS = {"video-auc": "video_auc", "video-ap": "video_ap", "video-acc": "video_acc"}


def video_scores(data: MetricInput, how: str = "max") -> Floats:
    """(V,) one score a video: `max` over frames, or `topk`, the mean of its N // 16 + 1 largest."""
    if how == "max":
        return np.array([float(s.max()) for s in data.scores])
    return np.array([_top_mean(s, len(s) // 16 + 1) for s in data.scores])


def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
    """The video metric `name`; see `MetricModule.measure`."""
    scores = video_scores(data, options.video_score)
    extra: dict[str, Any] = {"video_score": options.video_score, "abnormal": int(data.abnormal.sum())}
    if name == "video-acc":
        value = float((alarms(scores, options) == data.abnormal).mean())
        extra |= {"threshold": options.threshold, "threshold_source": options.threshold_source}
        return Measure(value, DEFINITIONS[name], len(data), extra)
    found = curve(scores, data.abnormal)
    return Measure(found.auc() if name == "video-auc" else found.ap_step(), DEFINITIONS[name], len(data), extra)


def alarms(scores: Floats, options: MetricOptions) -> Bools:
    """(V,) bool: the video's score reaches its threshold.

    Raises:
        UndefinedMetricError: no threshold was learnt or given.
    """
    if options.thresholds_by_video is not None:
        return np.asarray(scores >= options.thresholds_by_video)
    if options.threshold is None:
        raise UndefinedMetricError(
            "no threshold: give one, or learn one on normal material (it never comes from test labels)"
        )
    return np.asarray(scores >= options.threshold)


def _top_mean(scores: Floats, count: int) -> float:
    return float(np.partition(scores, len(scores) - count)[-count:].mean())
