"""A dataset of small files, small videos to put into it, and an encoder whose vectors are known by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.encoders._base import Encoder, Preprocess
from pipelines.extract import ExtractRequest
from pipelines.extraction.plan import EncoderChoice, Sampling
from pipelines.records import Video, VideoFacts
from pipelines.video.write import write_video

# a network-like plug-in: K crops of 24x32 pixels, the vector is the mean of each colour and the share of bright pixels
PLUGIN = """
from pathlib import Path

from pipelines.encoders._base import Encoder, EncoderConfig, Preprocess

NAME = "colours"
SUMMARY = "mean colours of the middle frame"


class Config(EncoderConfig):
    gain: float = 1.0


class Colours(Encoder):
    name = "colours"
    dim = 3
    preprocess = Preprocess(resize=(32, 48), crop_px=(24, 32))

    def __init__(self, config):
        self.gain = config.gain

    def positions(self, clip_len):
        return (clip_len // 2,)

    def load(self, device, precision, *, weights=None):
        pass

    def encode(self, crops):
        return crops.float().mean(dim=(2, 3, 4)) * self.gain / 255


def build(variant, config):
    return Colours(config)
"""


@dataclass(frozen=True)
class FakeDataset:
    """A dataset that is nothing but a list."""

    videos: tuple[Video, ...]
    name: str = "fake"

    def all_videos(self) -> list[Video]:
        return list(self.videos)


@dataclass
class FakeEncoder(Encoder):
    """An encoder by its facts; never run."""

    name: str = "fake:one"
    dim: int = 4
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(resize=32, crop_px=(24, 24)))
    sha256: str | None = "0" * 64

    def positions(self, clip_len: int) -> tuple[int, ...]:
        return (clip_len // 2,)

    def load(self, device: str, precision: Any, *, weights: Path | None = None) -> None:
        raise AssertionError("a plan reads no weights")

    def encode(self, crops: Any) -> Any:
        raise AssertionError("a plan encodes nothing")

    def weights_sha256(self) -> str | None:
        return self.sha256


def choice(encoder: Encoder | None = None, **options: Any) -> EncoderChoice:
    made = encoder or FakeEncoder()
    return EncoderChoice(made.name, made, options)


def video(path: Path, id: str | None = None, *classes: str) -> Video:
    return Video(id or path.stem, path, "train", classes or ("normal",))


def write_noise(path: Path, *, n_frames: int = 20, seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    """A video of seeded noise; every seed is another video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    frames = [noise.integers(0, 255, (*size, 3), dtype=np.uint8) for _ in range(n_frames)]
    return write_video(path, frames, fps=25).path


def noise_videos(folder: Path, count: int, *, n_frames: int = 20) -> tuple[Video, ...]:
    return tuple(video(write_noise(folder / f"v{i:02d}.mp4", n_frames=n_frames, seed=i)) for i in range(count))


def copies(source: Path, folder: Path, names: Iterable[str]) -> tuple[Video, ...]:
    """The same video under other names."""
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(video(Path(shutil.copyfile(source, folder / f"{name}.mp4")), name) for name in names)


def request(videos: tuple[Video, ...], cache: Path, encoders: str = "motion", **fields: Any) -> ExtractRequest:
    fields = {"sampling": Sampling(8, 8), "workers": 1, "device": "cpu", "stall_s": 30.0} | fields
    return ExtractRequest(FakeDataset(videos), fields.pop("layers", (cache,)), (encoders,), **fields)


def facts(n_frames: int = 16, **fields: Any) -> VideoFacts:
    values: dict[str, Any] = {
        "n_frames": n_frames, "fps": 25.0, "width": 64, "height": 48, "stride": 8, "clip_len": 8, "crops": ("center",)
    }  # fmt: skip
    return VideoFacts(**(values | fields))


def vectors(t: int = 2, k: int = 1, d: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(t, k, d)).astype(np.float16)
