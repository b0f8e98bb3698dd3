"""Conv-AE, MemAE, FastAno, SD-MAE: the reference's counts, and each rule by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.methods import conv_ae, fastano, memae, sd_mae
from pipelines.recipe import resolve
from pipelines.records import Windows


def count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_parameters_are_the_references():
    """5.98, 6.49, 2.16 and 3.04 M (encoder 2.20, teacher decoder .575, student .269)."""
    assert count(conv_ae.build(conv_ae.Config(), None, None)) == 5_980_801
    assert count(memae.build(memae.Config(), None, None)) == 6_492_801
    assert count(fastano.build(fastano.Config(), None, None)) == 2_158_529
    sd = sd_mae.build(sd_mae.Config(), None, None)
    assert count(sd.trunk) == 2_198_016 and count(sd.student, sd.student_head) == 269_056
    assert count(sd) == 3_042_560 and count(sd.decoder_embed, sd.decoder, sd.teacher_head) + 128 == 575_488
    patch8, _ = resolve(sd_mae.Config, [("p", {"patch": 8})])
    assert round(count(sd_mae.build(patch8, None, None)) / 1e6, 2) == 2.40


def test_operations_of_fastano_are_the_references():
    """25.2 GFLOPs at 5 x 240 x 360."""
    generator = fastano.Generator((64, 128, 256)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert generator(torch.zeros(1, 1, 5, 240, 360)).shape == (1, 1, 240, 360)
    assert counter.get_total_flops() / 1e9 == pytest.approx(25.2, abs=0.1)


def test_hard_shrinkage_by_hand():
    weight = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    found = memae.hard_shrink(weight, 0.1)
    assert found.tolist()[0] == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.0])
    assert memae.hard_shrink(weight, 0.6).tolist() == [[0.0] * 4]  # all below: nothing is remembered
    assert memae.hard_shrink(weight, 0) is weight


def test_memory_mixes_its_slots():
    memory = memae.Memory(2, 2, 0.0)
    with torch.no_grad():
        memory.slots.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    mixed, weight = memory(torch.tensor([[math.log(3.0), 0.0]]))
    assert weight.tolist()[0] == pytest.approx([0.75, 0.25]) and mixed.tolist()[0] == pytest.approx([0.75, 0.25])


def test_entropy_of_the_memory_is_in_the_loss():
    config, _ = resolve(memae.Config, [("s", {"widths": [2, 2, 2, 2], "slots": 4, "shrink": 0, "entropy_weight": 1.0})])
    torch.manual_seed(0)
    method = memae.build(config, None, None)
    with torch.no_grad():
        method.memory.slots.zero_()
    terms = method.losses(Windows(torch.rand(1, 16, 1, 32, 32), torch.zeros(1), ("v",)))
    assert terms["entropy"].item() == pytest.approx(math.log(4), rel=1e-5)


def test_reconstruction_scores_are_mean_absolute_errors(monkeypatch):
    config, _ = resolve(conv_ae.Config, [("s", {"widths": [2, 2, 2, 2]})])
    method = conv_ae.build(config, None, None).eval()
    monkeypatch.setattr(method, "rebuilt", lambda x: x + 0.25)
    scores, maps = method.score_windows(Windows(torch.rand(2, 16, 1, 32, 32), torch.zeros(2), ("v", "v")))
    assert scores.tolist() == pytest.approx([0.25, 0.25]) and maps.shape == (2, 8, 8)
    assert method.spec.offsets[0] == -8 and method.spec.offsets[-1] == 7 and method.spec.border == "shift"


def test_fastano_scores_minus_psnr(monkeypatch):
    config, _ = resolve(fastano.Config, [("s", {"widths": [2, 2, 2]})])
    method = fastano.build(config, None, None).eval()
    x = torch.zeros(1, 6, 1, 16, 16)
    x[:, 5] = 0.1
    monkeypatch.setattr(method.generator, "forward", lambda past: torch.zeros(1, 1, 16, 16))
    scores, _ = method.score_windows(Windows(x, torch.zeros(1), ("v",)))
    assert scores.item() == pytest.approx(math.log10(0.1), abs=1e-5)


def test_fastano_turns_or_shuffles_one_square():
    torch.manual_seed(0)
    clip = torch.rand(5, 24, 32)
    for _ in range(10):
        changed = (fastano.transform(clip, 0.25) != clip).any(0)
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        assert rows.max() - rows.min() < 6 and columns.max() - columns.min() < 6


def small_sd_mae() -> sd_mae.SdMae:
    config, _ = resolve(
        sd_mae.Config, [("s", {"patch": 8, "width": 16, "decoder_width": 8, "heads": 2, "data": {"size": [24, 32]}})]
    )
    torch.manual_seed(0)
    return sd_mae.build(config, None, None)


def test_patches_are_squares_with_their_channels_last():
    x = torch.arange(2 * 4 * 16 * 16.0).view(2, 4, 16, 16)
    method = small_sd_mae()
    found = method.patches(x)
    assert found.shape == (2, 4, 8 * 8 * 4)
    assert torch.equal(found[1, 3].view(8, 8, 4), x[1, :, 8:, 8:].permute(1, 2, 0))


def test_tokens_stand_at_their_places_before_the_convolutions():
    """A kept token sees its true neighbours: moving a far patch changes nothing in a 3x3 neighbourhood."""
    attention = sd_mae.Attention(8, 2).eval()
    seen = {}
    attention.local[0].register_forward_hook(lambda module, inputs, output: seen.update(plane=inputs[0]))
    kept = torch.tensor([[1, 4, 11]])
    x = torch.rand(1, 4, 8)
    attention(x, kept, (3, 4))
    plane = seen["plane"][0].flatten(1)  # (C, 12)
    assert torch.equal(plane[:, kept[0]].t(), x[0, 1:])
    assert plane[:, [i for i in range(12) if i not in (1, 4, 11)]].abs().sum() == 0


def test_every_patch_is_hidden_once_at_test():
    kept, hidden = small_sd_mae()._halves(torch.zeros(3, 9, 24, 32))
    assert sorted(kept[0].tolist() + hidden[0].tolist()) == list(range(12)) and torch.equal(kept[0], kept[2])


def test_a_still_frame_has_a_finite_loss():
    method = small_sd_mae()
    x = torch.full((4, 5, 3, 24, 32), 0.5)
    for losses in (method.teacher_losses, method.student_losses):
        assert all(torch.isfinite(v) for v in losses(Windows(x, torch.zeros(4), ("v",) * 4, {"partner": x})).values())


def test_positions_differ_everywhere():
    table = sd_mae.positions((6, 9), 16)[0]
    assert table.shape == (54, 16) and (torch.cdist(table, table) + 9 * torch.eye(54)).min() > 0.01
