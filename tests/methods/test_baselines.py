"""Published baselines: parameter counts, public state dicts, losses by hand."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.errors import UsageError
from pipelines.methods import hl_net, mgfn, pel4vad, rtfm, ur_dmu
from pipelines.methods._base import Resources, Shape
from pipelines.recipe import resolve
from pipelines.records import Bag

CLASSES = ("normal", "a", "b")


def build(module: ModuleType, dim: int, *, classes: tuple[str, ...] = CLASSES, text: int = 8, **changes: Any) -> Any:
    config, _ = resolve(module.Config, [("test", changes)])
    vectors = np.random.default_rng(0).normal(size=(len(classes), text)).astype(np.float32)
    torch.manual_seed(0)
    shape = Shape(dim, {"x": slice(0, dim)}, classes, ("center",), 16, 16)
    return module.build(config, shape, Resources(text={"classes": vectors}))


def bag(dim: int, *, s: int = 20, padded: bool = False) -> Bag:
    b = 6
    mask = torch.ones(b, s, dtype=torch.bool)
    if padded:
        mask[1, 11:] = mask[-1, 15:] = False
    y = (torch.arange(b) >= b // 2).float()
    classes = torch.eye(3)[[0, 0, 0, 1, 2, 1]]
    x = torch.randn(b, 1, s, dim, generator=torch.Generator().manual_seed(3))
    return Bag(x, mask, mask.sum(1), y, classes, tuple(map(str, range(b))), ("center",), {}, {})


@pytest.mark.parametrize(
    ("module", "dim", "expected"),
    [(rtfm, 2048, 24_718_849), (ur_dmu, 1024, 6_492_929), (pel4vad, 1024, 1_209_149)],
)
def test_parameter_counts_are_the_references(module: ModuleType, dim: int, expected: int) -> None:
    net = build(module, dim, text=512)
    assert sum(p.numel() for p in net.parameters()) == expected


def public_keys(module: ModuleType, net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Our weights under the keys of the public repository."""
    renames = {
        "rtfm": [("aggregate.", "Aggregate.")],
        "ur-dmu": [("abnormal.", "Amemory."), ("normal.", "Nmemory.")],
        "mgfn": [("stages_.", "stages."), ("steps_.", "stages.")],
        "hl-net": [],
        "pel4vad": [],
    }[module.NAME]
    state: dict[str, torch.Tensor] = {}
    for key, value in net.state_dict().items():
        if key in ("class_text", "text_map"):
            continue
        new = key
        for ours, theirs in renames:
            if key.startswith(ours):
                number, _, rest = key[len(ours) :].partition(".")
                part = {"stages_.": "0.", "steps_.": "1."}.get(ours)
                new = f"stages.{number}.{part}{rest}" if part else theirs + key[len(ours) :]
                break
        if module is pel4vad:
            head = key.split(".")[0]
            if key in ("aggregate.w", "aggregate.b"):
                new = "self_attention.loc_adj." + key[-1]
            elif head == "aggregate":
                new = "self_attention.self_attn." + key.partition(".")[2]
            elif head in ("linear1", "linear2", "norm"):
                new = "self_attention." + key
        state[new] = value
    if module is hl_net:
        state |= {"simAdj.weight0": torch.zeros(1), "disAdj.sigma": torch.zeros(1)}
    return state


@pytest.mark.parametrize("module", [rtfm, ur_dmu, mgfn, hl_net, pel4vad], ids=lambda m: m.NAME)
def test_public_state_dicts_load_strictly(module: ModuleType) -> None:
    small = {"rtfm": {"branch": 4}, "mgfn": {"dims": (64, 64, 64), "depths": (1, 1, 1)}}.get(module.NAME, {})
    net, other = build(module, 16, **small), build(module, 16, **small)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    missing, unexpected = other.load_state_dict(module.rename_public(public_keys(module, net)), strict=False)
    assert unexpected == [] and set(missing) <= {"class_text", "text_map"}
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("module", [rtfm, ur_dmu, mgfn], ids=lambda m: m.NAME)
def test_networks_that_know_no_mask_refuse_padding(module: ModuleType) -> None:
    small = {"mgfn": {"dims": (64, 64, 64), "depths": (1, 1, 1)}}.get(module.NAME, {})
    with pytest.raises(UsageError, match="padding"):
        build(module, 16, **small).losses(bag(16, padded=True))


