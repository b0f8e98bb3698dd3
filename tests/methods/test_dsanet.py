"""DSANet: what the prototypes read, and that every part learns."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.methods import dsanet
from pipelines.methods._base import Resources, Shape
from pipelines.recipe import resolve
from pipelines.records import Bag


def build() -> dsanet.DsaNet:
    changes = {"width": 32, "decoder_blocks": 2, "lgt": {"layers": 1}}
    config, _ = resolve(dsanet.Config, [("test", changes)])
    text = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    torch.manual_seed(0)
    return dsanet.build(config, Shape(12, {}, ("n", "a", "b"), ("center",), 16, 16), Resources(text={"classes": text}))


def bag() -> Bag:
    b, s = 6, 20
    mask = torch.ones(b, s, dtype=torch.bool)
    mask[1, 11:] = mask[-1, 15:] = False
    y = (torch.arange(b) >= 3).float()
    x = torch.randn(b, 1, s, 12, generator=torch.Generator().manual_seed(3))
    return Bag(x, mask, mask.sum(1), y, torch.eye(3)[[0, 0, 0, 1, 2, 1]], tuple("abcdef"), ("center",), {}, {})


def test_prototypes_read_the_lowest_scoring_share_of_valid_clips() -> None:
    values = torch.tensor([[0.9, 0.1, 0.5, 0.3, -9.0], [4.0, 3.0, 2.0, 1.0, 0.0]])
    mask = torch.tensor([[True, True, True, True, False], [True] * 5])
    quiet = dsanet.lowest(values, mask, 0.5)
    assert quiet.tolist() == [[False, True, False, True, False], [False, False, True, True, True]]


def test_gradient_reaches_every_parameter() -> None:
    net = build()
    sum(net.losses(bag()).values()).backward()  # type: ignore[union-attr]
    assert [n for n, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)] == []


def test_padding_changes_no_loss() -> None:
    net, one = build().eval(), bag()
    x = one.x.clone()
    x[1, :, 11:] = 30.0
    other = Bag(x, one.mask, one.lengths, one.y, one.classes, one.video_ids, one.crops, {}, {})
    for a, b in zip(net.losses(one).values(), net.losses(other).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_class_scores_are_the_binary_score_shared_among_anomaly_classes() -> None:
    net = build().eval()
    extras = {"spans": np.zeros((9, 2), np.int64), "n_frames": 144, "stride": 16}
    x = torch.randn(1, 2, 9, 12)
    one = Bag(
        x,
        torch.ones(1, 9, dtype=torch.bool),
        torch.tensor([9]),
        torch.ones(1),
        torch.eye(3)[:1],
        ("v",),
        ("a", "b"),
        {},
        extras,
    )
    with torch.no_grad():
        scores = net.score(one)
        _, binary, _ = net.branches(x[0], one.mask.expand(2, -1))
    assert scores.classes is not None and np.allclose(scores.classes.sum(-1), 1, atol=1e-5)
    share = (binary / net.config.score_tau).sigmoid().numpy()
    assert np.allclose(scores.classes[..., 1:].sum(-1), share, atol=1e-5)
