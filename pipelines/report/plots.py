"""Pictures of an evaluation: score curves with the true intervals shaded, ROC and precision-recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Event
from pipelines.report.style import (
    BLUE,
    CLASS_COLOURS,
    GREEN,
    GREY,
    LINE_STYLES,
    ORANGE,
    VERMILION,
    colours_of,
    figure,
    look,
    save,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 4000  # corners of a ROC or precision-recall curve
MAX_STEPS = 500  # a curve that changes more often is drawn as its range and its mean, so that no peak is lost


@dataclass(frozen=True, slots=True)
class Curve:
    """One video's frame scores with what is true of it.

    scores (N,); `events` are the true intervals, None where no truth is known; `found` are detected intervals;
    `threshold` a level to draw; `fps` turns frames into seconds where it is known; `note` ends the title.
    """

    video_id: str
    scores: NDArray[np.float64]
    events: tuple[Event, ...] | None = ()
    found: tuple[Event, ...] = ()
    threshold: float | None = None
    fps: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class RocCurve:
    """Points of a ROC or precision-recall curve: x and y in [0, 1], and the words of the legend."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    label: str


def curve(path: Path, one: Curve, *, size_px: tuple[int, int] = (1200, 420)) -> None:
    """Draw one video's curve at `path`; the ending names the format."""
    with look():
        made = figure(*size_px)
        axes = made.add_subplot()
        _draw(axes, one, colours := _colours([one]), limits=_limits([one]))
        axes.set_ylabel("anomaly score")
        _legend(made, [one], colours)
        save(made, path)


def grid(path: Path, curves: Sequence[Curve], *, columns: int = 3, title: str = "") -> None:
    """Draw the curves of several videos at `path`, with one score axis for all so that videos compare."""
    with look():
        save(grid_figure(curves, columns=columns, title=title), path)


def grid_figure(curves: Sequence[Curve], *, columns: int = 3, title: str = "") -> Figure:
    """The figure of `grid`, not yet saved."""
    columns = max(1, min(columns, len(curves)))
    rows = -(-len(curves) // columns)
    made = figure(440 * columns + 40, 235 * rows + 110)
    colours, limits = _colours(curves), _limits(curves)
    for index, one in enumerate(curves):
        axes = made.add_subplot(rows, columns, index + 1)
        _draw(axes, one, colours, limits=limits)
        if index % columns == 0:
            axes.set_ylabel("score")
        else:
            axes.tick_params(labelleft=False)
        if index < len(curves) - columns:
            axes.set_xlabel("")
    if title:
        made.suptitle(title)
    _legend(made, curves, colours)
    return made


def roc_pr(
    path: Path, *, roc: Sequence[RocCurve], pr: Sequence[RocCurve], positive_share: float, title: str = ""
) -> None:
    """Draw the pooled ROC beside precision over recall, each with what knows nothing (diagonal, share of positives)."""
    with look():
        save(roc_pr_figure(roc=roc, pr=pr, positive_share=positive_share, title=title), path)


def roc_pr_figure(*, roc: Sequence[RocCurve], pr: Sequence[RocCurve], positive_share: float, title: str = "") -> Figure:
    """The figure of `roc_pr`, not yet saved."""
    made = figure(1200, 600)
    left, right = made.add_subplot(1, 2, 1), made.add_subplot(1, 2, 2)
    left.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.7, label="chance")
    right.axhline(
        positive_share, color=GREY, linestyle="--", linewidth=0.7, label=f"chance ({100 * positive_share:.1f})"
    )
    for axes, lines, names in (
        (left, roc, ("false positive rate", "true positive rate")),
        (right, pr, ("recall", "precision")),
    ):
        for line, colour, style in zip(lines, (BLUE, VERMILION, GREEN, ORANGE), LINE_STYLES, strict=False):
            lonely = "o" if len(line.x) == 1 else None  # a constant score has one point, which a line does not show
            axes.plot(line.x, line.y, color=colour, linestyle=style, linewidth=1.3, marker=lonely, label=line.label)
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel=names[0], ylabel=names[1], aspect="equal")
        axes.grid()
        corner = "lower right" if axes is left else ("lower left" if positive_share > 0.5 else "best")
        axes.legend(loc=corner, frameon=True, framealpha=0.9, edgecolor="none")
    if title:
        made.suptitle(title)
    return made


