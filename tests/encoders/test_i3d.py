"""I3D: SAME padding by hand, every tensor of the published checkpoints, and that the fast forms compute the same."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipelines.encoders import _checkpoint, i3d
from pipelines.encoders._conv3d import folded, pointwise, temporal
from pipelines.encoders._inception3d import InceptionI3D, convolve_same, pool_same, same_padding
from pipelines.encoders._resnet3d import I3DResNet50, NonLocal
from pipelines.errors import UsageError, VerificationError
from pipelines.extraction.plan import Sampling, choose_encoders, make_recipe

# TensorFlow's rule by hand: 224/2 -> 112 outputs need (111 * 2 + 7) - 224 = 5 more, two before and three after
BY_HAND = [
    ((224, 7, 2), (2, 3)),
    ((223, 7, 2), (3, 3)),
    ((16, 7, 2), (2, 3)),
    ((112, 3, 2), (0, 1)),
    ((113, 3, 2), (1, 1)),
    ((14, 2, 2), (0, 0)),
    ((7, 2, 2), (0, 1)),
    ((5, 3, 1), (1, 1)),
    ((9, 1, 2), (0, 0)),
]


@pytest.mark.parametrize(("given", "expected"), BY_HAND)
def test_same_padding_by_hand(given, expected):
    assert same_padding(*given) == expected


def same_windows(size: int, kernel: int, stride: int) -> list[list[int]]:
    """The source positions (outside ones included) of each output, from the definition alone."""
    outputs = -(-size // stride)
    before = max((outputs - 1) * stride + kernel - size, 0) // 2
    return [[o * stride - before + k for k in range(kernel)] for o in range(outputs)]


@pytest.mark.parametrize("sizes", [(5, 8, 7), (4, 9, 6), (1, 3, 2), (8, 5, 5)])
@pytest.mark.parametrize(("kernel", "stride"), [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))])  # fmt: skip
def test_pooling_is_the_maximum_over_same_windows(sizes, kernel, stride):
    x = torch.rand(1, 2, *sizes, generator=torch.Generator().manual_seed(0))
    axes = [same_windows(*given) for given in zip(sizes, kernel, stride, strict=True)]
    expected = np.empty((2, *(len(axis) for axis in axes)), np.float32)
    for places in product(*(range(len(axis)) for axis in axes)):
        inside = [[p for p in axis[i] if 0 <= p < n] for axis, i, n in zip(axes, places, sizes, strict=True)]
        expected[(slice(None), *places)] = x[0].numpy()[np.ix_(range(2), *inside)].max(axis=(1, 2, 3))
    np.testing.assert_array_equal(pool_same(x, kernel, stride)[0].numpy(), expected)


@pytest.mark.parametrize("sizes", [(4, 9, 8), (5, 6, 7), (2, 3, 3)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1), (3, 2)])
def test_convolution_is_the_sum_over_same_windows(sizes, kernel, stride):
    random = torch.Generator().manual_seed(1)
    x, layer = torch.randn(1, 2, *sizes, generator=random), nn.Conv3d(2, 3, kernel, stride, bias=False)
    axes = [same_windows(n, kernel, stride) for n in sizes]
    weight = layer.weight.detach().numpy()
    expected = np.zeros((3, *(len(axis) for axis in axes)))
    for places in product(*(range(len(axis)) for axis in axes)):
        for taps in product(range(kernel), repeat=3):
            source = [axis[i][k] for axis, i, k in zip(axes, places, taps, strict=True)]
            if all(0 <= p < n for p, n in zip(source, sizes, strict=True)):
                expected[(slice(None), *places)] += weight[(slice(None), slice(None), *taps)] @ x[0].numpy()[(slice(None), *source)]  # fmt: skip
    np.testing.assert_allclose(convolve_same(layer, x)[0].detach().numpy(), expected, atol=1e-5)


def test_fast_forms_of_convolutions_compute_the_same():
    x = torch.randn(2, 6, 5, 7, 8, generator=torch.Generator().manual_seed(2))
    last = x.contiguous(memory_format=torch.channels_last_3d)
    strided, along = nn.Conv3d(6, 4, 1, (1, 2, 2)), nn.Conv3d(6, 4, (3, 1, 1), padding=(1, 0, 0))
    for given in (x, last):
        torch.testing.assert_close(pointwise(strided, given), strided(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(temporal(along, given), along(x), rtol=1e-5, atol=1e-5)


def random_statistics(network: nn.Module) -> nn.Module:
    """Seeded weights, and statistics that folding has to respect."""
    _checkpoint.randomise(network, seed=3)
    random = torch.Generator().manual_seed(4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.uniform_(-0.2, 0.2, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
            module.bias.data.uniform_(-0.2, 0.2, generator=random)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(("build", "frames"), [(InceptionI3D, 5), (I3DResNet50, 8)])
def test_folding_changes_nothing(build, frames):
    network = random_statistics(build())
    x = torch.randn(2, 3, frames, 37, 41, generator=torch.Generator().manual_seed(5))
    plain = network(x)
    fast = folded(network).to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(fast(x.contiguous(memory_format=torch.channels_last_3d)), plain, rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in fast.modules())


def test_the_non_local_block_is_attention_over_the_halved_picture():
    block = random_statistics(NonLocal(8))
    x = torch.randn(1, 8, 2, 4, 6, generator=torch.Generator().manual_seed(6))
    small = F.max_pool3d(x, (1, 2, 2))
    q, k, v = (layer(given).flatten(2)[0] for layer, given in ((block.theta, x), (block.phi, small), (block.g, small)))
    weights = (q.T @ k / 4**0.5).softmax(dim=1)  # (48 places, 12 places), 4 inner channels
    expected = block.bn(block.out((v @ weights.T).reshape(1, 4, 2, 4, 6))) + x
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_last_layer_is_averaged_as_the_port_does():
    network = random_statistics(InceptionI3D())
    layers = torch.rand(1, 1024, 2, 7, 7, generator=torch.Generator().manual_seed(7))
    network.Mixed_5c = nn.Identity()
    network.get_submodule = lambda name: lambda _: layers  # the last layer of 16 frames of 224x224
    expected = F.avg_pool3d(layers, (2, 7, 7), stride=1).flatten(1)
    torch.testing.assert_close(network(torch.zeros(1, 3, 2, 16, 16)), expected)


def port_name(tensorflow: str) -> str:
    """DeepMind's name -> the port's, from the two public sources."""
    parts = tensorflow.removeprefix("RGB/inception_i3d/").split("/")
    kind = {"w": "conv3d.weight", "b": "conv3d.bias", "beta": "bn.bias", "moving_mean": "bn.running_mean", "moving_variance": "bn.running_var"}[parts[-1]]  # fmt: skip
    if parts[0] == "Logits":
        return f"logits.{kind}"
    if not parts[0].startswith("Mixed"):
        return f"{parts[0]}.{kind}"
    branch, unit = parts[1][-1], parts[2].split("_")[1][-1]  # "Conv3d_0a_1x1" -> "a"
    # Mixed_5b's third branch calls both of its units 0a; the 3x3 one is the second
    unit = "b" if parts[2].endswith("3x3") else unit
    letter = "" if branch == "0" else unit
    return f"{parts[0]}.b{branch}{letter}.{kind}"


@pytest.mark.real
def test_every_tensor_of_deepminds_checkpoint_has_its_place(shared: Path) -> None:
    index = json.loads((shared.parent / "weights" / "i3d_rgb_imagenet_ckpt_index.json").read_text())
    with torch.device("meta"):
        state = InceptionI3D().state_dict()
    placed = {port_name(name): entry["shape"] for name, entry in index.items()}
    assert len(index) == len(placed) == 230
    for name, shape in placed.items():
        # kernels are (T, H, W, in, out) there and (out, in, T, H, W) here; the rest has one dimension
        expected = (shape[4], shape[3], *shape[:3]) if len(shape) == 5 else tuple(shape)
        assert tuple(state[name].shape) == expected, name
    # what the original lacks: scales (they are 1) and counters
    left = {name for name in state if name not in placed}
    assert {name.rpartition(".")[2] for name in left} == {"weight", "num_batches_tracked"}
    assert all(".bn." in name for name in left) and len(left) == 2 * 57


def published(network: nn.Module, path: Path, *, drop: str = "", extra: str = "") -> Path:
    """A checkpoint as the port's authors wrote theirs: the old container, no counters."""
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k and k != drop}
    state |= {extra: torch.zeros(1)} if extra else {}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def test_the_ports_file_loads_strictly_and_gives_its_features(tmp_path, monkeypatch):
    monkeypatch.setattr(i3d, "PIXELS", 32)
    network = random_statistics(InceptionI3D())
    path = published(network, tmp_path / "rgb_imagenet.pt")
    monkeypatch.setitem(i3d.CARDS, "", i3d.replace(i3d.CARDS[""], sha256=None))
    encoder = i3d.build("", i3d.Config())
    encoder.load("cpu", "float32", weights=path)
    clips = torch.randint(0, 256, (2, 1, 4, 32, 32, 3), generator=torch.Generator().manual_seed(8), dtype=torch.uint8)
    frames = (clips[:, 0].float() / 255 * 2 - 1).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(encoder.encode(clips)[:, 0], network(frames), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"drop": "Mixed_4f.b2b.conv3d.weight"}, r"Mixed_4f\.b2b\.conv3d\.weight missing"), ({"extra": "head.weight"}, "no such key")],
)  # fmt: skip
def test_another_checkpoint_is_refused(tmp_path, change, words):
    network = InceptionI3D()
    path = published(network, tmp_path / "x.pt", **change)
    with pytest.raises(VerificationError, match=words):
        _checkpoint.load_strictly(network, _checkpoint.read_tensors(path), path, unused=())


def test_a_file_of_the_users_own_making_is_named_by_its_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("VAD_WEIGHTS", str(tmp_path))
    assert i3d.build("r50", i3d.Config()).weights_sha256() is None
    (tmp_path / "i3d_r50_nl_kinetics.pth").write_bytes(b"weights")
    # sha256 of b"weights"
    digest = i3d._weights.sha256_of(tmp_path / "i3d_r50_nl_kinetics.pth")
    assert i3d.build("r50", i3d.Config()).weights_sha256() == digest
    assert i3d.build("r50", i3d.Config(non_local=False)).weights_sha256() is None


def test_clips_too_short_for_the_resnet_are_refused_before_anything_runs():
    (choice,) = choose_encoders(["i3d:r50"])
    with pytest.raises(UsageError, match="i3d:r50 needs clips of at least 7 frames, not 6"):
        make_recipe(choice, sampling=Sampling(6, 6), crops=("center",))
    assert make_recipe(choice, sampling=Sampling(7, 7), crops=("center",)).clip_len == 7
