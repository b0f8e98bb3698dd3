"""The report's tables of numbers: ours beside floor and paper, per IoU, per class; as plain rows for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines import catalog
from pipelines.metrics._base import PROTOCOLS
from pipelines.report.table import ON_TEST, OPERATING, Number, numbers, paper_rows, points

PAPERS = 3  # published numbers beside one of ours; the others are counted
INTERVAL_WIDTH = 150.0  # units of the small picture beside each number


@dataclass(frozen=True, slots=True)
class Paper:
    """A published number: points, and under what it was reached."""

    value: float
    words: str
    on_test: bool


@dataclass(frozen=True, slots=True)
class Headline:
    """One row: `number` ours, `measured` its definition, `papers` beside it and how many more there are."""

    number: Number
    measured: str
    papers: tuple[Paper, ...]
    more: int

    @property
    def name(self) -> str:
        return self.number.name.replace("map-iou ", "map-iou · ")

    @property
    def marks(self) -> dict[str, float]:
        """Places in a picture that is INTERVAL_WIDTH wide: `value`, `low`, `high`, `floor`, `paper`, where known."""
        one, floor = self.number, self.number.highest_floor
        found = {"value": one.value, "floor": floor[1] if floor else None}
        if one.ci:
            found |= {"low": one.ci[0], "high": one.ci[1]}
        elif one.sd is not None and one.value is not None:
            found |= {"low": one.value - one.sd, "high": one.value + one.sd}
        if self.papers:
            found["paper"] = self.papers[0].value
        return {k: INTERVAL_WIDTH * min(1.0, max(0.0, v)) for k, v in found.items() if v is not None}


def headlines(summary: Mapping[str, Any], method: str | None, dataset: str) -> tuple[list[Headline], dict[str, str]]:
    """Rows of the headline table, and metric -> reason of what could not be computed.

    Args:
        summary: metrics.json, of one seed or summarised over seeds.
        method: whose RESULTS stand beside it; None for scores that were brought.
        dataset: its name.
    """
    listed = numbers(summary, protocols=PROTOCOLS)
    known = [one for one in listed if one.value is not None and one.name != OPERATING]
    published = _published(method, dataset, [one.name for one in known]) if method else {}
    rows = [
        Headline(
            one, _definition(summary, one.name), papers := published.get(one.name, ())[:PAPERS],
            len(published.get(one.name, ())) - len(papers),
        )
        for one in known
    ]  # fmt: skip
    return rows, {one.name: one.reason for one in listed if one.value is None and one.name != OPERATING}


def iou_rows(summary: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Column names and (protocol, cells in points): mAP at each temporal IoU and their average; empty without detection."""
    entry = summary["metrics"].get("map-iou", {})
    held = [(name, entry[name]) for name in PROTOCOLS if _is_detection(entry.get(name))]
    ious = list(dict.fromkeys(key for _, one in held for key in one if _is_iou(key)))
    rows = [(name, [_with_interval(one, key) for key in (*ious, "avg")]) for name, one in held]
    return [*ious, "average"], rows


def iou_lines(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same for a picture: protocol, IoUs, mAP as fractions of 1."""
    entry = summary["metrics"].get("map-iou", {})
    held = [(name, entry[name]) for name in PROTOCOLS if _is_detection(entry.get(name))]
    return [
        {"name": name, "x": [float(k) for k in one if _is_iou(k)], "y": [one[k] for k in one if _is_iou(k)]}
        for name, one in held
    ]


def class_rows(per_class: Sequence[Mapping[str, str]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Value columns and one row a class with an event: name, events, videos, frames, and fractions or None by column."""
    columns = [
        name
        for name in (per_class[0] if per_class else ())
        if name not in ("class", "events", "videos", "positives") and any(row.get(name) for row in per_class)
    ]
    rows = [
        {
            "name": row["class"],
            "events": int(row["events"] or 0),
            "videos": int(row["videos"] or 0),
            "frames": int(row["positives"] or 0),
            "values": {name: float(row[name]) if row.get(name) else None for name in columns},
        }
        for row in per_class
    ]
    return columns, [row for row in rows if row["events"]]


def _published(method: str, dataset: str, names: Sequence[str]) -> dict[str, tuple[Paper, ...]]:
    """Metric -> the papers' numbers on the dataset, those of the method's own paper first."""
    if method not in catalog.entries("methods"):
        return {}
    results = tuple(getattr(catalog.load("methods", method), "RESULTS", ()))
    columns = {name.replace(" ", ":"): name for name in names}
    found: dict[str, list[Paper]] = {}
    for row in sorted(paper_rows(method, results, dataset, list(columns)), key=lambda row: row.source != "paper"):
        words = ", ".join(word for word in (row.source, row.features, row.selection) if word != "?")
        for column, number in row.values.items():
            if number.value is not None:
                found.setdefault(columns[column], []).append(Paper(number.value, words, row.selection == ON_TEST))
    return {name: tuple(papers) for name, papers in found.items()}


def _definition(summary: Mapping[str, Any], name: str) -> str:
    word, _, protocol = name.partition(" ")
    entry = summary["metrics"][word]
    if protocol:
        return f"mean over IoU {', '.join(key for key in entry[protocol] if _is_iou(key))}"
    return str(entry.get("definition") or "")


def _is_detection(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("avg") is not None


def _is_iou(key: str) -> bool:
    return key.replace(".", "", 1).isdigit()


def _with_interval(entry: Mapping[str, Any], key: str) -> str:
    value, ci = entry.get(key), entry.get("ci_at", {}).get(key) if key != "avg" else entry.get("ci")
    if value is None:
        return "-"
    sd = entry.get("sd_at", {}).get(key) if isinstance(entry.get("sd_at"), Mapping) else None
    if sd is not None:
        return f"{points(value)} ± {points(sd)}"
    return points(value) + (f" [{points(ci[0])}, {points(ci[1])}]" if isinstance(ci, Sequence) else "")
