"""A classical motion descriptor: how much moves, and how irregularly, from 80x60 grey frames; no weights.

Amount: absolute frame differences at several lags as quantiles over the picture, the share of pixels that change, and
(optionally) a grid of cells. Irregularity: how much longer the path of a pixel's value is than its range, how much it
accelerates, and how incoherent a coarse optical flow is in time and space. Walking moves a lot along straight lines;
a fight does not. Amounts are medians over frame pairs, and a hard cut lengthens a path no more than its range, so one
cut inside a clip does not decide. Index 0 is the motion scalar. [ours]
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pipelines.encoders._base import Encoder, EncoderConfig, Precision, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

NAME = "motion"
SUMMARY = "how much moves and how irregularly: frame differences at several lags, paths, coarse flow; no weights"

HEIGHT, WIDTH = 60, 80
# ITU-R BT.601 luma
LUMA = (0.299, 0.587, 0.114)
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.98, 1.0)
AREA_LEVELS = (4, 8, 16, 32)  # grey levels
PATHS, FLOWS = 11, 17
# below this change (two grey levels) a ratio means nothing
NOISE = 2 / 255
BLOCK, BLOCK_STEP, FLOW_STEP = 5, 2, 3  # pixels of the half-size (40x30) picture
TENSOR_FLOOR = 1e-4  # keeps the flow near zero where the picture has no gradient
MAX_FLOW = 4.0  # half-size pixels a frame
DIRECTIONS = 8


class Config(EncoderConfig):
    """Options of motion."""

    lags: tuple[int, ...] = Field((1, 2, 3), min_length=1, description="frame distances at which differences are taken")
    grid: tuple[int, int] | None = Field(
        None, description="rows and columns of a grid of mean differences per lag; ties the descriptor to a camera"
    )


class Motion(Encoder):
    """The descriptor: [scalar | quantiles per lag | changed area | paths | flow | grid per lag]."""

    revision = 1

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.preprocess = Preprocess(resize=(HEIGHT, WIDTH), crop_px=None)
        per_lag = len(QUANTILES) + (math.prod(config.grid) if config.grid else 0)
        self.dim = 1 + len(config.lags) * per_lag + len(AREA_LEVELS) + PATHS + FLOWS

    def positions(self, clip_len: int) -> tuple[int, ...]:
        """All frames."""
        return tuple(range(clip_len))

    def load(self, device: str, precision: Precision, *, weights: Path | None = None) -> None:
        """Nothing to read; the arithmetic is float32 whatever the precision."""

    def encode(self, crops: Tensor) -> Tensor:
        """uint8 (B, K, P, 60, 80, 3) -> float32 (B, K, D); zeros throughout where P is 1."""
        import torch

        b, k, p, h, w, _ = crops.shape
        with torch.inference_mode(), one_thread():
            frames = crops.reshape(b * k, p, h, w, 3)
            described = torch.cat([self._describe(part) for part in torch.split(frames, 64)])
            return described.reshape(b, k, self.dim)

    def _describe(self, frames: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        if frames.shape[1] == 1:
            return torch.zeros((len(frames), self.dim), device=frames.device)
        grey = luma(frames)  # (N, P, h, w)
        images = [middle(change(grey, lag)) for lag in self.config.lags]  # each (N, h, w)
        half = F.avg_pool2d(grey, 2)
        parts = [scalar(grey), *map(quantiles, images), area(images[0]), paths(half), flow(half)]
        if self.config.grid:
            parts += [F.adaptive_avg_pool2d(image, self.config.grid).flatten(1) for image in images]
        return torch.cat(parts, dim=1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one CPU thread inside the block.

    Hundreds of small operations gain little from more, and lose by orders of magnitude where the other cores are busy
    (with decoders, say) and each operation waits for them.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def luma(frames: Tensor) -> Tensor:
    """uint8 (..., 3) -> float32 (...) grey in [0, 1]."""
    import torch

    return frames.float() @ (torch.tensor(LUMA, device=frames.device) / 255.0)


def change(grey: Tensor, lag: int) -> Tensor:
    """(N, P, h, w) -> (N, P - lag, h, w) absolute differences; of the longest possible lag in a shorter clip."""
    lag = min(lag, grey.shape[1] - 1)
    return (grey[:, lag:] - grey[:, :-lag]).abs()


def middle(values: Tensor) -> Tensor:
    """The median over dim 1; of an even count the mean of the two middle values."""
    # Passing the largest on and dropping it is several times faster than sort for a clip's few frames.
    rows = list(values.unbind(dim=1))
    upper = lower = rows[0]
    count = len(rows)
    for _ in range(count // 2 + 1):
        upper = lower
        rows, lower = drop_largest(rows)
    return lower if count % 2 else (upper + lower) / 2


def drop_largest(rows: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Equal shapes -> the same values without the elementwise largest, and that largest."""
    import torch

    rest, largest = [], rows[0]
    for row in rows[1:]:
        rest.append(torch.minimum(largest, row))
        largest = torch.maximum(largest, row)
    return rest, largest


