"""InternVideo2-1B's vision tower (Wang et al., ECCV 2024): four frames of a clip -> 768-d, in plain PyTorch.

The stage-2 model's attention-pooled vector, before its projection to the text's space; `--set output=tokens` is the mean
patch token after the last block but one (1408-d), which VideoChat-Flash reads from the same tower. Frames are squeezed to
224x224 as the authors' demo does, or cut into named crops. InternVideo2.5's chat model has another vision tower
(InternViT-300M) and is not served by this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipelines.encoders import _weights
from pipelines.encoders._base import EncoderConfig, Preprocess
from pipelines.encoders._network import NetworkEncoder, filled, spread

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

NAME = "internvideo2"
VARIANTS = ("1b",)
SUMMARY = "InternVideo2-1B's vision tower on four frames of a clip (768-d); weights from the Hugging Face hub"

SHORT_SIDE = 256  # of the `crops` view
# ImageNet's, in grey levels
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
SIZES: dict[str, dict[str, Any]] = {
    "1b": {
        "width": 1408,
        "depth": 40,
        "heads": 16,
        "hidden": 6144,
        "pooled": 768,
        "pool_heads": 16,
        "frames": 4,
        "pixels": 224,
    }
}
WEIGHTS = {
    "1b": {
        "source": "InternVideo2 stage 2, 1B, 4 frames, OpenGVLab/Video_Encoders_for_Training_VideoChat-Flash",
        "licence": "Apache-2.0",
        "fetch": "hf:OpenGVLab/Video_Encoders_for_Training_VideoChat-Flash@cf1c1eee597d8b438bffa74eca902c4c0078adf3"
        ":InternVideo2-1B_f4_vision.pt",
        "sha256": "bd7b798b5a4255eb3c208cc0e367ed0eabf1bd8414a6862823cf31ab19d2d560",
        "bytes": 2820352127,
        "unverified": (
            "revision, size and sha256 are those that the hub publishes; the file itself was not at hand",
            "names and shapes are those of the authors' code; whether this file holds the pooling layer was not seen "
            "(where it does not, loading says so, and output=tokens needs none)",
            "features were checked with seeded random weights, not against another implementation with these weights",
        ),
    }
}
CARDS = _weights.cards({"WEIGHTS": WEIGHTS})


class Config(EncoderConfig):
    """Options of internvideo2."""

    output: Literal["pooled", "tokens"] = Field(
        "pooled",
        description="the attention-pooled vector (768-d), or the mean patch token before the last block (1408-d)",
    )
    view: Literal["whole", "crops"] = Field(
        "whole", description="the whole frame squeezed to 224x224, or named 224x224 crops of a short side of 256"
    )


class InternVideo(NetworkEncoder):
    """One clip and crop -> (768,) or (1408,)."""

    batch = 4
    unused = (
        "text_encoder.", "text_proj.", "vision_proj.", "itm_head.", "temp", "img_pos_embed", "clip_pos_embed",
        "clip_img_pos_embed", "clip_decoder.", "final_clip_decoder.", "clip_projector.",
    )  # fmt: skip

    def __init__(self, variant: str, config: Config) -> None:
        super().__init__()
        self.name, self.variant, self.config = f"{NAME}:{variant}", variant, config
        self.sizes = SIZES[variant]
        self.dim = self.sizes["pooled" if config.output == "pooled" else "width"]
        self.weights = CARDS[variant]
        whole, side = config.view == "whole", self.sizes["pixels"]
        self.preprocess = Preprocess(
            resize=(side, side) if whole else SHORT_SIDE,
            crop_px=None if whole else (side, side),
            mean=MEAN,
            std=STD,
        )

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """Four frames spread over the clip; a shorter clip's frames are repeated evenly."""
        return spread(self.sizes["frames"], clip_len)

    def network(self) -> Module:
        """The tower without memory: a checkpoint's tensors are put in its place."""
        import torch

        from pipelines.encoders._internvideo2 import InternVideo2, Sizes

        with torch.device("meta"):
            return InternVideo2(Sizes(**self.sizes), pooling=self.config.output == "pooled")

    def rename(self, key: str) -> str:
        """The whole stage-2 model keeps its tower below `vision_encoder.`."""
        return key.removeprefix("vision_encoder.")

    def features(self, network: Module, frames: Tensor) -> Tensor:
        """(N, 3, P, 224, 224) -> (N, D)."""
        return network(filled(frames, self.sizes["frames"]))  # type: ignore[no-any-return]


def build(variant: str, config: Config) -> InternVideo:
    """The encoder `internvideo2:1b`; no weights are read."""
    return InternVideo(variant or VARIANTS[0], config)
