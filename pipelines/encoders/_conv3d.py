"""Three-dimensional convolutions as they run fastest in evaluation, for the convolutional encoders."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipelines.encoders._fast import linear

# (convolution, its normalisation) as the public ports call them
PAIRS = (("conv3d", "bn"), ("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1"), ("out", "bn"))


def pointwise(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A 1x1x1 convolution as the matrix product that it is, x (N, C, T, H, W).

    On one thread torch's own float32 path for such a kernel is slow and leaves channels-last order, and every layer
    behind it pays.
    """
    t, h, w = layer.stride
    rows = x[:, :, ::t, ::h, ::w].permute(0, 2, 3, 4, 1).contiguous()
    return linear(rows, layer.weight.flatten(1), layer.bias).permute(0, 4, 1, 2, 3)


def temporal(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A kx1x1 convolution of stride 1 as one over two dimensions, time and all places; for the same reason."""
    y = F.conv2d(x.flatten(3), layer.weight.flatten(3), layer.bias, padding=(int(layer.padding[0]), 0))
    return y.reshape(*y.shape[:3], *x.shape[3:])


def folded(network: nn.Module) -> nn.Module:
    """Batch normalisation folded into the convolution before it, for every pair of names that belongs together."""
    for module in network.modules():
        for conv, bn in PAIRS:
            layer, norm = getattr(module, conv, None), getattr(module, bn, None)
            if isinstance(layer, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                setattr(module, conv, fuse_conv_bn_eval(layer, norm))
                setattr(module, bn, nn.Identity())
    return network
