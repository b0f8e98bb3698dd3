"""A dataset of a few hand-made videos on disk, and requests on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipelines import evaluate
from pipelines.evaluate import EvalRequest, EvalResult
from pipelines.scoring.protocol import Protocol

CLASSES = ("normal", "fire", "fight")
# a: frames 2 and 3 are fire; b is normal. Positives .9 .8, negatives .1 .2 .3 .2 .1 .85 .2 .1:
# 15 of 16 pairs in order, AUC 15/16; ranks of the positives 1 and 3, AP (1 + 2/3) / 2; within a alone AUC 1.
SCORES = {"a": [0.1, 0.2, 0.9, 0.8, 0.3, 0.2], "b": [0.1, 0.85, 0.2, 0.1]}
AUC, AP = 15 / 16, 5 / 6
QUICK = Protocol(rounds=0, floors="none")


@dataclass(frozen=True)
class World:
    """The manifest's path and a folder to work in."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "data_manifest.yaml"

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def npz(self, arrays: dict[str, Any], name: str = "mine.npz") -> Path:
        np.savez(self.root / name, **{key: np.asarray(value) for key, value in arrays.items()})
        return self.root / name

    def request(self, scores: Path, **changes: Any) -> EvalRequest:
        fields: dict[str, Any] = {
            "run": None,
            "scores": scores,
            "dataset": "tiny",
            "metrics": ("auc", "ap"),
            "protocol": QUICK,
            "plots": "leave out",
            "manifest": self.manifest,
            "cache_dir": str(self.root / "cache"),
            "runs_dir": self.root / "runs",
        }
        return EvalRequest(**(fields | changes))

    def evaluate(self, scores: Path, **changes: Any) -> EvalResult:
        return evaluate.run(self.request(scores, **changes))


def make(root: Path, *, ids: str = "own", **entry: Any) -> World:
    """`tiny`: test videos a (fire in frames 2 and 3 of 6) and b (normal, 4 frames), val video n (normal, 8 frames)."""
    world = World(root)
    world.write("tiny/test.txt", "a,fire,6\nb,normal,4\n")
    world.write("tiny/val.txt", "n,normal,8\n")
    world.write("tiny/train.txt", "t,normal,8\nu,fight,8\n")
    world.write("tiny/truth.csv", "video,start,end,label\na,2,4,fire\n")
    world.write("tiny/wide.csv", "video,start,end,label\na,1,5,fire\n")
    parts = {
        part: {"files": f"{part}.txt", "fields": ["video", "label", "frames"]} for part in ("train", "val", "test")
    }
    tiny: dict[str, Any] = {
        "title": "Tiny",
        "root": "tiny",
        "ids": ids,
        "footage": ["{id}.mp4"],
        "classes": list(CLASSES),
        "splits": {"default": parts},
        "truths": {"exact": {"reader": "csv", "file": "truth.csv"}, "wide": {"reader": "csv", "file": "wide.csv"}},
        "licence": "none",
        "link": "none",
        "citation": "none",
    }
    world.manifest.write_text(yaml.safe_dump({"schema": 1, "datasets": {"tiny": tiny | entry}}))
    return world
