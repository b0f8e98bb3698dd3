"""Heat maps: rows over time (levels of a pyramid before and after attention, classes), and score maps over pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.report.style import BLUE, HEAT, ORANGE, figure, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipelines.records import Event

MAP = "map_"  # stages of this name are maps: a row a level or class, a column a clip
BEFORE, AFTER = "before", "after"
PEAKS = 5  # pictures of a strip
COLD_ALPHA, HOT_ALPHA = 0.08, 0.75
CURVE_PX, ROW_PX = 110, 24


@dataclass(frozen=True, slots=True)
class TimeMaps:
    """One video's maps over time: name -> (T, R); `spans` (T, 2) and `scores` (T,) of its clips, events, frame rate."""

    video: str
    maps: Mapping[str, NDArray[np.float32]]
    spans: NDArray[np.int64]
    scores: NDArray[np.float32]
    events: Sequence[Event]
    fps: float | None
    rows: Sequence[str] = ()


def time_maps(stages: Mapping[str, NDArray[np.float32]], clips: int) -> dict[str, NDArray[np.float32]]:
    """The stages that are maps over `clips` clips, those before something first, then after it."""
    found = {name: value for name, value in stages.items() if name.startswith(MAP) and len(value) == clips}
    return dict(sorted(found.items(), key=lambda item: (BEFORE not in item[0], AFTER not in item[0])))


def time_figure(one: TimeMaps, *, title: str = "") -> Figure:
    """The score curve with the true intervals, and each map below it; before and after share their colours."""
    heights = [
        CURVE_PX,
        *(max(90, min(ROW_PX, 480 // values.shape[1]) * values.shape[1]) for values in one.maps.values()),
    ]
    made = figure(1250, 130 + sum(heights) + 55 * len(one.maps))
    grid = made.add_gridspec(len(heights), 1, height_ratios=heights)
    scale = 1.0 / one.fps if one.fps else 1.0
    end = float(one.spans[-1, 1]) * scale
    top = made.add_subplot(grid[0])
    for event in one.events:
        top.axvspan(event.start_frames * scale, min(event.end_frames * scale, end), color=ORANGE, alpha=0.35, lw=0)
    top.step(np.append(one.spans[:, 0], one.spans[-1, 1]) * scale, np.append(one.scores, one.scores[-1:]), where="post", color=BLUE)  # fmt: skip
    top.set(xlim=(0, end), ylabel="score", xticklabels=[])
    shared = _shared_range(one.maps)
    for row, (name, values) in enumerate(one.maps.items()):
        axes = made.add_subplot(grid[row + 1])
        low, high = shared if shared and (BEFORE in name or AFTER in name) else _range(values)
        drawn = axes.imshow(
            values.T, aspect="auto", origin="lower", cmap=HEAT, vmin=low, vmax=high, interpolation="nearest",
            extent=(0, end, -0.5, values.shape[1] - 0.5),
        )  # fmt: skip
        _rows(axes, name, values.shape[1], one.rows)
        made.colorbar(drawn, ax=axes, pad=0.01, fraction=0.025)
        if row < len(one.maps) - 1:
            axes.set_xticklabels([])
        else:
            axes.set_xlabel("time in s" if one.fps else "frame")
    made.suptitle(title or one.video)
    return made


@dataclass(frozen=True, slots=True)
class SpaceMaps:
    """One video's map of the whole picture: `values` (T, h, w), the clips' `spans` and `scores`, and where pictures are."""

    video: str
    name: str
    values: NDArray[np.float32]
    spans: NDArray[np.int64]
    scores: NDArray[np.float32]
    fps: float | None


def peaks(scores: NDArray[np.floating[Any]], count: int = PEAKS) -> list[int]:
    """Indices of the highest scores that lie apart (a fifth of the room that `count` leave each other), in time order."""
    apart = max(1, len(scores) // (2 * count))
    found: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if all(abs(int(index) - other) >= apart for other in found):
            found.append(int(index))
        if len(found) == count:
            break
    return sorted(found)


def space_figure(
    one: SpaceMaps, pictures: Callable[[Sequence[int]], Mapping[int, NDArray[np.uint8]]], *, title: str = ""
) -> Figure:
    """The clips with the highest scores: the middle frame above, the map over it below, one colour scale for all.

    `pictures` gives RGB frames by number; frames that it lacks are drawn as the map alone.
    """
    chosen = peaks(one.scores)
    middles = [int(one.spans[clip].sum() // 2) for clip in chosen]
    found = pictures(middles)
    high, wide = next((p.shape[:2] for p in found.values()), one.values.shape[1:])
    cell = 1250 / len(chosen)
    made = figure(1250 + 60, (2 if found else 1) * cell * high / wide + 150)
    low, top = _range(one.values[chosen])
    axes_of_maps, drawn = [], None
    for column, (clip, frame) in enumerate(zip(chosen, middles, strict=True)):
        words = f"{frame / one.fps:.1f} s" if one.fps else f"frame {frame}"
        if found:
            axes = made.add_subplot(2, len(chosen), column + 1)
            _bare(axes)
            axes.set_title(f"{words}, score {one.scores[clip]:.2f}")
            if frame in found:
                axes.imshow(found[frame])
        axes = made.add_subplot(2 if found else 1, len(chosen), column + 1 + (len(chosen) if found else 0))
        _bare(axes)
        drawn = _overlay(axes, one.values[clip], found.get(frame), (low, top), (0, wide, high, 0))
        if not found:
            axes.set_title(f"{words}, score {one.scores[clip]:.2f}")
        axes_of_maps.append(axes)
    if drawn is not None:
        made.colorbar(drawn, ax=axes_of_maps, pad=0.01, fraction=0.02, label=one.name)
    made.suptitle(title or f"{shortened(one.video)}: {one.name}")
    return made


def _overlay(
    axes: Axes,
    values: NDArray[np.float32],
    picture: NDArray[np.uint8] | None,
    limits: tuple[float, float],
    extent: tuple[float, float, float, float],
) -> Any:
    """The map over the grey picture, the hotter the less transparent; the map alone where there is no picture."""
    if picture is None:
        return axes.imshow(values, cmap=HEAT, vmin=limits[0], vmax=limits[1], extent=extent, interpolation="bilinear")
    axes.imshow(picture.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=extent)
    heat = np.clip((values - limits[0]) / (limits[1] - limits[0]), 0, 1)
    seen = COLD_ALPHA + (HOT_ALPHA - COLD_ALPHA) * heat
    return axes.imshow(
        values, cmap=HEAT, vmin=limits[0], vmax=limits[1], extent=extent, interpolation="bilinear", alpha=seen
    )


def _rows(axes: Axes, name: str, count: int, classes: Sequence[str]) -> None:
    axes.set_title(name.removeprefix(MAP).replace("_", " "))
    axes.spines[["top", "right"]].set_visible(True)
    if classes and count == len(classes) and count <= 20:
        axes.set_yticks(range(count), [shortened(word, 16) for word in classes])
    else:
        axes.set_yticks(range(count) if count <= 12 else [0, count - 1])
        axes.set_ylabel("level" if "sam" in name else "row")


def _shared_range(maps: Mapping[str, NDArray[np.float32]]) -> tuple[float, float] | None:
    pair = [values for name, values in maps.items() if BEFORE in name or AFTER in name]
    return _range(np.concatenate([values.ravel() for values in pair])) if len(pair) > 1 else None


def _range(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
