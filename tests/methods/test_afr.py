"""AFR: the reference's parameter counts, attention and losses by hand, and the two faults that must not return."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.errors import MissingArtifactError
from pipelines.methods import afr
from pipelines.methods._base import Resources, Shape
from pipelines.methods.afr import Config, LossConfig, NeckConfig
from pipelines.recipe import resolve
from pipelines.records import Bag

DIM = 12


def build(**changes: Any) -> afr.Afr:
    base = {"width": 16, "levels": 3, "heads": 2, "stem": 1}
    config, _ = resolve(Config, [("base", base), ("test", changes)])
    torch.manual_seed(0)
    return afr.build(config, Shape(DIM, {"x": slice(0, DIM)}, ("normal", "a"), ("center",), 16, 16), Resources())


def bag(b: int = 6, s: int = 40) -> Bag:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(b, s, dtype=torch.bool)
    mask[1, 21:] = mask[-1, 30:] = False
    y = (torch.arange(b) >= b // 2).float()
    x = torch.randn(b, 1, s, DIM, generator=generator)
    pseudo = torch.rand(b, s, generator=generator) * mask
    classes = torch.stack([1 - y, y], 1)
    return Bag(x, mask, mask.sum(1), y, classes, tuple(map(str, range(b))), ("center",), {}, {"pseudo": pseudo})


@pytest.mark.parametrize(
    ("preset", "attn", "expected"),
    [("ucf-crime", "se", 85_650_433), ("xd-violence", "se", 76_186_625), ("ucf-crime", "scam+sam", 87_228_431)],
)
def test_parameter_counts_are_the_references(preset: str, attn: str, expected: int) -> None:
    config, _ = resolve(Config, [(preset, afr.PRESETS[preset]), ("test", {"neck": {"attn": attn}})])
    with torch.device("meta"):
        net = afr.build(config, Shape(1024, {}, ("normal", "a"), ("center",), 16, 16), Resources())
    assert sum(p.numel() for p in net.parameters()) - net.log_weights.numel() == expected


def test_module_parameter_counts_are_the_references() -> None:
    assert sum(p.numel() for p in afr.Scam(1024, 4).parameters()) == 1_577_984
    assert sum(p.numel() for p in afr.Sam(1024, NeckConfig(), channel="on", position="on").parameters()) == 524_302


def test_local_attention_equals_a_banded_mask() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 15, 8)
    mask = torch.ones(2, 15, dtype=torch.bool)
    mask[1, 9:] = False
    index = torch.arange(15)
    band = (index[:, None] - index[None, :]).abs() <= 4
    logits = torch.einsum("bqhd,bkhd->bhqk", q.reshape(2, 15, 2, 4), k.reshape(2, 15, 2, 4)) / 2
    weights = logits.masked_fill(~(band & mask[:, None, None, :]), float("-inf")).softmax(-1)
    slow = torch.einsum("bhqk,bkhd->bqhd", weights, v.reshape(2, 15, 2, 4)).reshape(2, 15, 8)
    fast = afr.local_attention(q, k, v, mask, heads=2)
    assert torch.allclose(fast[mask], slow[mask], atol=1e-6)


def test_channel_attention_sums_the_pools_before_one_mlp() -> None:
    attention = afr.ChannelAttention(2, 2)
    with torch.no_grad():
        attention.mlp[0].weight.copy_(torch.tensor([[1.0, 0.0]]))  # reads channel 0
        attention.mlp[2].weight.copy_(torch.tensor([[1.0], [0.0]]))  # writes channel 0
    x = torch.tensor([[[1.0, 5.0], [3.0, 7.0], [90.0, 90.0]]])
    y = attention(x, torch.tensor([[True, True, False]]))
    gate = 1 / (1 + math.exp(-(3 + 2)))  # max 3 + mean 2; two passes would differ after the ReLU
    assert y[0, :2, 0].tolist() == pytest.approx([gate, 3 * gate])
    assert y[0, :2, 1].tolist() == pytest.approx([2.5, 3.5])


@pytest.mark.parametrize("attn", ["scam+sam", "scam", "scam+sam_ca", "scam+sam_sa", "scam+nonlocal", "se", "none"])
def test_padding_changes_no_valid_clip_at_any_level(attn: str) -> None:
    net, one = build(neck={"attn": attn}).eval(), bag()
    other = one.x[:, 0].clone()
    other[1, 21:] = 70.0
    levels, others = net.pyramid(one.x[:, 0], one.mask), net.pyramid(other, one.mask)
    alone = net.pyramid(one.x[1:2, 0, :21], one.mask[1:2, :21])
    for (_, a, mask), (_, b, _), (_, c, short) in zip(levels, others, alone, strict=True):
        assert torch.allclose(net.head(a, mask)[mask], net.head(b, mask)[mask], atol=1e-5)
        n = int(mask[1].sum())
        assert torch.allclose(net.head(a, mask)[1, :n], net.head(c, short)[0, :n], atol=1e-5)


def test_levels_halve() -> None:
    net, one = build(), bag()
    assert net.multiple == 32
    assert [m.shape[1] for _, _, m in net.pyramid(one.x[:, 0], one.mask)] == [64, 32, 16]


def test_the_triplet_loss_is_in_the_sum_and_beta_is_optimised() -> None:
    net, one = build(), bag()
    groups = net.phases()[0].parameters
    assert any(p is net.log_weights for group in groups for p in group["params"])
    beta_group = next(g for g in groups if any(p is net.log_weights for p in g["params"]))
    assert beta_group["lr"] == 1e-3 and beta_group["weight_decay"] == 0.0
    torch.manual_seed(1)
    total = sum(net.losses(one).values())
    total.backward()  # type: ignore[union-attr]
    assert net.log_weights.grad is not None and bool((net.log_weights.grad != 0).all())
    torch.manual_seed(1)
    wider = build(losses={"margin": 3.0})
    difference = sum(wider.losses(one).values()) - total  # type: ignore[operator]
    assert float(difference) == pytest.approx(2.0, abs=0.3)  # at beta 1 the margin enters the sum once


def test_every_term_is_divided_by_its_beta_squared() -> None:
    net, one = build(), bag()
    torch.manual_seed(1)
    ones = {k: float(v) for k, v in net.losses(one).items()}
    with torch.no_grad():
        net.log_weights.copy_(torch.tensor([2.0, 0.5, 1.0]))
    torch.manual_seed(1)
    moved = {k: float(v) for k, v in net.losses(one).items()}
    assert moved["cls"] == pytest.approx(ones["cls"] / 4, rel=1e-5)
    assert moved["pse"] == pytest.approx(ones["pse"] * 4, rel=1e-5)
    assert moved["trip"] == pytest.approx(ones["trip"], rel=1e-5)
    assert moved["beta"] == pytest.approx(math.log(3) + math.log(1.5) + math.log(2), rel=1e-5)
    with torch.no_grad():
        net.log_weights.fill_(0.1)
    net._clamp()
    assert net.log_weights.tolist() == pytest.approx([0.3] * 3)


def test_focal_loss_by_hand_lowers_positives_at_alpha_0_2() -> None:
    logits, target = torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.0])  # p = 0.5 and 0.75
    loss = afr.focal(logits, target, LossConfig(alpha=0.2, gamma=1.0))
    assert loss.tolist() == pytest.approx([0.2 * 0.5 * math.log(2), 0.8 * 0.75 * math.log(4)])
    balanced = afr.focal(logits, target, LossConfig(adaptive="balance", gamma=1.0))
    assert balanced.tolist() == pytest.approx([0.5 * 0.5 * math.log(2), 0.5 * 0.75 * math.log(4)])


def test_pseudo_labels_are_max_pooled() -> None:
    labels = afr.pool_labels(torch.tensor([[0.1, 0.9, 0.2, 0.3, 0.0, 0.5]]), 3)
    assert [[round(v, 1) for v in level[0].tolist()] for level in labels[1:]] == [[0.9, 0.3, 0.5], [0.9, 0.5]]


def test_top_features_by_hand() -> None:
    features = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [1.0, 0.0], [9.0, 9.0]]])
    by, mask = torch.tensor([[0.9, 0.5, 0.1, 5.0]]), torch.tensor([[True, True, True, False]])
    # ceil(3 * 0.4) = 2 of the valid clips: (3, 0) and (0, 4); mean (1.5, 2), unit (0.6, 0.8)
    assert afr.top_features(features, by, mask, 0.4)[0].tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("attn", ["scam+sam", "scam+nonlocal", "se"])
def test_gradient_reaches_every_parameter(attn: str) -> None:
    net = build(neck={"attn": attn})
    if attn == "scam+nonlocal":  # its output starts at zero, which blocks the inner weights for one step
        torch.nn.init.normal_(net.neck.second.out.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    sum(net.losses(bag()).values()).backward()  # type: ignore[union-attr]
    # a softmax does not see a constant added to its keys: the key bias of plain dot-product attention has no gradient
    dead = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert [n for n in dead if "projections.1.bias" not in n and "key.bias" not in n] == []


def test_spans_of_coarser_levels_cover_the_video() -> None:
    net = build().eval()
    t = 21
    spans = np.stack([np.arange(t) * 16, np.arange(1, t + 1) * 16], 1)
    extras = {"spans": spans, "n_frames": 340, "stride": 16}
    one = Bag(
        torch.randn(1, 2, t, DIM),
        torch.ones(1, t, dtype=torch.bool),
        torch.tensor([t]),
        torch.ones(1),
        torch.eye(2)[:1],
        ("v",),
        ("a", "b"),
        {},
        extras,
    )
    with torch.no_grad():
        scores, stages = net.score(one), net.stages(one)
    assert scores.clips.shape == (2, 21) and [v.shape for v in scores.levels] == [(2, 11), (2, 6)]
    assert scores.level_spans[0][:2].tolist() == [[0, 32], [32, 64]] and scores.level_spans[0][-1].tolist() == [
        320,
        340,
    ]
    assert scores.level_spans[1][-1].tolist() == [320, 340]
    assert stages["map_before_sam"].shape == stages["map_after_sam"].shape == (21, 3)


def test_without_pseudo_labels_the_error_says_where_they_come_from() -> None:
    one = bag()
    bare = Bag(one.x, one.mask, one.lengths, one.y, one.classes, one.video_ids, one.crops, {}, {})
    with pytest.raises(MissingArtifactError, match="pseudo"):
        build().losses(bare)
