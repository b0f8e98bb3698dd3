"""RefineVAD: the gate's gradient trap, the shift, prototypes, losses by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipelines.errors import UsageError
from pipelines.methods import refine_vad
from pipelines.methods._base import Resources, Shape
from pipelines.methods.refine_vad import Config, MotarConfig
from pipelines.recipe import resolve
from pipelines.records import Bag

DIM = 32


def build(
    classes: int = 4, *, resources: Resources | None = None, two_streams: bool = False, **changes: Any
) -> refine_vad.RefineVad:
    config, _ = resolve(Config, [("base", {"width": 16, "motar": {"layers": 1, "dropout": 0.0}}), ("test", changes)])
    names = ("normal", *(f"class {i}" for i in range(1, classes)))
    slices = {"visual": slice(0, 24), "text": slice(24, DIM)} if two_streams else {"x": slice(0, DIM)}
    torch.manual_seed(0)
    return refine_vad.build(config, Shape(DIM, slices, names, ("center",), 16, 16), resources or Resources())


def bag(classes: int = 4, b: int = 6, s: int = 20) -> Bag:
    mask = torch.ones(b, s, dtype=torch.bool)
    mask[1, 11:] = mask[-1, 15:] = False
    y = (torch.arange(b) >= b // 2).float()
    labels = [0 if y[i] == 0 else 1 + i % (classes - 1) for i in range(b)]
    x = torch.randn(b, 1, s, DIM, generator=torch.Generator().manual_seed(3))
    return Bag(x, mask, mask.sum(1), y, torch.eye(classes)[labels], tuple(map(str, range(b))), ("center",), {}, {})


def gate_gradient(mode: str) -> float:
    net = build(motar={"mode": mode})
    sum(net.losses(bag()).values()).backward()  # type: ignore[union-attr]
    assert net.motar is not None
    return sum(float(p.grad.abs().sum()) for p in net.motar.gate.parameters() if p.grad is not None)


def test_the_literal_floor_gives_the_gate_no_gradient_and_the_others_do() -> None:
    assert gate_gradient("hard") == 0.0
    assert gate_gradient("ste") > 0 and gate_gradient("soft") > 0


def test_straight_through_computes_what_the_literal_floor_computes() -> None:
    one = bag()
    outputs = [
        build(motar={"mode": mode}).eval().refine(one.x[:, 0], one.mask, None)["logits"] for mode in ("hard", "ste")
    ]
    assert torch.equal(outputs[0], outputs[1])


def test_the_gate_has_321_parameters() -> None:
    net = build()
    assert net.motar is not None and sum(p.numel() for p in net.motar.gate.parameters()) == 321


def test_shift_by_hand() -> None:
    # D = 8, K = 2, r = 0.5: s = 2 channels from before, 2 from after, 4 from here; ends take themselves
    motar = refine_vad.Motar(8, 4, MotarConfig(mode="fixed", fold=2, ratio=0.5, heads=1))
    x = torch.tensor([[1.0], [2.0], [3.0], [99.0]]).expand(4, 8).unsqueeze(0)
    mask = torch.tensor([[True, True, True, False]])
    y = motar.shift(x, mask)[0]
    assert y[0].tolist() == [1, 1, 2, 2, 1, 1, 1, 1]
    assert y[1].tolist() == [1, 1, 3, 3, 2, 2, 2, 2]
    assert y[2].tolist() == [2, 2, 3, 3, 3, 3, 3, 3]  # the last valid clip never reads padding


def test_a_planted_motion_changes_the_shift() -> None:
    net = build().eval()
    assert net.motar is not None
    still = torch.randn(1, 1, DIM).expand(1, 20, DIM).clone() + 0.01 * torch.randn(1, 20, DIM)
    moving, mask = still.clone(), torch.ones(1, 20, dtype=torch.bool)
    moving[:, 8:12] = moving[:, 8:12] + 3 * torch.randn(1, 4, DIM)
    change = (net.motar.ratio(moving, mask) - net.motar.ratio(still, mask)).abs()[0]
    assert change[8:13].min() > 10 * change[:8].max() and change[14:].max() < 1e-6


def test_motion_variance_by_hand() -> None:
    x = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [1.0, 3.0]]])
    assert refine_vad.motion_variance(x)[0].tolist() == [0.0, 1.0, 0.0]  # differences (1, 3): variance 1


def test_normalised_motion_spans_the_gate_where_raw_motion_does_not() -> None:
    net = build().train()
    assert net.motar is not None
    unit = torch.nn.functional.normalize(torch.randn(8, 50, 768) * torch.rand(8, 50, 1).exp(), dim=-1)
    mask = torch.ones(8, 50, dtype=torch.bool)
    raw = refine_vad.motion_variance(unit)
    wide = net.motar.norm(torch.log(raw + 1e-6), mask)
    assert raw.std() < 1e-2 and wide.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    "changes", [{}, {"motar": {"mode": "soft"}}, {"core": {"attend": "swap"}}, {"core": {"inject": "hard"}}]
)
def test_padding_changes_no_valid_clip(changes: dict[str, Any]) -> None:
    net, one = build(**changes).eval(), bag()
    other = one.x.clone()
    other[1, :, 11:] = 50.0
    y = net.refine(one.x[:, 0], one.mask, None)["logits"]
    assert torch.allclose(y[one.mask], net.refine(other[:, 0], one.mask, None)["logits"][one.mask], atol=1e-5)
    assert torch.allclose(y[1, :11], net.refine(one.x[1:2, 0, :11], one.mask[1:2, :11], None)["logits"][0], atol=1e-5)


def test_softmax_over_probabilities_is_flat_and_the_temperature_is_not() -> None:
    core = build(14).core
    assert core is not None
    p = torch.eye(13)[:1]
    core.config = core.config.model_copy(update={"weight_tau": 1.0})
    assert core.weights(p)[0, :2].tolist() == pytest.approx([0.185, 0.068], abs=5e-4)
    core.config = core.config.model_copy(update={"weight_tau": 0.1})
    assert float(core.weights(p)[0, 0]) == pytest.approx(0.999, abs=1e-3)


def test_hard_injection_is_zero_below_one_half() -> None:
    core = build(4, core={"inject": "hard"}).core
    assert core is not None
    assert core.weights(torch.tensor([[0.2, 0.7, 0.6], [0.1, 0.4, 0.3]])).tolist() == [[0, 1, 0], [0, 0, 0]]


def test_ranking_loss_by_hand() -> None:
    net = build()
    video, y = torch.tensor([0.2, 0.5, 0.9, 0.4]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    pairs = [max(0, 1 - a + n) for a in (0.9, 0.4) for n in (0.2, 0.5)]
    assert net._mil(video, y).item() == pytest.approx(sum(pairs) / 4)


def test_the_true_class_is_added_in_training_only() -> None:
    one = bag()
    with_label, without = build(core={"inject_gt": True}), build(core={"inject_gt": False})
    same = {name: value.item() for name, value in with_label.losses(one).items()}
    assert same["mil"] != without.losses(one)["mil"].item()
    with_label.eval(), without.eval()
    x = one.x[:1]
    extras = {"spans": np.zeros((20, 2), np.int64), "n_frames": 320, "stride": 16}
    test_bag = Bag(x, one.mask[:1], one.lengths[:1], one.y[:1], one.classes[:1], ("v",), ("center",), {}, extras)
    with torch.no_grad():
        assert np.array_equal(with_label.score(test_bag).clips, without.score(test_bag).clips)


def test_class_scores_sum_to_one_and_follow_the_clip_score() -> None:
    extras = {"spans": np.zeros((20, 2), np.int64), "n_frames": 320, "stride": 16}
    x = torch.randn(1, 2, 20, DIM)
    one = Bag(
        x,
        torch.ones(1, 20, dtype=torch.bool),
        torch.tensor([20]),
        torch.ones(1),
        torch.eye(4)[:1],
        ("v",),
        ("a", "b"),
        {},
        extras,
    )
    for fine in ("weights", "proto"):
        with torch.no_grad():
            scores = build(fine=fine).eval().score(one)
        assert scores.classes is not None and scores.classes.shape == (2, 20, 4)
        assert np.allclose(scores.classes.sum(-1), 1, atol=1e-5)
        assert np.allclose(1 - scores.classes[..., 0], scores.clips, atol=1e-6)


def test_streams_are_an_ablation_switch() -> None:
    assert build(two_streams=True).used == slice(0, DIM)
    config, _ = resolve(Config, [("t", {"width": 16, "streams": "text", "motar": {"layers": 1}})])
    shape = Shape(DIM, {"visual": slice(0, 24), "text": slice(24, DIM)}, ("n", "a"), ("center",), 16, 16)
    assert refine_vad.build(config, shape, Resources()).used == slice(24, DIM)
    with pytest.raises(UsageError, match="text stream"):
        refine_vad.build(config, Shape(DIM, {"x": slice(0, DIM)}, ("n", "a"), ("center",), 16, 16), Resources())


@pytest.mark.parametrize(
    ("motar", "inject"), [("off", "off"), ("ste", "off"), ("off", "hard"), ("off", "soft"), ("ste", "soft")]
)
def test_every_ablation_row_trains_what_it_has(motar: str, inject: str) -> None:
    net = build(motar={"mode": motar}, core={"inject": inject})
    sum(net.losses(bag()).values()).backward()  # type: ignore[union-attr]
    dead = [
        n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not bool(p.grad.abs().sum() > 0))
    ]
    # the hard one-hot passes no gradient to the category head through v; L_cat still trains it
    assert dead == []


def test_prototypes_move_to_another_dataset_and_stay_frozen() -> None:
    source = build(5)
    config, _ = resolve(
        Config, [("t", {"width": 16, "motar": {"layers": 1}, "init_core": "run", "core": {"freeze": True}})]
    )
    config, extras = refine_vad.take_over(config, source, source.classes)
    net = build(3, resources=Resources(extras=extras), **config.model_dump())
    assert net.core is not None and source.core is not None
    assert torch.equal(net.core.prototypes, source.core.prototypes) and not net.core.prototypes.requires_grad
    terms = net.losses(bag(3))
    assert "cat" not in terms  # without a class map no label of the new dataset reaches the old categories
    mapped = config.core.model_copy(update={"class_map": {"class 1": "class 3"}})
    net = build(3, resources=Resources(extras=extras), **config.model_copy(update={"core": mapped}).model_dump())
    assert "cat" in net.losses(bag(3)) and net.to_category[1].tolist() == [0, 0, 1, 0] and net.to_category[2].sum() == 0
