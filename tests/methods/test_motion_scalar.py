"""motion-scalar: the score is index 0 of the motion stream, wherever it stands."""

from __future__ import annotations

import pytest
import torch

from pipelines.errors import UsageError
from pipelines.methods import motion_scalar
from pipelines.methods._base import Resources, Shape
from pipelines.records import Bag


def shape(**streams: slice) -> Shape:
    names = {name.replace("_", ":"): where for name, where in streams.items()}
    return Shape(max(w.stop for w in names.values()), names, ("normal", "a"), ("center",), 8, 8)


def test_the_score_is_the_motion_streams_first_value():
    method = motion_scalar.build(
        motion_scalar.Config(), shape(effnet_lite0=slice(0, 3), motion=slice(3, 5)), Resources()
    )
    x = torch.rand(1, 2, 4, 5)
    extras = {"spans": torch.tensor([[0, 8], [8, 16], [16, 24], [24, 32]]).numpy(), "n_frames": 32, "stride": 8}
    ones = torch.ones(1, 4, dtype=torch.bool)
    bag = Bag(x, ones, torch.tensor([4]), torch.zeros(1), torch.zeros(1, 2), ("v",), ("center", "tl"), {}, extras)
    scores = method.score(bag)
    assert scores.clips.tolist() == x[0, :, :, 3].tolist()
    assert scores.n_frames == 32 and scores.stride == 8


def test_it_trains_nothing():
    method = motion_scalar.build(motion_scalar.Config(), shape(motion=slice(0, 2)), Resources())
    assert method.phases() == [] and not list(method.parameters())


def test_features_without_motion_are_refused_with_what_to_extract():
    with pytest.raises(UsageError, match="motion") as caught:
        motion_scalar.build(motion_scalar.Config(), shape(clip_x=slice(0, 2)), Resources())
    assert "vad extract" in caught.value.hint
