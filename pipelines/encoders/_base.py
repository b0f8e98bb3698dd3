"""What an encoder is: uint8 crops of clips in, one vector a clip and crop out. It knows no dataset and no decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pipelines.encoders._weights import Weights, locate, sha256_of
from pipelines.recipe import Config

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["Encoder", "EncoderConfig", "Precision", "Preprocess", "Weights"]

Precision = Literal["float32", "bf16"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How frames become the encoder's input, before crops are cut.

    `resize` is the short side in pixels (an int) or an exact (height, width), or None for native size; `crop_px` the
    (height, width) of each named crop, or None for the whole resized frame. Resizing is torch's antialiased uint8
    interpolation. `mean` and `std` are in grey levels (0 to 255); normalisation happens inside the encoder, once, on
    the device.
    """

    resize: int | tuple[int, int] | None
    crop_px: tuple[int, int] | None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class EncoderConfig(Config):
    """Options of an encoder that change its vectors (each is part of the features id)."""


class Encoder(ABC):
    """One encoder. Module-level contract of an encoder file:

    `NAME` (str), `SUMMARY` (one sentence), optional `VARIANTS` (tuple of str; "" is the bare name), optional `WEIGHTS` (a literal dict of
    variant -> the fields of a weights card, read without importing the file), `Config` (an EncoderConfig), and
    `build(variant: str, config: Config) -> Encoder`, which must be cheap: no torch import at module top level, no
    weights read before `load`. `revision` is an integer that the author raises when numbers change.
    """

    name: str  # as typed by the user: "effnet:lite0"
    revision: ClassVar[int] = 1
    dim: int
    preprocess: Preprocess
    weights: Weights | None = None
    kind: ClassVar[Literal["features", "frames"]] = "features"
    min_clip_len: int = 1  # frames; a shorter clip is refused before anything is decoded
    lengths: ClassVar[bool] = False  # its values are lengths in pixels of its input; of a region, scaled to the frame's

    @abstractmethod
    def positions(self, clip_len: int) -> tuple[int, ...]:
        """Which frames of a clip (0-based positions below `clip_len`) this encoder wants, sorted."""

    @abstractmethod
    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Read the weights (from `weights` when given), check their hash, move to `device`. Idempotent.

        Raises:
            MissingArtifactError: weights are not here; the hint says what to fetch and where to put it.
            VerificationError: wrong hash or shapes.
        """

    @abstractmethod
    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, h, w, 3) on the device, P = len(positions) -> float32 (B, K, D) on the device.

        The result does not depend on the batch that a clip stands in (up to float rounding).
        """

    def load_random(self, device: str, precision: Precision, *, seed: int = 0) -> None:
        """As `load`, with seeded random weights of the right shapes: for counting, timing and tests without weights."""
        self.load(device, precision)

    def parameters(self) -> int:
        """Number of parameters once loaded; 0 for a descriptor without weights."""
        return 0

    def weights_sha256(self) -> str | None:
        """The hash that enters the features id: the card's, or that of the file that is here where the card has none."""
        if self.weights is None or self.weights.sha256:
            return self.weights.sha256 if self.weights else None
        path = locate(self.weights)
        return sha256_of(path) if path else None
