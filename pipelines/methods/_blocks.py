"""Blocks that several methods share: the LGT adapter of VadCLIP (which Fine-VAD takes over), windows, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.errors import MissingArtifactError, UsageError
from pipelines.methods._base import Resources
from pipelines.recipe import Config
from pipelines.records import Bag

ALL = slice(None)
BLOCK = 1024  # rows of an (S, S) matrix that exist at a time when a long video is scored


class LgtConfig(Config):
    """The temporal adapter; `code` is what nwpu-zxr/VadCLIP runs, `paper` what its text says."""

    max_clips: int = 256  # learned positions, and the length of a window at test
    layers: int = 2  # UCF-Crime 2, XD-Violence 1
    heads: int = 1
    attn_window: int = 8  # UCF-Crime 8, XD-Violence 64
    window: Literal["code", "paper"] = "code"
    adj_dis: Literal["code", "paper"] = "code"
    gcn: Literal["code", "paper"] = "code"
    act: Literal["quickgelu", "gelu"] = "quickgelu"
    mask: Literal["masked", "code"] = "masked"  # `code` lets padding take part (parity runs only)


class QuickGelu(nn.Module):
    """x * sigmoid(1.702 x), CLIP's activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation(name: Literal["quickgelu", "gelu"]) -> nn.Module:
    """The activation module behind a configuration value."""
    return QuickGelu() if name == "quickgelu" else nn.GELU()


def mlp(width: int, hidden: int, act: nn.Module, out: int | None = None) -> nn.Sequential:
    """Linear -> activation -> Linear."""
    return nn.Sequential(nn.Linear(width, hidden), act, nn.Linear(hidden, out or width))


class Attention(nn.Module):
    """Multi-head self-attention with the parameters of torch's MultiheadAttention (in_proj, out_proj).

    `window` > 0 attends inside non-overlapping blocks of that many positions, by reshaping, so its cost is linear in
    S. A query in a block whose keys are all masked attends to itself alone, so no row is ever NaN; without windows each
    row needs a valid key, and no (S, S) mask is made.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, x: Tensor, *, keys: Tensor | None = None, window: int = 0, allowed: Tensor | None = None
    ) -> Tensor:
        """x (B, S, D), keys (B, S) bool (True takes part), allowed (S, S) bool -> (B, S, D)."""
        b, s, d = x.shape
        block = window or s
        pad = -s % block
        if pad:
            x = F.pad(x, (0, 0, 0, pad))
            keys = F.pad(x.new_ones(b, s, dtype=torch.bool) if keys is None else keys, (0, pad))
        n = (s + pad) // block
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)

        def split(t: Tensor) -> Tensor:  # (B, S, D) -> (B*n, heads, block, D/heads)
            return t.reshape(b * n, block, self.heads, d // self.heads).transpose(1, 2)

        mask = None if keys is None else keys.reshape(b * n, 1, 1, block)
        if allowed is not None or (window and mask is not None):  # blocks that may hold no valid key
            open_ = x.new_ones(1, 1, 1, block, dtype=torch.bool) if mask is None else mask
            eye = torch.eye(block, dtype=torch.bool, device=x.device)
            mask = (open_ if allowed is None else open_ & allowed) | eye  # (B*n or 1, 1, block, block)
        y = F.scaled_dot_product_attention(split(q), split(k), split(v), attn_mask=mask)
        return self.out_proj(y.transpose(1, 2).reshape(b, s + pad, d)[:, :s])  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head cross attention of one query set on another, with the parameters of self-attention."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.inner = Attention(width, heads)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """query (B, Q, d), key and value (B, S, d), mask (B, S) -> (B, Q, d)."""
        d, heads = query.shape[-1], self.inner.heads
        weight, bias = self.inner.in_proj_weight.chunk(3), self.inner.in_proj_bias.chunk(3)
        q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), weight, bias, strict=True))
        q, k, v = (t.reshape(*t.shape[:2], heads, d // heads).transpose(1, 2) for t in (q, k, v))
        keys = None if mask is None else mask[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        return self.inner.out_proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Pre-LN transformer block: attention, then width -> 4 width -> width, dropout on both branches."""

    def __init__(
        self,
        width: int,
        heads: int,
        act: Literal["quickgelu", "gelu"],
        *,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = mlp(width, hidden or 4 * width, activation(act))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, keys: Tensor | None, window: int = 0, allowed: Tensor | None = None) -> Tensor:
        x = x + self.drop(self.attn(self.ln_1(x), keys=keys, window=window, allowed=allowed))
        return x + self.drop(self.mlp(self.ln_2(x)))  # type: ignore[no-any-return]


