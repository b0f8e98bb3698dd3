"""A planted toy dataset on disk: a manifest, lists, truth, and stored features in which the anomaly is a direction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.recipe import fingerprint
from pipelines.records import VideoFacts
from pipelines.store.features import FeatureStore

STRIDE = 4
CLASSES = ("normal", "fire", "fight")


@dataclass(frozen=True)
class Toy:
    """Where the toy stands: `manifest`, the cache and runs roots; `intervals` in clips by video id."""

    manifest: Path
    cache: Path
    runs: Path
    ids: dict[str, list[str]]
    labels: dict[str, str]
    intervals: dict[str, tuple[int, int]]


def make(
    root: Path,
    *,
    train: int = 24,
    val: int = 10,
    test: int = 12,
    dim: int = 16,
    crops: int = 1,
    seed: int = 0,
    groups: bool = False,
    streams: tuple[str, ...] = ("toy",),
) -> Toy:
    """Write the toy below `root`: half of each part abnormal, the classes in turn; features of each stream (T, K, dim).

    Normal clips are noise around zero; an abnormal interval adds a constant along its class's axis.
    """
    rng = np.random.default_rng(seed)
    ids: dict[str, list[str]] = {}
    labels, intervals, features = {}, {}, {}
    data = root / "toy"
    data.mkdir(parents=True)
    rows = ["video,start,end,label"]
    for part, count in (("train", train), ("val", val), ("test", test)):
        ids[part] = [f"{part}_{i:02d}" for i in range(count)]
        lines = []
        for i, video in enumerate(ids[part]):
            n = int(rng.integers(9, 24))
            x = rng.normal(size=(n, crops, dim)).astype(np.float32)
            label = CLASSES[0] if i % 2 == 0 else CLASSES[1 + (i // 2) % 2]
            if i % 2:
                a = int(rng.integers(0, n - 4))
                intervals[video] = (a, a + 4)
                x[a : a + 4, :, CLASSES.index(label)] += 4.0
                rows.append(f"{video},{a * STRIDE},{(a + 4) * STRIDE},{label}")
            labels[video], features[video] = label, x
            lines.append(f"{video},{label}" + (f",g{i // 4}" if groups else ""))
        (data / f"{part}.txt").write_text("\n".join(lines) + "\n")
    (data / "truth.csv").write_text("\n".join(rows) + "\n")
    manifest = root / "data_manifest.yaml"
    manifest.write_text(yaml.safe_dump(entry(groups)))
    for name in streams:
        write_store(root / "cache", name, features)
    return Toy(manifest, root / "cache", root / "runs", ids, labels, intervals)


def entry(groups: bool) -> dict[str, object]:
    """The manifest with the one dataset `toy`."""
    fields = ["video", "label", *(["group"] if groups else [])]
    parts = {part: {"files": f"{part}.txt", "fields": fields} for part in ("train", "val", "test")}
    return {
        "schema": 1,
        "datasets": {
            "toy": {
                "title": "Toy",
                "kind": "weak",
                "root": "toy",
                "footage": ["{id}.mp4"],
                "classes": list(CLASSES),
                "splits": {"default": parts},
                "truths": {"frames": {"reader": "csv", "file": "truth.csv"}},
                "encoder": "toy",
                "licence": "none",
                "link": "none",
                "citation": "none",
            }
        },
    }


def write_store(
    cache: Path,
    encoder: str,
    features: dict[str, NDArray[np.float32]],
    *,
    stride: int = STRIDE,
    dataset: str = "toy",
    crops: tuple[str, ...] | None = None,
) -> FeatureStore:
    """One features artefact with an array a video; its crops are called c0, c1, ... unless given."""
    crops = crops or tuple(f"c{i}" for i in range(next(iter(features.values())).shape[1]))
    recipe = {"encoder": encoder, "revision": 1, "clip_len": stride, "stride": stride, "fps": None}
    recipe |= {"last_clip": "drop", "crops": list(crops)}
    folder = cache / "features" / dataset / f"{encoder.replace(':', '-')}-center-{fingerprint(recipe)[:8]}"
    store = FeatureStore.create(folder, artifacts.make("features", fingerprint(recipe), recipe))
    for video, x in features.items():
        n = len(x) * stride
        facts = VideoFacts(n, 25.0, 32, 24, stride, stride, crops)
        store.write(video, x.astype(np.float16), facts)
    return store
