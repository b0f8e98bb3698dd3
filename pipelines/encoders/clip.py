"""CLIP's image tower (Radford et al., ICML 2021) through transformers: one frame of a clip, or the mean of all.

The network is built from the variant's published sizes and the checkpoint's tensors are loaded strictly, so no file
of the hub but the weights themselves decides what is computed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipelines.encoders import _weights
from pipelines.encoders._base import Encoder, EncoderConfig, Precision, Preprocess, Weights
from pipelines.encoders._checkpoint import load_strictly, read_tensors
from pipelines.encoders._prompts import PromptTower
from pipelines.errors import MissingArtifactError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "clip"
VARIANTS = ("vit-b-16", "vit-b-32", "vit-l-14")
SUMMARY = "CLIP's image tower on one frame of a clip (512-d, vit-l-14 768-d); weights from the Hugging Face hub"

PIXELS = 224
# of openai/CLIP, in grey levels
MEAN = (0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255)
STD = (0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255)
BASE_VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
BASE_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
# Radford et al., table 20
SIZES: dict[str, dict[str, Any]] = {
    "vit-b-16": {
        "projection_dim": 512,
        "vision_config": {**BASE_VISION, "patch_size": 16, "projection_dim": 512},
        "text_config": {**BASE_TEXT, "projection_dim": 512},
    },
    "vit-b-32": {
        "projection_dim": 512,
        "vision_config": {**BASE_VISION, "patch_size": 32, "projection_dim": 512},
        "text_config": {**BASE_TEXT, "projection_dim": 512},
    },
    "vit-l-14": {
        "projection_dim": 768,
        "vision_config": {**LARGE_VISION, "patch_size": 14, "projection_dim": 768},
        "text_config": {**LARGE_TEXT, "projection_dim": 768},
    },
}
WEIGHTS = {
    "vit-b-16": {
        "source": "CLIP ViT-B/16, openai/clip-vit-base-patch16",
        "licence": "MIT (as openai/CLIP states for its code and models)",
        # this repository has no safetensors file; the pickle is read with weights_only=True after its hash is checked
        "fetch": "hf:openai/clip-vit-base-patch16@57c216476eefef5ab752ec549e440a49ae4ae5f3:pytorch_model.bin",
        "sha256": "ec89c7b09c749a60aae3c9cd910516f24b58214a7df060b48962d14c469cfbf0",
        "bytes": 598641023,
    },
    "vit-b-32": {
        "source": "CLIP ViT-B/32, openai/clip-vit-base-patch32 (the repository's safetensors conversion)",
        "licence": "MIT (as openai/CLIP states for its code and models)",
        "fetch": "hf:openai/clip-vit-base-patch32@eaee4c876b93e66f7fac584b529025a96d71ad66:model.safetensors",
        "sha256": "99d28a652e6ec46629ab7047a0ac82c69b1fe11e0ce672c43af65d3a9a3fc05d",
        "bytes": 605157884,
    },
    "vit-l-14": {
        "source": "CLIP ViT-L/14, openai/clip-vit-large-patch14",
        "licence": "MIT (as openai/CLIP states for its code and models)",
        "fetch": "hf:openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41:model.safetensors",
        "sha256": "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        "bytes": 1710540580,
    },
}
UNVERIFIED = (
    "revision, size and sha256 are those that the hub publishes; the file itself was not at hand",
    "features were checked with seeded random weights, not against another implementation with these weights",
)
TOKENIZER = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CARDS = {
    variant: replace(card, unverified=UNVERIFIED, companions=TOKENIZER)
    for variant, card in _weights.cards({"WEIGHTS": WEIGHTS}).items()
}


class Config(EncoderConfig):
    """Options of clip."""

    reduction: Literal["middle", "mean", "first"] = Field(
        "middle", description="which frame of a clip stands for it, or the mean of all frames' features"
    )


class Clip(Encoder):
    """CLIP's projected image features, not normalised: (B, K, 512 or 768)."""

    batch = 32

    def __init__(self, name: str, variant: str, config: Config) -> None:
        self.name = name
        self.variant = variant
        self.config = config
        self.dim = SIZES[variant]["projection_dim"]
        self.weights: Weights = CARDS[variant]
        self.preprocess = Preprocess(
            resize=PIXELS, crop_px=(PIXELS, PIXELS), interpolation="bicubic", mean=MEAN, std=STD
        )
        self._model: Any = None
        self._text: Any = None
        self._loaded: tuple[str, str, Path | None] | None = None
        self._own_sha256: str | None = None
        self._given: Path | None = None

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """One frame, or all for the mean."""
        if self.config.reduction == "mean":
            return tuple(range(clip_len))
        return (0,) if self.config.reduction == "first" else (clip_len // 2,)

    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Build the tower and read its weights; see the base class.

        `weights` may also be a folder with `config.json` and `model.safetensors` (as save_pretrained writes): a CLIP
        of one's own, whose hash then stands for it in `weights_sha256`.
        """
        if self._loaded == (device, precision, weights):
            return
        self._given = weights
        sizes, path = self._sizes_and_file(weights)
        model = vision_tower(sizes)
        load_strictly(model, read_tensors(path), path)
        self._install(model, sizes, device, precision)
        self._loaded = (device, precision, weights)

    def load_random(self, device: str, precision: Precision, *, seed: int = 0) -> None:
        """Seeded random weights; see the base class."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = vision_tower(SIZES[self.variant])
        self._install(model, SIZES[self.variant], device, precision)
        self._loaded = None

    def _install(self, model: Any, sizes: dict[str, Any], device: str, precision: Precision) -> None:
        import torch

        from pipelines.encoders._fast import fast_layers

        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._model = fast_layers(model.to(device=device, dtype=dtype).eval())
        self.dim = int(sizes["projection_dim"])

    def _sizes_and_file(self, weights: Path | None) -> tuple[dict[str, Any], Path]:
        if weights is not None and weights.is_dir():
            file, config = weights / "model.safetensors", weights / "config.json"
            if not (file.is_file() and config.is_file()):
                raise MissingArtifactError(
                    f"{weights} has no model.safetensors beside a config.json", hint="save_pretrained writes both"
                )
            self._own_sha256 = _weights.sha256_of(file)
            return json.loads(config.read_text(encoding="utf-8")), file
        self._own_sha256 = None
        return SIZES[self.variant], _weights.require(self.weights, self.name, given=weights)

    def weights_sha256(self) -> str | None:
        """The card's hash, or that of the folder that was loaded instead."""
        return self._own_sha256 or self.weights.sha256

    def parameters(self) -> int:
        """Parameters of the image tower."""
        return sum(p.numel() for p in self._model.parameters()) if self._model is not None else 0

    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, 224, 224, 3) -> float32 (B, K, D)."""
        import torch

        b, k, p, h, w, _ = crops.shape
        with torch.inference_mode():
            flat = crops.reshape(b * k * p, h, w, 3)
            features = torch.cat([self._features(part) for part in torch.split(flat, self.batch)])
            return features.reshape(b, k, p, self.dim).mean(dim=2)

    def _features(self, images: Tensor) -> Tensor:
        import torch

        if self._model is None:
            raise RuntimeError(f"{self.name} is not loaded: call load() first")
        mean, std = (torch.tensor(v, device=images.device) for v in (MEAN, STD))
        x = ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()  # (B, 3, 224, 224)
        features: Tensor = self._model(pixel_values=x.to(self._model.dtype)).image_embeds
        return features.float()

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """Texts -> float32 (Y, D) on the CPU, not normalised, with the same checkpoint's text tower.

        Raises:
            MissingArtifactError: the tokenizer's files do not stand beside the weights.
        """
        import torch

        tokenizer, model = self.text_tower()
        tokens = tokenizer(list(words), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            embedded: Tensor = model(**tokens).text_embeds
        return embedded.float()

    def text_tower(self) -> tuple[Any, Any]:
        """(the tokenizer, the text model with its projection) of the same checkpoint, on the CPU.

        Raises:
            MissingArtifactError: the weights, or the tokenizer's files beside them, are not here.
        """
        if self._text is None:
            from transformers import CLIPConfig, CLIPTextModelWithProjection, CLIPTokenizer

            sizes, path = self._sizes_and_file(self._given)
            folder = _weights.companions(self.weights, path, self.name)
            model = CLIPTextModelWithProjection(CLIPConfig(**_only_sizes(sizes)).text_config).eval()
            load_strictly(model, read_tensors(path), path)
            self._text = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True), model
        return self._text  # type: ignore[no-any-return]


def encode_text(variant: str, texts: Sequence[str]) -> Tensor:
    """The text tower of `clip:<variant>`: texts -> float32 (Y, D), not normalised."""
    return build(variant, Config()).encode_text(texts)


def prompt_tower(variant: str, texts: Sequence[str]) -> PromptTower:
    """The text tower of `clip:<variant>` with room for learned tokens around each text."""
    tokenizer, model = build(variant, Config()).text_tower()
    return PromptTower(model, tokenizer, texts)


def vision_tower(sizes: dict[str, Any]) -> Any:
    """CLIPVisionModelWithProjection of the given sizes with the library's random start."""
    from transformers import CLIPConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(CLIPConfig(**_only_sizes(sizes)).vision_config)


def _only_sizes(sizes: dict[str, Any]) -> dict[str, Any]:
    return {key: sizes[key] for key in ("projection_dim", "vision_config", "text_config") if key in sizes}


def build(variant: str, config: Config) -> Clip:
    """The encoder `clip:<variant>` (vit-b-16 unless given); no weights are read."""
    variant = variant or VARIANTS[0]
    return Clip(f"{NAME}:{variant}", variant, config)
