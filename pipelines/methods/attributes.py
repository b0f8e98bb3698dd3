"""Velocity and appearance of objects, each against what is normal, added up: Reiss and Hoshen, arXiv:2212.00789.

Differences: optical flow by least squares in place of FlowNet2, any image encoder in place of CLIP, no pose (theirs hurts
where frames hold none), a frame without objects gets the training minimum (their code scores the whole frame) [ours].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from pipelines.errors import UsageError
from pipelines.methods._base import DataConfig, Method, MethodConfig, Resources, Shape
from pipelines.methods._density import Mixture, Nearest
from pipelines.methods._regions import frame_max, frame_scores, has_regions
from pipelines.records import Bag, Scores

NAME = "attributes"
SUMMARY = "objects: velocity (mixture) + appearance (nearest neighbour), calibrated on training videos and added"
KIND = "features"
DEFAULT_FEATURES = ("velocity@+effnet@",)

VELOCITY = "velocity"


class Config(MethodConfig):
    """Velocity and appearance."""

    components: int = Field(5, ge=1, description="of the velocity's mixture; 2 on Ped2")
    random_state: int = 0
    limit: int = Field(200_000, ge=1, description="appearance vectors that are kept; a random subset beyond")
    velocity: float = Field(1.0, ge=0, description="weight of the calibrated velocity score; 0 leaves it out")
    appearance: float = Field(1.0, ge=0, description="weight of the calibrated appearance score; 0 leaves it out")
    upper: float = Field(0.999, gt=0, le=1, description="quantile of training frame scores that velocity is scaled to")
    data: DataConfig = DataConfig(length="full", crops="samples")


PRESETS: dict[str, dict[str, Any]] = {
    "ped2": {"components": 2},
    "velocity-only": {"appearance": 0.0},
    "appearance-only": {"velocity": 0.0},
}


class Attributes(Method):
    """Frame score = sum over attributes of (max over objects - low) / (high - low), low and high from training frames.

    Training scores of appearance leave each video's own vectors out. Regions only: clips have no objects.
    """

    supervision = "one-class"
    grown = tuple(f"appearance.{name}" for name in Nearest.grown)
    low: Tensor
    high: Tensor

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()
        self.config = config
        self.at, self.rest = _split(shape)
        width = self.at.stop - self.at.start
        self.velocity = Mixture(width, components=config.components, random_state=config.random_state)
        self.appearance = Nearest(limit=config.limit)
        self.register_buffer("low", torch.zeros(2))
        self.register_buffer("high", torch.ones(2))

    def fit(self, bags: Callable[[], Iterable[Bag]]) -> None:
        """Both densities over every training object, then the range of their frame scores.

        Raises:
            UsageError: features of clips, or no objects.
        """
        if not all(has_regions(bag) for bag in bags()):
            raise UsageError(
                f"{NAME} reads features of regions", hint="vad extract DATASET --boxes motion --encoder effnet,velocity"
            )
        velocities = torch.cat([bag.x[0, 0][:, self.at] for bag in bags()])
        if len(velocities) < 2:
            raise UsageError(f"{NAME} needs two training objects at least, there are {len(velocities)}")
        self.velocity.fit(velocities)
        self.appearance.fit((bag.video_ids[0], self._looks(bag)) for bag in bags())
        every = [self._objects(bag) for bag in bags()]
        for index, upper in enumerate((self.config.upper, 1.0)):
            lines = [frame_max(v[index], bag, float("nan")) for v, bag in zip(every, bags(), strict=True)]
            line = torch.cat(lines).double()
            line = line[~line.isnan()]
            self.low[index], self.high[index] = line.min(), line.quantile(upper)

    def score(self, bag: Bag) -> Scores:
        """x (1, 1, M, D) of a video's objects -> a score a frame."""
        velocity, appearance = self._calibrated(bag)
        c = self.config
        lines = c.velocity * frame_max(velocity, bag, 0.0) + c.appearance * frame_max(appearance, bag, 0.0)
        return frame_scores(c.velocity * velocity + c.appearance * appearance, bag, 0.0, lines=lines)

    def _calibrated(self, bag: Bag) -> tuple[Tensor, Tensor]:
        """(M,) each: 0 at the lowest, 1 at the upper training frame score."""
        found = [
            (v - low) / (high - low).clamp(min=1e-12)
            for v, low, high in zip(self._objects(bag), self.low, self.high, strict=True)
        ]
        return found[0], found[1]

    def _objects(self, bag: Bag) -> tuple[Tensor, Tensor]:
        return self.velocity(bag.x[0, 0][:, self.at]), self.appearance(self._looks(bag), bag.video_ids[0])

    def _looks(self, bag: Bag) -> Tensor:
        return bag.x[0, 0][:, self.rest]


def _split(shape: Shape) -> tuple[slice, slice]:
    """Where velocity and appearance stand in D.

    Raises:
        UsageError: not exactly these two streams.
    """
    velocity = [where for name, where in shape.streams.items() if _family(name) == VELOCITY]
    others = [where for name, where in shape.streams.items() if _family(name) != VELOCITY]
    if len(velocity) != 1 or len(others) != 1:
        raise UsageError(
            f"{NAME} reads two streams, velocity and one encoder's; these are {'+'.join(shape.streams)}",
            hint="vad extract DATASET --boxes motion --encoder effnet,velocity, then --features velocity@+effnet@",
        )
    return velocity[0], others[0]


def _family(name: str) -> str:
    return name.partition("@")[0].partition(":")[0]


def build(config: Config, shape: Shape, resources: Resources) -> Attributes:
    """The method on features of regions that hold a velocity stream and one encoder's."""
    return Attributes(config, shape)


RESULTS: tuple[dict[str, Any], ...] = (
    {"dataset": "ped2", "features": "CLIP crops, FlowNet2, pose; Mask R-CNN boxes", "metric": "auc", "value": 99.1},
    {"dataset": "avenue", "features": "CLIP crops, FlowNet2, pose; Mask R-CNN boxes", "metric": "auc", "value": 93.3},
    {"dataset": "shanghaitech", "features": "velocity and pose", "metric": "auc", "value": 85.9},
)