def choose(
    auc: dict[str, float | None],
    abnormal: Sequence[str],
    normal: Sequence[str],
    peak: dict[str, float],
    *,
    count: int = 9,
) -> list[str]:
    """Videos worth a look: the best, the middle and the worst abnormal ones, and the normal ones that alarm most.

    Args:
        auc: each video's own AUC, None where it has one label only.
        abnormal, normal: video ids.
        peak: each video's largest score.
        count: how many to choose; two thirds are abnormal where there are enough.
    """
    ranked = sorted(abnormal, key=lambda video: (-(auc.get(video) if auc.get(video) is not None else -1.0), video))  # type: ignore[operator]
    wanted = min(len(ranked), max(count - len(normal), 2 * count // 3))
    spread = [ranked[round(i * (len(ranked) - 1) / max(1, wanted - 1))] for i in range(wanted)]
    loud = sorted(normal, key=lambda video: (-peak.get(video, 0.0), video))[: count - len(spread)]
    return [*dict.fromkeys(spread), *loud]


def roc_points(
    labels: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(false positive rate, true positive rate) of pooled frames, thinned to at most MAX_POINTS corners."""
    hits, alarms = _cumulative(labels, scores)
    x, y = alarms / max(1.0, alarms[-1]), hits / max(1.0, hits[-1])
    keep = _thin(len(x))
    return x[keep], y[keep]


def pr_points(
    labels: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(recall, precision) of pooled frames, thinned to at most MAX_POINTS points."""
    hits, alarms = _cumulative(labels, scores)
    recall, precision = hits[1:] / max(1.0, hits[-1]), hits[1:] / np.maximum(1.0, hits[1:] + alarms[1:])
    keep = _thin(len(recall))
    return recall[keep], precision[keep]


def _cumulative(
    labels: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True and false positives above each distinct threshold, from the highest one down, starting at zero."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(labels[order], dtype=np.float64)[last]
    return np.concatenate([[0.0], hits]), np.concatenate([[0.0], last + 1 - hits])


def _thin(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(np.int64))


def _draw(axes: Axes, one: Curve, colours: dict[str, str], *, limits: tuple[float, float]) -> None:
    scale = 1.0 / one.fps if one.fps else 1.0
    for event in one.events or ():
        axes.axvspan(event.start_frames * scale, event.end_frames * scale, color=colours[event.label], alpha=0.35, lw=0)
        for edge in (event.start_frames, event.end_frames):
            axes.axvline(edge * scale, color=colours[event.label], linewidth=0.5)
    _line(axes, one.scores, scale)
    if one.threshold is not None:
        axes.axhline(one.threshold, color=VERMILION, linestyle="--", linewidth=0.7)
    for event in one.found:
        axes.plot(
            [event.start_frames * scale, event.end_frames * scale],
            [limits[0]] * 2,
            color=VERMILION,
            lw=3.2,
            solid_capstyle="butt",
        )
    axes.set(xlim=(0, max(1, len(one.scores)) * scale), ylim=limits, xlabel="time in s" if one.fps else "frame")
    axes.set_title(f"{shortened(one.video_id)}  {one.note}".rstrip())
    axes.grid(axis="y")


def _line(axes: Axes, scores: NDArray[np.float64], scale: float) -> None:
    """The score line; where it changes more often than the eye can follow, its range per piece and the mean in it."""
    n = len(scores)
    if np.count_nonzero(np.diff(scores)) <= MAX_STEPS or n <= MAX_STEPS:
        axes.step((np.arange(n + 1)) * scale, np.append(scores, scores[-1:]), where="post", color=BLUE, linewidth=0.9)
        return
    edges = np.linspace(0, n, MAX_STEPS // 2 + 1).astype(np.int64)
    starts, middle = edges[:-1], (edges[:-1] + edges[1:]) / 2 * scale
    low, high = np.minimum.reduceat(scores, starts), np.maximum.reduceat(scores, starts)
    axes.fill_between(middle, low, high, color=BLUE, alpha=0.4, linewidth=0.2)
    axes.plot(middle, np.add.reduceat(scores, starts) / np.diff(edges), color=BLUE, linewidth=0.8)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """One score range for all: [0, 1] where the scores fill much of it, else their own with some room."""
    bounds = [(one.scores.min(), one.scores.max()) for one in curves if len(one.scores)]
    values = [float(bound) for pair in bounds for bound in pair]
    values += [one.threshold for one in curves if one.threshold is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low >= 0.0 and 0.5 <= high <= 1.0:
        return -0.03, 1.03
    room = 0.06 * (high - low) or max(0.05, 0.1 * abs(high))
    return low - room, high + room


def _colours(curves: Sequence[Curve]) -> dict[str, str]:
    return colours_of(sorted({event.label for one in curves for event in one.events or ()}))


def _legend(made: Figure, curves: Sequence[Curve], colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = [Line2D([], [], color=BLUE, linewidth=1.0, label="score")]
    if len(colours) <= len(CLASS_COLOURS):
        handles += [Patch(color=colour, alpha=0.4, label=f"true: {label}") for label, colour in colours.items()]
    else:
        handles.append(Patch(color=ORANGE, alpha=0.4, label="true interval (colour: class)"))
    if any(one.threshold is not None for one in curves):
        handles.append(Line2D([], [], color=VERMILION, linestyle="--", linewidth=0.8, label="threshold"))
    if any(one.found for one in curves):
        handles.append(Line2D([], [], color=VERMILION, linewidth=3.2, label="found"))
    made.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7))
