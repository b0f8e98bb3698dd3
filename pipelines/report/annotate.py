"""Frames with what was said of them: the score as a bar and as a curve with a cursor, the class, a heat map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.scoring.events import Span

LEAST_PX, MOST_PX = 480, 1280  # width of the written picture
STRIP_PX, MARGIN_PX = 72, 6
HEAT = 0.55  # largest opacity of a heat map
DARK, LINE, CURSOR, ALARM, GREY = (24, 24, 28), (86, 180, 233), (240, 240, 240), (213, 94, 0), (140, 140, 140)
SHADE = (92, 50, 24)

Frame = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Overlay:
    """One video's result as it is drawn.

    scores (N,) smoothed; `events` with the class of each in `labels` ("" where unknown); `maps` (T, h, w) with the
    frames of each in `map_spans` (T, 2), or None.
    """

    scores: Floats
    threshold: float
    fps: float | None
    events: Sequence[Span]
    labels: Sequence[str]
    maps: NDArray[np.float32] | None = None
    map_spans: NDArray[np.int64] | None = None


def annotate(frames: Iterable[Frame], overlay: Overlay) -> Iterator[Frame]:
    """Frames (H, W, 3) uint8 -> drawn frames of one even size, the score's strip below the picture."""
    canvas: _Canvas | None = None
    for number, frame in enumerate(frames):
        if canvas is None:
            canvas = _Canvas(overlay, frame.shape[1], frame.shape[0])
        yield canvas.draw(frame, min(number, len(overlay.scores) - 1))


class _Canvas:
    def __init__(self, overlay: Overlay, width: int, height: int) -> None:
        from PIL import ImageFont

        self.overlay = overlay
        self.width = 2 * round(min(max(width, LEAST_PX), MOST_PX) / 2)
        self.height = 2 * max(1, round(height * self.width / width / 2))
        self.font = ImageFont.load_default(15)
        low, high = float(overlay.scores.min()), float(overlay.scores.max())
        low, high = min(low, overlay.threshold), max(high, overlay.threshold)
        self.low, self.span = low, (high - low) or 1.0
        self.strip = self._strip()
        self.heat = _Heat(overlay.maps, overlay.map_spans) if overlay.maps is not None else None

    def draw(self, frame: Frame, number: int) -> Frame:
        from PIL import Image, ImageDraw

        picture = Image.fromarray(frame).resize((self.width, self.height), Image.Resampling.BILINEAR)
        if self.heat is not None:
            picture = self.heat.over(picture, number)
        whole = Image.new("RGB", (self.width, self.height + STRIP_PX), DARK)
        whole.paste(picture, (0, 0))
        whole.paste(self.strip, (0, self.height))
        pen = ImageDraw.Draw(whole)
        event = next((k for k, one in enumerate(self.overlay.events) if one.start <= number < one.end), None)
        self._bar(pen, number, ALARM if event is not None else LINE)
        if event is not None:
            pen.rectangle((0, 0, self.width - 1, self.height - 1), outline=ALARM, width=4)
            self._word(pen, (10, 10), self.overlay.labels[event] or "anomaly", ALARM)
        x = self._x(number)
        pen.line((x, self.height, x, self.height + STRIP_PX - 1), fill=CURSOR, width=1)
        self._word(pen, (10, self.height - 28), self._caption(number), DARK)
        return np.asarray(whole)

    def _caption(self, number: int) -> str:
        fps, score = self.overlay.fps, self.overlay.scores[number]
        at = f"{number / fps:.1f} s" if fps else f"frame {number}"
        return f"{at}   score {score:.3g}"

    def _word(self, pen: Any, at: tuple[int, int], text: str, colour: tuple[int, int, int]) -> None:
        left, top, right, bottom = pen.textbbox(at, text, font=self.font)
        pen.rectangle((left - 4, top - 3, right + 4, bottom + 3), fill=colour)
        pen.text(at, text, fill=CURSOR, font=self.font)

    def _bar(self, pen: Any, number: int, colour: tuple[int, int, int]) -> None:
        right, top, bottom = self.width - 10, 10, self.height - 10
        pen.rectangle((right - 10, top, right, bottom), fill=DARK, outline=GREY)
        share = (self.overlay.scores[number] - self.low) / self.span
        level = bottom - 1 - share * (bottom - top - 2)
        pen.rectangle((right - 9, level, right - 1, bottom - 1), fill=colour)
        mark = bottom - (self.overlay.threshold - self.low) / self.span * (bottom - top)
        pen.line((right - 14, mark, right + 3, mark), fill=CURSOR, width=2)

    def _strip(self) -> Any:
        """Curve, threshold and events of the whole video; every column shows its lowest and highest score."""
        from PIL import Image, ImageDraw

        strip = Image.new("RGB", (self.width, STRIP_PX), DARK)
        pen = ImageDraw.Draw(strip)
        for event in self.overlay.events:
            pen.rectangle((self._x(event.start), 0, self._x(event.end), STRIP_PX), fill=SHADE)
        scores = self.overlay.scores
        edges = np.linspace(0, len(scores), self.width + 1).astype(int)
        before: float | None = None
        for x, (a, b) in enumerate(pairwise(edges)):
            part = scores[a : max(b, a + 1)]
            top, bottom = self._y(float(part.max())), self._y(float(part.min()))
            if before is not None:  # joined to the column before, so that steps are seen
                top, bottom = min(top, before), max(bottom, before)
            before = self._y(float(part[-1]))
            pen.line((x, top, x, bottom + 1), fill=LINE)
        level = self._y(self.overlay.threshold)
        for x in range(0, self.width, 8):
            pen.line((x, level, x + 3, level), fill=GREY)
        return strip

    def _x(self, frame: int) -> float:
        return frame / max(1, len(self.overlay.scores)) * (self.width - 1)

    def _y(self, score: float) -> float:
        return STRIP_PX - MARGIN_PX - (score - self.low) / self.span * (STRIP_PX - 2 * MARGIN_PX)


class _Heat:
    """Maps as a layer whose opacity is the value between the video's median and its 99.5th percentile."""

    def __init__(self, maps: NDArray[np.float32], spans: NDArray[np.int64] | None) -> None:
        self.maps, self.spans = maps, spans
        self.low, high = (float(value) for value in np.quantile(maps, (0.5, 0.995)))
        self.range = max(high - self.low, 1e-12)

    def over(self, picture: Any, number: int) -> Any:
        from PIL import Image

        clip = number if self.spans is None else int(np.searchsorted(self.spans[:, 0], number, side="right")) - 1
        one = self.maps[min(max(clip, 0), len(self.maps) - 1)]
        share = ((one - self.low) / self.range).clip(0, 1)
        mask = Image.fromarray((255 * HEAT * share).astype(np.uint8)).resize(picture.size, Image.Resampling.BILINEAR)
        return Image.composite(Image.new("RGB", picture.size, (255, 60, 0)), picture, mask)
