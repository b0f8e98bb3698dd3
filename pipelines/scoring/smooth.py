"""Smoothing inside one video, and per-video min-max. The only place that does either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.metrics.frame import minmax
from pipelines.recipe import suggest

__all__ = ["GrowingLine", "Smooth", "kernel", "minmax", "parse_smooth", "reach", "smooth"]

Kind = Literal["none", "gaussian", "mean", "median"]
Edge = Literal["reflect", "nearest", "renormalise", "zero"]
KINDS = ("none", "gaussian", "mean", "median")
EDGES = ("reflect", "nearest", "renormalise", "zero")
TRUNCATE_SIGMA = 4.0
DIRECT_TAPS = 1024  # above, convolution by FFT is faster; below, equal windows give equal sums
PAD_MODES = {"reflect": "symmetric", "nearest": "edge", "renormalise": "constant", "zero": "constant"}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Smooth:
    """A filter along one video's frames.

    `width` is sigma in frames for `gaussian` (kernel cut at 4 sigma), the window in frames for `mean` and `median`.
    `edge`: `reflect` (d c b a | a b c d | d c b a), `nearest`, `renormalise` (weights outside the video left out),
    `zero` (what some published code does; draws a hill on a constant score).
    `taps` replaces the Gaussian kernel by the published one of that many taps, its centre one tap early and its sum
    below 1 ([code] aed-mae); only presets use it.
    """

    kind: Kind = "none"
    width: float = 0.0
    edge: Edge = "reflect"
    taps: int | None = None

    def __str__(self) -> str:
        if self.kind == "none":
            return "none"
        return f"{self.kind}:{self.width:g}:{self.edge}" + (f" ({self.taps} taps)" if self.taps else "")


def parse_smooth(text: str) -> Smooth:
    """`none`, `gaussian:3`, `mean:7:nearest` as a `Smooth`.

    Raises:
        UsageError: an unknown kind or edge, or a width that is not positive (whole, for `mean` and `median`).
    """
    kind, *rest = text.strip().split(":")
    if kind == "none" and not rest:
        return Smooth()
    if kind not in KINDS or kind == "none" or len(rest) not in (1, 2):
        raise UsageError(
            f"--smooth {text!r} is not kind:width[:edge]{suggest(kind, KINDS)}",
            hint="for example gaussian:3, mean:7:nearest, median:17, none",
        )
    edge = rest[1] if len(rest) == 2 else "reflect"
    if edge not in EDGES:
        raise UsageError(f"--smooth {text!r}: unknown edge {edge!r}{suggest(edge, EDGES)}", hint=", ".join(EDGES))
    return Smooth(kind, _width(text, kind, rest[0]), edge)  # type: ignore[arg-type]


def smooth(scores: Floats, how: Smooth) -> Floats:
    """`scores` (N,) filtered; same length.

    A constant stays exactly constant under `reflect`, `nearest` and `renormalise`. Where the window is longer than the video, `reflect`
    reflects again and again, as scipy.ndimage does.
    """
    if how.kind == "none" or len(scores) == 0:
        return np.asarray(scores, dtype=np.float64)
    if how.kind == "median":
        return _median(np.asarray(scores, dtype=np.float64), int(how.width), how.edge)
    return _convolve(np.asarray(scores, dtype=np.float64), kernel(how), how.edge)


def kernel(how: Smooth) -> Floats:
    """The weights of a `gaussian` or `mean` filter as a correlation kernel, its centre at index len // 2."""
    if how.kind == "mean":
        return np.full(int(how.width), 1.0 / int(how.width))
    if how.taps is not None:
        support = np.arange(how.taps) - (how.taps // 2 - 1)
        weights = np.exp(-0.5 * (support / how.width) ** 2) / (how.width * np.sqrt(2 * np.pi))
        return np.asarray(weights)
    radius = int(TRUNCATE_SIGMA * how.width + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / how.width) ** 2)
    return np.asarray(weights / weights.sum())


def reach(how: Smooth) -> int:
    """How many frames before and after itself a filtered frame depends on at most."""
    if how.kind == "none":
        return 0
    return int(how.width) // 2 if how.kind == "median" else len(kernel(how)) // 2


class GrowingLine:
    """Filters a line of frame scores that is still growing: the values of `smooth`, as soon as they are settled.

    A frame is settled when `reach` more are known. Memory: twice the reach.
    """

    def __init__(self, how: Smooth) -> None:
        self._how, self._reach = how, reach(how)
        self._kept: Floats = np.empty(0)
        self._settled = 0  # of the kept frames

    def push(self, scores: Floats) -> Floats:
        """The next frames' scores; those that are settled now."""
        self._kept = np.concatenate([self._kept, scores])
        return self._settle(len(self._kept) - self._reach)

    def finish(self) -> Floats:
        """No more come: the rest."""
        return self._settle(len(self._kept))

    def _settle(self, until: int) -> Floats:
        if until <= self._settled:
            return np.empty(0)
        found = smooth(self._kept, self._how)[self._settled : until]
        cut = max(0, until - self._reach)
        self._kept, self._settled = self._kept[cut:], until - cut
        return found


def _width(text: str, kind: str, word: str) -> float:
    try:
        width = float(word)
    except ValueError:
        width = float("nan")
    if not 0 < width < float("inf") or (kind != "gaussian" and width != int(width)):
        raise UsageError(
            f"--smooth {text!r}: {word!r} is not a width", hint="gaussian: sigma > 0; mean, median: whole frames"
        )
    return width


def _pad(scores: Floats, before: int, after: int, edge: Edge) -> Floats:
    return np.pad(scores, (before, after), mode=PAD_MODES[edge])  # type: ignore[call-overload, no-any-return]


def _convolve(scores: Floats, weights: Floats, edge: Edge) -> Floats:
    before = len(weights) // 2
    after = len(weights) - 1 - before
    flat = edge != "zero" and bool((scores == scores[0]).all())
    if flat:  # rounding must not turn a constant into structure
        return scores.copy()
    result = _correlate(_pad(scores, before, after, edge), weights)
    if edge == "renormalise":
        result = result / _correlate(_pad(np.ones(len(scores)), before, after, edge), weights)
    return result


def _correlate(padded: Floats, weights: Floats) -> Floats:
    if len(weights) <= DIRECT_TAPS:
        return np.correlate(padded, weights, "valid")
    from scipy.signal import oaconvolve

    return np.asarray(oaconvolve(padded, weights[::-1], mode="valid"))


def _median(scores: Floats, width: int, edge: Edge) -> Floats:
    before = width // 2
    after = width - 1 - before
    if edge == "renormalise":
        padded = np.pad(scores, (before, after), constant_values=np.nan)
        return np.asarray(np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1))
    windows = np.lib.stride_tricks.sliding_window_view(_pad(scores, before, after, edge), width)
    return np.asarray(np.median(windows, axis=1))
