"""The frames encoder stores what it is given."""

from __future__ import annotations

import torch

from pipelines.encoders import frames


def test_frames_are_returned_as_they_are():
    encoder = frames.build("", frames.Config())
    clip = torch.randint(0, 256, (2, 1, 3, 10, 14, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert encoder.encode(clip) is clip
    assert encoder.kind == "frames" and encoder.positions(3) == (0, 1, 2)
    assert encoder.preprocess.resize is None and encoder.preprocess.crop_px is None


def test_a_size_is_a_short_side_or_an_exact_one():
    assert frames.build("", frames.Config(size=64)).preprocess.resize == 64
    assert frames.build("", frames.Config(size=(48, 64))).preprocess.resize == (48, 64)