def scalar(grey: Tensor) -> Tensor:
    """(N, P, h, w) -> (N, 1): the median over neighbouring pairs of the mean absolute difference, in [0, 1]."""
    return middle(change(grey, 1).mean(dim=(2, 3)))[:, None]


def quantiles(image: Tensor) -> Tensor:
    """(N, h, w) -> (N, 6): nearest-rank quantiles over the pixels."""
    ordered = image.flatten(1).sort(dim=1).values
    return ordered[:, [round(q * (ordered.shape[1] - 1)) for q in QUANTILES]]


def area(image: Tensor) -> Tensor:
    """(N, h, w) -> (N, 4): share of pixels that change by more than each of AREA_LEVELS."""
    import torch

    return torch.stack([(image > level / 255).float().mean(dim=(1, 2)) for level in AREA_LEVELS], dim=1)


def paths(grey: Tensor) -> Tensor:
    """(N, P, h, w) -> (N, 11): a pixel's path (sum of absolute steps) and acceleration against its range, per block.

    The ratio of path to range is 1 for a steady change and grows with every reversal.
    """
    import torch
    import torch.nn.functional as F

    def blocks(image: Tensor) -> Tensor:
        return F.avg_pool2d(image, BLOCK, stride=BLOCK_STEP).flatten(1)

    step = grey[:, 1:] - grey[:, :-1]
    path = blocks(step.abs().sum(dim=1))
    turn = blocks((step[:, 1:] - step[:, :-1]).abs().sum(dim=1))
    extent = blocks(grey.amax(dim=1) - grey.amin(dim=1))
    share, sharp = weights(path, 1e-3), weights(path.square(), 1e-6)
    busiest = path.argmax(dim=1, keepdim=True)
    found = []
    for length in (path, turn):
        ratio = length / (extent + NOISE)
        found += [
            (ratio * share).sum(dim=1),
            (ratio * sharp).sum(dim=1),
            ratio.gather(1, busiest)[:, 0],
            ratio.amax(dim=1),
        ]
    found += [(path - 1.5 * extent).amax(dim=1), turn.amax(dim=1), (sharp * path).sum(dim=1)]
    return torch.stack(found, dim=1)


def weights(amount: Tensor, floor: float) -> Tensor:
    """(N, blocks) -> shares of the sum, near zero where there is next to nothing."""
    return amount / (amount.sum(dim=1, keepdim=True) + floor)


