"""A dataset to choose one-class settings on, without any test video: held-out normal training videos of another dataset.

Each held-out video comes several times, with a foreign patch moving through its middle part: cut from a training frame of
another video at a random place, scaled, with soft edges, on a straight line at 2 to 6 pixels a frame (pedestrians of Ped2
walk at about 1). Frames are PNGs, truth is a mask. The same seed gives the same pixels.

    python benchmarks/pasted.py ped2 --out FOLDER      then  vad extract ped2-pasted --manifest FOLDER/data_manifest.yaml ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipelines.data import manifest as manifests
from pipelines.data.holdout import hold_out_normal
from pipelines.records import Video
from pipelines.video.sources import list_images

COPIES = 4
SHARE = 0.2  # as the methods' val_fraction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    dataset = manifests.load().dataset(given.dataset)
    fitted, held = hold_out_normal(dataset.videos(dataset.default_split, "train"), SHARE)
    root = given.out / f"{given.dataset}-pasted"
    masks = {}
    for index, video in enumerate(held):
        frames = read(video)
        for copy in range(COPIES):
            rng = np.random.default_rng([given.seed, index, copy])
            name = f"{video.id}-{copy}"
            made, masks[name] = pasted(frames, read(fitted[int(rng.integers(len(fitted)))]), rng)
            folder = root / "frames" / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, frame in enumerate(made):
                Image.fromarray(frame).save(folder / f"{number:03d}.png", compress_level=1)
    np.savez_compressed(root / "masks.npz", **masks)
    (root / "test.txt").write_text("".join(f"{name},anomaly\n" for name in masks))
    write_manifest(given.out, f"{given.dataset}-pasted")
    print(f"{len(masks)} videos of {len(held)} held-out ones: {root}")


def read(video: Video) -> NDArray[np.uint8]:
    """(N, H, W, 3)."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in list_images(video.path)])


def pasted(
    frames: NDArray[np.uint8], other: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The video with the moving patch in its middle third, and the patch's mask of each frame."""
    n, h, w, _ = frames.shape
    patch, alpha = _patch(other, rng)
    size = alpha.shape[0]
    made, mask = frames.copy(), np.zeros((n, h, w), bool)
    speed = float(rng.uniform(2, 6)) * (1 if rng.random() < 0.5 else -1)
    slope, middle = float(rng.uniform(-0.3, 0.3)), n // 2
    at = np.array([rng.uniform(0.25, 0.75) * w, rng.uniform(0.25, 0.75) * h])
    for t in range(n // 3, 2 * n // 3):
        x, y = (at + (t - middle) * speed * np.array([1, slope]) - size / 2).round().astype(int)
        left, top, right, bottom = max(0, x), max(0, y), min(w, x + size), min(h, y + size)
        if left >= right or top >= bottom:
            continue
        cut = (slice(top - y, bottom - y), slice(left - x, right - x))
        a = alpha[cut][..., None]
        place = (t, slice(top, bottom), slice(left, right))
        made[place] = (made[place] * (1 - a) + patch[cut] * a).round()
        mask[place] = a[..., 0] > 0.5
    return made, mask


def _patch(other: NDArray[np.uint8], rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A square of another video, scaled, and its soft elliptical outline."""
    n, h, w, _ = other.shape
    side, size = int(rng.integers(20, 48)), int(rng.integers(20, 48))
    frame, top, left = int(rng.integers(n)), int(rng.integers(h - side)), int(rng.integers(w - side))
    cut = Image.fromarray(other[frame, top : top + side, left : left + side]).resize((size, size))
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    shape = x**2 + (y * float(rng.uniform(1, 1.6))) ** 2 < 0.9
    outline = Image.fromarray((shape * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))
    return np.asarray(cut, np.float32), np.asarray(outline, np.float32) / 255


def write_manifest(out: Path, name: str) -> None:
    """One dataset whose only part is test."""
    entry = {
        "title": "Held-out normal videos with a foreign patch moving through (for choosing settings)",
        "kind": "one-class",
        "root": name,
        "media": "frames",
        "footage": ["frames/{id}"],
        "classes": ["normal", "anomaly"],
        "splits": {"default": {"test": {"files": "test.txt", "fields": ["video", "label"]}}},
        "truths": {"masks": {"reader": "frame-masks", "file": "masks.npz"}},
        "licence": "that of the videos it is made of",
        "link": "none",
        "citation": "none",
    }
    (out / "data_manifest.yaml").write_text(yaml.safe_dump({"schema": 1, "datasets": {name: entry}}, sort_keys=False))


if __name__ == "__main__":
    main()
