"""Bars: one metric a panel over classes, and the settings of a sweep above what knows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.report.seeds import mean_sd
from pipelines.report.style import BLUE, GREY, VERMILION, figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar in fractions of 1: its word, the value, each seed's, an interval or None, and a note after the word."""

    word: str
    value: float | None
    seeds: tuple[float, ...] = ()
    ci: tuple[float, float] | None = None
    note: str = ""

    @property
    def spread(self) -> tuple[float, float] | None:
        """Ends of the whisker: mean ± deviation over seeds, else the interval."""
        if len(self.seeds) > 1:
            mean, sd = mean_sd(self.seeds)
            return mean - sd, mean + sd
        return self.ci


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one metric; `floor` is the best score that knows nothing of the video, with its name."""

    metric: str
    bars: tuple[Bar, ...]
    floor: tuple[str, float] | None = None


def class_panels(tables: Sequence[Sequence[Mapping[str, str]]], columns: Sequence[str] = ()) -> list[Panel]:
    """Panels from per_class.csv, one table a seed: each column with a value, classes with an event, most events first."""
    first = [row for row in tables[0] if int(row["events"] or 0)]
    order = sorted(first, key=lambda row: (-int(row["events"]), row["class"]))
    known = [
        name for name in (tables[0][0] if tables[0] else ()) if name not in ("class", "events", "videos", "positives")
    ]
    chosen = [name for name in known if not columns or name in columns]
    panels = []
    for name in chosen:
        by_seed = [{row["class"]: row.get(name) for row in table} for table in tables]
        bars = [_class_bar(row, [values.get(row["class"]) for values in by_seed]) for row in order]
        if any(bar.value is not None for bar in bars):
            panels.append(Panel(name, tuple(bars)))
    return panels


def setting_panels(settings: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[Panel]:
    """Panels from the summaries of a sweep's settings, one a metric (`map-iou vadclip` for a protocol's average)."""
    from pipelines.metrics._base import PROTOCOLS
    from pipelines.report.table import numbers

    panels = []
    for metric in metrics:
        bars, floors = [], []
        for word, summary in settings.items():
            found = next((n for n in numbers(summary, protocols=PROTOCOLS) if n.name == metric), None)
            if found is None or found.value is None:
                bars.append(Bar(word, None))
                continue
            bars.append(Bar(word, found.value, _seeds(summary, metric), found.ci))
            floors += [found.highest_floor] if found.highest_floor else []
        if any(bar.value is not None for bar in bars):
            panels.append(Panel(metric, tuple(bars), max(floors, key=lambda pair: pair[1], default=None)))
    return panels


def bars_figure(panels: Sequence[Panel], *, title: str = "") -> Figure:
    """Panels side by side with one list of words; bars begin at the floor where there is one, else at 0."""
    rows = len(panels[0].bars)
    longest = max(len(_word(bar)) for bar in panels[0].bars)
    made = figure(min(1350, 110 + 9 * min(longest, 34) + 330 * len(panels)), 150 + 44 * rows)
    for index, panel in enumerate(panels):
        axes = made.add_subplot(1, len(panels), index + 1)
        _draw(axes, panel)
        if index == 0:
            axes.set_yticks(range(rows), [shortened(_word(bar)) for bar in panel.bars])
        else:
            axes.set_yticks(range(rows), [])
    if title:
        made.suptitle(title)
    return made


def _draw(axes: Axes, panel: Panel) -> None:
    start = 100 * panel.floor[1] if panel.floor else 0.0
    ends = [100 * v for bar in panel.bars for v in (bar.value, *(bar.spread or ()), *bar.seeds) if v is not None]
    room = max(*ends, start) - min(*ends, start) or 1.0
    for row, bar in enumerate(panel.bars):
        if bar.value is None:
            axes.text(start, row, " –", va="center", color=GREY)
            continue
        value = 100 * bar.value
        axes.barh(row, value - start, left=start, height=0.62, color=BLUE, alpha=0.85, linewidth=0)
        right = max(value, start)
        if bar.spread:
            low, high = (100 * v for v in bar.spread)
            axes.plot([low, high], [row, row], color="black", linewidth=0.8, solid_capstyle="butt")
            right = max(right, high)
        if len(bar.seeds) > 1:
            axes.plot([100 * v for v in bar.seeds], [row] * len(bar.seeds), "o", color="black", markersize=1.6)
            right = max(right, *(100 * v for v in bar.seeds))
        axes.text(right + 0.02 * room, row, f"{value:.1f}", va="center", fontsize=6.5)
    if panel.floor:
        axes.axvline(start, color=VERMILION, linewidth=0.8, linestyle="--")
        axes.text(start, -0.72, f"floor: {panel.floor[0]}", color=VERMILION, ha="left", va="bottom", fontsize=6)
    axes.set(ylim=(len(panel.bars) - 0.4, -0.75), xlim=_limits(panel, ends, start, room))
    axes.set_xlabel(panel.metric)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def _limits(panel: Panel, ends: Sequence[float], start: float, room: float) -> tuple[float, float]:
    """Without a floor all panels share 0 to 100, so that they compare; above a floor each has its own range."""
    if panel.floor is None:
        return min(0.0, *ends), max(100.0, *ends) + 22.0
    return min(*ends, start) - 0.04 * room, max(*ends, start) + 0.22 * room


def _word(bar: Bar) -> str:
    return f"{bar.word} ({bar.note})" if bar.note else bar.word


def _class_bar(row: Mapping[str, str], values: Sequence[str | None]) -> Bar:
    seeds = tuple(float(value) for value in values if value)
    mean = float(np.mean(seeds)) if len(seeds) == len(values) else None
    return Bar(row["class"], mean, seeds if mean is not None else (), note=row["events"])


def _seeds(summary: Mapping[str, Any], metric: str) -> tuple[float, ...]:
    name, _, protocol = metric.partition(" ")
    entry = summary["metrics"].get(name, {})
    found = entry.get(protocol, {}).get("seeds_at", {}).get("avg") if protocol else entry.get("seeds")
    return tuple(float(value) for value in found or ())
