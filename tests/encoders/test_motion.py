"""The motion descriptor: its scalar by hand, its ratios on motions whose answer is known, its edges."""

from __future__ import annotations

import math

import pytest
import torch

from pipelines.encoders import motion

QUANTILES_FROM, AREA_FROM, PATHS_FROM, FLOW_FROM = 1, 19, 23, 34


def described(clip: torch.Tensor, **options: object) -> torch.Tensor:
    """uint8 (P, 60, 80, 3) -> (D,)."""
    return motion.build("", motion.Config.model_validate(options)).encode(clip[None, None])[0, 0]


def film(*levels: int) -> torch.Tensor:
    """Frames of one grey level each."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(len(levels), 60, 80, 3).contiguous()


def moving_square(places: list[tuple[int, int]], *, side: int = 12) -> torch.Tensor:
    """A soft bright square whose corner stands at (y, x) in each frame, on a grey ground."""
    frames = torch.full((len(places), 60, 80, 3), 90, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    bump = 90 + 140 * torch.sin(math.pi * (y + 0.5) / side) * torch.sin(math.pi * (x + 0.5) / side)
    for frame, (top, left) in zip(frames, places, strict=True):
        frame[top : top + side, left : left + side] = bump[..., None].to(torch.uint8)
    return frames


def walk(frames: int = 8, step: int = 2) -> torch.Tensor:
    return moving_square([(24, 10 + step * t) for t in range(frames)])


def struggle(frames: int = 8, step: int = 2) -> torch.Tensor:
    return moving_square([(24 + step * (t % 2), 30 + step * ((t // 2) % 2)) for t in range(frames)])


def test_the_scalar_is_the_median_over_pairs_of_the_mean_absolute_difference():
    # steps of 10, 0, 20, 2 and 6 grey levels: the median is 6
    assert described(film(10, 20, 20, 40, 42, 48))[0].item() == pytest.approx(6 / 255, abs=1e-6)
    # an even count of pairs: steps 10, 0, 20, 2 give (2 + 10) / 2
    assert described(film(10, 20, 20, 40, 42))[0].item() == pytest.approx(6 / 255, abs=1e-6)


def test_one_hard_cut_does_not_change_the_scalar():
    assert described(film(50, 50, 50, 50, 200, 200, 200, 200))[0] == 0


def test_grey_is_luma():
    colour = torch.tensor([[10, 20, 30]], dtype=torch.uint8)
    assert motion.luma(colour).item() == pytest.approx((0.299 * 10 + 0.587 * 20 + 0.114 * 30) / 255, abs=1e-6)


@pytest.mark.parametrize("count", range(1, 17))
def test_the_middle_equals_the_sorted_median(count):
    values = torch.randn(4, count, 5, generator=torch.Generator().manual_seed(count))
    ordered = values.sort(dim=1).values
    assert torch.equal(motion.middle(values), (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2)


def test_quantiles_and_area_tell_how_much_of_the_picture_changes():
    clip = film(100, 100, 100)
    clip[1, :20] = 120  # the upper third changes by 20 levels twice
    features = described(clip, lags=[1])
    quantiles = features[QUANTILES_FROM : QUANTILES_FROM + 6]
    assert quantiles.tolist() == pytest.approx([0.0, *[20 / 255] * 5], abs=1e-6)
    area = features[QUANTILES_FROM + 6 : QUANTILES_FROM + 10]
    assert area.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0.0], abs=1e-6)  # above 4, 8, 16, 32 levels


def test_a_steady_change_has_a_path_as_long_as_its_range():
    grey = torch.linspace(0.2, 0.8, 8)[None, :, None, None].expand(1, 8, 30, 40)
    ratio = motion.paths(grey)[0, :4]
    expected = 0.6 / (0.6 + motion.NOISE)
    assert ratio.tolist() == pytest.approx([expected] * 4, rel=2e-3)


def test_going_to_and_fro_makes_the_path_longer_than_the_range():
    grey = torch.tensor([0.2, 0.6] * 4)[None, :, None, None].expand(1, 8, 30, 40)
    path, extent, turn = 7 * 0.4, 0.4, 6 * 0.8  # seven steps; the step changes by 0.8 six times
    found = motion.paths(grey)[0]
    assert found[3].item() == pytest.approx(path / (extent + motion.NOISE), rel=1e-4)
    assert found[7].item() == pytest.approx(turn / (extent + motion.NOISE), rel=1e-4)


def test_the_flow_of_a_shifted_pattern_is_its_shift():
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(40.0), indexing="ij")
    frames = [0.5 + 0.2 * torch.sin((x - 0.5 * t) / 2.5) + 0.2 * torch.cos((y + 0.25 * t) / 2.5) for t in range(3)]
    u, v, _, left = motion.optical_flow(torch.stack(frames)[None])
    assert u.median().item() == pytest.approx(0.5, abs=0.08)
    assert v.median().item() == pytest.approx(-0.25, abs=0.05)
    assert left.mean() < 1e-4


def test_a_struggle_is_more_irregular_than_a_walk_of_the_same_speed():
    calm, wild = described(walk()), described(struggle())
    paths = slice(PATHS_FROM, PATHS_FROM + 8)
    assert (wild[paths] > calm[paths]).all()
    acceleration_to_speed, steadiness = FLOW_FROM + 7, FLOW_FROM + 10
    assert wild[acceleration_to_speed] > 2 * calm[acceleration_to_speed]
    assert wild[steadiness] < 0.5 * calm[steadiness]


def test_directions_of_one_way_have_less_entropy_than_of_two():
    u, ones = torch.ones(1, 2, 6, 8), torch.ones(1, 2, 6, 8)
    both = u.clone()
    both[..., 4:] = -1
    zero = torch.zeros_like(u)
    one_way, _ = motion.direction_entropy(u, zero, ones)
    two_ways, _ = motion.direction_entropy(both, zero, ones)
    assert (two_ways - one_way).item() == pytest.approx(math.log(2), abs=0.01)


def test_the_grid_says_where_it_moves():
    features = described(walk(), lags=[1], grid=[2, 2])
    cells = features[-4:].reshape(2, 2)
    assert cells[0, 0] > cells[1, 1] and len(features) == 1 + 6 + 4 + 11 + 17 + 4


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips_are_described_without_nan(frames):
    features = described(walk(frames))
    assert features.shape == (51,) and torch.isfinite(features).all()
    assert (features == 0).all() == (frames == 1)


def test_a_still_picture_has_no_motion_at_all():
    assert described(walk(8, step=0)).abs().max() == 0