class GraphConv(nn.Module):
    """A (X W) + residual; the residual is the identity at equal widths, else a Conv1d of kernel 5 [code] VadCLIP."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, out))
        nn.init.xavier_uniform_(self.weight)
        self.residual = None if width == out else nn.Conv1d(width, out, kernel_size=5, padding=2)

    def forward(self, x: Tensor, adjacency: Tensor | RowBlocks) -> Tensor:
        """x (B, S, D), adjacency (B or 1, S, S) -> (B, S, out)."""
        skip = x if self.residual is None else self.residual(x.transpose(1, 2)).transpose(1, 2)
        return adjacency @ (x @ self.weight) + skip


class RowBlocks:
    """A matrix (..., S, S) whose product with (..., S, C) is all that is wanted: for a long video no more than BLOCK of
    its rows exist at a time.

    Args:
        rows: makes the rows of a slice, (..., r, S).
        size: S. Up to BLOCK the matrix is made once and kept.
    """

    def __init__(self, rows: Callable[[slice], Tensor], size: int) -> None:
        self.rows, self.size = rows, size
        self.whole = rows(ALL) if size <= BLOCK else None

    def __matmul__(self, y: Tensor) -> Tensor:
        if self.whole is not None:
            return self.whole @ y
        parts = (self.rows(slice(at, at + BLOCK)) @ y for at in range(0, self.size, BLOCK))
        return torch.cat(list(parts), dim=-2)


def similarity_adjacency(x: Tensor, mask: Tensor, rows: slice = ALL, *, threshold: float = 0.7) -> Tensor:
    """Cosine of clips, values up to `threshold` set to 0, softmax over the valid clips of each row [code] VadCLIP.

    x (B, S, D), mask (B, S) bool -> (B, S or the `rows` of it, S), zero outside the valid block.
    """
    unit = F.normalize(x, dim=-1, eps=1e-6)
    cosine = unit[:, rows] @ unit.transpose(1, 2)
    kept = torch.where(cosine > threshold, cosine, torch.zeros_like(cosine))
    weights = kept.masked_fill(~mask.unsqueeze(1), float("-inf")).softmax(-1)
    return torch.where(mask[:, rows].unsqueeze(2), weights, torch.zeros_like(weights)).nan_to_num(0.0)


def distance_adjacency(
    s: int, form: Literal["code", "paper"], like: Tensor, mask: Tensor | None, rows: slice = ALL
) -> Tensor:
    """exp(-|i-j|/e), raw (`code`), or the row softmax of -|i-j| (`paper`) -> (B or 1, S or the `rows` of it, S).

    A mask (B, S) zeroes padded rows and columns (before the softmax in `paper`).
    """
    index = torch.arange(s, device=like.device, dtype=torch.float32)
    distance = (index[rows, None] - index[None, :]).abs()
    if form == "code":
        base = torch.exp(-distance / math.e).to(like.dtype).unsqueeze(0)
        return base if mask is None else base * mask.unsqueeze(1) * mask[:, rows].unsqueeze(2)
    logits = (-distance).to(like.dtype).unsqueeze(0)
    if mask is None:
        return logits.softmax(-1)
    weights = logits.masked_fill(~mask.unsqueeze(1), float("-inf")).softmax(-1)
    return (weights * mask[:, rows].unsqueeze(2)).nan_to_num(0.0)


def shared_window(s: int, window: int, device: torch.device) -> Tensor:
    """Windows of `window` at half a window's stride: True where two positions share one [ours, for `window: paper`]."""
    half = torch.arange(s, device=device) // max(1, window // 2)
    return (half[:, None] - half[None, :]).abs() <= 1


def sinusoid(s: int, width: int, like: Tensor) -> Tensor:
    """Sine and cosine positions (S, width), interleaved by halves (Vaswani et al.)."""
    position = torch.arange(s, device=like.device, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10000.0) / width))
    return torch.cat([torch.sin(position * rate), torch.cos(position * rate)], dim=1)[:, :width].to(like.dtype)


