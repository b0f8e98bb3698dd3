"""The vision tower of Qwen2.5-VL-7B alone, through transformers: the mean of a frame's merged visual tokens, 3584-d.

This is not what Fine-VAD's paper does with Qwen2.5-VL (it prompts the language model): no language model is run here,
and results on these features are not comparable to its "FineMLLM" rows. A frame is read as an image (the two time steps
of a patch are the same frame); the frames of a clip are averaged where more than one is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from pipelines.encoders import _weights
from pipelines.encoders._base import EncoderConfig, Preprocess
from pipelines.encoders._network import NetworkEncoder

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

NAME = "qwen2.5-vl"
VARIANTS = ("7b",)
SUMMARY = (
    "Qwen2.5-VL-7B's vision tower on a frame, visual tokens averaged (3584-d); no language model, not Fine-VAD's use"
)

PATCH, MERGE, TIME = 14, 2, 2  # pixels of a patch, patches merged along each side, frames of a patch
# of openai/CLIP, in grey levels
MEAN = (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255)
STD = (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255)
SIZES: dict[str, dict[str, Any]] = {
    "7b": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": TIME,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
}
WEIGHTS = {
    "7b": {
        "source": "Qwen2.5-VL-7B-Instruct, the first of five files, which holds the vision tower",
        "licence": "Apache-2.0",
        "fetch": "hf:Qwen/Qwen2.5-VL-7B-Instruct@cc594898137f460bfe9f0759e9844b3ce807cfb5:model-00001-of-00005.safetensors",
        "sha256": "e97b877e47fde53a6c6e77aafb36e58e91ee9d95c4a3eeac6f1b5c0e6a1c986e",
        "bytes": 3900000000,
        "unverified": (
            "revision and sha256 are those that public repositories record; the file itself was not at hand and its "
            "size is rounded",
            "that the first file holds the whole vision tower follows from the order of the tensors and was not seen",
            "features were checked with seeded random weights, not against another implementation with these weights",
        ),
    }
}
CARDS = _weights.cards({"WEIGHTS": WEIGHTS})


class Config(EncoderConfig):
    """Options of qwen2.5-vl."""

    reduction: Literal["middle", "mean", "first"] = Field(
        "middle", description="which frame of a clip stands for it, or the mean of all frames' vectors"
    )
    pixels: int = Field(224, ge=28, description="side of the square crop, a multiple of 28; cost grows with its square")

    @field_validator("pixels")
    @classmethod
    def _whole_tokens(cls, value: int) -> int:
        if value % (PATCH * MERGE):
            raise ValueError(f"{value} is no multiple of {PATCH * MERGE}, the side of a visual token")
        return value


class QwenVision(NetworkEncoder):
    """One clip and crop -> (3584,)."""

    unused = ("model.", "lm_head.")

    def __init__(self, variant: str, config: Config) -> None:
        super().__init__()
        self.name, self.variant, self.config = f"{NAME}:{variant}", variant, config
        self.sizes = SIZES[variant]
        self.dim = self.sizes["out_hidden_size"]
        self.weights = CARDS[variant]
        side = config.pixels
        self.preprocess = Preprocess(resize=side, crop_px=(side, side), interpolation="bicubic", mean=MEAN, std=STD)

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """One frame, or all for the mean."""
        if self.config.reduction == "mean":
            return tuple(range(clip_len))
        return (0,) if self.config.reduction == "first" else (clip_len // 2,)

    def network(self) -> Module:
        """The library's vision tower."""
        from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

        return Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**self.sizes))  # type: ignore[no-any-return]

    def rename(self, key: str) -> str:
        """The tower's names stand below `visual.` (`model.visual.` in files that a later library wrote)."""
        return key.removeprefix("model.").removeprefix("visual.") if "visual." in key else key

    def features(self, network: Module, frames: Tensor) -> Tensor:
        """(N, 3, P, h, w) -> (N, 3584)."""
        import torch

        n, (h, w) = len(frames), frames.shape[3:]
        images = frames.transpose(1, 2).flatten(0, 1)  # (N * P, 3, h, w)
        grid = torch.tensor([[1, h // PATCH, w // PATCH]] * len(images), device="cpu")
        tokens = network(patches(images), grid_thw=grid.to(frames.device)).pooler_output  # (N * P * tokens, D)
        return tokens.view(n, -1, tokens.shape[-1]).mean(dim=1)  # type: ignore[no-any-return]


def patches(images: Tensor) -> Tensor:
    """Images (M, 3, h, w) -> (M * h/14 * w/14, 3 * 2 * 14 * 14) in the order of the library's processor: patches that
    are merged into one token stand together, and each holds its frame twice."""
    m, c, h, w = images.shape
    rows, columns = h // (PATCH * MERGE), w // (PATCH * MERGE)
    cut = images.reshape(m, c, rows, MERGE, PATCH, columns, MERGE, PATCH)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # (M, rows, columns, 2, 2, 3, 14, 14)
    twice = cut.unsqueeze(6).expand(*cut.shape[:6], TIME, PATCH, PATCH)
    return twice.reshape(-1, c * TIME * PATCH * PATCH)


def build(variant: str, config: Config) -> QwenVision:
    """The encoder `qwen2.5-vl:7b`; no weights are read."""
    return QwenVision(variant or VARIANTS[0], config)
