"""How much moves: the floor that a trained method has to beat, and what scores a video when there is no run yet."""

from __future__ import annotations

from typing import Any

import torch

from pipelines.methods._base import Method, MethodConfig, Resources, Shape, scores_of, stream_slice
from pipelines.records import Bag, Scores

NAME = "motion-scalar"
SUMMARY = "The motion feature's scalar, as it is: no training, the floor"
KIND = "features"
DEFAULT_FEATURES = ("motion",)


class Config(MethodConfig):
    """Nothing to set: the score is index 0 of the motion stream."""


PRESETS: dict[str, dict[str, Any]] = {}


class MotionScalar(Method):
    """Score of a clip = the motion encoder's scalar (median over frame pairs of the mean absolute difference, in [0, 1])."""

    supervision = "none"
    live_clips = 1

    def __init__(self, index: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.tensor(index))  # where the scalar stands in D
        self.at = index

    def score(self, bag: Bag) -> Scores:
        """x (1, K, T, D) -> clips (K, T) in [0, 1]."""
        return scores_of(bag, bag.x[0, :, :, self.at].clamp(0.0, 1.0))


def build(config: Config, shape: Shape, resources: Resources) -> MotionScalar:
    """The method on any features that hold a motion stream.

    Raises:
        UsageError: they hold none.
    """
    return MotionScalar(stream_slice(shape, "motion", method=NAME).start)


RESULTS: tuple[dict[str, Any], ...] = ()
