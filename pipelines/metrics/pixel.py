"""Pooled pixel AUC, where masks and score maps exist."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VerificationError
from pipelines.metrics._base import Measure, MetricInput, MetricOptions, UndefinedMetricError, refuse_nonfinite
from pipelines.metrics.frame import Curve

NAME = "pixel"
SUMMARY = "ROC-AUC of all pixels of all frames together"
METRICS = ("pixel-auc",)
DEFINITIONS = {"pixel-auc": "pixel_auc_micro"}
KEY_BITS = 24  # of a float32: sign, exponent and 15 bits of mantissa; scores closer than 2^-15 relative count as tied


def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
    """`pixel-auc`: mid-ranks over all pixels, scores compared by their first 24 bits (a counting sort, flat memory)."""
    if data.pixel_masks is None or data.pixel_scores is None:
        raise UndefinedMetricError(
            "there are no pixel masks" if data.pixel_masks is None else "the scores hold no maps"
        )
    positive = np.zeros(1 << KEY_BITS, dtype=np.int64)
    negative = np.zeros(1 << KEY_BITS, dtype=np.int64)
    for video, scores, masks in zip(data.video_ids, data.pixel_scores, data.pixel_masks, strict=True):
        if scores.shape != masks.shape:
            raise VerificationError(f"video {video!r}: maps of shape {scores.shape} but masks of shape {masks.shape}")
        refuse_nonfinite(video, scores)
        for frame, mask in zip(scores, masks, strict=True):
            _count(positive, sort_keys(frame[mask]))
            _count(negative, sort_keys(frame[~mask]))
    used = np.flatnonzero(positive + negative)[::-1]
    curve = Curve(used.astype(np.float64), np.cumsum(positive[used]), np.cumsum(negative[used]))
    return Measure(curve.auc(), DEFINITIONS[name], int(curve.positives + curve.negatives), {"key_bits": KEY_BITS})


def sort_keys(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers that order like the float32 values, keeping their first 24 bits."""
    bits = (np.ascontiguousarray(values, dtype=np.float32) + np.float32(0)).view(np.uint32)
    flipped = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (flipped >> np.uint32(32 - KEY_BITS)).astype(np.int64)


def _count(histogram: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
    place, times = np.unique(keys, return_counts=True)
    histogram[place] += times