class LocalPart(nn.Module):
    """Position embedding and the windowed transformer blocks of the LGT adapter."""

    def __init__(self, width: int, config: LgtConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = nn.Embedding(config.max_clips, width)
        nn.init.normal_(self.positions.weight, std=0.01)
        self.blocks = nn.ModuleList(ResidualBlock(width, config.heads, config.act) for _ in range(config.layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        c = self.config
        x = x + self.positions.weight[: x.shape[1]]
        keys = mask if c.mask == "masked" else None
        overlap = c.window == "paper" and c.attn_window > 0
        allowed = shared_window(x.shape[1], c.attn_window, x.device) if overlap else None
        for block in self.blocks:
            x = block(x, keys=keys, window=0 if overlap else c.attn_window, allowed=allowed)
        return x


class GlobalPart(nn.Module):
    """The graph branches of the LGT adapter: similarity and distance, concatenated, then Linear."""

    def __init__(self, width: int, config: LgtConfig) -> None:
        super().__init__()
        self.config, half = config, width // 2
        if config.gcn == "code":
            self.sim_1, self.sim_2 = GraphConv(width, half), GraphConv(half, half)
            self.dis_1, self.dis_2 = GraphConv(width, half), GraphConv(half, half)
        else:
            self.shared = nn.Parameter(torch.empty(width, half))
            nn.init.xavier_uniform_(self.shared)
        self.act = activation(config.act)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        c = self.config
        if c.mask == "masked":  # the kernel-5 residual must not read padding
            x = x * mask.unsqueeze(-1)
        similarity = similarity_adjacency(x, mask)
        distance = distance_adjacency(x.shape[1], c.adj_dis, x, mask if c.mask == "masked" else None)
        if c.gcn == "paper":  # one layer, one W on both adjacencies
            projected = x @ self.shared
            branches = [self.act(similarity @ projected), self.act(distance @ projected)]
        else:
            branches = [
                self.act(self.sim_2(self.act(self.sim_1(x, similarity)), similarity)),
                self.act(self.dis_2(self.act(self.dis_1(x, distance)), distance)),
            ]
        return self.out(torch.cat(branches, dim=-1))  # type: ignore[no-any-return]


class Lgt(nn.Module):
    """The local and global temporal adapter: x (B, S, D), mask (B, S) -> (B, S, D).

    With `mask: code` a short video is filled up with zeros to `max_clips`, since there padding takes part.
    """

    def __init__(self, width: int, config: LgtConfig) -> None:
        super().__init__()
        self.config = config
        self.local_part = LocalPart(width, config)
        self.global_part = GlobalPart(width, config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        s = x.shape[1]
        x, mask = public_padding(x, mask, self.config)
        return self.global_part(self.local_part(x, mask), mask)[:, :s]  # type: ignore[no-any-return]


def public_padding(x: Tensor, mask: Tensor, config: LgtConfig) -> tuple[Tensor, Tensor]:
    """x (B, S, D) and mask (B, S) filled up to `max_clips` where padding takes part (`mask: code`), else as they are."""
    room = config.max_clips - x.shape[1] if config.mask == "code" else 0
    return (F.pad(x, (0, 0, 0, room)), F.pad(mask, (0, room))) if room > 0 else (x, mask)


class Axial(nn.Module):
    """Attention along both axes of the sequence folded to rows of 16, one block each [ours, after AnomalyCLIP]."""

    def __init__(self, width: int, config: LgtConfig, *, row: int = 16) -> None:
        super().__init__()
        self.row = row
        self.positions = nn.Embedding(config.max_clips, width)
        nn.init.normal_(self.positions.weight, std=0.01)
        self.within = ResidualBlock(width, 8, config.act)
        self.across = ResidualBlock(width, 8, config.act)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, s, d = x.shape
        pad, rows = -s % self.row, -(-s // self.row)
        x = F.pad(x + self.positions.weight[:s], (0, 0, 0, pad))
        keys = F.pad(mask, (0, pad))
        x = self.within(x, keys=keys, window=self.row).reshape(b, rows, self.row, d).transpose(1, 2)
        turned = keys.reshape(b, rows, self.row).transpose(1, 2).reshape(b * self.row, rows)
        x = self.across(x.reshape(b * self.row, rows, d), keys=turned)
        return x.reshape(b, self.row, rows, d).transpose(1, 2).reshape(b, -1, d)[:, :s]


class DistanceAdapter(nn.Module):
    """LayerNorm(softmax(-|i-j|) x + x): the weight-free temporal adapter that OVVAD uses [ours, from its text]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.norm(distance_adjacency(x.shape[1], "paper", x, mask) @ x + x)  # type: ignore[no-any-return]


class Identity(nn.Module):
    """No temporal model at all (the papers' `none` row)."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x


Trunk = Literal["lgt", "transformer", "gcn", "axial", "ta", "none"]


def check_lengths(kind: Trunk, config: LgtConfig, *, size: int, top: float = 1) -> None:
    """Refuse a data.size that the adapter's positions do not reach, or that a window or the top-T pooling swallows whole.

    Raises:
        UsageError: with the value that would fit.
    """
    if kind in ("lgt", "transformer", "axial") and size > config.max_clips:
        raise UsageError(
            f"data.size={size} clips are more than the {config.max_clips} positions of the temporal adapter",
            hint=f"--set lgt.max_clips={size}, or --set data.size={config.max_clips}",
        )
    if kind == "lgt" and config.attn_window > size:
        raise UsageError(
            f"data.size={size} is below one attention window of lgt.attn_window={config.attn_window} clips",
            hint=f"--set lgt.attn_window={size}, or a larger data.size",
        )
    if top >= size:
        raise UsageError(
            f"top={top:g} is the whole of data.size={size} clips: every clip would speak for the video",
            hint="--set top=0.1 takes a share of each video",
        )


def build_trunk(kind: Trunk, width: int, config: LgtConfig) -> nn.Module:
    """The temporal adapter of an ablation row: forward(x (B, S, D), mask (B, S)) -> (B, S, D)."""
    if kind == "transformer":  # the local part with 2 layers, 8 heads and no window
        return LocalPart(width, config.model_copy(update={"layers": 2, "heads": 8, "attn_window": 0}))
    if kind == "lgt":
        return Lgt(width, config)
    if kind == "gcn":
        return GlobalPart(width, config)
    if kind == "axial":
        return Axial(width, config)
    return DistanceAdapter(width) if kind == "ta" else Identity()


class InputProjection(nn.Module):
    """Features of any width to the model's: nothing at equal widths, else LayerNorm + Linear [ours]."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.net: nn.Module = nn.Identity() if dim == width else nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def windows(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A video cut into ceil(T/size) windows: x (K, T, D) -> (K*W, size', D) and its mask (K*W, size').

    A video of at most `size` clips is one unpadded window.
    """
    k, t, d = x.shape
    if t <= size:
        return x, torch.ones(k, t, dtype=torch.bool, device=x.device)
    count = -(-t // size)
    padded = F.pad(x, (0, 0, 0, count * size - t))
    mask = (torch.arange(count * size, device=x.device) < t).expand(k, -1)
    return padded.reshape(k * count, size, d), mask.reshape(k * count, size)


def unwindow(y: Tensor, crops: int, t: int) -> Tensor:
    """The inverse of `windows` for outputs: (K*W, size', ...) -> (K, T, ...)."""
    return y.reshape(crops, -1, *y.shape[2:])[:, :t]


def text_vectors(resources: Resources, name: str, width: int, *, rows: int | None = None) -> Tensor:
    """Frozen unit text vectors (rows, width), widened by zero columns, which keep every cosine.

    Raises:
        MissingArtifactError: `resources.text` has no such set.
        UsageError: another number of rows, or vectors wider than the model.
    """
    if name not in resources.text:
        raise MissingArtifactError(
            f"the method needs the text vectors {name!r}",
            hint="vad train makes them; a library user fills Resources.text",
        )
    vectors = torch.from_numpy(np.asarray(resources.text[name], dtype=np.float32))
    if rows is not None and len(vectors) != rows:
        raise UsageError(f"{len(vectors)} text vectors {name!r} for {rows} classes")
    if vectors.shape[1] > width:
        raise UsageError(
            f"text vectors of width {vectors.shape[1]} do not fit width={width}",
            hint=f"--set width={vectors.shape[1]}",
        )
    return F.pad(F.normalize(vectors, dim=-1), (0, width - vectors.shape[1]))


def require_no_padding(bag: Bag, method: str) -> None:
    """Refuse padded batches for networks whose batch norms and pools know no mask.

    Raises:
        UsageError: a padded row, with the videos.
    """
    if not bool(bag.mask.all()):
        short = [video for video, full in zip(bag.video_ids, bag.mask.all(1).tolist(), strict=True) if not full]
        raise UsageError(
            f"{method} knows no padding, and {len(short)} videos of a batch are padded ({short[0]!r}, ...)",
            hint="--set data.length=bins",
        )


def cosine_map(features: Tensor, text: Tensor) -> Tensor:
    """Cosine of every clip with every text vector: (B, S, D) and (Y, D) or (B, Y, D) -> (B, S, Y)."""
    unit, words = F.normalize(features, dim=-1, eps=1e-6), F.normalize(text, dim=-1, eps=1e-6)
    return unit @ words.transpose(-1, -2)
