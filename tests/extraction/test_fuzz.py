"""Damaged files by the dozen (by the thousand with CI_FULL=1): each ends as done or failed, and the pool lives on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.extraction.pool import ClipBatch, DecodeJob, DecodePool, VideoDone, VideoFailed, VideoRestarted
from tests import media

DEFAULT_COUNT = 40
LONG_COUNT = 10_000


def sources(folder: Path, shared: Path | None) -> list[bytes]:
    """Whole files of several containers and codecs, and a few small real ones where they are at hand."""
    made = [
        media.write_coded(folder / "a.mp4", 40),
        media.write_coded(folder / "b.avi", 40, codec="mpeg4", options={}),
        media.write_coded(folder / "c.mkv", 40, width=320, height=240),
        media.write_coded(folder / "d.ts", 40),
        media.write_coded(folder / "e.mp4", 40, options={"bf": "3"}, container_options={"movflags": "faststart"}),
        media.write_coded(folder / "f.mp4", 40, rotation=90),
    ]
    real = sorted(shared.glob("surv-fight/*/*.mp4"), key=lambda p: p.stat().st_size)[:6] if shared else []
    return [path.read_bytes() for path in (*made, *real)]


def damaged_jobs(folder: Path, whole: list[bytes], count: int, seed: int) -> Iterator[DecodeJob]:
    """Jobs over mangled copies, written just before they are needed and all under one suffix."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        first, second = (whole[int(k)] for k in rng.integers(len(whole), size=2))
        path = folder / f"{index}.mp4"
        path.write_bytes(media.mangle(first, second, rng))
        partial = "keep" if index % 2 else "fail"
        yield DecodeJob(path.name, path, 8, 8, (0, 4, 7), partial=partial)


def check(folder: Path, whole: list[bytes], count: int, seed: int) -> None:
    """Every damaged file ends once, with what was announced; a whole file is then still decoded."""
    last = folder / "whole.mp4"
    last.write_bytes(whole[0])
    ends: dict[str, VideoDone | VideoFailed] = {}
    clips: dict[str, int] = {}
    with DecodePool(2, stall_s=20, memory_mb=1500) as pool:
        for jobs in (damaged_jobs(folder, whole, count, seed), [DecodeJob(last.name, last, 8, 8, (0,))]):
            for event in pool.run(jobs):
                if isinstance(event, ClipBatch):
                    assert event.first_clip == clips.get(event.video_id, 0)
                    clips[event.video_id] = event.first_clip + len(event.clips)
                elif isinstance(event, VideoRestarted):
                    clips.pop(event.video_id, None)
                else:
                    assert event.video_id not in ends
                    ends[event.video_id] = event
                    (folder / event.video_id).unlink()
    assert len(ends) == count + 1
    for video_id, end in ends.items():
        if isinstance(end, VideoFailed):
            assert end.reason
            continue
        assert end.n_clips == clips[video_id]
        assert (
            end.n_frames >= (1 if int(Path(video_id).stem) % 2 else 0.98 * end.expected_frames)
            if video_id != last.name
            else True
        )
    assert isinstance(ends[last.name], VideoDone)


def test_damaged_files_never_harm_the_caller(tmp_path: Path) -> None:
    check(tmp_path, sources(tmp_path, None), int(os.environ.get("VAD_FUZZ_FILES", DEFAULT_COUNT)), seed=1)


@pytest.mark.real
def test_damaged_real_files_never_harm_the_caller(tmp_path: Path, shared: Path) -> None:
    check(tmp_path, sources(tmp_path, shared), int(os.environ.get("VAD_FUZZ_FILES", DEFAULT_COUNT)), seed=2)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_thousands_of_damaged_files(tmp_path: Path) -> None:
    root = os.environ.get("VAD_TEST_DATA")
    shared = Path(root) if root and Path(root).is_dir() else None
    check(tmp_path, sources(tmp_path, shared), int(os.environ.get("VAD_FUZZ_FILES", LONG_COUNT)), seed=3)