@pytest.mark.parametrize("module", [hl_net, pel4vad], ids=lambda m: m.NAME)
def test_padding_changes_no_valid_clip(module: ModuleType) -> None:
    net, one = build(module, 16).eval(), bag(16, padded=True)
    other = one.x[:, 0].clone()
    other[1, 11:] = 40.0

    def logits(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return net.branches(x, mask)[1] if module is hl_net else net.encode(x, mask)[0]

    y = logits(one.x[:, 0], one.mask)
    assert torch.allclose(y[one.mask], logits(other, one.mask)[one.mask], atol=1e-5)
    assert torch.allclose(y[1, :11], logits(one.x[1:2, 0, :11], one.mask[1:2, :11])[0], atol=1e-5)


def test_rtfm_selects_by_magnitude_and_not_by_score() -> None:
    net = build(rtfm, 4, branch=2).eval()
    features = torch.zeros(1, 1, 6, 4)
    features[0, 0, :, 0] = torch.tensor([1.0, 9.0, 2.0, 8.0, 3.0, 7.0])
    assert sorted(net._select(features)[0].tolist()) == [1, 3, 5]


def test_rtfm_smoothness_stops_at_videos_unless_the_public_code_is_asked_for() -> None:
    scores = torch.tensor([[0.0, 1.0], [3.0, 3.0]])
    assert rtfm.smoothness(scores, "ours").item() == 1.0
    assert rtfm.smoothness(scores, "code").item() == 1.0 + 4.0


def test_rtfm_magnitude_term_by_hand() -> None:
    # one pair: |100 - |a|| + |n|, squared; the trunk is replaced by the identity
    net = build(rtfm, 4, branch=2, magnitude_weight=1.0).eval()
    net.features = lambda x: x
    x = torch.zeros(2, 1, 3, 4)
    x[0, 0, :, 0], x[1, 0, :, 0] = 2.0, 60.0
    mask = torch.ones(2, 3, dtype=torch.bool)
    two = Bag(x, mask, mask.sum(1), torch.tensor([0.0, 1.0]), torch.eye(3)[[0, 1]], ("n", "a"), ("center",), {}, {})
    assert net.losses(two)["magnitude"].item() == pytest.approx((40 + 2) ** 2, rel=1e-5)


def test_ur_dmu_distance_weights_divide_by_column_sums() -> None:
    near = ur_dmu.distance_weights(3, torch.zeros(1))
    e1, e2 = math.exp(-1 / math.e), math.exp(-2 / math.e)
    sums = [1 + e1 + e2, 1 + 2 * e1, 1 + e1 + e2]
    assert near[0].tolist() == pytest.approx([1 / sums[0], e1 / sums[1], e2 / sums[2]])
    assert torch.equal(ur_dmu.distance_weights(3, torch.zeros(1), slice(1, 3)), near[1:3])


def test_rtfm_non_local_is_the_same_in_either_order_of_its_products() -> None:
    """A video longer than the inner width takes the order without an (S, S) matrix."""
    torch.manual_seed(0)
    block = rtfm.NonLocal(8).eval()
    torch.nn.init.ones_(block.W[1].weight)
    x = torch.randn(2, 8, 6)  # 6 clips, inner width 4
    weights = block.theta(x).transpose(1, 2) @ block.phi(x) / 6
    slow = block.W((weights @ block.g(x).transpose(1, 2)).transpose(1, 2)) + x
    assert torch.allclose(block(x), slow, atol=1e-6)


def test_ur_dmu_latent_loss_sums_over_the_named_axis() -> None:
    mu, log_var = torch.ones(1, 3, 2), torch.zeros(1, 3, 2)  # each term 0.5
    assert ur_dmu.latent_loss(mu, log_var, "time").item() == pytest.approx(1.5)
    assert ur_dmu.latent_loss(mu, log_var, "channels").item() == pytest.approx(1.0)


def test_ur_dmu_memory_score_is_the_mean_of_the_top_four_of_sixty() -> None:
    memory = ur_dmu.Memory(60, 4)
    x = torch.randn(1, 2, 4)
    attention = torch.sigmoid(x @ memory.memory_block.T / 2)
    score, read = memory(x)
    assert torch.allclose(score, attention.sort(-1, descending=True).values[..., :4].mean(-1))
    assert read.shape == (1, 2, 4)


def test_ur_dmu_scores_without_sampling() -> None:
    net = build(ur_dmu, 16, width=16, head_dim=8).eval()
    x = torch.randn(1, 1, 9, 16)
    extras = {"spans": np.zeros((9, 2), np.int64), "n_frames": 144, "stride": 16}
    one = Bag(
        x,
        torch.ones(1, 9, dtype=torch.bool),
        torch.tensor([9]),
        torch.ones(1),
        torch.eye(3)[:1],
        ("v",),
        ("center",),
        {},
        extras,
    )
    with torch.no_grad():
        assert np.array_equal(net.score(one).clips, net.score(one).clips)


def test_mgfn_focus_shares_one_kernel_among_the_channels_of_a_head() -> None:
    focus = mgfn.Focus(4, 4, 3).eval()
    with torch.no_grad():
        focus.to_v.weight.copy_(torch.eye(4).unsqueeze(-1))
        focus.to_out.weight.copy_(torch.eye(4).unsqueeze(-1))
        focus.to_out.bias.zero_()
        focus.rel_pos.weight.copy_(torch.tensor([[[1.0, 0.0, 0.0]]]))  # the clip before
        focus.rel_pos.bias.zero_()
    x = torch.arange(12.0).reshape(1, 4, 3)
    y = focus(x) * math.sqrt(1 + 1e-5)  # batch norm's eps
    assert torch.allclose(y[0, :, 1:], x[0, :, :2], atol=1e-4) and bool((y[0, :, 0] == 0).all())


def test_mgfn_contrast_by_hand() -> None:
    a, n = torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    assert mgfn.apart(a, n, 7.0).item() == pytest.approx(4.0, abs=1e-3)
    assert mgfn.together(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).item() == pytest.approx(25.0, abs=1e-3)


def test_hl_net_approximator_sees_no_later_clip() -> None:
    net = build(hl_net, 16).eval()
    x, mask = torch.randn(1, 12, 16), torch.ones(1, 12, dtype=torch.bool)
    later = x.clone()
    later[0, 7:] = 5.0
    assert torch.allclose(net.branches(x, mask)[2][0, :7], net.branches(later, mask)[2][0, :7], atol=1e-6)


def test_hl_net_score_adjacency_by_hand() -> None:
    row = hl_net.score_adjacency(torch.tensor([[0.2, 0.9, 0.5]]), torch.tensor([[True, True, False]]))[0, 0]
    same, far = (1 / (1 + math.exp(-(v - 0.5) / 0.1)) for v in (1.0, 0.3))
    total = math.exp(same) + math.exp(far)
    assert row.tolist() == pytest.approx([math.exp(same) / total, math.exp(far) / total, 0.0])


def test_pel4vad_pools_foreground_by_its_scores() -> None:
    features = torch.tensor([[[1.0], [3.0], [100.0]]])
    weights = torch.expm1(10 * torch.tensor([[0.0, 0.5, 0.9]])) * torch.tensor([[1.0, 1.0, 0.0]])
    assert pel4vad.pooled(features, weights).item() == pytest.approx(3.0)


def test_pel4vad_takes_one_clip_of_normal_videos_and_more_of_abnormal_ones() -> None:
    net, one = build(pel4vad, 16).eval(), bag(16, s=32)
    with torch.no_grad():
        scores, _ = net.encode(one.x[:, 0], one.mask)
        terms = net.losses(one)
    video = [scores[i].max() if i < 3 else scores[i].topk(3).values.mean() for i in range(6)]
    expected = -sum(torch.log(1 - v) if i < 3 else torch.log(v) for i, v in enumerate(video)) / 6
    assert terms["bce"].item() == pytest.approx(float(expected), rel=1e-5)
