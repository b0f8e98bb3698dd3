"""Image-Text Alignment Module of Local Patterns, section 3.2: a shallow ResNet, learned queries, a small text encoder.

Sizes equal BLIP-2's Q-Former at `paper` (12 layers, cross-attention every 2nd [code] salesforce/LAVIS); trained from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipelines.recipe import Config

TAU_START, TAU_RANGE = 0.07, (0.01, 0.5)  # [code] LAVIS


class ItamConfig(Config):
    """One branch."""

    base: int = Field(64, ge=4, description="channels of ResNet-18's first stage; the second has twice as many")
    grid: int = Field(16, ge=2, description="tokens are the feature map at grid x grid, and a learned class token")
    visual: int = Field(256, ge=8, description="V_d, width of a token; 1408 in the paper")
    queries: int = Field(32, ge=1, description="N_q, learned queries")
    hidden: int = Field(384, ge=8, description="H_d of the queries; 768 in the paper")
    heads: int = Field(8, ge=1)
    layers: int = Field(4, ge=1, description="12 in the paper's sizes; cross-attention in every 2nd from the first")
    embed: int = Field(256, ge=4, description="E_d of a query's output; N = N_q * E_d")
    text_layers: int = Field(2, ge=1)
    text_length: int = Field(16, ge=4, description="S_t, words of a caption")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing of the contrastive loss [code] LAVIS")


class Residual(nn.Module):
    """ResNet's basic block: two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C', h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Backbone(nn.Module):
    """ResNet-18 up to its second stage: at 224 px 28 x 28 x 128 (the paper's 512 channels exist in no such layer)."""

    def __init__(self, config: ItamConfig) -> None:
        super().__init__()
        c = config.base
        self.stem = nn.Sequential(nn.Conv2d(3, c, 7, 2, 3, bias=False), nn.BatchNorm2d(c), nn.ReLU())
        self.stages = nn.Sequential(
            Residual(c, c, 1), Residual(c, c, 1), Residual(c, 2 * c, 2), Residual(2 * c, 2 * c, 1)
        )
        self.project = nn.Conv2d(2 * c, config.visual, 1)
        self.grid = config.grid
        self.class_token = nn.Parameter(torch.randn(1, 1, config.visual) * 0.02)
        self.position = nn.Parameter(torch.randn(1, config.grid**2 + 1, config.visual) * 0.02)

    def forward(self, crops: Tensor) -> Tensor:
        """crops (B, 3, h, w) in [-1, 1] -> tokens (B, grid^2 + 1, V_d), the class token first."""
        x = self.stages(F.max_pool2d(self.stem(crops), 3, 2, 1))
        x = F.interpolate(self.project(x), size=(self.grid, self.grid), mode="bilinear", align_corners=False)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        return tokens + self.position


class Layer(nn.Module):
    """Self-attention, cross-attention where there is a context to attend to, feed-forward; normalised after each."""

    def __init__(self, width: int, heads: int, context: int | None) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross = (
            None
            if context is None
            else nn.MultiheadAttention(width, heads, kdim=context, vdim=context, batch_first=True)
        )
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 + (context is not None)))

    def forward(self, x: Tensor, context: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """x (B, Q, H), context (B, S, V); padding (B, Q) True where there is nothing."""
        x = self.norms[0](x + self.own(x, x, x, key_padding_mask=padding, need_weights=False)[0])
        if self.cross is not None:
            assert context is not None
            x = self.norms[1](x + self.cross(x, context, context, need_weights=False)[0])
        out: Tensor = self.norms[-1](x + self.feed(x))
        return out


class Branch(nn.Module):
    """One branch: crops -> N_q unit vectors (B, N_q, E_d); captions -> unit vectors (B, E_d); their similarity."""

    def __init__(self, config: ItamConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.query = nn.Parameter(torch.randn(1, config.queries, config.hidden) * 0.02)
        self.layers = nn.ModuleList(
            Layer(config.hidden, config.heads, config.visual if index % 2 == 0 else None)
            for index in range(config.layers)
        )
        self.out = nn.Linear(config.hidden, config.embed)
        self.words = nn.Embedding(vocabulary, config.hidden, padding_idx=0)
        self.places = nn.Parameter(torch.randn(1, config.text_length, config.hidden) * 0.02)
        self.text = nn.ModuleList(Layer(config.hidden, config.heads, None) for _ in range(config.text_layers))
        self.text_out = nn.Linear(config.hidden, config.embed)
        self.log_tau = nn.Parameter(torch.tensor(TAU_START).log())

    def image(self, crops: Tensor) -> Tensor:
        """crops (B, 3, h, w) in [-1, 1] -> (B, N_q, E_d), each row of length 1."""
        return self.attend(self.backbone(crops))

    def attend(self, tokens: Tensor) -> Tensor:
        """tokens (B, S_d, V_d) -> (B, N_q, E_d)."""
        x = self.query.expand(len(tokens), -1, -1)
        for layer in self.layers:
            x = layer(x, tokens)
        return F.normalize(self.out(x), dim=-1)

    def captions(self, words: Tensor) -> Tensor:
        """words (B, S_t) int64, 0 is padding, the first is the class token -> (B, E_d), length 1."""
        x, padding = self.words(words) + self.places[:, : words.shape[1]], words == 0
        for layer in self.text:
            x = layer(x, padding=padding)
        return F.normalize(self.text_out(x[:, 0]), dim=-1)

    def loss(self, image: Tensor, words: Tensor, caption: Tensor, *, onehot: str = "multi_positive") -> Tensor:
        """Eq. 1 over the N_s slots: image (B, N_q, E_d), words (B, N_s, S_t), caption (B, N_s) their numbers -> scalar."""
        tau = self.log_tau.exp().clamp(*TAU_RANGE)
        total = image.new_zeros(())
        for slot in range(words.shape[1]):
            text = self.captions(words[:, slot])  # (B, E_d)
            similar = torch.einsum("iqe,ce->iqc", image, text).amax(1) / tau  # (B, B)
            target = targets(caption[:, slot], kind=onehot)
            total = total + (
                F.cross_entropy(similar, target, label_smoothing=self.config.smoothing)
                + F.cross_entropy(similar.T, target.T, label_smoothing=self.config.smoothing)
            )
        return total / (2 * words.shape[1])


def targets(caption: Tensor, *, kind: str = "multi_positive") -> Tensor:
    """(B,) numbers of captions -> (B, B), rows sum to 1: equal captions are all right (`onehot`: the own one alone)."""
    if kind == "onehot":
        return torch.eye(len(caption), device=caption.device)
    same = (caption[:, None] == caption[None]).float()
    return same / same.sum(1, keepdim=True)


class Fusion(nn.Module):
    """Cross-attention from the first branch's queries to the second's: residual and LayerNorm (trained with SMM)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, N_q, E_d) twice -> (B, N_q, E_d)."""
        fused: Tensor = self.norm(first + self.attention(first, second, second, need_weights=False)[0])
        return fused


def vocabulary(sentences: Sequence[str]) -> dict[str, int]:
    """Word -> number, from 2 on; 0 is padding and 1 the class token."""
    words = sorted({word for sentence in sentences for word in sentence.lower().split()})
    return {word: index for index, word in enumerate(words, start=2)}


def tokens(sentence: str, known: dict[str, int], length: int) -> list[int]:
    """The class token and the sentence's words, padded or cut to `length`; an unknown word is left out."""
    found = [1, *(known[word] for word in sentence.lower().split() if word in known)][:length]
    return found + [0] * (length - len(found))
