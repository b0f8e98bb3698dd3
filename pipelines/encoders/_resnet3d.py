"""ResNet-50 inflated to three dimensions, with non-local blocks (Wang et al., CVPR 2018).

Sizes and names follow Tushar-N/pytorch-resnet3d, the port of the Caffe2 models that RTFM's features come from, so that
its state dicts load by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.encoders._conv3d import pointwise, temporal

CLASSES = 400
WIDTH = 2048
# channels, stride, which blocks look at three frames
STAGES = (
    (64, 1, (1, 1, 1)),
    (128, 2, (1, 0, 1, 0)),
    (256, 2, (1, 0, 1, 0, 1, 0)),
    (512, 2, (0, 1, 0)),
)
NON_LOCAL_STAGES = (1, 2)  # every second block of these


class NonLocal(nn.Module):
    """x + attention of every position over all positions of the halved picture (embedded Gaussian)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 2
        self.theta, self.phi, self.g = (nn.Conv3d(width, inner, 1) for _ in range(3))
        self.out = nn.Conv3d(inner, width, 1)
        self.bn = nn.BatchNorm3d(width)

    def forward(self, x: Tensor) -> Tensor:
        small = F.max_pool3d(x, (1, 2, 2))
        asked = (pointwise(self.theta, x), pointwise(self.phi, small), pointwise(self.g, small))
        q, k, v = (part.flatten(2).transpose(1, 2) for part in asked)  # (N, positions, inner)
        found = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        found = found.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
        return torch.add(self.bn(pointwise(self.out, found)), x)


class Shortcut(nn.Sequential):
    """The input at the output's width and size."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(nn.Conv3d(inputs, outputs, 1, (1, stride, stride), bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self[1](pointwise(self[0], x))  # type: ignore[no-any-return,arg-type]


class Bottleneck(nn.Module):
    """1x1 (or 3x1x1), 1x3x3, 1x1, added to the input; a non-local block after it where asked for."""

    def __init__(self, inputs: int, width: int, stride: int, looks: int, downsample: bool, non_local: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, width, (1 + 2 * looks, 1, 1), padding=(looks, 0, 0), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(width * 4)
        self.downsample = Shortcut(inputs, width * 4, stride) if downsample else None
        self.nl = NonLocal(width * 4) if non_local else None

    def forward(self, x: Tensor) -> Tensor:
        convolve = temporal if self.conv1.kernel_size[0] > 1 else pointwise
        y = F.relu(self.bn1(convolve(self.conv1, x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(pointwise(self.conv3, y))
        y = F.relu(y.add_(x if self.downsample is None else self.downsample(x)), inplace=True)
        return y if self.nl is None else self.nl(y)


class I3DResNet50(nn.Module):
    """Clips (N, 3, T, H, W), T at least 7 -> the mean of the last layer over time and space (N, 2048)."""

    def __init__(self, *, non_local: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, (5, 7, 7), (2, 2, 2), padding=(2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        inputs = 64
        for stage, (width, stride, looks) in enumerate(STAGES):
            here = non_local and stage in NON_LOCAL_STAGES
            blocks = nn.Sequential()
            for number, look in enumerate(looks):
                first = number == 0
                blocks.append(Bottleneck(inputs, width, stride if first else 1, look, first, here and number % 2 == 1))
                inputs = width * 4
            self.add_module(f"layer{stage + 1}", blocks)
        self.fc = nn.Linear(WIDTH, CLASSES)  # kept so that a checkpoint loads whole, never run

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.get_submodule("layer1")(F.max_pool3d(x, (2, 3, 3), (2, 2, 2)))
        x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1))
        for name in ("layer2", "layer3", "layer4"):
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3, 4), dtype=torch.float32)
