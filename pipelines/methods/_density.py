"""How far from what was normal: exact nearest neighbours and Gaussian mixtures, learnt in closed form."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

BLOCK_BYTES = 64 * 2**20  # of one block of distances
RIDGE = 1e-6  # on a mixture's covariances
WHITEN = 64  # wider features are whitened to this many principal components first


class Nearest(nn.Module):
    """Mean squared L2 distance to the k nearest training vectors, float32, exact.

    A training video is never compared with its own vectors: its scores are leave-one-video-out, when it is fitted and
    when it is scored later. `memory` (n, D), `owner` (n,) and `ids` (V,) are buffers that grow with the data; memory is
    float16 where that loses nothing, so that n = 200,000 of D = 1280 take 512 MB.
    """

    memory: Tensor
    owner: Tensor
    ids: Tensor
    grown = ("memory", "owner", "ids")

    def __init__(self, *, k: int = 1, limit: int = 200_000) -> None:
        super().__init__()
        self.k, self.limit = k, limit
        self.register_buffer("memory", torch.zeros(0, 0, dtype=torch.float16))
        self.register_buffer("owner", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("ids", torch.zeros(0, dtype=torch.int64))

    def fit(self, videos: Iterable[tuple[str, Tensor]]) -> int:
        """Remember the vectors (n, D) of each video; returns how many there were. Beyond `limit` a random subset stays.

        The subset is drawn with torch's global generator.
        """
        names, parts = [], []
        for name, values in videos:
            names.append(name)
            parts.append(values.float())
        memory = torch.cat(parts) if parts else torch.zeros(0, 0)
        owner = torch.cat([torch.full((len(p),), i) for i, p in enumerate(parts)]) if parts else self.owner
        total = len(memory)
        if total > self.limit:
            chosen = torch.randperm(total)[: self.limit].sort().values
            memory, owner = memory[chosen], owner[chosen]
        small = memory.half()
        self.memory = small if torch.equal(small.float(), memory) else memory
        self.owner = owner.to(memory.device)
        self.ids = torch.tensor([_number(name) for name in names], dtype=torch.int64, device=memory.device)
        return total

    def forward(self, values: Tensor, video_id: str) -> Tensor:
        """values (n, D) of one video -> (n,) mean squared distances."""
        own = (self.ids == _number(video_id)).nonzero().flatten()
        usable = self.memory[self.owner != own[0]] if len(own) else self.memory
        usable = usable.float()
        if not len(usable) or not len(values):
            return torch.zeros(len(values), device=values.device)
        rows = max(1, BLOCK_BYTES // (4 * len(usable)))
        norms = usable.square().sum(1)
        found = [self._distances(part, usable, norms) for part in torch.split(values.float(), rows)]
        return torch.cat(found)

    def _distances(self, part: Tensor, memory: Tensor, norms: Tensor) -> Tensor:
        """Which are nearest by the expanded square (fast), how far they are by the difference (no cancellation)."""
        near = (norms - 2 * part @ memory.T).topk(min(self.k, len(memory)), dim=1, largest=False).indices  # (b, k)
        return (part[:, None] - memory[near]).square().sum(2).mean(1)


class Mixture(nn.Module):
    """Minus log-likelihood under a Gaussian mixture with full covariances, after PCA whitening of wide features.

    Fitted by scikit-learn; evaluated here, in float64. Buffers: `mean` (D,), `basis` (D, d), `centres` (C, d),
    `factors` (C, d, d) the Cholesky factors of the precisions, `log_weights` (C,).
    """

    mean: Tensor
    basis: Tensor
    centres: Tensor
    factors: Tensor
    log_weights: Tensor

    def __init__(self, dim: int, *, components: int, random_state: int = 0) -> None:
        super().__init__()
        self.components, self.random_state = components, random_state
        self.width = min(dim, WHITEN)
        for name, shape in (
            ("mean", (dim,)),
            ("basis", (dim, self.width)),
            ("centres", (components, self.width)),
            ("factors", (components, self.width, self.width)),
            ("log_weights", (components,)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.factors.add_(torch.eye(self.width, dtype=torch.float64))  # a standard normal until it is fitted

    def fit(self, values: Tensor) -> None:
        """values (n, D): whiten where D > 64, then expectation-maximisation from k-means."""
        from sklearn.mixture import GaussianMixture

        x = values.double().cpu().numpy()
        mean, basis = _whitening(x, self.width)
        mixture = GaussianMixture(
            min(self.components, len(x)), covariance_type="full", reg_covar=RIDGE, random_state=self.random_state
        ).fit((x - mean) @ basis)
        used = mixture.n_components
        self.log_weights.fill_(float("-inf"))  # components that few vectors leave unused
        self.factors.copy_(torch.eye(self.width, dtype=torch.float64))
        self.mean.copy_(torch.from_numpy(mean))
        self.basis.copy_(torch.from_numpy(basis))
        self.centres[:used] = torch.from_numpy(mixture.means_).to(self.centres)
        self.factors[:used] = torch.from_numpy(mixture.precisions_cholesky_).to(self.factors)
        self.log_weights[:used] = torch.from_numpy(np.log(mixture.weights_)).to(self.log_weights)

    def forward(self, values: Tensor) -> Tensor:
        """values (n, D) -> (n,) float32."""
        x = (values.double() - self.mean) @ self.basis  # (n, d)
        z = torch.einsum("ncd,cde->nce", x[:, None] - self.centres, self.factors)
        determinants = torch.diagonal(self.factors, dim1=1, dim2=2).log().sum(1)
        density = determinants - 0.5 * (z.square().sum(2) + self.width * math.log(2 * math.pi))  # (n, C)
        return -torch.logsumexp(density + self.log_weights, dim=1).float()


def _whitening(x: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """mean (D,) and basis (D, width): principal components at unit variance, or the identity where D fits."""
    if x.shape[1] <= width:
        return np.zeros(x.shape[1]), np.eye(x.shape[1], width)
    from sklearn.decomposition import PCA

    found = PCA(min(width, len(x)), svd_solver="covariance_eigh").fit(x)
    scale = np.sqrt(found.explained_variance_ + RIDGE)
    basis = np.zeros((x.shape[1], width))
    basis[:, : len(scale)] = found.components_.T / scale
    return found.mean_, basis


def _number(video_id: str) -> int:
    """A video id as 63 bits."""
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "big") >> 1
