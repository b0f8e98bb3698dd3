"""Minus log-likelihood under a Gaussian mixture of normal vectors, on any cached features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from pipelines.errors import UsageError
from pipelines.methods._base import DataConfig, Method, MethodConfig, Resources, Shape
from pipelines.methods._density import Mixture
from pipelines.methods._regions import frame_max, frame_scores, has_regions
from pipelines.records import Bag, Scores

NAME = "gmm"
SUMMARY = "minus log-likelihood under a Gaussian mixture of normal vectors, on any features"
KIND = "features"
DEFAULT_FEATURES = ()


class Config(MethodConfig):
    """The mixture (talreiss/Accurate-Interpretable-VAD [code]: full covariances, 5 components, 2 on Ped2)."""

    components: int = Field(5, ge=1)
    random_state: int = 0  # of k-means, which the mixture starts from
    data: DataConfig = DataConfig(length="full", crops="samples")


PRESETS: dict[str, dict[str, Any]] = {"ped2": {"components": 2}}


class GMM(Method):
    """Score of a clip or an object = -log p; of a frame = the highest of its objects.

    Features wider than 64 are PCA-whitened to 64 first, 1e-6 on the covariances [ours]. A frame without objects gets the
    lowest frame score of the training videos.
    """

    supervision = "one-class"
    live_clips = 1
    empty: Tensor

    def __init__(self, config: Config, dim: int) -> None:
        super().__init__()
        self.mixture = Mixture(dim, components=config.components, random_state=config.random_state)
        self.register_buffer("empty", torch.zeros(()))

    def fit(self, bags: Callable[[], Iterable[Bag]]) -> None:
        """The mixture over every training vector; then the lowest frame score.

        Raises:
            UsageError: fewer than two training vectors.
        """
        values = torch.cat([bag.x[0].flatten(0, 1) for bag in bags()])
        if len(values) < 2:
            raise UsageError(f"a mixture needs two training vectors at least, there are {len(values)}")
        self.mixture.fit(values)
        lines = [
            frame_max(self.mixture(bag.x[0, 0]), bag, float("inf"))
            for bag in bags()
            if has_regions(bag) and bag.x.shape[2]
        ]
        if lines:
            self.empty.copy_(torch.cat(lines).min())

    def score(self, bag: Bag) -> Scores:
        """x (1, K, T, D) -> clips (K, T), or a score a frame where the rows are objects."""
        k, t, d = bag.x.shape[1:]
        values = self.mixture(bag.x[0].reshape(-1, d)).reshape(k, t)
        return frame_scores(values[0] if has_regions(bag) else values, bag, float(self.empty))


def build(config: Config, shape: Shape, resources: Resources) -> GMM:
    """The method on any features."""
    return GMM(config, shape.dim)


RESULTS: tuple[dict[str, Any], ...] = ()
