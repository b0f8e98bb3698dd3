"""Pooled pixel AUC, where masks and score maps exist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

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
    """`pixel-auc`: mid-ranks over all pixels, scores compared by their first 24 bits (a counting sort, flat memory).

    Maps (N, h, w) of another size than the masks (N, H, W) are enlarged by `options.map_resize`, one frame at a time.
    """
    if data.pixel_masks is None or data.pixel_scores is None:
        raise UndefinedMetricError(
            "the scores hold no maps" if data.pixel_scores is None else "there are no pixel masks",
            hint="bring `<video>|maps` (rows, h, w) in the npz, for a dataset with pixel masks",
        )
    positive = np.zeros(1 << KEY_BITS, dtype=np.int64)
    negative = np.zeros(1 << KEY_BITS, dtype=np.int64)
    sizes: set[tuple[int, ...]] = set()
    for video, scores, masks in zip(data.video_ids, data.pixel_scores, data.pixel_masks, strict=True):
        if scores.ndim != 3 or len(scores) != len(masks):
            raise VerificationError(f"video {video!r}: maps of shape {scores.shape} but masks of shape {masks.shape}")
        refuse_nonfinite(video, scores)
        sizes.add(scores.shape[1:])
        for frame, mask in zip(enlarged(scores, masks.shape[1:], options.map_resize), masks, strict=True):
            _count(positive, sort_keys(frame[mask]))
            _count(negative, sort_keys(frame[~mask]))
    used = np.flatnonzero(positive + negative)[::-1]
    curve = Curve(used.astype(np.float64), np.cumsum(positive[used]), np.cumsum(negative[used]))
    resized = sizes != {mask.shape[1:] for mask in data.pixel_masks}
    extra = {
        "key_bits": KEY_BITS,
        "maps": sorted("x".join(map(str, size)) for size in sizes),
        "enlarged": options.map_resize if resized else "none",
    }
    return Measure(curve.auc(), DEFINITIONS[name], int(curve.positives + curve.negatives), extra)


def enlarged(
    maps: NDArray[np.float32], size: tuple[int, ...], how: Literal["nearest", "bilinear"]
) -> Iterator[NDArray[np.float32]]:
    """Each map (h, w) at `size` (H, W): pixel centres on the same picture, `bilinear` flat beyond the outer centres."""
    if maps.shape[1:] == size:
        yield from maps
        return
    rows, columns = (_weights(n, to, how) for n, to in zip(maps.shape[1:], size, strict=True))
    for one in maps:
        yield (rows @ one.astype(np.float64) @ columns.T).astype(np.float32)


def _weights(n: int, to: int, how: str) -> NDArray[np.float64]:
    """(to, n) what each of `to` new cells takes of each of `n` old ones."""
    centres = (np.arange(to) + 0.5) * n / to - 0.5
    if how == "nearest":
        return np.eye(n)[np.clip(np.rint(centres - 1e-9).astype(np.int64), 0, n - 1)]
    centres = np.clip(centres, 0, n - 1)
    low = np.minimum(np.floor(centres).astype(np.int64), max(n - 2, 0))
    share = centres - low
    found = np.zeros((to, n))
    found[np.arange(to), low] = 1 - share
    found[np.arange(to), np.minimum(low + 1, n - 1)] += share
    return found


def sort_keys(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Integers that order like the float32 values, keeping their first 24 bits."""
    bits = (np.ascontiguousarray(values, dtype=np.float32) + np.float32(0)).view(np.uint32)
    flipped = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (flipped >> np.uint32(32 - KEY_BITS)).astype(np.int64)


def _count(histogram: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
    place, times = np.unique(keys, return_counts=True)
    histogram[place] += times
