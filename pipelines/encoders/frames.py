"""The frames themselves, uint8, for methods that learn from pixels: at native size unless a size is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipelines.encoders._base import Encoder, EncoderConfig, Precision, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

NAME = "frames"
SUMMARY = "the frames as they are, uint8, native size or resized; no weights"


class Config(EncoderConfig):
    """Options of frames."""

    size: int | tuple[int, int] | None = Field(
        None, description="short side in pixels, or [height, width]; nothing: native size"
    )


class Frames(Encoder):
    """Stores instead of encoding: the artefact is (N, H, W, 3) uint8."""

    kind: ClassVar[Literal["features", "frames"]] = "frames"
    dim = 3

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.preprocess = Preprocess(resize=config.size, crop_px=None)

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """All frames."""
        return tuple(range(clip_len))

    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Nothing to read."""

    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, h, w, 3), returned as it is."""
        return crops


def build(variant: str, config: Config) -> Frames:
    """The encoder `frames`."""
    return Frames(NAME, config)
