"""What every encoder must do, over the catalog; networks with seeded random weights where their own are not here."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from pipelines import catalog
from pipelines.encoders import _weights
from pipelines.encoders._base import Encoder
from pipelines.encoders._complexity import count_flops, example
from pipelines.video.crops import CROPS, cut
from tests import tinynets

CLIP_LEN = 4
LARGE = {"clip:vit-b-16", "clip:vit-l-14"}  # the code of vit-b-32 with more of the same
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else [], id=name)
    for name in catalog.names("encoders")
    if name != "frames"
]


# parameters and GFLOP (2 per multiply-add) of one clip of 16 frames at the published sizes: Carreira and Zisserman's
# I3D 55.6, Radford et al.'s 8.8, 35.1 and 162, Tong et al.'s 360 (180 G multiply-adds), the EfficientNet-Lite0 card's 0.8;
# where no paper states one it is the sum over the layers (tests/encoders)
PUBLISHED = {
    "i3d": (12_697_264, 55.6),
    "i3d:r50": (35_401_936, 39.5),
    "videomae:base": (86_534_800, 360.7),
    "qwen2.5-vl:7b": (676_550_144, None),
    "internvideo2:1b": (1_019_266_816, 2315.5),
    "clip:vit-b-32": (87_849_216, 8.8),
    "clip:vit-b-16": (86_192_640, 35.1),
    "clip:vit-l-14": (303_966_208, 162.0),
    "effnet:lite0": (3_371_008, 0.77),
}
WITH_WEIGHTS = [
    f"{entry.name}:{variant}" if variant else entry.name
    for entry in catalog.entries("encoders").values()
    for variant in _weights.cards(entry.facts)
]


@cache
def loaded(name: str, precision: Any = "float32") -> Encoder:
    return tinynets.loaded(name, precision)


def clip_len(encoder: Encoder) -> int:
    return max(CLIP_LEN, encoder.min_clip_len)


def clips(encoder: Encoder, count: int, seed: int = 0) -> torch.Tensor:
    return example(encoder, clip_len(encoder), batch=count, seed=seed)


def smooth_clips(encoder: Encoder, count: int) -> torch.Tensor:
    """Pictures rather than noise: blurred noise with contrast, different in each clip."""
    length = clip_len(encoder)
    noise = torch.rand(count * length, 3, 9, 12, generator=torch.Generator().manual_seed(2))
    p, h, w = (clips(encoder, 1).shape[i] for i in (2, 3, 4))
    pictures = torch.nn.functional.interpolate(noise, size=(h, w), mode="bicubic").clamp(0, 1) * 255
    frames = pictures.to(torch.uint8).permute(0, 2, 3, 1).reshape(count, length, h, w, 3)
    return frames[:, None, :p].contiguous()


@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_stated_shape_and_are_float32(name):
    encoder = loaded(name)
    features = encoder.encode(clips(encoder, 2))
    assert features.shape == (2, 1, encoder.dim) and features.dtype == torch.float32
    assert encoder.name == name and not features.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_positions_are_sorted_frames_of_the_clip(name):
    encoder = loaded(name)
    for length in (1, 2, 8, 16):
        positions = encoder.positions(length)
        assert positions and list(positions) == sorted(set(positions))
        assert positions[0] >= 0 and positions[-1] < length


@pytest.mark.parametrize("name", NAMES)
def test_the_same_clip_gives_the_same_features_twice(name):
    encoder = loaded(name)
    assert torch.equal(encoder.encode(clips(encoder, 2)), encoder.encode(clips(encoder, 2)))


@pytest.mark.parametrize("name", NAMES)
def test_a_clips_features_do_not_depend_on_its_batch(name):
    encoder = loaded(name)
    batch = clips(encoder, 3)
    together = encoder.encode(batch)
    alone = torch.cat([encoder.encode(one) for one in batch.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_ten_crops_equal_ten_single_crops(name):
    encoder = loaded(name)
    how = encoder.preprocess
    crops = CROPS["ten"] if how.crop_px else ("center", "center_m")
    p = len(encoder.positions(clip_len(encoder)))
    frames = torch.randint(0, 256, (1, p, 120, 160, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)

    def cropped(names):
        return cut(frames, names=names, resize=how.resize, crop_px=how.crop_px, interpolation=how.interpolation)

    ten = encoder.encode(cropped(crops))
    single = torch.cat([encoder.encode(cropped([crop])) for crop in crops], dim=1)
    assert ten.shape == (1, len(crops), encoder.dim)
    torch.testing.assert_close(ten, single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("name", NAMES)
def test_flat_clips_give_finite_features(name, level):
    encoder = loaded(name)
    features = encoder.encode(torch.full_like(clips(encoder, 1), level))
    assert torch.isfinite(features).all()
    assert torch.isfinite(features.half()).all()  # features are stored as float16


@pytest.mark.parametrize("name", NAMES)
def test_bf16_stays_near_float32_after_the_mean_is_taken_away(name):
    full, half = loaded(name), loaded(name, "bf16")
    batch = smooth_clips(full, 6)
    a, b = full.encode(batch)[:, 0], half.encode(batch)[:, 0]
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    error = ((a - b).norm() / a.norm()).item()
    print(f"{name}: bf16 differs from float32 by {error:.4f} of the mean-subtracted norm")
    assert error < 0.25


@pytest.mark.parametrize("name", [p for p in NAMES if p.values[0] in WITH_WEIGHTS])
def test_random_weights_are_seeded(name):
    def features(seed: int) -> torch.Tensor:
        encoder = tinynets.build(name)
        encoder.load_random("cpu", "float32", seed=seed)
        return encoder.encode(smooth_clips(encoder, 1))

    first = features(0)
    assert torch.equal(first, features(0)) and not torch.equal(first, features(1))


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_described_by_a_card_that_is_read_without_importing(name):
    encoder = loaded(name)
    base, _, variant = name.partition(":")
    card = _weights.cards(catalog.entries("encoders")[base].facts).get(variant)
    assert (card is None) == (encoder.weights is None)
    if card and encoder.weights:
        assert (card.fetch, card.sha256) == (encoder.weights.fetch, encoder.weights.sha256)
        assert card.licence and card.source
        assert encoder.weights_sha256() == card.sha256


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_parameters_and_operations_are_those_of_the_published_network(name):
    parameters, gflop = PUBLISHED[name]
    module = catalog.load("encoders", name)
    encoder = module.build(name.partition(":")[2], module.Config())
    if not hasattr(encoder, "network"):
        pytest.skip("counted with weights of its own in tests/encoders")
    with torch.device("meta"):
        network = encoder.network().eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    if gflop:
        crops = example(encoder, 16, batch=1, device="meta")
        frames = crops[:, 0].permute(0, 4, 1, 2, 3).float()
        with torch.inference_mode():
            found = count_flops(lambda: encoder.features(network, frames))
        assert found / 1e9 == pytest.approx(gflop, rel=0.005)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_what_no_real_weights_confirmed_is_listed(name):
    encoder = tinynets.build(name)
    if encoder.weights and _weights.locate(encoder.weights) is None:
        assert encoder.weights.unverified, "say what could not be checked without the real file"
