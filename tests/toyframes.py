"""A one-class toy dataset of frames on disk: squares that walk to the right, and in test one that is bright or runs."""

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
from pipelines.store.frames import FramesStore, FramesWriter

SIZE = (24, 32)
RECIPE = {
    "encoder": "frames",
    "revision": 1,
    "weights_sha256": None,
    "options": {"size": None},
    "decoder": "decord>pyav",
    "clip_len": 1,
    "stride": 1,
    "fps": None,
    "last_clip": "drop",
    "crops": ["center"],
    "preprocess": {
        "resize": None,
        "crop_px": None,
        "interpolation": "bilinear",
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
    },
    "precision": "float32",
}


@dataclass(frozen=True)
class ToyFrames:
    """Where it stands; `frames` by video id, `masks` (N, H, W) of the test videos."""

    manifest: Path
    cache: Path
    runs: Path
    frames: dict[str, NDArray[np.uint8]]
    masks: dict[str, NDArray[np.bool_]]


def make(root: Path, *, train: int = 6, test: int = 3, n: int = 20, anomalous: int = 0) -> ToyFrames:
    """Write it below `root`; the first `anomalous` training videos are labelled so (and hold nothing unusual)."""
    frames, masks = {}, {}
    for index in range(train):
        frames[f"train_{index:02d}"] = video(np.random.default_rng(index), n)[0]
    for index in range(test):
        frames[f"{index:02d}"], masks[f"{index:02d}"] = video(np.random.default_rng(100 + index), n, odd=(8, 14))
    data = root / "squares"
    data.mkdir(parents=True)
    lines = [f"train_{i:02d},{'anomaly' if i < anomalous else 'normal'}" for i in range(train)]
    (data / "train.txt").write_text("\n".join(lines) + "\n")
    (data / "test.txt").write_text("".join(f"{i:02d},anomaly\n" for i in range(test)))
    np.savez(data / "masks.npz", **masks)
    manifest = root / "data_manifest.yaml"
    manifest.write_text(yaml.safe_dump(entry()))
    write_store(root / "cache", frames)
    return ToyFrames(manifest, root / "cache", root / "runs", frames, masks)


def video(
    rng: np.random.Generator, n: int, *, odd: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Two grey squares of 5 pixels that walk one pixel a frame; in frames [a, b) a white one of 7 stands among them."""
    h, w = SIZE
    frames, mask = np.full((n, h, w, 3), 60, np.uint8), np.zeros((n, h, w), bool)
    walkers = rng.integers(0, (h - 5, w), (2, 2))
    for t in range(n):
        for y, x in walkers:
            frames[t, y : y + 5, np.arange(x + t, x + t + 5) % w] = 120
        if odd is not None and odd[0] <= t < odd[1]:
            frames[t, 8:15, 12:19] = 250
            mask[t, 8:15, 12:19] = True
    return frames, mask


def write_store(cache: Path, frames: dict[str, NDArray[np.uint8]], *, dataset: str = "squares") -> FramesStore:
    """One frames artefact with an array a video."""
    folder = cache / "frames" / dataset / f"frames-center-{fingerprint(RECIPE)[:8]}"
    store = FramesStore.create(folder, artifacts.make("frames", fingerprint(RECIPE), RECIPE))
    for video_id, x in frames.items():
        writer = FramesWriter(store, video_id)
        writer.append(x)
        n, h, w, _ = x.shape
        writer.commit(VideoFacts(n, 10.0, w, h, 1, 1, ("center",)))
    return store


def toy_features(place: ToyFrames) -> FeatureStore:
    """Features of the same videos: mean colours, a clip a frame."""
    recipe = RECIPE | {"encoder": "colours"}
    folder = place.cache / "features" / "squares" / f"colours-center-{fingerprint(recipe)[:8]}"
    store = FeatureStore.create(folder, artifacts.make("features", fingerprint(recipe), recipe))
    for video_id, x in place.frames.items():
        n, h, w, _ = x.shape
        values = x.reshape(n, 1, -1, 3).mean(2).astype(np.float16)
        store.write(video_id, values, VideoFacts(n, 10.0, w, h, 1, 1, ("center",)))
    return store


def entry() -> dict[str, object]:
    """The manifest with the one dataset `squares`."""
    parts = {part: {"files": f"{part}.txt", "fields": ["video", "label"]} for part in ("train", "test")}
    return {
        "schema": 1,
        "datasets": {
            "squares": {
                "title": "Squares",
                "kind": "one-class",
                "root": "squares",
                "footage": ["{id}.mp4"],
                "classes": ["normal", "anomaly"],
                "splits": {"default": parts},
                "truths": {"masks": {"reader": "frame-masks", "file": "masks.npz"}},
                "licence": "none",
                "link": "none",
                "citation": "none",
            }
        },
    }


METHOD = '''
"""The squared difference from a learnt mean picture: the smallest method of frames."""

import torch

from pipelines.methods._base import Fit, OptimConfig, Phase
from pipelines.methods._frames import FrameMethod, FramesConfig, WindowConfig, WindowSpec

NAME = "mean-picture"
SUMMARY = "distance from a learnt mean picture"
KIND = "frames"
DEFAULT_FEATURES = ("frames",)
PRESETS = {}
RESULTS = ()


class Config(FramesConfig):
    epochs: float = 12
    offsets: tuple[int, ...] = (-1, 0, 1)
    data: WindowConfig = WindowConfig(size=(12, 16), colour="grey", batch=8, score_batch=8, augment="none")
    optim: OptimConfig = OptimConfig(lr=0.05, schedule="plateau", patience=2)


class MeanPicture(FrameMethod):
    def __init__(self, config):
        super().__init__()
        self.config, self.spec = config, WindowSpec(config.data, config.offsets, "clamp")
        h, w = config.data.hw
        self.picture = torch.nn.Parameter(torch.randn(1, h, w) * 0.1)
        self.register_buffer("spread", torch.ones(()))

    def error(self, windows):
        return (windows.x[:, 1] - self.picture).square()  # (B, 1, h, w)

    def phases(self):
        c = self.config
        one = Phase("mean", [{"params": [self.picture]}], self.spec, self.losses, 0, c.optim, epochs=c.epochs,
                    validate=lambda windows: self.error(windows).mean())
        return [one, Fit("spread", self.spec, self.measure)]

    def losses(self, windows):
        return {"mse": self.error(windows).mean()}

    def measure(self, batches):
        self.spread.copy_(torch.cat([self.error(w).mean((1, 2, 3)) for w in batches]).mean())

    def score_windows(self, windows):
        error = self.error(windows)[:, 0]
        return error.flatten(1).topk(8).values.mean(1) / self.spread, error


def build(config, shape, resources):
    return MeanPicture(config)
'''
