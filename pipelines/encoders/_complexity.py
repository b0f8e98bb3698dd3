"""What an encoder costs: parameters, operations and a measured rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.encoders._base import Encoder, Precision

if TYPE_CHECKING:
    from torch import Tensor

NATIVE = (240, 320)  # stands in for the frame size where an encoder takes frames as they are
MEASURE_S = 1.0


@dataclass(frozen=True, slots=True)
class Complexity:
    """Cost of one clip and crop. `flops` counts 2 per multiply-add of matrix products, convolutions and attention (the
    counter of torch.utils knows no others, so a classical descriptor has 0); `clips_per_s` was measured on `device`."""

    parameters: int
    macs: int
    flops: int
    clips_per_s: float
    clip_len: int
    device: str
    precision: str
    threads: int


def measure(
    encoder: Encoder, *, clip_len: int, device: str = "cpu", precision: Precision = "float32", batch: int = 16
) -> Complexity:
    """Count and time an encoder with seeded random weights; the weights' values change neither."""
    import torch

    encoder.load_random(device, precision)
    one = example(encoder, clip_len, batch=1, device=device)
    flops = count_flops(lambda: encoder.encode(one))
    rate = _rate(encoder, example(encoder, clip_len, batch=_affordable(encoder, one, batch), device=device))
    return Complexity(
        encoder.parameters(), flops // 2, flops, rate, clip_len, device, precision, torch.get_num_threads()
    )


def count_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of one call, counted exactly; works on the meta device, where nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(q, k, v))  # type: ignore[no-untyped-call]

    def product(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        return int(2 * math.prod(x) * weight[0])

    # torch's counter knows neither attention nor oneDNN's matrix products on a CPU
    known: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    known |= {torch.ops.mkldnn._linear_pointwise: product} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return int(counter.get_total_flops())


def example(encoder: Encoder, clip_len: int, *, batch: int, device: str = "cpu", seed: int = 0) -> Tensor:
    """Seeded noise of the shape that `encode` takes: uint8 (batch, 1, P, h, w, 3)."""
    import torch

    resize = encoder.preprocess.resize
    height, width = encoder.preprocess.crop_px or (resize if isinstance(resize, tuple) else NATIVE)
    shape = (batch, 1, len(encoder.positions(clip_len)), height, width, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8).to(device)


def _affordable(encoder: Encoder, one: Tensor, most: int) -> int:
    """How many clips a call may have so that it takes about a second."""
    encoder.encode(one)
    started = time.perf_counter()
    encoder.encode(one)
    return max(1, min(most, int(MEASURE_S / (time.perf_counter() - started))))


def _rate(encoder: Encoder, crops: Tensor) -> float:
    import torch

    def once() -> None:
        encoder.encode(crops)
        if crops.is_cuda:
            torch.cuda.synchronize()

    once()
    rounds, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < MEASURE_S or rounds < 2:
        once()
        rounds += 1
    return rounds * len(crops) / elapsed
