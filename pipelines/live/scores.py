"""Scores of clips as they come: cut and encoded in batches over all cameras, scored a camera at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.extraction.adhoc import Encoded, load_stream, same_clips
from pipelines.live.cameras import Camera
from pipelines.recipe import fingerprint
from pipelines.records import VideoFacts
from pipelines.scoring.scorer import Scorer
from pipelines.scoring.smooth import GrowingLine, parse_smooth, reach

if TYPE_CHECKING:
    from torch import Tensor

WINDOW_CLIPS = 32  # what a method that scores whole videos sees live: the last clips [ours]
Vectors = dict[str, NDArray[np.float16]]  # stream -> (1, K, D)
Floats = NDArray[np.float64]


class LiveScorer:
    """A run or the floor with its encoders loaded.

    Args:
        scorer: what scores.
        device: where.
        smooth: as in `vad eval --smooth`; the scorer's own unless given.
    """

    def __init__(self, scorer: Scorer, device: str, *, smooth: str | None = None) -> None:
        self.scorer, self.smooth = scorer, smooth
        self.streams = {one.name: load_stream(one, device) for one in scorer.wanted}
        self.recipe = same_clips(scorer.wanted)
        self.positions = tuple(sorted({p for stream in self.streams.values() for p in stream.positions}))
        self.batch = min(stream.batch for stream in self.streams.values())

    @property
    def window(self) -> int:
        """Clips that the method sees at once."""
        return self.scorer.live_clips or WINDOW_CLIPS

    def fps_of(self, camera: Camera) -> float | None:
        """The rate at which a camera's frames are looked at; None for its own."""
        return camera.fps or self.recipe.fps

    def filter(self, fps: float) -> str:
        """How frame scores are smoothed."""
        return self.smooth or self.scorer.filter(fps)

    def delay_s(self, fps: float) -> float:
        """Seconds from a frame to its settled score: the rest of its clip, and what the smoothing waits for."""
        return (self.recipe.clip_len + reach(parse_smooth(self.filter(fps)))) / fps

    def recipe_id(self, camera: Camera, fps: float) -> str:
        """What a camera's scores are made of, masks included: a threshold belongs to it."""
        return fingerprint(
            {
                "scorer": self.scorer.facts,
                "features": [one.recipe.model_dump(mode="json") for one in self.scorer.wanted],
                "fps": self.fps_of(camera),
                "masks": camera.model_dump(mode="json")["masks"],
                "smooth": self.filter(fps) if self.smooth or self.scorer.smooth else "floor",
                "window": self.window,
            }
        )

    def describe(self, fps: float) -> str:
        """One line on what is seen and how late."""
        clip_s, how = self.recipe.clip_len / fps, self.filter(fps)
        seen = "each clip alone" if self.window == 1 else f"the last {self.window} clips ({self.window * clip_s:.1f} s)"
        whole = "; it was made for whole videos, so live scores differ from those of `vad predict`"
        return (
            f"{self.scorer.name} at {fps:g} frames a second: delay {self.delay_s(fps):.1f} s (clips of {clip_s:.1f} s, smoothing {how}); sees {seen}"
            + (whole if self.scorer.live_clips is None else "")
        )

    def cut(self, clip: NDArray[np.uint8]) -> dict[str, Tensor]:
        """One clip (1, P, H, W, 3) -> what each encoder sees of it; the clip's memory is free afterwards."""
        return {name: stream.cut(clip, self.positions) for name, stream in self.streams.items()}

    def encode(self, cuts: Sequence[dict[str, Tensor]]) -> list[Vectors]:
        """Vectors of clips of any cameras, in batches."""
        import torch

        found: list[Vectors] = [{} for _ in cuts]
        for name, stream in self.streams.items():
            for start in range(0, len(cuts), stream.batch):
                part = torch.cat([cut[name] for cut in cuts[start : start + stream.batch]])
                for row, vector in enumerate(stream.encode_as_is(part)):
                    found[start + row][name] = vector[None]
        return found


@dataclass(frozen=True, slots=True)
class Settled:
    """Scores of frames [first, first + len(scores)) that will not change any more, and the likeliest class there."""

    first: int
    scores: Floats
    label: str | None


class ConnectionLine:
    """The growing line of frame scores of one connection to a camera."""

    def __init__(self, live: LiveScorer, camera: Camera, *, fps: float, width: int, height: int) -> None:
        self._live, self._camera, self.fps = live, camera, fps
        self._size = width, height
        self._window: deque[Vectors] = deque(maxlen=live.window)
        self._line = GrowingLine(parse_smooth(live.filter(fps)))
        self._next, self._frames, self._told = 0, 0, 0
        self._score = 0.0
        self._label: str | None = None

    def add(self, index: int, vectors: Vectors) -> Settled:
        """Clip number `index`; clips that were dropped before it keep the score of the one before them."""
        stride = self._live.recipe.stride
        lost = (index - self._next) * stride
        before = np.full(max(0, lost), self._score)
        if lost > 0:
            self._window.clear()  # a window must not reach over a hole
        self._window.append(vectors)
        self._score, self._label = self._score_last()
        self._next = index + 1
        self._frames = self._next * stride
        return self._settled(self._line.push(np.concatenate([before, np.full(stride, self._score)])))

    def finish(self, n_frames: int | None = None) -> Settled:
        """The connection is over: the rest, with the last score held up to frame `n_frames` where that is known."""
        held = self._line.push(np.full(max(0, (n_frames or 0) - self._frames), self._score))
        rest = np.concatenate([held, self._line.finish()])
        if n_frames and self._told + len(rest) > n_frames:  # the last clip was filled up past the end
            rest = rest[: n_frames - self._told]
        return self._settled(rest)

    def _settled(self, scores: Floats) -> Settled:
        first, self._told = self._told, self._told + len(scores)
        return Settled(first, scores, self._label)

    def _score_last(self) -> tuple[float, str | None]:
        recipe, scorer = self._live.recipe, self._live.scorer
        arrays = {name: np.concatenate([one[name] for one in self._window]) for name in self._window[0]}
        facts = VideoFacts(
            n_frames=(len(self._window) - 1) * recipe.stride + recipe.clip_len,
            fps=self.fps,
            width=self._size[0],
            height=self._size[1],
            stride=recipe.stride,
            clip_len=recipe.clip_len,
            crops=scorer.wanted[0].recipe.crops,
        )
        scores = scorer.score(Encoded(f"live:{self._camera.name}", arrays, facts, ()))
        score = float(scores.clips[:, -1].mean(dtype=np.float64))
        if scores.classes is None or scores.classes.shape[2] != len(scorer.classes) or len(scorer.classes) < 3:
            return score, None
        return score, scorer.classes[1 + int(scores.classes[:, -1, 1:].mean(axis=0).argmax())]
