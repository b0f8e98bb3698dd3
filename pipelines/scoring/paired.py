"""Two score files on the same resamples: the paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError, VerificationError
from pipelines.metrics._base import Detections, UndefinedMetricError
from pipelines.scoring import bootstrap
from pipelines.scoring.measures import detect, measure, names_of
from pipelines.scoring.prepare import EvalData, EvalOptions, Prepared, prepare


def compare_scores(
    first: EvalData, second: EvalData, metrics: Sequence[str], options: EvalOptions | None = None
) -> dict[str, Any]:
    """Metric -> both values, their difference, its interval and the share of rounds above 0, on the same resamples.

    `map-iou` gives one entry a protocol. A metric that either side cannot answer is null with its reason. `draws` (B,)
    is the difference in every round, for whoever averages over seeds.

    Raises:
        VerificationError: the two do not hold the same videos, or a truth differs.
        UsageError: no rounds.
    """
    options = options or EvalOptions()
    if options.rounds < 1:
        raise UsageError("a paired test needs bootstrap rounds", hint="--rounds 1000")
    second = _in_order_of(first, second)
    pair = prepare(first, options), prepare(second, options)
    weights = bootstrap.multiplicities(pair[0].data.abnormal, rounds=options.rounds, seed=options.seed)
    names, _ = names_of(metrics, first.kind, options)
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = _paired(name, pair, weights)
        except UndefinedMetricError as error:
            found[name] = {"value": None, "reason": error.message}
    return found


def _in_order_of(first: EvalData, second: EvalData) -> EvalData:
    """The second with its videos in the first's order.

    Raises:
        VerificationError: other videos or another truth.
    """
    place = {f.video_id: i for i, f in enumerate(second.frames)}
    wanted = [f.video_id for f in first.frames]
    if sorted(place) != sorted(wanted):
        missing = sorted(set(wanted) ^ set(place))
        raise VerificationError(f"the two do not hold the same videos: {len(missing)} differ, first {missing[0]!r}")
    order = [place[v] for v in wanted]
    for one, index in zip(first.truths, order, strict=True):
        if not np.array_equal(one.labels, second.truths[index].labels):
            raise VerificationError(f"video {one.video_id!r}: the two were evaluated against different truths")
    if second.segments is not None:
        back = np.argsort(np.array(order))
        rows = second.segments
        segments = Detections(back[rows.video], rows.label, rows.start, rows.end, rows.score)
    else:
        segments = None
    return EvalData(
        [second.frames[i] for i in order],
        [second.truths[i] for i in order],
        second.classes,
        second.dataset,
        second.kind,
        [second.cameras[i] for i in order] if second.cameras else (),
        [second.fps[i] for i in order] if second.fps else (),
        annotated=[second.annotated[i] for i in order] if second.annotated else (),
        segments=segments,
    )


def _paired(name: str, pair: tuple[Prepared, Prepared], weights: NDArray[np.int64]) -> dict[str, Any]:
    if name == "map-iou":
        return {protocol: _paired_map(protocol, pair, weights) for protocol in pair[0].options.protocols}
    values = [measure(name, p.data, p.options).value for p in pair]
    drawn = [bootstrap.samples(name, p.data, p.options, weights) for p in pair]
    entry = {"values": values, "difference": values[0] - values[1]}
    if drawn[0] is None or drawn[1] is None:
        return entry | {"ci": None, "reason": "no interval is defined for this metric"}
    return entry | bootstrap.paired(drawn[0], drawn[1]) | {"draws": (drawn[0] - drawn[1]).tolist()}


def _paired_map(protocol: str, pair: tuple[Prepared, Prepared], weights: NDArray[np.int64]) -> dict[str, Any]:
    try:
        results = [detect(p, protocol) for p in pair]
    except UndefinedMetricError as error:
        return {"value": None, "reason": error.message}
    values = [r.average for r in results]
    drawn = [bootstrap.map_samples(r, weights)[:, -1] for r in results]
    entry = {"values": values, "difference": values[0] - values[1], "draws": (drawn[0] - drawn[1]).tolist()}
    return entry | bootstrap.paired(drawn[0], drawn[1])
