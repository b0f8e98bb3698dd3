"""Encoders: images per second, and what memory order, threads and bf16 change, as ratios within one run.

    python benchmarks/encode.py                          # random weights where an encoder's own are not here
    python benchmarks/encode.py --encoder motion --clips 256
    python benchmarks/encode.py --videos FOLDER          # bf16's error on real frames instead of drawn ones
    python benchmarks/encode.py --peak --device cuda     # clips a second at the best batch, share of the matrix peak

Every variant of an encoder is timed in turn, several rounds, and the best round counts: machines with neighbours vary
more between rounds than between variants. Absolute numbers belong to the machine, ratios are what to compare.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipelines import catalog
from pipelines.encoders import _weights, effnet
from pipelines.encoders._base import Encoder, Precision
from pipelines.encoders._complexity import count_flops, example
from pipelines.encoders._fast import linear
from pipelines.video.crops import cut

CLIP_LEN = 8
ROUNDS = 3


def built(name: str, precision: Precision, device: str = "cpu") -> Encoder:
    """The encoder with its weights, or with seeded random ones where they are not here."""
    module = catalog.load("encoders", name)
    encoder: Encoder = module.build(name.partition(":")[2], module.Config())
    if encoder.weights and _weights.locate(encoder.weights) is None:
        encoder.load_random(device, precision)
    else:
        encoder.load(device, precision)
    return encoder


class Rate(NamedTuple):
    """Items per second of the fastest round, by the clock and by processor time (which neighbours do not slow)."""

    wall: float
    cpu: float


def best_rate(run: Callable[[], object], count: int) -> Rate:
    """The fastest of ROUNDS, after one to warm up."""
    run()
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Rate(count / min(walls), count / min(cpus))


def speed(name: str, clips: int, threads: int) -> Iterator[str]:
    """Clips and frames per second by precision and threads, relative to one float32 thread."""
    base: Rate | None = None
    for precision in ("float32", "bf16"):
        encoder = built(name, precision)
        batch = example(encoder, CLIP_LEN, batch=clips)
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            rate = best_rate(lambda encoder=encoder, batch=batch: encoder.encode(batch), clips)
            base = base or rate
            yield line(f"{name} {precision}, {count} threads", "clips", rate, base, frames=batch.shape[2])
    torch.set_num_threads(1)


def peak(name: str, device: str, clip_len: int) -> Iterator[str]:
    """Clips per second at the best batch, and the share of the device's matrix peak, in each precision."""
    for precision in ("float32", "bf16"):
        encoder = built(name, precision, device)
        one = example(encoder, clip_len, batch=1, device=device)
        flops = count_flops(lambda encoder=encoder, one=one: encoder.encode(one))
        rates: dict[int, float] = {}
        for batch in BATCHES[torch.device(device).type]:
            crops = example(encoder, clip_len, batch=batch, device=device)
            try:
                rates[batch] = rate_of(lambda encoder=encoder, crops=crops: encoder.encode(crops), device) * batch
            except torch.OutOfMemoryError:
                break
        best = max(rates, key=lambda batch: rates[batch])
        share = rates[best] * flops / matrix_peak(device, precision)
        yield (
            f"{name:16} {precision:8} {flops / 1e9:8.1f} GFLOP a clip; best batch {best}: {rates[best]:9.2f} clips/s, "
            f"{rates[best] * flops / 1e12:.2f} TFLOP/s, {share:.2f} of the matrix peak"
        )


BATCHES = {"cpu": (1, 2, 4, 8), "cuda": (1, 4, 16, 64, 128, 256)}


def matrix_peak(device: str, precision: Precision) -> float:
    """Operations per second of a large matrix product, on as many threads as torch has."""
    side = 2048 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2 * side**3 * rate_of(lambda: linear(a, a, None), device)


def rate_of(run: Callable[[], object], device: str) -> float:
    """Calls per second: on a GPU by the clock, on a CPU by this thread pool's processor time (neighbours do not slow it)."""

    def once() -> None:
        run()
        if device != "cpu":
            torch.cuda.synchronize()

    once()
    best = float("inf")
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        once()
        spent = time.process_time() - cpu if device == "cpu" else time.perf_counter() - wall
        best = min(best, spent / (torch.get_num_threads() if device == "cpu" else 1))
    return 1 / best


def line(label: str, unit: str, rate: Rate, base: Rate, *, frames: int = 1) -> str:
    """One measurement as text."""
    more = f" ({rate.cpu * frames:.0f} frames)" if frames > 1 else ""
    return (
        f"{label:40} {rate.wall:8.1f} {unit}/s x{rate.wall / base.wall:.2f}   "
        f"{rate.cpu:8.1f}{more} per processor second x{rate.cpu / base.cpu:.2f}"
    )


