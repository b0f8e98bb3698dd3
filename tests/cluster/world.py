"""A tiny labelled dataset of noise videos, and `vad` run as a process in its folder."""

from __future__ import annotations

from pathlib import Path

from pipelines.data.init import init
from tests.extraction.fakes import write_noise

ENCODE = ("--encoder", "motion", "--clip-len", "8", "--device", "cpu")


def make(folder: Path, *, videos: int = 8, n_frames: int = 24) -> Path:
    """`folder` with the dataset `mine`: videos of the classes normal and odd, motion features made in a blink."""
    for index in range(videos):
        label = "odd" if index % 2 else "normal"
        write_noise(folder / "mine" / label / f"v{index:03d}.mp4", seed=index, n_frames=n_frames, size=(32, 48))
    init(folder / "mine", name="mine", manifest=folder / "data_manifest.yaml")
    return folder
