"""The look of every figure, in one place: sizes, fonts, colours, and how a figure becomes PDF, SVG or PNG.

Figures are drawn with matplotlib's Agg canvas, so that no display is needed. Colours are Okabe and Ito's, told apart by
colour-blind readers, and never the only carrier of a meaning. The same figure gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#5A5A5A"
PINK, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
CLASS_COLOURS = (ORANGE, PINK, SKY, GREEN, YELLOW, VERMILION)
LINE_STYLES = ("-", "-.", ":", "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GRID = "#E4E4E4"
HEAT = "cividis"  # rises evenly in brightness, for colour-blind readers and in print
DPI = 190  # of PNG; 1200 pixels are 6.3 inches, the width of a page's text
FORMATS = ("pdf", "svg", "png")
RC: dict[str, Any] = {
    "font.size": 7.5,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures look alike everywhere
    "axes.titlesize": 7.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#4A4A4A",
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "figure.titlesize": 8.5,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "vadcli",
}


@contextmanager
def look() -> Iterator[None]:
    """Everything drawn and saved inside has the one look."""
    import matplotlib

    with matplotlib.rc_context(RC):
        yield


def figure(width_px: float, height_px: float) -> Figure:
    """An empty figure whose PNG has this size; use inside `look`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path) -> Path:
    """Write the figure in the format that the path's ending names; returns the path.

    Raises:
        UsageError: none of FORMATS.
    """
    form = path.suffix.removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"cannot draw {path.name}", hint="one of " + ", ".join(FORMATS))
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"pdf": {"Creator": "vadcli", "CreationDate": None}, "svg": {"Creator": "vadcli", "Date": None}}
    made.savefig(path, format=form, dpi=DPI, metadata=about.get(form, {"Software": "vadcli"}))
    return path


def save_all(made: Figure, folder: Path, name: str, formats: Sequence[str]) -> list[Path]:
    """The figure as `folder/name.<format>` in each format."""
    return [save(made, folder / f"{name}.{form}") for form in formats]


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """A colour a label, in order; they repeat after the last."""
    return {label: CLASS_COLOURS[index % len(CLASS_COLOURS)] for index, label in enumerate(labels)}


def shortened(text: str, room: int = 34) -> str:
    """A text cut in its middle where it is longer than `room`."""
    if len(text) <= room:
        return text
    head = room // 2 - 3
    return f"{text[:head]}…{text[head + 1 - room :]}"
