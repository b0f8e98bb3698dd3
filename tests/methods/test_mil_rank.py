"""mil-rank: the paper's parameter counts, each loss term by hand, and how many segments make a bag score."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.methods import mil_rank
from pipelines.methods._base import Resources, Shape, top_count
from pipelines.recipe import resolve
from pipelines.records import Bag


def build(dim: int, preset: str = "sultani", **values):
    config, _ = resolve(mil_rank.Config, [("preset", mil_rank.PRESETS[preset]), ("test", values)])
    return mil_rank.build(config, Shape(dim, {"x": slice(0, dim)}, ("normal", "a"), ("center",), 16, 16), Resources())


def bag(x: torch.Tensor, y: list[float], lengths: list[int] | None = None) -> Bag:
    """x (B, S, D)."""
    sizes = torch.tensor(lengths or [x.shape[1]] * len(x))
    mask = torch.arange(x.shape[1]) < sizes[:, None]
    labels = torch.tensor(y, dtype=torch.float32)
    return Bag(
        x.unsqueeze(1),
        mask,
        sizes,
        labels,
        torch.stack([1 - labels, labels], 1),
        tuple("abcdefgh"[: len(x)]),
        ("any",),
        {"x": slice(0, x.shape[2])},
    )


def with_scores(method, scores: torch.Tensor):
    """The method with a network that returns the logits of `scores` (B, S), fed as its one feature."""
    method.logits = lambda x: torch.logit(x.squeeze(-1))
    return method, scores.unsqueeze(-1)


@pytest.mark.parametrize(("dim", "count"), [(4096, 2_114_113), (2048, 1_065_537), (1024, 541_249), (512, 279_105)])
def test_parameter_counts_are_the_references(dim, count):
    assert sum(p.numel() for p in build(dim).parameters()) == count


def test_the_layer_of_32_has_no_activation_and_dropout_is_06():
    layers = [type(layer).__name__ for layer in build(8).trunk]
    assert layers == ["Linear", "ReLU", "Dropout", "Linear", "Dropout"]
    assert {layer.p for layer in build(8).trunk if isinstance(layer, torch.nn.Dropout)} == {0.6}


def test_the_sultani_preset_is_the_papers():
    config, _ = resolve(mil_rank.Config, [("preset", mil_rank.PRESETS["sultani"])])
    assert (config.steps, config.optim.name, config.optim.lr) == (20_000, "adagrad", 0.01)
    assert (config.data.length, config.data.size, config.data.normalise) == ("bins", 32, "l2-segments")
    assert (config.data.batch_normal, config.data.batch_abnormal) == (30, 30)


def test_glorot_normal_has_the_definitions_deviation_and_biases_are_zero():
    torch.manual_seed(0)
    method = build(1024)
    first = method.trunk[0]
    assert first.weight.std().item() == pytest.approx(math.sqrt(2 / (1024 + 512)), rel=0.02)
    assert all(not p.any() for name, p in method.named_parameters() if name.endswith("bias"))


def test_the_ranking_term_sums_over_abnormal_and_averages_over_normal():
    # top scores: normals .2, .5; abnormals .6, .9
    scores = torch.tensor([[0.1, 0.2], [0.5, 0.3], [0.6, 0.4], [0.1, 0.9]])
    hinge = [[1 - 0.6 + 0.2, 1 - 0.9 + 0.2], [1 - 0.6 + 0.5, 1 - 0.9 + 0.5]]
    method, x = with_scores(build(1), scores)
    assert method.losses(bag(x, [0, 0, 1, 1]))["rank"].item() == pytest.approx(
        (sum(hinge[0]) + sum(hinge[1])) / 2, abs=1e-5
    )
    method, x = with_scores(build(1, pairs="mean"), scores)
    assert method.losses(bag(x, [0, 0, 1, 1]))["rank"].item() == pytest.approx(
        (sum(hinge[0]) + sum(hinge[1])) / 4, abs=1e-5
    )


def test_smoothness_and_sparsity_are_of_abnormal_bags_only():
    scores = torch.tensor([[0.9, 0.1, 0.9], [0.2, 0.5, 0.9]])
    method, x = with_scores(build(1), scores)
    terms = method.losses(bag(x, [0, 1]))
    assert terms["smooth"].item() == pytest.approx(8e-5 * (0.3**2 + 0.4**2), rel=1e-4)
    assert terms["sparse"].item() == pytest.approx(8e-5 * 1.6, rel=1e-4)


def test_l2_is_of_all_weight_matrices_and_no_bias():
    method = build(3)
    method.head.bias.data.fill_(100.0)
    expected = 1e-3 * sum(p.square().sum().item() for p in method.parameters() if p.dim() == 2)
    assert method.losses(bag(torch.randn(2, 4, 3), [0, 1]))["l2"].item() == pytest.approx(expected, rel=1e-5)


def test_the_bag_score_ignores_padding():
    scores = torch.tensor([[0.1, 0.2, 0.99], [0.6, 0.4, 0.99]])
    method, x = with_scores(build(1), scores)
    terms = method.losses(bag(x, [0, 1], [2, 2]))
    assert terms["rank"].item() == pytest.approx(1 - 0.6 + 0.2, abs=1e-5)
    assert terms["smooth"].item() == pytest.approx(8e-5 * 0.2**2, rel=1e-4)
    assert terms["sparse"].item() == pytest.approx(8e-5 * 1.0, rel=1e-4)


def test_cross_entropy_of_the_bag_score_by_hand():
    method, x = with_scores(build(1, loss="bce"), torch.tensor([[0.1, 0.2], [0.6, 0.4]]))
    expected = -(math.log(0.8) + math.log(0.6)) / 2
    assert method.losses(bag(x, [0, 1]))["bce"].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("top", "expected"), [(1, [1, 1, 1]), (3, [1, 3, 3]), (0.1, [1, 1, 3]), (0.2, [1, 2, 6])])
def test_top_is_a_count_or_a_share_rounded_up(top, expected):
    assert top_count(torch.tensor([1, 10, 30]), top).tolist() == expected


def test_scoring_has_no_dropout_and_keeps_every_clip_and_crop():
    method = build(4).eval()
    one = bag(torch.randn(1, 6, 4), [0])
    x = torch.randn(1, 2, 6, 4)
    extras = {"spans": torch.zeros(6, 2).numpy().astype("int64"), "n_frames": 96, "stride": 16}
    many = Bag(x, one.mask, one.lengths, one.y, one.classes, ("v",), ("center", "tl"), one.streams, extras)
    with torch.no_grad():
        a, b = method.score(many), method.score(many)
    assert a.clips.shape == (2, 6) and (a.clips == b.clips).all()
    assert ((a.clips > 0) & (a.clips < 1)).all()


def test_oriented_weights_follow_the_training_direction_and_never_turn_against_it() -> None:
    config, _ = resolve(mil_rank.Config, [("oriented", mil_rank.PRESETS["oriented"])])
    net = mil_rank.build(
        config,
        Shape(5, {"effnet:lite0": slice(0, 2), "motion": slice(2, 5)}, ("n", "a"), ("center",), 8, 8),
        Resources(),
    )
    mask = torch.ones(1, 2, dtype=torch.bool)

    def bag(motion: list[float], y: float) -> Bag:
        x = torch.tensor([9.0, -9.0, *motion]).expand(1, 1, 2, 5)
        return Bag(x, mask, mask.sum(1), torch.tensor([y]), torch.eye(2)[[int(y)]], ("v",), ("center",), {}, {})

    net.fit(lambda: [bag([1.0, 2.0, 0.0], 0), bag([2.0, 1.0, 0.0], 1), bag([0.0, 2.0, 0.0], 0)])
    assert net.orientation.tolist() == [1.0, -1.0, 1.0]  # the effnet stream plays no part
    assert net.inputs(torch.tensor([5.0, 5.0, 4.0, 2.0, -7.0])).tolist() == [3.0, -2.0, -3.0]  # cut at 3, then turned
    with torch.no_grad():
        net.head.weight.copy_(torch.tensor([[0.5, -0.1, 0.2]]))
    net._keep_orientation()
    assert net.head.weight[0].tolist() == pytest.approx([0.5, 0.0, 0.2])
