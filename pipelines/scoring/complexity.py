"""What a method costs when it scores a video: parameters, operations, and a rate measured here."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines import catalog
from pipelines.errors import UsageError
from pipelines.methods._base import Method, MethodConfig, Resources, Shape
from pipelines.methods._frames import FrameMethod
from pipelines.records import VideoFacts
from pipelines.scoring.infer import score_frames, score_joined
from pipelines.store.layouts import find_layout
from pipelines.training.inputs import Inputs, stream_names
from pipelines.training.windows import sliding

IMPORTED = "import:"  # features of a published layout, whose width the layout says
FALLBACK = "effnet:lite0+motion"
TEXT_DIM = 128  # of seeded class vectors; CLIP features bring text of their own width
STRIDE = 16
MEASURE_S = 1.0
MOST_FRAMES = 8  # of a method that reads frames: some take a second for each


@dataclass(frozen=True, slots=True)
class Complexity:
    """Cost of scoring one video of `clips` clips and one crop.

    `flops` counts 2 per multiply-add of matrix products, convolutions and attention (the counter of torch.utils knows
    no others); `macs` is half of it. `clips_per_s` was measured on `device` at `precision`. Text towers are not in it.
    """

    parameters: int
    trainable: int
    macs: int
    flops: int
    clips_per_s: float
    clips: int
    features: str
    dim: int
    classes: int
    device: str
    precision: str
    threads: int


def measure(
    module: ModuleType,
    config: MethodConfig,
    *,
    features: str | None = None,
    clips: int = 256,
    classes: int = 14,
    device: str = "cpu",
    precision: Literal["float32", "bf16"] = "float32",
) -> Complexity:
    """Count and time a method with random weights on random features.

    Args:
        module: the method's file.
        config: its configuration.
        features: encoders joined by `+`; the first of the method's DEFAULT_FEATURES unless given.
        clips: T of the video.
        classes: Y, normal included.

    Raises:
        UsageError: an encoder whose width is not known, a configuration that does not build, or a method of regions.
    """
    named = features or next(iter(module.DEFAULT_FEATURES), FALLBACK)
    if "@" in named:
        raise UsageError(
            f"{module.NAME} reads regions ({named}): its cost depends on the boxes of a frame, not on clips",
            hint="vad methods ls: the other methods have a cost for a video of so many clips",
        )
    shape = shape_of(named, classes)
    frames = getattr(module, "KIND", "") == "frames"
    clips = min(clips, MOST_FRAMES) if frames else clips
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method: Method = module.build(config, shape, _resources(named, shape, config)).to(device).eval()
    make = _frames_scorer if frames else _scorer
    once = make(method, config, shape, clips, device, precision)
    once()
    with FlopCounterMode(display=False) as counter:
        once()
    flops, counts = int(counter.get_total_flops()), method.complexity(clips)
    return Complexity(
        parameters=int(counts["parameters"]),
        trainable=int(counts["trainable"]),
        macs=flops // 2,
        flops=flops,
        clips_per_s=clips * _rate(once, device),
        clips=clips,
        features=named,
        dim=shape.dim,
        classes=classes,
        device=device,
        precision=precision,
        threads=torch.get_num_threads(),
    )


def shape_of(features: str, classes: int) -> Shape:
    """The shape of joined features by the encoders' names, with one crop.

    Raises:
        UsageError: an encoder whose width is not known.
    """
    names = features.split("+")
    ends = np.cumsum([width_of(name) for name in names]).tolist()
    streams = {
        name: slice(start, end) for name, start, end in zip(stream_names(names), [0, *ends[:-1]], ends, strict=True)
    }
    words = ("normal", *(f"class {number}" for number in range(1, classes)))
    return Shape(ends[-1], streams, words, ("center",), STRIDE, STRIDE)


def width_of(encoder: str) -> int:
    """D of an encoder: catalogued, or of published features.

    Raises:
        UsageError: neither knows it.
    """
    if encoder.startswith(IMPORTED) and (dim := find_layout(encoder.removeprefix(IMPORTED)).dim):
        return dim
    module: Any = catalog.load("encoders", encoder)
    return int(module.build(encoder.partition(":")[2], module.Config()).dim)


def _resources(features: str, shape: Shape, config: MethodConfig) -> Resources:
    """Random class text; of the features' own width where they are CLIP's, and then with a learned prompt."""
    clip = features.startswith("clip:") and len(shape.streams) == 1
    rng = np.random.default_rng(0)
    dim = shape.dim if clip else min(TEXT_DIM, getattr(config, "width", None) or TEXT_DIM)
    rows = {"classes": len(shape.classes), "coarse": 2}
    text = {name: rng.normal(size=(count, dim)).astype(np.float32) for name, count in rows.items()}
    return Resources(text=text, extras={"stored": frozenset({"prompt"} if clip else ())})


def _scorer(method: Method, config: MethodConfig, shape: Shape, clips: int, device: str, precision: str) -> Any:
    values = np.random.default_rng(1).normal(size=(clips, 1, shape.dim)).astype(np.float16)
    facts = VideoFacts(clips * STRIDE, 25.0, 320, 240, STRIDE, STRIDE, shape.crops)
    inputs = Inputs(shape.dim, shape.streams, config.data).to(device)
    cast = torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "bf16" else None

    def once() -> None:
        with cast or contextlib.nullcontext():
            score_joined(method, inputs, shape, values, facts, shape.crops, "a video", device=device)

    return once


def _frames_scorer(method: Method, config: Any, shape: Shape, count: int, device: str, precision: str) -> Any:
    """A video of `count` frames of noise, already at the network's size: a clip is a frame here."""
    assert isinstance(method, FrameMethod)
    spec = method.spec
    h, w = config.data.hw
    noise = np.random.default_rng(1).integers(0, 256, (count, h, w, 3), dtype=np.uint8)
    cast = torch.autocast(torch.device(device).type, torch.bfloat16) if precision == "bf16" else None

    def once() -> None:
        with cast or contextlib.nullcontext():
            score_frames(method, sliding([noise], spec, video_id="a video", device=device))

    return once


def _rate(once: Any, device: str) -> float:
    """Videos per second."""
    rounds, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < MEASURE_S or rounds < 2:
        once()  # its scores come back to the CPU, so that a GPU has finished
        rounds += 1
    return rounds / elapsed
