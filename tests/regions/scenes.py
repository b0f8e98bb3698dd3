"""A one-class toy on disk: plates that glide over a still background; in test videos one moves too fast or looks unlike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.data.manifest import load
from pipelines.recipe import fingerprint
from pipelines.records import VideoFacts
from pipelines.store.frames import FramesStore, FramesWriter

HEIGHT, WIDTH, SIDE = 64, 96, 16
NORMAL_SPEED, FAST = 1.5, 5.0  # pixels a frame


@dataclass(frozen=True)
class Scenes:
    """Where the toy stands; `truth` (N,) bool by test video."""

    manifest: Path
    cache: Path
    runs: Path
    truth: dict[str, NDArray[np.bool_]]

    @property
    def dataset(self):
        return load(self.manifest).dataset("scenes")


def plate(kind: str) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3): grey waves (normal), or the same waves as bright in cyan (novel): flow sees no difference."""
    x = np.arange(SIDE)
    grey = 125 + 35 * np.sin(2 * np.pi * x / 16)[None, :, None].repeat(SIDE, 0)
    tint = np.ones(3) if kind == "normal" else np.array([0.35, 1.25, 1.4])
    return (grey * tint).astype(np.uint8)


def video(
    n_frames: int, *, kind: str, seed: int, novel_from: int | None = None, grey: bool = False, size=(HEIGHT, WIDTH)
) -> NDArray[np.uint8]:
    """(N, H, W, 3): two plates gliding left to right; from `novel_from` on the second looks unlike (`object`), is too fast
    (`motion`) or comes back (`reverse`)."""
    rng = np.random.default_rng(seed)
    height, width = size
    background = rng.integers(30, 60, (height, width, 3)).astype(np.uint8)
    if grey:
        background = background.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
    frames = np.repeat(background[None], n_frames, axis=0)
    lanes, at = (4, height - SIDE - 4), rng.uniform(0, width - SIDE, 2)
    for index in range(n_frames):
        novel = novel_from is not None and index >= novel_from
        for lane, y in enumerate(lanes):
            changed = novel and lane == 1
            picture = plate("novel" if changed and kind == "object" else "normal")
            speed = {"motion": FAST, "reverse": -NORMAL_SPEED}.get(kind, NORMAL_SPEED) if changed else NORMAL_SPEED
            at[lane] = (at[lane] + speed) % (width - SIDE)
            frames[index, y : y + SIDE, int(at[lane]) : int(at[lane]) + SIDE] = picture
    return frames


def make(
    root: Path, *, kind: str = "motion", train: int = 4, test: int = 2, n_frames: int = 40, size=(HEIGHT, WIDTH)
) -> Scenes:
    """Write the manifest, truth and stored frames below `root`."""
    cache, truth = root / "cache", {}
    recipe = {"encoder": "frames", "revision": 1, "clip_len": 1, "stride": 1, "fps": None, "crops": ["center"]}
    recipe |= {"last_clip": "drop"}
    id = fingerprint(recipe)
    store = FramesStore.create(
        cache / "frames" / "scenes" / f"frames-center-{id[:8]}", artifacts.make("frames", id, recipe)
    )
    for number in range(train):
        put(store, f"train_{number}", video(n_frames, kind=kind, seed=number, size=size))
    rows = ["video,start,end,label"]
    for number in range(test):
        name, start = f"test_{number}", n_frames // 2
        put(store, name, video(n_frames, kind=kind, seed=100 + number, novel_from=start, size=size))
        truth[name] = np.arange(n_frames) >= start
        rows.append(f"{name},{start},{n_frames},odd")
    root.joinpath("scenes").mkdir(parents=True)
    (root / "scenes" / "truth.csv").write_text("\n".join(rows) + "\n")
    for part, count, label in (("train", train, "normal"), ("test", test, "odd")):
        lines = "".join(f"{part}_{i},{label}\n" for i in range(count))
        (root / "scenes" / f"{part}.txt").write_text(lines)
    parts = {part: {"files": f"{part}.txt", "fields": ["video", "label"]} for part in ("train", "test")}
    entry = {
        "title": "Scenes",
        "kind": "one-class",
        "root": "scenes",
        "footage": ["{id}.mp4"],
        "classes": ["normal", "odd"],
        "splits": {"default": parts},
        "truths": {"frames": {"reader": "csv", "file": "truth.csv"}},
        "licence": "none",
        "link": "none",
        "citation": "none",
    }
    manifest = root / "data_manifest.yaml"
    manifest.write_text(yaml.safe_dump({"schema": 1, "datasets": {"scenes": entry}}))
    return Scenes(manifest, cache, root / "runs", truth)


def true_boxes(place: Scenes, folder: Path) -> Path:
    """A csv of the plates' true places in every stored video, found by their brightness."""
    store = FramesStore(next((place.cache / "frames" / "scenes").iterdir()))
    rows = ["video,frame,x1,y1,x2,y2,score"]
    for name in sorted(store.videos()):
        for index, frame in enumerate(store.read_frames(name)):
            for top in (4, frame.shape[0] - SIDE - 4):
                x = int(np.flatnonzero(frame[top + 8].astype(int).max(axis=1) > 60)[0])
                rows.append(f"{name},{index},{x},{top},{x + SIDE},{top + SIDE},1")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plates.csv").write_text("\n".join(rows) + "\n")
    return folder / "plates.csv"


def put(store: FramesStore, name: str, frames: NDArray[np.uint8]) -> None:
    """Store one video's frames."""
    writer = FramesWriter(store, name)
    writer.append(frames)
    facts = VideoFacts(len(frames), 25.0, frames.shape[2], frames.shape[1], 1, 1, ("center",))
    writer.commit(facts)
