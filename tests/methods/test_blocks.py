"""The shared blocks against hand-worked numbers, slow references and the public parameter counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipelines.errors import MissingArtifactError, UsageError
from pipelines.methods import _blocks as blocks
from pipelines.methods._base import Resources
from pipelines.methods._blocks import LgtConfig


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("layers", "window", "expected"), [(2, 8, 8_402_944), (1, 64, 5_250_560)])
def test_lgt_has_the_public_parameter_counts(layers: int, window: int, expected: int) -> None:
    assert count(blocks.Lgt(512, LgtConfig(layers=layers, attn_window=window))) == expected


def test_raw_distance_adjacency_has_interior_row_sum_5_50() -> None:
    adjacency = blocks.distance_adjacency(101, "code", torch.zeros(1), None)[0]
    series = 1 + 2 * sum(math.exp(-d / math.e) for d in range(1, 51))
    assert adjacency[50].sum().item() == pytest.approx(series, rel=1e-5)
    assert round(series, 2) == 5.50


def test_paper_distance_adjacency_is_a_row_softmax() -> None:
    adjacency = blocks.distance_adjacency(3, "paper", torch.zeros(1), None)[0]
    e = math.exp(-1), math.exp(-2)
    assert adjacency[0].tolist() == pytest.approx(
        [1 / (1 + e[0] + e[1]), e[0] / (1 + e[0] + e[1]), e[1] / (1 + e[0] + e[1])]
    )


def test_similarity_adjacency_by_hand() -> None:
    # cosines with row 0: 1, 0.8 (kept), 0.6 (set to 0, which still weighs e^0 = 1); clip 3 is padding
    x = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.6, -0.8], [5.0, 5.0]]])
    mask = torch.tensor([[True, True, True, False]])
    row = blocks.similarity_adjacency(x, mask)[0, 0]
    total = math.e + math.exp(0.8) + 1
    assert row.tolist() == pytest.approx([math.e / total, math.exp(0.8) / total, 1 / total, 0.0])
    assert blocks.similarity_adjacency(x, mask)[0, 3].abs().sum() == 0


def test_windowed_attention_equals_a_block_diagonal_mask() -> None:
    torch.manual_seed(0)
    attention = blocks.Attention(16, 2).eval()
    x, keys = torch.randn(2, 19, 16), torch.ones(2, 19, dtype=torch.bool)
    keys[1, 11:] = False
    block = torch.arange(19) // 8
    dense = attention(x, keys=keys, allowed=block[:, None] == block[None, :])
    assert torch.allclose(attention(x, keys=keys, window=8)[keys], dense[keys], atol=1e-6)


def test_attention_equals_torch_multihead_attention() -> None:
    torch.manual_seed(0)
    ours, theirs = blocks.Attention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(ours.state_dict())  # the same names and shapes
    x = torch.randn(2, 7, 12)
    assert torch.allclose(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-6)


def test_overlapping_windows_share_half() -> None:
    shared = blocks.shared_window(8, 4, torch.device("cpu"))
    assert shared[0].tolist() == [True] * 4 + [False] * 4  # windows [0, 4), [2, 6), [4, 8)
    assert shared[2].tolist() == [True] * 6 + [False] * 2


@pytest.mark.parametrize("kind", ["lgt", "transformer", "gcn", "axial", "ta", "none"])
def test_padding_changes_no_valid_clip(kind: blocks.Trunk) -> None:
    torch.manual_seed(1)
    trunk = blocks.build_trunk(kind, 32, LgtConfig(heads=2)).eval()
    x, mask = torch.randn(2, 30, 32), torch.ones(2, 30, dtype=torch.bool)
    mask[1, 20:] = False
    other = x.clone()
    other[1, 20:] = 9 * torch.randn(10, 32)
    y = trunk(x, mask)
    assert torch.allclose(y[mask], trunk(other, mask)[mask], atol=1e-5)
    assert torch.allclose(y[1, :20], trunk(x[1:, :20], mask[1:, :20])[0], atol=1e-5)


def test_unmasked_padding_takes_part_as_in_the_public_code() -> None:
    torch.manual_seed(1)
    trunk = blocks.build_trunk("lgt", 32, LgtConfig(mask="code")).eval()
    x, mask = torch.randn(1, 16, 32), torch.ones(1, 16, dtype=torch.bool)
    mask[0, 11:] = False
    other = x.clone()
    other[0, 11:] = 9.0
    assert not torch.allclose(trunk(x, mask)[mask], trunk(other, mask)[mask], atol=1e-3)


def test_unmasked_padding_is_as_long_as_in_the_public_code_whatever_the_batch() -> None:
    """There every video is filled up to 256 positions, so a short video must not depend on the batch it stands in."""
    torch.manual_seed(1)
    trunk = blocks.build_trunk("lgt", 32, LgtConfig(mask="code", max_clips=24)).eval()
    x, mask = torch.randn(1, 11, 32), torch.ones(1, 11, dtype=torch.bool)
    filled, valid = torch.zeros(1, 24, 32), torch.arange(24)[None] < 11
    filled[:, :11] = x
    assert torch.allclose(trunk(x, mask), trunk(filled, valid)[:, :11], atol=1e-6)
    assert trunk(x, mask).shape == x.shape


@pytest.mark.parametrize("name", ["similarity", "distance", "paper"])
def test_a_block_of_rows_is_those_rows_of_the_matrix(name: str) -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(2, 9, 4), torch.arange(9)[None] < torch.tensor([[9], [6]])
    rows = {
        "similarity": lambda part: blocks.similarity_adjacency(x, mask, part),
        "distance": lambda part: blocks.distance_adjacency(9, "code", x, mask, part),
        "paper": lambda part: blocks.distance_adjacency(9, "paper", x, mask, part),
    }[name]
    assert torch.allclose(rows(slice(3, 7)), rows(slice(None))[:, 3:7], atol=1e-7)


def test_the_product_by_blocks_of_rows_is_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, y = torch.randn(2, 11, 11), torch.randn(2, 11, 3)
    monkeypatch.setattr(blocks, "BLOCK", 4)
    asked: list[int] = []

    def rows(part: slice) -> torch.Tensor:
        asked.append(matrix[:, part].shape[1])
        return matrix[:, part]

    assert torch.allclose(blocks.RowBlocks(rows, 11) @ y, matrix @ y, atol=1e-6)
    assert asked == [4, 4, 3]


@pytest.mark.parametrize(
    ("kind", "size", "top", "word"),
    [
        ("lgt", 300, 1, "256 positions"),
        ("axial", 300, 1, "256 positions"),
        ("lgt", 6, 1, "attn_window=8"),
        ("gcn", 16, 16, "top=16"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(kind: blocks.Trunk, size: int, top: float, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        blocks.check_lengths(kind, LgtConfig(), size=size, top=top)
    blocks.check_lengths(kind, LgtConfig(), size=64, top=0.1)


@pytest.mark.parametrize("t", [1, 5, 8, 9, 16, 17])
def test_windows_round_trip(t: int) -> None:
    x = torch.arange(2 * t * 3, dtype=torch.float32).reshape(2, t, 3)
    parts, mask = blocks.windows(x, 8)
    assert torch.equal(blocks.unwindow(parts, 2, t), x)
    assert int(mask.sum()) == 2 * t and bool(mask.any(1).all())


def test_text_vectors_keep_their_cosines_when_widened() -> None:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(3, 5)).astype(np.float32)
    wide = blocks.text_vectors(Resources(text={"classes": text}), "classes", 9)
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    assert np.allclose((wide @ wide.T).numpy(), unit @ unit.T, atol=1e-6)
    with pytest.raises(UsageError, match="width"):
        blocks.text_vectors(Resources(text={"classes": text}), "classes", 4)
    with pytest.raises(UsageError, match="3 text vectors"):
        blocks.text_vectors(Resources(text={"classes": text}), "classes", 9, rows=4)
    with pytest.raises(MissingArtifactError):
        blocks.text_vectors(Resources(), "classes", 9)
