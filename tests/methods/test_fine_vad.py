"""Fine-VAD: the reference's parameter counts, each loss by hand, and what gradients must reach."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.methods import fine_vad
from pipelines.methods._base import Resources, Shape
from pipelines.methods.fine_vad import Config, LossConfig
from pipelines.recipe import resolve
from pipelines.records import Bag


def resources(classes: int, width: int = 512, seed: int = 0) -> Resources:
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.normal(size=(n, width)).astype(np.float32)  # noqa: E731
    return Resources(text={"coarse": draw(2), "classes": draw(classes)})


def shape(classes: int, dim: int = 512) -> Shape:
    names = ("normal", *(f"class {i}" for i in range(1, classes)))
    return Shape(dim, {"x": slice(0, dim)}, names, ("center",), 16, 16)


def small(**changes: Any) -> Config:
    return Config(**({"width": 32, "lgt": {"layers": 1, "heads": 2}} | changes))


def bag(classes: int = 7, dim: int = 32, b: int = 8, s: int = 20) -> Bag:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(b, s, dtype=torch.bool)
    mask[2, 12:] = mask[-1, 15:] = False
    y = (torch.arange(b) >= b // 2).float()
    multi_hot = torch.zeros(b, classes)
    for i in range(b):
        multi_hot[i, 0 if y[i] == 0 else 1 + i % min(2, classes - 1)] = 1
    x = torch.randn(b, 1, s, dim, generator=generator)
    ids = tuple(f"v{i}" for i in range(b))
    return Bag(x, mask, mask.sum(1), y, multi_hot, ids, ("center",), {"x": slice(0, dim)}, {})


@pytest.mark.parametrize(
    ("preset", "classes", "expected"), [("ucf-crime", 14, 18_379_776), ("xd-violence", 7, 15_227_392)]
)
def test_parameter_counts_are_the_references(preset: str, classes: int, expected: int) -> None:
    config, _ = resolve(Config, [(preset, fine_vad.PRESETS[preset])])
    net = fine_vad.build(config, shape(classes), resources(classes))
    assert sum(p.numel() for p in net.parameters()) == expected


def test_every_level_has_the_width_of_its_text() -> None:
    net = fine_vad.build(small(), shape(7, 32), resources(7, 32))
    x = bag()
    maps = net.maps(net.features(x.x[:, 0], x.mask)[1], x.mask)
    assert {k: tuple(v.shape) for k, v in maps.items()} == {
        "coarse": (8, 20, 2),
        "inter": (8, 20, 5),
        "fine": (8, 20, 7),
    }
    assert all(float(v.detach().abs().max()) <= 1 + 1e-5 for v in maps.values())


def test_gradient_reaches_the_first_guide_although_nothing_supervises_its_text() -> None:
    torch.manual_seed(0)
    net = fine_vad.build(small(), shape(7, 32), resources(7, 32))
    sum(net.losses(bag()).values()).backward()  # type: ignore[union-attr]
    assert net.guide_inter is not None and net.guide_inter.query.weight.grad is not None
    assert float(net.guide_inter.query.weight.grad.norm()) > 0


@pytest.mark.parametrize("levels", ["fine", "coarse+fine", "inter+fine", "all"])
@pytest.mark.parametrize("fine", ["refine", "mce", "mce+cts", "cts+refine"])
def test_every_ablation_row_trains_all_of_its_parameters(levels: str, fine: str) -> None:
    torch.manual_seed(0)
    net = fine_vad.build(small(levels=levels, losses={"fine": fine}), shape(7, 32), resources(7, 32))
    terms = net.losses(bag())
    sum(terms.values()).backward()  # type: ignore[union-attr]
    dead = [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert dead == []
    assert ("bce" in terms) == (levels in ("coarse+fine", "all"))


def test_one_anomaly_class_skips_the_middle_level() -> None:
    net = fine_vad.build(small(), shape(2, 32), resources(2, 32))
    assert net.levels == {"coarse", "fine"} and net.guide_inter is None


def test_macro_classes_group_what_is_close_and_ignore_the_run_seed() -> None:
    text = np.eye(8, dtype=np.float32)[[7, 0, 1, 2, 0, 1, 2]] + 0.05 * np.random.default_rng(0).normal(
        size=(7, 8)
    ).astype("f4")
    vectors, groups = fine_vad.macro_classes(text, 3)
    assert groups.tolist() == [0, 1, 2, 3, 1, 2, 3]
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    assert np.allclose(vectors[1].numpy(), (unit[1] + unit[4]) / 2, atol=1e-6)
    torch.manual_seed(99)
    assert torch.equal(fine_vad.macro_classes(text, 3)[1], groups)
    assert len(fine_vad.macro_classes(text[:3], 4)[0]) == 3  # K = min(4, M)


def test_info_nce_by_hand() -> None:
    z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # two abnormal, one normal
    y = torch.tensor([1, 1, 0])
    loss = fine_vad.info_nce(z, y[:, None] == y, y > 0, tau=0.5)
    first = -math.log(math.exp(0.6 / 0.5) / (math.exp(0.6 / 0.5) + math.exp(0.0)))
    second = -math.log(math.exp(0.6 / 0.5) / (math.exp(0.6 / 0.5) + math.exp(0.8 / 0.5)))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)
    assert fine_vad.info_nce(z[1:], y[1:, None] == y[1:], y[1:] > 0, tau=0.5).item() == 0.0  # no positive


def test_refinement_loss_literally_scales_abnormal_videos_by_omega() -> None:
    net = fine_vad.build(small(losses=LossConfig(omega=3.0)), shape(7, 32), resources(7, 32))
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    target, y = torch.eye(7)[[0, 0, 2, 5]], torch.tensor([0.0, 0.0, 1.0, 1.0])
    plain = -(target * logits.log_softmax(-1)).sum(1)
    assert net._refine(logits, target, y).item() == pytest.approx(
        ((plain * torch.tensor([1, 1, 3, 3])).mean()).item(), rel=1e-5
    )


def test_denominator_reading_pushes_the_other_classes_of_the_group() -> None:
    net = fine_vad.build(small(losses=LossConfig(omega=2.0, refine="denominator")), shape(3, 32), resources(3, 32))
    net.group_of = torch.tensor([0, 1, 1])
    loss = net._refine(torch.zeros(1, 3), torch.eye(3)[[1]], torch.tensor([1.0]))
    assert loss.item() == pytest.approx(math.log(1 + 1 + 2))  # normal 1, own class 1, its neighbour 2


def test_scores_are_probabilities_and_do_not_depend_on_windows_being_batched() -> None:
    torch.manual_seed(0)
    net = fine_vad.build(
        small(lgt={"layers": 1, "max_clips": 8}, data={"size": 8}, top=4), shape(7, 32), resources(7, 32)
    ).eval()
    x = torch.randn(1, 2, 19, 32)
    extras = {"spans": np.stack([np.arange(19) * 16, np.arange(1, 20) * 16], 1), "n_frames": 304, "stride": 16}
    one = Bag(
        x,
        torch.ones(1, 19, dtype=torch.bool),
        torch.tensor([19]),
        torch.ones(1),
        torch.eye(7)[[1]],
        ("v",),
        ("a", "b"),
        {},
        extras,
    )
    with torch.no_grad():
        scores, stages = net.score(one), net.stages(one)
    assert scores.clips.shape == (2, 19) and scores.classes is not None
    assert np.allclose(scores.classes.sum(-1), 1, atol=1e-5)
    first = Bag(x[:, :, :8], one.mask[:, :8], torch.tensor([8]), one.y, one.classes, ("v",), ("a", "b"), {}, extras)
    assert np.allclose(net.score(first).clips, scores.clips[:, :8], atol=1e-5)
    assert {"input", "trunk", "f_video", "map_fine"} <= set(stages)


def test_video_wide_guides_change_windows_after_the_first() -> None:
    torch.manual_seed(0)
    net = fine_vad.build(
        small(lgt={"layers": 1, "max_clips": 8}, data={"size": 8}, top=4), shape(7, 32), resources(7, 32)
    ).eval()
    x = torch.randn(1, 2, 19, 32)
    one = Bag(
        x,
        torch.ones(1, 19, dtype=torch.bool),
        torch.tensor([19]),
        torch.ones(1),
        torch.eye(7)[[1]],
        ("v",),
        ("a", "b"),
        {},
        {},
    )
    windowed = net._full_maps(one)["fine"]
    net.config = net.config.model_copy(update={"guide": "video"})
    assert not torch.allclose(net._full_maps(one)["fine"], windowed, atol=1e-4)
    guide, mask = torch.tensor([[1.0], [4.0]]), torch.tensor([[True, True], [True, False]])
    assert fine_vad._shared(guide, mask, 2).flatten().tolist() == [2.0, 2.0]  # (2 * 1 + 1 * 4) / 3


def test_published_averages_are_the_means_of_their_thresholds() -> None:
    for row in fine_vad.RESULTS:
        if "values" in row:
            assert round(sum(row["values"]) / 5, 2) == pytest.approx(row["avg"], abs=0.011)
