"""Metric names, and one metric of post-processed data by its name."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Literal

from pipelines import catalog
from pipelines.errors import UsageError
from pipelines.metrics import detection, frame
from pipelines.metrics._base import PROTOCOLS, Measure, MetricInput, MetricOptions
from pipelines.recipe import suggest
from pipelines.scoring.prepare import EvalOptions, Prepared

ALL = {
    "weak": (
        "auc", "ap", "ap-trapezoid", "ano-auc", "ano-ap", "video-auc", "video-ap", "video-acc", "class-auc", "class-ap",
        "map-iou", "proposal-recall", "operating",
    ),
    "one-class": (
        "auc", "auc-minmax", "macro-auc", "macro-auc-pad", "ap", "ap-trapezoid", "pixel-auc", "operating", "rbdc", "tbdc",
    ),
}  # fmt: skip
FLOORED = (*frame.METRICS[:9], "video-auc", "video-ap")  # what a score without classes, maps or boxes can answer


def metric_names(kind: Literal["weak", "one-class"] | None = None) -> tuple[str, ...]:
    """The names that `--metric` takes: every one, or (with `kind`) what `all` means there."""
    return ALL[kind] if kind else tuple(families())


def families() -> dict[str, str]:
    """Metric name -> the catalogued family that answers it, plug-ins included; read without importing them."""
    found: dict[str, str] = {}
    for family, entry in catalog.entries("metrics").items():
        names = entry.facts.get("METRICS")
        found |= dict.fromkeys(names, family) if isinstance(names, (tuple, list)) else {}
    return found


def measure(name: str, data: MetricInput, options: MetricOptions) -> Measure:
    """One metric of post-processed data, from the family that has it.

    Raises:
        UsageError: no such metric.
        UndefinedMetricError: the data cannot answer it; the message is the reason.
    """
    found: Measure = _module(name).measure(name, data, options)
    return found


def names_of(metrics: Sequence[str], kind: str, options: EvalOptions) -> tuple[list[str], set[str]]:
    """Metrics without repetition, and those asked for by name."""
    named = [m for m in metrics if m != "all"]
    for name in named:
        if name not in metric_names():
            raise UsageError(f"unknown metric {name!r}{suggest(name, metric_names())}", hint="vad metrics ls")
    for protocol in options.protocols:
        if protocol not in PROTOCOLS:
            raise UsageError(
                f"unknown protocol {protocol!r}{suggest(protocol, PROTOCOLS)}", hint="one of " + ", ".join(PROTOCOLS)
            )
    expanded = [n for m in metrics for n in (ALL[kind] if m == "all" else (m,))]
    return list(dict.fromkeys(expanded)), set(named)


def detect(ready: Prepared, protocol: str) -> detection.Result:
    options = ready.options
    return detection.evaluate(ready.data, protocol, tious=options.tious, videos=options.detection_videos)


def definition(name: str) -> str:
    """What a metric's number is, by its name in the evaluation contract."""
    return str(_module(name).DEFINITIONS[name])


def _module(name: str) -> ModuleType:
    family = families().get(name)
    if family is None:
        raise UsageError(f"unknown metric {name!r}{suggest(name, metric_names())}", hint="vad metrics ls")
    return catalog.load("metrics", family)
