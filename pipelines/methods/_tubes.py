"""What a method of KIND "tubes" reads: crops of regions with their captions, and tubes of cached vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pipelines.recipe import Config


class TubeConfig(Config):
    """How boxes become regions, tubes and crops (one-class reference, 2.2)."""

    max_boxes: int = Field(50, ge=1, description="the best proposals of a frame that are kept")
    min_side_px: float = Field(10.0, ge=0)
    overlap: Literal["merge", "drop", "keep"] = "merge"
    enlarge: float = Field(1.25, ge=1)
    square: bool = True
    tubes: Literal["fixed", "tracked"] = Field(
        "fixed", description="the same region in every frame of a tube (paper), or its track's: one new crop a frame"
    )
    size_px: int = Field(224, ge=16, description="side of a crop")
    every: int = Field(1, ge=1, description="frames from one frame with regions to the next; a score holds until then")
    batch: int = Field(120, ge=2, description="crops of a contrastive batch")
    tube_batch: int = Field(256, ge=2)
    caption_cap: float = Field(0.1, gt=0, le=1, description="share of a batch that may share a caption, per slot")
    score_batch: int = Field(64, ge=1, description="crops that are encoded at once")


@dataclass(frozen=True, slots=True)
class TubeSpec:
    """What a phase reads. `crops`: captioned crops of every training video. `tubes`: vectors of normal videos' tubes,
    made once by `encode` from each crop, of the fitted videos or of the held-out ones (`part`)."""

    kind: Literal["crops", "tubes"]
    config: TubeConfig
    length: int = 1  # frames of a tube, the predicted one included
    encode: Callable[[Tensor], Tensor] | None = None
    part: Literal["fit", "held"] = "fit"


@dataclass(frozen=True, slots=True)
class Crops:
    """x (B, 3, h, w) float32 in [-1, 1]; words (B, 4): the word of each slot of its caption."""

    x: Tensor
    words: Tensor
    video_ids: tuple[str, ...]
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tubes:
    """v (B, P, ...) float32, the vectors of each tube's crops in order; `frame` (B,) the last frame of each."""

    v: Tensor
    frame: Tensor
    video_ids: tuple[str, ...]
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TubeVideo:
    """One video for scoring. `regions` as in a Bag of region features; `rows` (M, P) the vectors of each region's tube,
    -1 where the tube has no frame; `crops()` goes through all crops once, (rows, (n, 3, h, w) float32) at a time."""

    video_id: str
    n_frames: int
    every: int
    regions: dict[str, Any]
    rows: NDArray[np.int64]
    count: int
    crops: Callable[[], Iterator[tuple[NDArray[np.int64], Tensor]]]