def optical_flow(grey: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(N, P, h, w) -> u, v in pixels a frame, the change E that they stand on, and the squared change they leave.

    Least squares in blocks (Lucas and Kanade, IJCAI 1981), one level, damped where there is no gradient: each
    (N, P - 1, rows, columns).
    """
    import torch.nn.functional as F

    gx = (grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2]) / 2
    gy = (grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]) / 2
    gx, gy = (gx[:, 1:] + gx[:, :-1]) / 2, (gy[:, 1:] + gy[:, :-1]) / 2
    gt = (grey[:, 1:] - grey[:, :-1])[:, :, 1:-1, 1:-1]
    products = (gx * gx, gy * gy, gx * gy, gx * gt, gy * gt, gt * gt, gt.abs())
    xx, yy, xy, xt, yt, tt, amount = (F.avg_pool2d(z, BLOCK, stride=FLOW_STEP) for z in products)
    xx, yy = xx + TENSOR_FLOOR, yy + TENSOR_FLOOR
    determinant = xx * yy - xy * xy
    u = ((xy * yt - yy * xt) / determinant).clamp(-MAX_FLOW, MAX_FLOW)
    v = ((xy * xt - xx * yt) / determinant).clamp(-MAX_FLOW, MAX_FLOW)
    return u, v, amount, (tt + u * xt + v * yt).clamp(min=0)


def flow(grey: Tensor) -> Tensor:
    """(N, P, h, w) -> (N, 17): speed, acceleration, spatial disorder and directions of the optical flow.

    A clip of two frames has no acceleration: zero there.
    """
    import torch

    u, v, amount, left = optical_flow(grey)
    speed = (u * u + v * v).sqrt()
    total = amount.sum(dim=1)
    share = weights(total.flatten(1), 1e-3).reshape(total.shape)
    busiest = share.flatten(1).argmax(dim=1, keepdim=True)
    fast, turning, disorder = middle(speed), acceleration(u, v), middle(local_disorder(u, v))
    steadiness = steady(u, v, speed, amount)
    everywhere, locally = direction_entropy(u, v, amount * speed)

    def weighted(image: Tensor) -> Tensor:
        return (image * share).sum(dim=(1, 2))

    def at_busiest(image: Tensor) -> Tensor:
        return image.flatten(1).gather(1, busiest)[:, 0]

    found = [
        fast.mean(dim=(1, 2)),
        rank(fast, 0.9),
        weighted(fast),
        weighted(turning),
        weighted(disorder),
        rank(turning, 0.97),
        turning.mean(dim=(1, 2)) / (fast.mean(dim=(1, 2)) + 0.02),
        weighted(turning) / (weighted(fast) + 0.05),
        weighted(disorder) / (weighted(fast) + 0.05),
        at_busiest(turning),
        at_busiest(steadiness),
        weighted(steadiness),
        everywhere,
        locally,
        middle(left).amax(dim=(1, 2)).sqrt(),
        turning.mean(dim=(1, 2)),
        middle(amount * speed).amax(dim=(1, 2)),
    ]
    return torch.stack(found, dim=1)


def rank(image: Tensor, q: float) -> Tensor:
    """(N, h, w) -> (N,): the nearest-rank quantile q."""
    flat = image.flatten(1)
    place = round(q * (flat.shape[1] - 1))
    return flat.kthvalue(place + 1, dim=1).values


def acceleration(u: Tensor, v: Tensor) -> Tensor:
    """(N, pairs, r, c) -> (N, r, c): median length of the flow's change from pair to pair."""
    import torch

    if u.shape[1] == 1:
        return torch.zeros_like(u[:, 0])
    du, dv = u[:, 1:] - u[:, :-1], v[:, 1:] - v[:, :-1]
    return middle((du * du + dv * dv).sqrt())


def local_disorder(u: Tensor, v: Tensor) -> Tensor:
    """(N, pairs, r, c) -> the same shape: length of the flow's difference from the mean of its 3x3 neighbours."""
    import torch.nn.functional as F

    def around(z: Tensor) -> Tensor:
        return F.avg_pool2d(z, 3, stride=1, padding=1, count_include_pad=False)

    return ((u - around(u)).square() + (v - around(v)).square()).sqrt()


def steady(u: Tensor, v: Tensor, speed: Tensor, amount: Tensor) -> Tensor:
    """-> (N, r, c): length of the clip's mean flow against its mean speed, 1 where the direction never changes."""
    total = amount.sum(dim=1) + NOISE
    mean_u, mean_v, mean_speed = ((z * amount).sum(dim=1) / total for z in (u, v, speed))
    return (mean_u.square() + mean_v.square()).sqrt() / (mean_speed + 0.1)


def direction_entropy(u: Tensor, v: Tensor, amount: Tensor) -> tuple[Tensor, Tensor]:
    """-> (N,), (N,): entropy in nats of the weighted directions, in the whole picture and in 3x3 neighbourhoods."""
    import torch
    import torch.nn.functional as F

    length = (u * u + v * v).sqrt() + 1e-9
    bins = []
    for index in range(DIRECTIONS):
        turn = index * 2 * math.pi / DIRECTIONS
        along = (u * math.cos(turn) + v * math.sin(turn)) / length  # cosine between the flow and the bin
        bins.append((amount * along.clamp(min=0) ** 4).sum(dim=1))
    histogram = torch.stack(bins, dim=1)  # (N, 8, r, c)
    local = F.avg_pool2d(histogram, 3, stride=1)
    share = local.sum(dim=1)
    share = share / (share.sum(dim=(1, 2), keepdim=True) + 1e-5)
    return entropy(histogram.sum(dim=(2, 3))), (entropy(local) * share).sum(dim=(1, 2))


def entropy(histogram: Tensor) -> Tensor:
    """(N, bins, ...) not negative -> (N, ...) nats; 0 for an empty histogram."""
    p = histogram / (histogram.sum(dim=1, keepdim=True) + 1e-6)
    return -(p * (p + 1e-6).log()).sum(dim=1)


def build(variant: str, config: Config) -> Motion:
    """The encoder `motion`."""
    return Motion(NAME, config)
