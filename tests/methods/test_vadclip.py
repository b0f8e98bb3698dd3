"""VadCLIP: parameter counts, the public state dict, and its branches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.methods import vadclip
from pipelines.methods._base import Resources, Shape
from pipelines.recipe import resolve
from pipelines.records import Bag


class Tower(torch.nn.Module):
    """A stand-in for CLIP's text tower: class vectors moved by the mean of the learned context."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.words = torch.randn(classes, width, generator=torch.Generator().manual_seed(5))

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        return self.words + context.mean(0)


def build(preset: str, classes: int, **changes: object) -> vadclip.VadClip:
    config, _ = resolve(vadclip.Config, [(preset, vadclip.PRESETS[preset]), ("test", changes)])
    width = config.width
    text = np.random.default_rng(0).normal(size=(classes, width)).astype(np.float32)
    names = ("normal", *(f"class {i}" for i in range(1, classes)))
    resources = Resources(text={"classes": text}, extras={"prompt_tower": Tower(classes, width)})
    return vadclip.build(config, Shape(width, {"x": slice(0, width)}, names, ("center",), 16, 16), resources)


@pytest.mark.parametrize(
    ("preset", "classes", "expected"), [("ucf-crime", 14, 12_642_306), ("xd-violence", 7, 9_489_922)]
)
def test_parameter_counts_are_the_published_ones_without_the_unused_sigma(
    preset: str, classes: int, expected: int
) -> None:
    net = build(preset, classes)
    assert sum(p.numel() for p in net.parameters()) + 1 == expected


def public_state(net: vadclip.VadClip) -> dict[str, torch.Tensor]:
    """Our weights under the keys of the public checkpoint."""
    names = {
        "trunk.local_part.blocks.": "temporal.resblocks.",
        "trunk.local_part.positions.": "frame_position_embeddings.",
        "trunk.global_part.sim_1.": "gc1.",
        "trunk.global_part.sim_2.": "gc2.",
        "trunk.global_part.dis_1.": "gc3.",
        "trunk.global_part.dis_2.": "gc4.",
        "trunk.global_part.out.": "linear.",
    }
    state = {"clipmodel.ln_final.weight": torch.ones(3), "disAdj.sigma": torch.ones(1)}
    for key, value in net.state_dict().items():
        if key == "class_text":
            continue
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        key = "text_prompt_embeddings.weight" if key == "prompt" else key
        for part in ("mlp.", "mlp1.", "mlp2."):
            key = key.replace(part + "0.", part + "c_fc.").replace(part + "2.", part + "c_proj.")
        state[key] = value
    return state


def test_a_published_state_dict_loads_strictly() -> None:
    net, other = build("xd-violence", 7, width=32, lgt={"layers": 1, "heads": 1}), build("xd-violence", 7, width=32)
    renamed = vadclip.rename_public(public_state(net))
    missing, unexpected = other.load_state_dict(renamed, strict=False)
    assert unexpected == [] and missing == ["class_text"]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_without_a_tower_class_vectors_are_frozen_and_no_prompt_exists() -> None:
    config, _ = resolve(vadclip.Config, [("small", vadclip.PRESETS["small-data"])])
    text = np.eye(3, 64, dtype=np.float32)
    net = vadclip.build(config, Shape(8, {}, ("n", "a", "b"), ("center",), 16, 16), Resources(text={"classes": text}))
    assert net.prompt is None and torch.equal(net.text()[:, :64], torch.from_numpy(text))


def test_the_prompt_learns_through_the_tower() -> None:
    net = build("ucf-crime", 3, width=32, lgt={"layers": 1})
    b, s = 4, 9
    mask = torch.ones(b, s, dtype=torch.bool)
    classes = torch.eye(3)[[0, 0, 1, 2]]
    bag = Bag(
        torch.randn(b, 1, s, 32),
        mask,
        mask.sum(1),
        torch.tensor([0.0, 0, 1, 1]),
        classes,
        tuple("abcd"),
        ("center",),
        {},
        {},
    )
    sum(net.losses(bag).values()).backward()  # type: ignore[union-attr]
    assert net.prompt is not None and net.prompt.grad is not None and float(net.prompt.grad.abs().sum()) > 0


def test_clip_score_is_the_declared_branch() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 32)
    extras = {"spans": np.zeros((6, 2), np.int64), "n_frames": 96, "stride": 16}
    bag = Bag(
        x,
        torch.ones(1, 6, dtype=torch.bool),
        torch.tensor([6]),
        torch.ones(1),
        torch.eye(3)[[1]],
        ("v",),
        ("center",),
        {},
        extras,
    )
    net = build("ucf-crime", 3, width=32, lgt={"layers": 1}, primary="a-branch").eval()
    with torch.no_grad():
        scores = net.score(bag)
        _, binary, _ = net.branches(x[0], bag.mask)
    assert scores.classes is not None
    assert np.allclose(scores.clips, 1 - scores.classes[..., 0], atol=1e-6)
    net.config = net.config.model_copy(update={"primary": "c-branch"})
    assert np.allclose(net.score(bag).clips[0], binary.sigmoid()[0].numpy(), atol=1e-6)
