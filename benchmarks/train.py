"""Share of a training step that goes into making its batch, on random features of UCF-Crime's size.

    python benchmarks/train.py [--videos 1610] [--method mil-rank] [--steps 20]

1,610 videos of 256 segments, 512-d, batches of 64 + 64: the share should stay below 5 %. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from pipelines import catalog
from pipelines.methods._base import DataConfig, Resources, Shape
from pipelines.recipe import resolve
from pipelines.records import Video
from pipelines.training.bags import Bags, Ragged
from pipelines.training.inputs import Inputs
from pipelines.training.loop import Session, train

SEGMENTS, DIM = 256, 512
DATA = {"length": "bins-pad", "size": SEGMENTS, "batch_normal": 64, "batch_abnormal": 64, "crops": "first"}


def measure(method: str, *, videos: int, steps: int) -> dict[str, float | int | str]:
    """Seconds of a step and the share of it that is data, after two steps of warming up."""
    module = catalog.load("methods", method)
    config, _ = resolve(module.Config, [("benchmark", {"steps": steps, "data": DATA | {"pairing": "pairs"}})])
    streams, classes = {"random": slice(0, DIM)}, ("normal", "abnormal")
    rng = np.random.default_rng(0)
    text = {name: rng.normal(size=(2, 64)).astype(np.float32) for name in ("classes", "coarse")}
    torch.manual_seed(0)
    built = module.build(config, Shape(DIM, streams, classes, ("center",), 16, 16), Resources(text=text))
    values = torch.zeros(videos * SEGMENTS + 1, 1, DIM, dtype=torch.float16)
    values[:-1].normal_()
    listed = [Video(f"v{i}", Path("none"), "train", (classes[i % 2],)) for i in range(videos)]
    data = DataConfig(**{**DATA, "pairing": "pairs"})
    offsets = torch.arange(videos + 1) * SEGMENTS
    inputs = Inputs(DIM, streams, data)
    source = Bags(Ragged(values, offsets), listed, data, classes=classes, crops=("center",), inputs=inputs, seed=0)
    phase = built.phases()[0]
    for step in range(2):
        sum(phase.losses(source.next(step=step, steps=2)).values()).backward()
    session = Session()
    done = train(built, [phase], [source], session)
    return {
        "method": method,
        "videos": videos,
        "threads": torch.get_num_threads(),
        "step_ms": round(1000 * session.step_s / done, 2),
        "data_ms": round(1000 * session.data_s / done, 2),
        "data_share": round(session.data_fraction, 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=1610)
    parser.add_argument("--method", default="mil-rank")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    print(json.dumps(measure(given.method, videos=given.videos, steps=given.steps)))


if __name__ == "__main__":
    main()
