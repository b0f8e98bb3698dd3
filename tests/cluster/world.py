"""A tiny labelled dataset of noise videos, and `vad` run as a process in its folder."""

from __future__ import annotations

from pathlib import Path

from pipelines.data.init import init
from pipelines.store.features import FeatureStore, find_stores
from tests.extraction.fakes import write_noise

ENCODE = ("--encoder", "motion", "--clip-len", "8", "--device", "cpu")


def make(folder: Path, *, videos: int = 8, n_frames: int = 24) -> Path:
    """`folder` with the dataset `mine`: videos of the classes normal and odd, motion features made in a blink."""
    for index in range(videos):
        label = "odd" if index % 2 else "normal"
        write_noise(folder / "mine" / label / f"v{index:03d}.mp4", seed=index, n_frames=n_frames, size=(32, 48))
    init(folder / "mine", name="mine", manifest=folder / "data_manifest.yaml")
    return folder


SLOW = """
import time

from pipelines.encoders._base import Encoder, EncoderConfig, Preprocess

NAME = "slow"
SUMMARY = "the mean brightness of a clip, slowly"


class Config(EncoderConfig):
    pause: float = 0.2


class Slow(Encoder):
    name = "slow"
    dim = 1
    preprocess = Preprocess(resize=None, crop_px=None)

    def __init__(self, config):
        self.pause = config.pause

    def positions(self, clip_len):
        return (0,)

    def load(self, device, precision, *, weights=None):
        pass

    def encode(self, crops):
        time.sleep(self.pause)
        return crops.float().mean(dim=(2, 3, 4, 5)).unsqueeze(-1) / 255


def build(variant, config):
    return Slow(config)
"""


def slow_encoder(folder: Path) -> str:
    """Write the encoder file and return how a command names it."""
    (folder / "slow.py").write_text(SLOW)
    return "./slow.py"


def store(folder: Path, encoder: str = "motion") -> FeatureStore:
    """The one features artefact of `mine` by an encoder."""
    (found,) = (s for s in find_stores([folder / "vad_cache"], "mine") if s.artifact.recipe["encoder"] == encoder)
    return found


def inodes(group: FeatureStore) -> dict[str, int]:
    """The inode of every committed array: the same ones later mean that nothing was written twice."""
    return {path.name: path.stat().st_ino for path in group.group.iterdir() if path.is_dir()}


def inodes_times(group: FeatureStore) -> list[float]:
    """When each array was committed."""
    return [path.stat().st_mtime for path in group.group.iterdir() if path.is_dir()]
