"""What `vad extract --dry-run` predicts against what the extraction then takes, in turn on the same videos.

    python benchmarks/forecast.py FOLDER [--encoders effnet:lite0,motion] [--limit 60] [--rounds 3] [--sample 15]

Each round predicts, extracts into a new cache, and prints seconds, bytes and inodes of both. Encoders are loaded before,
so that the first round is not favoured.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.extract import ExtractRequest, make_plan, predict_cost, run
from pipelines.extraction.plan import Sampling
from pipelines.records import Video


@dataclass(frozen=True)
class Listed:
    """A dataset that is nothing but a list."""

    videos: tuple[Video, ...]
    name: str = "benchmark"

    def all_videos(self) -> list[Video]:
        return list(self.videos)


def on_disk(folder: Path) -> tuple[int, int]:
    """Bytes of the files and number of entries below every array of a cache."""
    size = count = 0
    for group in folder.rglob("features.zarr"):
        for parent, folders, files in os.walk(group):
            count += len(folders) + len(files)
            size += sum((Path(parent) / name).stat().st_size for name in files)
    return size, count


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoders", default="effnet:lite0,motion")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=float, default=15.0)
    parser.add_argument("--clip-len", type=int, default=8)
    asked = parser.parse_args(argv)
    paths = sorted(path for path in asked.folder.rglob("*") if path.suffix.lower() in {".mp4", ".avi", ".mkv"})
    chosen = paths[:: max(1, len(paths) // asked.limit)][: asked.limit]
    videos = tuple(Video(str(index), path, "train", ()) for index, path in enumerate(chosen))
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as folder:
            request = ExtractRequest(
                Listed(videos), (Path(folder),), (asked.encoders,), sampling=Sampling(asked.clip_len, asked.clip_len)
            )
            planned = make_plan(request)
            cost = predict_cost(request, planned, budget_s=asked.sample)
            result = run(request, planned=planned)
            size, count = on_disk(Path(folder))
            n_bytes = sum(stream.n_bytes or 0 for stream in cost.streams)
            n_inodes = sum(stream.n_inodes or 0 for stream in cost.streams)
            print(
                f"seconds {cost.seconds or 0:.1f} / {result.seconds:.1f} = {(cost.seconds or 0) / result.seconds:.2f}; "
                f"frames {cost.n_frames} / {result.n_frames}; bytes {n_bytes / size:.3f}; inodes {n_inodes / count:.3f}; "
                f"sampled {cost.sampled_videos} videos, {cost.sampled_frames} frames, {cost.sampled_s:.0f} s"
            )


if __name__ == "__main__":
    main()
