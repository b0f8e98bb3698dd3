"""What the encoders that are one network share: loading, seeded random weights, normalisation and batches."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipelines.encoders import _weights
from pipelines.encoders._base import Encoder, Precision, Weights
from pipelines.encoders._checkpoint import load_strictly, randomise, read_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class NetworkEncoder(Encoder):
    """An encoder that is one torch module over the frames of a clip.

    A subclass says how the module is built (`network`) and how normalised frames become one vector (`features`).
    `batch` and `gpu_batch` are how many clips and crops one call takes; `unused` are prefixes of the checkpoint's keys
    that the encoder has no use for (its other towers and heads).
    """

    weights: Weights
    batch: ClassVar[int] = 8
    gpu_batch: ClassVar[int] = 64
    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._network: Module | None = None
        self._parameters = 0
        self._loaded: tuple[str, str, Path | None] | None = None

    @abstractmethod
    def network(self) -> Module:
        """A fresh module with the published sizes and the checkpoint's names; may be built on the meta device."""

    @abstractmethod
    def features(self, network: Module, frames: Tensor) -> Tensor:
        """Normalised frames (N, 3, P, h, w) -> vectors (N, D)."""

    def rename(self, key: str) -> str:
        """The name in `network` of a tensor of the published checkpoint."""
        return key

    def prepare(self, network: Module) -> Module:
        """The loaded module as it runs fastest: folded, reordered. It must compute the same."""
        from pipelines.encoders._fast import fast_layers

        return fast_layers(network)

    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Build the network and read its weights; see the base class."""
        if self._loaded == (device, precision, weights):
            return
        path = _weights.require(self.weights, self.name, given=weights)
        network = self.network()
        tensors = {self.rename(key): value for key, value in read_tensors(path).items()}
        load_strictly(network, tensors, path, unused=self.unused)
        self._install(network, device, precision)
        self._loaded = (device, precision, weights)

    def load_random(self, device: str, precision: Precision, *, seed: int = 0) -> None:
        """Seeded random weights; see the base class."""
        network = self.network()
        if next(network.parameters()).is_meta:
            network = network.to_empty(device="cpu")
        randomise(network, seed=seed)
        self._install(network, device, precision)
        self._loaded = None

    def _install(self, network: Module, device: str, precision: Precision) -> None:
        import torch

        self._parameters = sum(p.numel() for p in network.parameters())
        network = self.prepare(network.float().eval().requires_grad_(False))
        self._network = network.to(device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)

    def parameters(self) -> int:
        """Parameters of the published network as far as it is used here."""
        return self._parameters

    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, h, w, 3) -> float32 (B, K, D)."""
        import torch

        b, k, p, h, w, _ = crops.shape
        with torch.inference_mode():
            flat = crops.reshape(b * k, p, h, w, 3)
            size = self.gpu_batch if crops.is_cuda else self.batch
            vectors = torch.cat([self._encode(part) for part in torch.split(flat, size)])
            return vectors.reshape(b, k, -1)

    def _encode(self, clips: Tensor) -> Tensor:
        import torch

        if self._network is None:
            raise RuntimeError(f"{self.name} is not loaded: call load() first")
        dtype = next(self._network.parameters()).dtype
        x = clips.to(torch.float32).permute(0, 4, 1, 2, 3)  # (N, 3, P, h, w), channels last in memory
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1, 1) for v in self._scales())
        return self.features(self._network, x.sub_(mean).div_(std).to(dtype)).float()

    def _scales(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        return self.preprocess.mean, self.preprocess.std


def spread(count: int, clip_len: int) -> tuple[int, ...]:
    """The distinct ones of `count` frames spread evenly over a clip, from its first: (0, 4, 8, 12) of 16 for 4."""
    return tuple(sorted({i * clip_len // count for i in range(count)}))


def filled(frames: Tensor, count: int) -> Tensor:
    """(N, 3, P, h, w) -> (N, 3, count, h, w): frames repeated evenly where a clip has fewer than `count`."""
    p = frames.shape[2]
    return frames if p == count else frames[:, :, [i * p // count for i in range(count)]]
