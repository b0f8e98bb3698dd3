"""Distance to the nearest normal vector, on any cached features: the baseline before any one-class model is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from pipelines.methods._base import DataConfig, Method, MethodConfig, Resources, Shape
from pipelines.methods._density import Nearest
from pipelines.methods._regions import frame_max, frame_scores, has_regions
from pipelines.records import Bag, Scores

NAME = "knn"
SUMMARY = "distance to the nearest normal training vector, on any features; nothing is trained"
KIND = "features"
DEFAULT_FEATURES = ()


class Config(MethodConfig):
    """Nearest neighbours (talreiss/Accurate-Interpretable-VAD [code]: exact 1-NN, squared L2)."""

    k: int = Field(1, ge=1, description="neighbours whose squared distances are averaged")
    limit: int = Field(200_000, ge=1, description="training vectors that are kept; a random subset beyond")
    data: DataConfig = DataConfig(length="full", crops="samples")


PRESETS: dict[str, dict[str, Any]] = {"standardised": {"data": {"standardise": True}}}


class KNN(Method):
    """Score of a clip or an object = squared distance to its nearest neighbours; of a frame = the highest of its objects.

    A frame without objects gets the lowest frame score of the training videos, each left out of its own neighbours.
    """

    supervision = "one-class"
    live_clips = 1
    grown = tuple(f"nearest.{name}" for name in Nearest.grown)
    empty: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.nearest = Nearest(k=config.k, limit=config.limit)
        self.register_buffer("empty", torch.zeros(()))

    def fit(self, bags: Callable[[], Iterable[Bag]]) -> None:
        """Remember every training vector, then score each training video against the others."""
        total = self.nearest.fit((bag.video_ids[0], bag.x[0].flatten(0, 1)) for bag in bags())
        kept = len(self.nearest.memory)
        if kept < total:
            self.notes = (f"{kept} of {total} training vectors are kept, drawn at random",)
        lines = [
            frame_max(self._values(bag)[0], bag, float("inf")) for bag in bags() if has_regions(bag) and bag.x.shape[2]
        ]
        if lines:
            self.empty.copy_(torch.cat(lines).min())

    def _values(self, bag: Bag) -> Tensor:
        """(K, T)."""
        k, t, d = bag.x.shape[1:]
        values: Tensor = self.nearest(bag.x[0].reshape(-1, d), bag.video_ids[0])
        return values.reshape(k, t)

    def score(self, bag: Bag) -> Scores:
        """x (1, K, T, D) -> clips (K, T), or a score a frame where the rows are objects."""
        values = self._values(bag)
        return frame_scores(values[0] if has_regions(bag) else values, bag, float(self.empty))


def build(config: Config, shape: Shape, resources: Resources) -> KNN:
    """The method on any features."""
    return KNN(config)


RESULTS: tuple[dict[str, Any], ...] = ()
