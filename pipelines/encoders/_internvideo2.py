"""InternVideo2's video transformer (Wang et al., ECCV 2024) in plain PyTorch, with the names of its checkpoints.

A vision transformer over patches of 14x14 pixels in several frames: root-mean-square normalisation, normalised queries
and keys, layer scale, and attention pooling by the mean token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 14
EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of one variant; `pooled` is the width after attention pooling."""

    width: int
    depth: int
    heads: int
    hidden: int
    pooled: int
    pool_heads: int
    frames: int
    pixels: int


class Attention(nn.Module):
    """Self-attention; queries and keys are normalised over all heads together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.q_norm, self.k_norm = nn.RMSNorm(width, eps=EPSILON), nn.RMSNorm(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (_split(part, self.heads) for part in (self.q_norm(q), self.k_norm(k), v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _split(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)  # (N, heads, tokens, D / heads)


class LayerScale(nn.Module):
    """A learned factor a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class MLP(nn.Module):
    """Two layers with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and MLP, each normalised before and scaled after."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(sizes.width, eps=EPSILON), nn.RMSNorm(sizes.width, eps=EPSILON)
        self.attn, self.mlp = Attention(sizes.width, sizes.heads), MLP(sizes.width, sizes.hidden)
        self.ls1, self.ls2 = LayerScale(sizes.width), LayerScale(sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """One query over all tokens, with biases that the checkpoint keeps apart from the matrices."""

    def __init__(self, width: int, heads: int, outputs: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.proj = nn.Linear(width, outputs)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        given = ((self.q(query) + self.q_bias), (self.k(keys) + self.k_bias), (self.v(values) + self.v_bias))
        q, k, v = (_split(part, self.heads) for part in given)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class AttentionPool(nn.Module):
    """Tokens (N, tokens, D) -> (N, pooled): the mean token asks."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(sizes.width) for _ in range(3))
        self.cross_attn = CrossAttention(sizes.width, sizes.pool_heads, sizes.pooled)

    def forward(self, x: Tensor) -> Tensor:
        query = self.norm1_q(x.mean(dim=1, keepdim=True))
        return self.cross_attn(query, self.norm1_k(x), self.norm1_v(x))[:, 0]  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Frames (N, 3, T, h, w) -> tokens (N, T * h/14 * w/14, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, (1, PATCH, PATCH), (1, PATCH, PATCH))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class InternVideo2(nn.Module):
    """Clips (N, 3, T, h, w) -> (N, pooled), or with `pooling` off the mean patch token after the last block but one
    (N, width): what the chat models of the family read."""

    def __init__(self, sizes: Sizes, *, pooling: bool = True) -> None:
        super().__init__()
        tokens = sizes.frames * (sizes.pixels // PATCH) ** 2
        self.patch_embed = PatchEmbed(sizes.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + 1, sizes.width))
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.clip_projector = AttentionPool(sizes) if pooling else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        blocks = list(self.blocks) if self.clip_projector else list(self.blocks)[:-1]
        for block in blocks:
            x = block(x)
        return x[:, 1:].mean(dim=1) if self.clip_projector is None else self.clip_projector(x)
