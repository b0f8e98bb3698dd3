"""What knows nothing still scores: floors through the same post-processing and the same metric."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.metrics import detection
from pipelines.metrics._base import MetricInput, MetricOptions, UndefinedMetricError
from pipelines.scoring.presets import SNIPPET, PostProcess

Floats = NDArray[np.float64]
FLOORS = ("constant", "random", "centre", "length", "video-oracle", "oracle-centre")
SUMMARY = {
    "constant": "1 on every frame",
    "random": "uniform noise, mean and deviation over seeds",
    "centre": "a triangle that peaks mid-video",
    "length": "minus the video's length on every frame",
    "video-oracle": "the true video label on every frame",
    "oracle-centre": "the true video label times the triangle",
}
FloorValues = dict[str, float | None]
Measurer = Callable[[str, MetricInput, MetricOptions], float]


def floor_scores(name: str, video: str, n_frames: int, *, abnormal: bool, seed: int = 0) -> Floats:
    """(n_frames,) scores of one floor for one video, before post-processing. `random` depends on seed and video id alone."""
    if name == "random":
        return np.random.default_rng([seed, zlib.crc32(video.encode())]).random(n_frames)
    if name == "constant":
        return np.ones(n_frames)
    if name == "length":
        return np.full(n_frames, -float(n_frames))
    centre = 1.0 - np.abs((np.arange(n_frames) + 0.5) / max(n_frames, 1) * 2.0 - 1.0)
    if name == "centre":
        return np.asarray(centre)
    return np.full(n_frames, float(abnormal)) if name == "video-oracle" else centre * abnormal


def floor_input(
    data: MetricInput, covered: Sequence[int], name: str, process: PostProcess, *, seed: int = 0
) -> MetricInput:
    """`data` with its scores replaced by a floor's, post-processed; class scores and maps are gone.

    Args:
        data: the post-processed input whose labels stay.
        covered: per video the number of frames before post-processing.
        name, seed: see `floor_scores`.
        process: the recipe the real scores went through.
    """
    raw = (
        floor_scores(name, video, int(n), abnormal=bool(is_abnormal), seed=seed)
        for video, n, is_abnormal in zip(data.video_ids, covered, data.abnormal, strict=True)
    )
    scores = tuple(process.scores(frames)[0] for frames in raw)
    return replace(data, scores=scores, class_scores=None, segments=None, pixel_scores=None, boxes=None)


def floors(
    data: MetricInput,
    covered: Sequence[int],
    metrics: Sequence[str],
    process: PostProcess,
    measure: Measurer,
    *,
    options: MetricOptions,
    seeds: int = 20,
) -> dict[str, FloorValues]:
    """Metric -> floor -> value; `random` is the mean over seeds, with `random_sd` beside it. None where undefined."""
    found: dict[str, FloorValues] = {m: {} for m in metrics}
    for name in FLOORS:
        runs: dict[str, list[float | None]] = {m: [] for m in metrics}
        for seed in range(seeds if name == "random" else 1):
            given = floor_input(data, covered, name, process, seed=seed)
            for metric in metrics:
                runs[metric].append(_value(measure, metric, given, options))
        for metric, values in runs.items():
            defined = [v for v in values if v is not None]
            found[metric][name] = float(np.mean(defined)) if defined else None
            if name == "random":
                found[metric]["random_sd"] = float(np.std(defined)) if defined else None
    return found


def random_classes(data: MetricInput, *, seed: int = 0) -> MetricInput:
    """`data` with uniform noise as class scores, one row a snippet of 16 frames, each row summing to 1."""
    tables = []
    for video, n_frames in zip(data.video_ids, data.lengths, strict=True):
        generator = np.random.default_rng([seed, zlib.crc32(video.encode())])
        noise = generator.random((-(-int(n_frames) // SNIPPET), len(data.classes)))
        table = (noise / noise.sum(axis=1, keepdims=True)).astype(np.float32)
        tables.append(np.repeat(table, SNIPPET, axis=0)[:n_frames])
    return replace(data, class_scores=tuple(tables), segments=None)


def map_floors(data: MetricInput, protocol: str, options: MetricOptions, *, seeds: int) -> FloorValues:
    """The average mAP of random class scores under a protocol: `random` and `random_sd` over seeds."""
    values = []
    for seed in range(seeds):
        given = random_classes(data, seed=seed)
        values.append(detection.evaluate(given, protocol, tious=options.tious, videos=options.detection_videos).average)
    return {"random": float(np.mean(values)), "random_sd": float(np.std(values))}


def _value(measure: Measurer, metric: str, data: MetricInput, options: MetricOptions) -> float | None:
    try:
        return measure(metric, data, options)
    except UndefinedMetricError:
        return None
