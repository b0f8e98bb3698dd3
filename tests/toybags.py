"""Planted bags in memory, and tiny configurations, for tests that every method must pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.records import Video

CLASSES = ("normal", "fire", "fight", "crash")
STREAMS = {"toy": slice(0, 12), "motion": slice(12, 20)}
DIM = 20
# What makes a method small and quick enough for a test, by key; each is set where the method has the key.
TINY: dict[str, Any] = {
    "steps": 250,
    "width": 32,
    "heads": 2,
    "head_dim": 8,
    "dropout": 0.0,
    "data.crops": "first",
    "data.pairing": "pairs",
    "data.batch_normal": 12,
    "data.batch_abnormal": 12,
    "data.normalise": "none",
    "data.standardise": False,
    "optim.name": "adam",
    "optim.lr": 3e-3,
    "optim.schedule": "constant",
    "optim.weight_decay": 0.0,
    "lgt.layers": 1,
    "lgt.heads": 2,
    "motar.layers": 1,
    "motar.dropout": 0.0,
    "stem": 1,
    "levels": 3,
    "prototypes": 4,
    "decoder_blocks": 1,
    "top": 4,
    "hidden": [16],
    "out": 16,
    "dims": [16, 16, 32],
    "depths": [1, 1, 1],
    "branch": 8,
    "memory": 8,
}
BINS = 12  # segments under a policy of bins


@dataclass(frozen=True)
class Planted:
    """values[v] (T, 1, D), truths[v] (T,) bool, one class an abnormal video."""

    videos: list[Video]
    values: list[NDArray[np.float32]]
    truths: list[NDArray[np.bool_]]
    intervals: dict[str, tuple[int, int]]

    @property
    def ids(self) -> list[str]:
        return [video.id for video in self.videos]

    @property
    def lengths(self) -> list[int]:
        return [len(x) for x in self.values]

    def shuffled(self, seed: int) -> list[Video]:
        """The same videos, half of the labels of each kind swapped: what is labelled says nothing of what is planted."""
        rng = np.random.default_rng(seed)
        bad = rng.permutation([i for i, v in enumerate(self.videos) if v.classes[0] != CLASSES[0]])
        good = rng.permutation([i for i, v in enumerate(self.videos) if v.classes[0] == CLASSES[0]])
        dealt = list(self.videos)
        for i, j in zip(bad[::2], good[::2], strict=True):
            dealt[i] = replace(self.videos[i], classes=self.videos[j].classes)
            dealt[j] = replace(self.videos[j], classes=self.videos[i].classes)
        return dealt


def planted(*, videos: int = 16, seed: int = 0) -> Planted:
    """Half of the videos abnormal; an anomaly of 5 clips adds its class's direction (width 3 of each stream)."""
    rng = np.random.default_rng(seed)
    listed, values, truths, intervals = [], [], [], {}
    for i in range(videos):
        n = int(rng.integers(8, 20))
        x = rng.normal(size=(n, 1, DIM)).astype(np.float32)
        truth = np.zeros(n, bool)
        label = CLASSES[0]
        if i % 2:
            label = CLASSES[1 + (i // 2) % 3]
            a = int(rng.integers(0, n - 5))
            at = 3 * CLASSES.index(label) - 3
            x[a : a + 5, :, at : at + 3] += 4.0
            x[a : a + 5, :, 12] += 4.0
            truth[a : a + 5] = True
            intervals[f"v{i}"] = (a, a + 5)
        listed.append(Video(f"v{i}", Path("none"), "train", (label,)))
        values.append(x)
        truths.append(truth)
    return Planted(listed, values, truths, intervals)


def tiny_config(module: ModuleType) -> dict[str, Any]:
    """Nested values of TINY for the keys of the same type in the method's configuration, over its `small-data` preset."""
    defaults = flat(module.Config().model_dump())
    small = flat(getattr(module, "PRESETS", {}).get("small-data", {}))
    fitting = {k: v for k, v in TINY.items() if k in defaults and _same_kind(defaults[k], v)}
    if "hidden" in defaults and isinstance(defaults["hidden"], int):
        fitting["hidden"] = 16
    if defaults["data.length"] == "bins":
        fitting["data.size"] = BINS
    nested: dict[str, Any] = {}
    for key, value in (small | fitting).items():
        place = nested
        *path, last = key.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def _same_kind(default: Any, value: Any) -> bool:
    kinds = ((bool,), (int, float), (str,), (list, tuple), (dict,))
    return default is None or any(isinstance(default, k) and isinstance(value, k) for k in kinds)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
