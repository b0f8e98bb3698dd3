"""VideoMAE (Tong et al., NeurIPS 2022), fine-tuned on Kinetics-400, through transformers: 16 frames -> 768-d.

The vector is what the published classifier reads: the normalised mean over all tokens of the last layer. The network is
built from the published sizes and the checkpoint's tensors are loaded strictly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.encoders import _weights
from pipelines.encoders._base import EncoderConfig, Preprocess
from pipelines.encoders._network import NetworkEncoder, filled, spread

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

NAME = "videomae"
VARIANTS = ("base",)
SUMMARY = "VideoMAE ViT-B, fine-tuned on Kinetics-400, on 16 frames of a clip (768-d); weights not for commercial use"

PIXELS = 224
# ImageNet's, in grey levels
MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
SIZES: dict[str, dict[str, Any]] = {
    "base": {
        "image_size": PIXELS,
        "patch_size": 16,
        "num_frames": 16,
        "tubelet_size": 2,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "num_labels": 400,
    }
}
WEIGHTS = {
    "base": {
        "source": "VideoMAE ViT-B/16 fine-tuned on Kinetics-400, MCG-NJU/videomae-base-finetuned-kinetics",
        "licence": "CC-BY-NC-4.0: not for commercial use",
        "fetch": "hf:MCG-NJU/videomae-base-finetuned-kinetics@488eb9a0565f257b32866000305c8178965eb9f6:model.safetensors",
        "sha256": None,
        "bytes": 346000000,
        "unverified": (
            "the file itself was not at hand and its sha256 is not known: the hash of the file that is here enters the "
            "features id; its size is rounded",
            "features were checked with seeded random weights, not against another implementation with these weights",
        ),
    }
}
CARDS = _weights.cards({"WEIGHTS": WEIGHTS})


class Config(EncoderConfig):
    """VideoMAE has no options: its frames are spread evenly over a clip."""


class VideoMAE(NetworkEncoder):
    """One clip and crop -> (768,)."""

    batch = 4

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.name, self.variant = f"{NAME}:{variant}", variant
        self.sizes = SIZES[variant]
        self.dim = self.sizes["hidden_size"]
        self.weights = CARDS[variant]
        side = self.sizes["image_size"]
        self.preprocess = Preprocess(resize=side, crop_px=(side, side), mean=MEAN, std=STD)

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """16 frames spread over the clip; a shorter clip's frames are repeated evenly."""
        return spread(self.sizes["num_frames"], clip_len)

    def network(self) -> Module:
        """The library's classifier, head included, so that a checkpoint loads whole."""
        from transformers import VideoMAEConfig, VideoMAEForVideoClassification

        return VideoMAEForVideoClassification(VideoMAEConfig(**self.sizes))  # type: ignore[no-any-return]

    def rename(self, key: str) -> str:
        """The published file keeps the two biases beside the layers that have them."""
        return key.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias")

    def features(self, network: Module, frames: Tensor) -> Tensor:
        """(N, 3, P, 224, 224) -> (N, 768)."""
        model: Any = network
        clips = filled(frames, self.sizes["num_frames"]).transpose(1, 2)  # the library wants (N, T, 3, h, w)
        tokens = model.videomae(clips.contiguous()).last_hidden_state  # (N, tokens, 768)
        return model.fc_norm(tokens.mean(dim=1))  # type: ignore[no-any-return]


def build(variant: str, config: Config) -> VideoMAE:
    """The encoder `videomae:base`; no weights are read."""
    return VideoMAE(variant or VARIANTS[0])
