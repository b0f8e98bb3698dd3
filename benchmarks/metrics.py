"""Speed of the metrics on data of the size of UCF-Crime and XD-Violence, beside a plain set-based implementation.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py            # everything, about two minutes on one core
    OMP_NUM_THREADS=1 python benchmarks/metrics.py --quick    # a tenth of the videos

Seconds are CPU seconds of one core (other jobs on the machine do not count), the best of three runs, without floors and
intervals where the row does not name them.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.metrics import detection, frame
from pipelines.metrics._base import PROTOCOLS, TIOUS, MetricInput
from pipelines.records import Event
from pipelines.scoring.bootstrap import Ranking, map_samples, multiplicities, ranking
from tests.metrics import reference

SIZES = {  # videos, abnormal, frames, classes, events, name of the normal class
    "ucf-crime": (290, 140, 1_110_000, 14, 156, "Normal"),
    "xd-violence": (800, 500, 2_330_000, 7, 1272, "A"),
}
CLIP = 16


def build(size: str, *, share: float = 1.0, distinct: bool = False, seed: int = 0) -> MetricInput:
    """Made-up scores of a data set's size: softmax noise a snippet with the events in it, repeated 16 times.

    `distinct` gives every frame a value of its own (what a smoothed or frame-wise score file looks like).
    """
    videos, abnormal, frames, n_classes, n_events, normal = SIZES[size]
    rng = np.random.default_rng(seed)
    videos, abnormal, n_events = (max(2, round(n * share)) for n in (videos, abnormal, n_events))
    clips = np.maximum(2, rng.lognormal(0, 0.9, videos) * 1.0)
    clips = np.maximum(2, (clips / clips.sum() * frames * share / CLIP).astype(int))
    classes = (normal, *(f"c{i}" for i in range(1, n_classes)))
    counts = np.bincount(rng.integers(0, abnormal, n_events - abnormal), minlength=abnormal) + 1
    scores, labels, tables, events = [], [], [], []
    for video in range(videos):
        logits = rng.normal(0, 1.5, (clips[video], n_classes))
        mine = []
        for _ in range(counts[video] if video < abnormal else 0):
            start = int(rng.integers(0, clips[video]))
            end = min(clips[video], start + int(rng.integers(1, max(2, clips[video] // 4))))
            label = int(rng.integers(1, n_classes))
            logits[start:end, label] += 2.5
            mine.append(Event(start * CLIP + 3, end * CLIP - 2, classes[label]))
        table = np.repeat(logits, CLIP, axis=0)
        if distinct:
            table += rng.normal(0, 0.05, table.shape)
        table = np.exp(table - table.max(axis=1, keepdims=True))
        table = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
        truth = np.zeros(len(table), dtype=bool)
        for event in mine:
            truth[event.start_frames : event.end_frames] = True
        scores.append(1.0 - table[:, 0].astype(np.float64))
        labels.append(truth)
        tables.append(table)
        events.append(tuple(mine))
    return MetricInput(
        video_ids=tuple(f"v{i}" for i in range(videos)),
        scores=tuple(scores),
        labels=tuple(labels),
        abnormal=np.arange(videos) < abnormal,
        events=tuple(events),
        classes=classes,
        class_scores=tuple(tables),
    )


def best(run: Callable[[], Any], times: int = 3) -> float:
    """CPU seconds of the fastest of a few runs."""
    spent = []
    for _ in range(times):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return min(spent)


def detect(data: MetricInput, protocols: tuple[str, ...]) -> list[detection.Result]:
    return [detection.evaluate(data, p, tious=TIOUS) for p in protocols]


def plain(data: MetricInput, protocol: str) -> dict[float, float]:
    """The tests' reference on the same data."""
    given = [
        (table, [(e.start_frames, e.end_frames, e.label) for e in events], bool(abnormal))
        for table, events, abnormal in zip(data.class_scores or (), data.events, data.abnormal, strict=True)
    ]
    return reference.map_iou(given, list(data.classes), protocol, TIOUS)[0]


def measure(size: str, share: float, rounds: int) -> list[dict[str, Any]]:
    """Rows of one size: seconds, the target where there is one, and what it ran on."""
    rows = []

    def row(what: str, seconds: float, target: float | None = None, **more: Any) -> None:
        rows.append({"size": size, "what": what, "seconds": round(seconds, 3), "target": target, **more})

    data = build(size, share=share)
    frames = int(data.lengths.sum())
    row(
        "map-iou vadclip", best(lambda: detect(data, ("vadclip",))), 0.7 if size == "ucf-crime" else None, frames=frames
    )
    row("map-iou, three protocols", best(lambda: detect(data, PROTOCOLS)), 2.0, frames=frames)
    row("pooled AUC, AP", best(lambda: _pooled(data)), frames=frames)
    weights = multiplicities(data.abnormal, rounds=rounds, seed=0)
    results = detect(data, PROTOCOLS)
    row(f"{rounds} rounds pooled AUC", best(lambda: _auc_rounds(data, weights), 1), 10.0)
    row(f"{rounds} rounds map-iou, one protocol", best(lambda: map_samples(results[0], weights), 1), 60.0)
    finer = build(size, share=share, distinct=True)
    row("map-iou vadclip, all frames distinct", best(lambda: detect(finer, ("vadclip",))))
    row("map-iou, three protocols, all frames distinct", best(lambda: detect(finer, PROTOCOLS)))
    row(f"{rounds} rounds pooled AUC, all frames distinct", best(lambda: _auc_rounds(finer, weights), 1))
    return rows


def ratios(size: str, share: float) -> list[dict[str, Any]]:
    """The plain implementation against ours on the same few videos, and whether they agree."""
    data = build(size, share=share)
    found = []
    for protocol in PROTOCOLS:
        ours, theirs = best(lambda p=protocol: detect(data, (p,))), best(lambda p=protocol: plain(data, p), 1)
        values = detect(data, (protocol,))[0].values
        agree = bool(np.allclose(values, list(plain(data, protocol).values()), atol=1e-9))
        found.append(
            {
                "size": f"{size}, {len(data)} videos",
                "what": f"{protocol}: plain / ours",
                "seconds": round(ours, 4),
                "plain_seconds": round(theirs, 3),
                "ratio": round(theirs / ours, 1),
                "agree": agree,
            }
        )
    return found


def _pooled(data: MetricInput) -> tuple[float, float]:
    curve = frame.curve(np.concatenate(data.scores), np.concatenate(data.labels))
    return curve.auc(), curve.ap_step()


def _auc_rounds(data: MetricInput, weights: np.ndarray) -> list[float]:
    ranked: Ranking = ranking(data.scores, data.labels)
    return [ranked.auc(row) for row in weights]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the videos, 100 rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    share, rounds = (0.1, 100) if options.quick else (1.0, 1000)
    rows = [r for size in SIZES for r in measure(size, share, rounds)] + ratios("ucf-crime", 0.03)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.json:
        print(json.dumps({"rows": rows, "peak_rss_gib": round(peak, 2)}, indent=2))
        return
    for row in rows:
        rest = {k: v for k, v in row.items() if k not in ("size", "what", "seconds", "target") and v is not None}
        target = f"(target {row['target']:g})" if row.get("target") else ""
        print(f"{row['size']:22} {row['what']:46} {row['seconds']:9.3f} s {target:13} {rest or ''}")
    print(f"peak memory {peak:.2f} GiB, the made-up data included")


if __name__ == "__main__":
    main()