def memory_order(clips: int) -> Iterator[str]:
    """EfficientNet with its tensors in channels-last order and in plain order."""
    encoder = built("effnet:lite0", "float32")
    assert isinstance(encoder, effnet.EffNet) and encoder._network is not None
    x = torch.randn(clips, 3, effnet.PIXELS, effnet.PIXELS, generator=torch.Generator().manual_seed(0))
    last = x.contiguous(memory_format=torch.channels_last)
    network = encoder._network
    with torch.inference_mode():
        base: Rate | None = None
        for label, order, images in (
            ("channels_last", torch.channels_last, last),
            ("contiguous", torch.contiguous_format, x),
        ):
            _reorder(network, order)
            for size in (8, 32):
                run = lambda size=size, images=images: [network(part) for part in torch.split(images, size)]  # noqa: E731
                rate = best_rate(run, clips)
                base = base or rate
                yield line(f"effnet:lite0 {label}, batch {size}", "images", rate, base)


def _reorder(network: effnet.Network, order: torch.memory_format) -> None:
    def moved(layer: effnet.Layer) -> effnet.Layer:
        weight = layer.weight.clone(memory_format=order)
        return effnet.Layer(weight, layer.bias, layer.stride, layer.groups, layer.relu)

    network.stem, network.head = moved(network.stem), moved(network.head)
    network.blocks = [([moved(layer) for layer in layers], add) for layers, add in network.blocks]


def precision_error(name: str, frames: Tensor) -> str:
    """How far bf16 features are from float32 ones, relative to what differs between clips (the mean taken away)."""
    features = []
    for precision in ("float32", "bf16"):
        encoder = built(name, precision)
        how = encoder.preprocess
        wanted = frames[:, list(encoder.positions(CLIP_LEN))]
        crops = cut(wanted, names=["center"], resize=how.resize, crop_px=how.crop_px, interpolation=how.interpolation)
        features.append(encoder.encode(crops)[:, 0])
    a, b = features
    raw = ((a - b).norm() / a.norm()).item()
    mean = a.mean(dim=0)
    centred = ((a - b).norm() / (a - mean).norm()).item()
    cosine = torch.nn.functional.cosine_similarity(a - mean, b - b.mean(dim=0), dim=1)
    return (
        f"{name:16} bf16 - float32: {raw:.4f} of the norm, {centred:.4f} of the mean-subtracted norm; "
        f"cosine of mean-subtracted features {cosine.median():.4f} median, {cosine.min():.4f} least"
    )


def real_clips(folder: Path, count: int) -> Tensor:
    """uint8 (count, CLIP_LEN, 240, 320, 3) from the first videos of a folder."""
    import av

    clips: list[Tensor] = []
    for path in sorted(folder.rglob("*.mp4")):
        with av.open(str(path)) as container:
            frames = []
            for frame in container.decode(video=0):
                frames.append(torch.from_numpy(frame.reformat(320, 240, format="rgb24").to_ndarray()))
                if len(frames) == 2 * CLIP_LEN:
                    break
        clips += [torch.stack(frames[at : at + CLIP_LEN]) for at in range(0, len(frames) - CLIP_LEN + 1, CLIP_LEN)]
        if len(clips) >= count:
            break
    return torch.stack(clips[:count])


def drawn_clips(count: int) -> Tensor:
    """uint8 (count, CLIP_LEN, 240, 320, 3): blurred noise that drifts."""
    noise = torch.rand(count, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    wide = torch.nn.functional.interpolate(noise, size=(240, 352), mode="bicubic").clamp(0, 1) * 255
    frames = [wide[..., 2 * t : 2 * t + 320] for t in range(CLIP_LEN)]
    return torch.stack(frames, dim=1).permute(0, 1, 3, 4, 2).to(torch.uint8)


def main() -> None:
    """Read the arguments and print one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", help="default: motion, effnet:lite0 and clip:vit-b-32")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--peak", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clip-len", type=int, default=16, help="of --peak")
    args = parser.parse_args()
    if args.peak:
        torch.set_num_threads(args.threads)
        for name in args.encoder or [n for n in catalog.names("encoders") if n != "frames"]:
            for text in peak(name, args.device, args.clip_len):
                print(text, flush=True)
        return
    names = args.encoder or ["motion", "effnet:lite0", "clip:vit-b-32"]
    frames = real_clips(args.videos, args.clips) if args.videos else drawn_clips(args.clips)
    for name in names:
        for text in speed(name, args.clips, args.threads):
            print(text, flush=True)
    if "effnet:lite0" in names:
        for text in memory_order(args.clips):
            print(text, flush=True)
    for name in names:
        print(precision_error(name, frames), flush=True)


if __name__ == "__main__":
    main()
