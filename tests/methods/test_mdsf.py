"""MDSF: counts, eq. 5-10 by hand, where gradients come from, the three phases, ablations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.methods import _pasted, mdsf
from pipelines.methods._base import Fit, Phase
from pipelines.recipe import resolve
from pipelines.records import Windows

SMALL: dict[str, Any] = {
    "widths": [4, 4, 8, 8],
    "align_width": 3,
    "se_reduction": 2,
    "mask_patch": 8,
    "data": {"size": 32},
}


def made(**sets: Any) -> mdsf.Mdsf:
    config, _ = resolve(mdsf.Config, [("small", SMALL), ("sets", sets)])
    torch.manual_seed(0)
    return mdsf.build(config, None, None)


def windows(method: mdsf.Mdsf, *, batch: int = 4, seed: int = 0, frames: int | None = None) -> Windows:
    generator = torch.Generator().manual_seed(seed)
    length = frames or len(method.clip)
    x, partner = (torch.rand(batch, length, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    return Windows(x, torch.arange(batch), ("v",) * batch, {"partner": partner})


def count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameters_of_the_default_network_are_the_references():
    """Teacher 7.86 M + 1.59 M, student 1.97 M + 0.40 M, MDSF 0.34 M (projections included), inference 10.2 M."""
    method = mdsf.build(mdsf.Config(), None, None)
    assert count(method.teacher) == 7_859_648 and count(method.teacher_decoder) == 1_587_907
    assert count(method.student) == 1_966_816 and count(method.student_decoder) == 397_667
    attention = [scale.attention for scale in method.module]
    assert count(*attention) == 44_540 and count(method.project) == 174_080
    assert count(method.module, method.project) == 342_016
    found = method.complexity(1)
    assert (found["parameters"], found["inference"]) == (
        12_154_057,
        10_168_480,
    )  # with the 3 values of the masks' colour


def test_operations_of_the_default_network_are_the_references():
    """3.2 + 3.3, 0.8 + 0.9, 0.2 GFLOPs; inference 4.2, at 256 x 256."""
    method = mdsf.build(mdsf.Config(), None, None).eval()
    x = torch.zeros(1, 3, 256, 256)

    def giga(run) -> float:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
        return round(counter.get_total_flops() / 1e9, 1)

    deep = [torch.zeros(1, w, 8, 8) for w in (512, 256)]
    diffs = [torch.zeros(1, w, n, n) for w, n in zip((64, 128, 256, 512), (64, 32, 16, 8), strict=True)]
    assert giga(lambda: method.teacher(x)) == 3.2 and giga(
        lambda: method.teacher_decoder(deep[0], (256, 256))
    ) == pytest.approx(3.3, abs=0.1)
    assert giga(lambda: method.student(x)) == 0.8 and giga(
        lambda: method.student_decoder(deep[1], (256, 256))
    ) == pytest.approx(0.9, abs=0.1)
    assert giga(lambda: method.spatial_map(x)) == pytest.approx(4.2, abs=0.1)
    assert giga(lambda: method.fuse(diffs)) == pytest.approx(0.1, abs=0.11)


def test_eq_5_is_the_difference_over_the_teachers_deviation():
    method = made().eval()
    method.std_1.fill_(2.0)
    x = windows(method).x[:, 0]
    taught, learnt = method.teacher(x)[1], method.student(x)[1]
    expected = (taught - torch.einsum("oi,bihw->bohw", method.project[1].weight[:, :, 0, 0], learnt)).abs() / 2
    torch.testing.assert_close(method.discrepancies(x)[1], expected)


def scale_by_hand(**sets: Any) -> mdsf.Scale:
    """Two channels, attention sigmoid(0), alignment to one channel with weights 1 and 3, saliency logit A - 4."""
    config, _ = resolve(mdsf.Config, [("s", {"align_width": 1, "se_reduction": 1, **sets})])
    scale = mdsf.Scale(2, config)
    with torch.no_grad():
        for parameter in scale.attention.parameters() if scale.attention else ():
            parameter.zero_()
        scale.align.copy_(torch.tensor([[math.log(math.e - 1), math.log(math.e**3 - 1)]]))  # softplus gives 1 and 3
        if scale.saliency is not None:
            scale.saliency.weight.fill_(1.0)
            scale.saliency.bias.fill_(-4.0)
    return scale


@pytest.mark.parametrize(("amplify", "factor"), [("gate", 0.5), ("one_plus", 1.5), ("off", 1.0)])
def test_eq_6_to_9_by_hand(amplify, factor):
    scale = scale_by_hand(amplify=amplify)
    diff = torch.tensor([2.0, 4.0]).view(1, 2, 1, 1)
    aligned = scale.aligned(scale.amplified(diff), (2, 2))
    assert aligned.flatten().tolist() == pytest.approx([factor * (2 * 1 + 4 * 3)] * 4)
    method = made(align_width=1, scales="deepest", amplify=amplify)
    method.module[0] = scale
    method.used = range(1)
    fused, (logits,) = method.fuse([diff])
    assert logits.item() == pytest.approx(14 * factor - 4)
    assert fused.item() == pytest.approx(14 * factor / (1 + math.exp(4 - 14 * factor)), rel=1e-5)


def test_an_anomaly_cannot_be_cancelled_by_the_alignment():
    scale = made().module[0]
    with torch.no_grad():
        scale.align.normal_(std=5)
    assert float(scale.aligned(torch.rand(1, 4, 4, 4), (4, 4)).detach().min()) >= 0


@pytest.mark.parametrize(("pool", "expected"), [("l2", math.sqrt(30)), ("max", 4.0), ("topk", 3.5)])
def test_eq_10_and_its_other_pools_by_hand(pool, expected):
    method = made(score_pool=pool, topk=0.5)
    assert method._pool(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).item() == pytest.approx(expected)


def test_the_l2_score_is_the_frobenius_norm_of_the_fused_map():
    method = made().eval()
    batch = windows(method)
    fused, _ = method.fuse(method.discrepancies(method._stack(batch.x)))
    scores, place = method.score_windows(batch)
    torch.testing.assert_close(scores, fused.square().sum((1, 2, 3)).sqrt())
    assert place.shape == (4, 8, 8)


def gradients(method: mdsf.Mdsf) -> dict[str, float]:
    return {n: float(p.grad.abs().sum()) for n, p in method.module.named_parameters() if p.grad is not None}


def test_pseudo_anomalies_give_every_parameter_of_the_module_a_gradient_and_no_other():
    method = made()
    torch.stack(list(method.module_losses(windows(method)).values())).sum().backward()
    found = gradients(method)
    assert found.keys() == dict(method.module.named_parameters()).keys() and min(found.values()) > 0
    others = [n for n, p in method.named_parameters() if p.grad is not None and not n.startswith("module.")]
    assert not others


def test_with_the_papers_loss_alone_the_module_gets_no_gradient():
    method = made(supervision="none", distill="none")
    assert [p.name for p in method.phases()] == ["teacher", "channel std", "student"]
    for losses in (method.teacher_losses, method.student_losses):
        torch.stack(list(losses(windows(method)).values())).sum().backward()
    assert gradients(method) == {} and all(p.grad is None for p in method.project.parameters())
    assert len(method.notes) == 2


def test_frozen_batch_norm_stands_still():
    method = made()
    batch = windows(method)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.train()
    method.student_losses(batch)
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith(("student.", "student_decoder.")) for k in moved)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.train()
    method.module_losses(batch)
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())


def test_whitening_by_slow_loops():
    method = made(supervision="whitened").eval()
    assert [p.name for p in method.phases()] == ["teacher", "channel std", "student", "channels", "places"]
    batches = [windows(method, seed=s) for s in (0, 1)]
    with torch.no_grad():
        for step in method.phases()[3:]:
            assert isinstance(step, Fit)
            step.run(batches)
        x = torch.cat([b.x[:, 0] for b in batches])
        s, diff = 1, method.discrepancies(x)[1].double().numpy()
        mu, sigma = diff.mean((0, 2, 3)), diff.std((0, 2, 3))
        weight = 1 / (sigma + 1e-6)
        weight /= weight.mean()
        excess = np.maximum(diff - mu[:, None, None], 0) * weight[:, None, None]
        e = excess.mean(1)
        np.testing.assert_allclose(method.place_mean_1.numpy(), e.mean(0), rtol=1e-4)
        np.testing.assert_allclose(method.place_std_1.numpy(), e.std(0) + 1e-6, rtol=1e-3)
        saliency = 1 / (1 + np.exp(-(e - e.mean(0)) / (e.std(0) + 1e-6)))
        one = method.module[s].aligned(torch.tensor(excess * saliency[:, None]).float(), (8, 8))
        rest = method._fuse_whitened(method.discrepancies(x), (8, 8)) - one
        assert torch.isfinite(rest).all() and one.shape == (8, 3, 8, 8)
        others = made(supervision="whitened", scales="deepest")
        assert len(others.module) == 1
    assert list(dict(method.module.named_parameters())) == [f"{i}.align" for i in range(4)]


def test_channel_deviations_over_every_place_of_every_frame():
    method = made().eval()
    batches = [windows(method, seed=s) for s in range(3)]
    with torch.no_grad():
        method._measure_std(batches)
        features = torch.cat([method.teacher(b.x[:, 0])[2] for b in batches])
    expected = features.transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(method.std_2, expected, rtol=1e-4, atol=1e-6)


def test_masking_hides_the_share_of_patches_in_one_colour():
    method = made(mask_ratio=0.5)
    with torch.no_grad():
        method.mask_colour.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x = torch.full((2, 3, 32, 32), 0.9)
    masked = method._masked(x)
    hidden = masked[:, 0] != 0.9
    assert hidden.view(2, 4, 8, 4, 8).all((2, 4)).sum((1, 2)).tolist() == [8, 8]  # whole patches of 8 x 8, of 16
    assert hidden.float().mean().item() == 0.5
    torch.testing.assert_close(masked[0][:, hidden[0]].mean(1), torch.tensor([0.1, 0.2, 0.3]))


def test_masks_at_test_are_fixed():
    method = made(mask_test=2).eval()
    batch = windows(method)
    torch.manual_seed(1)
    one = method.score_windows(batch)[0]
    torch.manual_seed(2)
    torch.testing.assert_close(one, method.score_windows(batch)[0], rtol=0, atol=0)
    assert not torch.allclose(one, method._pool(method.spatial_map(batch.x[:, 0])))


def test_three_frames_reconstruct_the_middle_one_and_motion_weighs():
    method = made(clip_frames=3, motion_weight=True)
    assert method.teacher_offsets == (-3, -1, 0, 1, 3) and method.clip == (-3, 0, 3)
    batch = windows(method, frames=5)
    frames, target = method._frames(batch)
    assert frames.shape == (4, 9, 32, 32) and torch.equal(target, batch.x[:, 2])
    assert torch.equal(frames[:, :3], batch.x[:, 0]) and torch.equal(frames[:, 6:], batch.x[:, 4])
    still = Windows(batch.x[:, :1].expand(-1, 5, -1, -1, -1), batch.frames, batch.video_ids)
    assert mdsf._motion(still, method.teacher_offsets).abs().sum() == 0  # a still frame: no 0/0
    moved = mdsf._motion(batch, method.teacher_offsets)
    assert moved.amax().item() == pytest.approx(1, abs=1e-4) and torch.isfinite(
        method.teacher_losses(batch)["reconstruct"]
    )


@pytest.mark.parametrize(
    ("sets", "modules", "terms"),
    [
        ({}, 4, {"bce", "dice", "margin"}),
        ({"scales": "deepest"}, 1, {"bce", "dice", "margin"}),
        ({"saliency": "equal"}, 4, {"margin"}),
        ({"amplify": "off", "saliency": "equal"}, 4, {"margin"}),
    ],
)
def test_ablations_leave_out_what_they_say(sets, modules, terms):
    method = made(**sets)
    assert len(method.module) == modules
    assert all((s.attention is None) == (sets.get("amplify") == "off") for s in method.module)
    assert all((s.saliency is None) == (sets.get("saliency") == "equal") for s in method.module)
    assert method.module_losses(windows(method)).keys() == terms


def test_small_masks_survive_the_pooling():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 5, 5] = 1
    pooled = mdsf._pooled(mask, (2, 2), (8, 8))
    assert pooled.shape == (1, 1, 8, 8) and pooled.sum().item() == 16 and pooled[0, 0, 0, 0] == 1


def test_dice_by_hand():
    saliency, mask = torch.tensor([[[[0.5, 0.0]]]]), torch.tensor([[[[1.0, 0.0]]]])
    assert mdsf._dice(saliency, mask).item() == pytest.approx(1 - (2 * 0.5 + 1) / (0.5 + 1 + 1))


def test_phases_in_epochs_half_each():
    teacher, _, student, module = made(epochs=20, module_epochs=4).phases()
    assert [p.epochs for p in (teacher, student, module) if isinstance(p, Phase)] == [10, 10, 4]
    assert module.optim.lr == 1e-3 and module.optim.schedule == "constant" and teacher.validate is not None


@pytest.mark.parametrize("kind", _pasted.KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 1, 24, 40)])
def test_a_pseudo_anomaly_changes_only_what_its_mask_says(kind, shape):
    torch.manual_seed(0)
    x, other, partner = (torch.rand(shape) * 2 - 1 for _ in range(3))
    for share in (0.02, 0.1):
        made_of, mask = kind(x, other, partner, share)
        assert made_of.shape == shape and mask.shape == (1, *shape[2:]) and set(mask.unique().tolist()) == {0, 1}
        outside = (mask == 0).expand(shape)
        assert torch.equal(made_of[outside], x[outside]) and made_of.abs().max() <= 1
        assert 0.4 * share < mask.mean() < 2.5 * share


def test_what_is_pasted_comes_from_where_it_should():
    torch.manual_seed(0)
    x, other, partner = torch.zeros(2, 3, 32, 32), torch.full((2, 3, 32, 32), 0.25), torch.full((2, 3, 32, 32), 0.75)
    for kind, value in ((_pasted.cut_mix, 0.25), (_pasted.time_mix, 0.75)):
        made_of, mask = kind(x, other, partner, 0.1)
        assert torch.equal(made_of[0, 0], mask[0] * value)
    ramp = torch.arange(32.0).expand(1, 1, 32, 32) / 32
    turned, mask = _pasted.rotate(ramp, other, partner, 0.1)
    inside = mask[0].bool()
    assert sorted(turned[0, 0][inside].tolist()) == sorted(ramp[0, 0][inside].tolist())
    assert not torch.equal(turned, ramp)
