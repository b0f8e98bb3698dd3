"""Damaged files by the dozen (by the thousand with CI_FULL=1): each ends as done or failed, and the pool lives on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
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
    real = sorted(shared.glob("surv-fight/*/*.mp4"), key=lambda p: p.stat().st_size)[:60:5] if shared else []
    return [path.read_bytes() for path in (*made, *real)]


def shown_packets(path: Path) -> int:
    """Packets of the first video stream that hold data and are shown (edit lists hide some), read errors skipped."""
    count = errors = 0
    with av.open(f"file:{path}") as container:
        while errors < 32:
            try:
                for packet in container.demux(container.streams.video[0]):
                    count, errors = count + bool(packet.size and not packet.is_discard), 0
                return count
            except (av.error.FFmpegError, ValueError, OSError):
                errors += 1
    return count


def damaged_jobs(folder: Path, whole: list[bytes], count: int, seed: int) -> Iterator[DecodeJob]:
    """Jobs over mangled copies, written just before they are needed and all under one suffix."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        first, second = (whole[int(k)] for k in rng.integers(len(whole), size=2))
        path = folder / f"{index}.mp4"
        path.write_bytes(media.mangle(first, second, rng))
        partial = "keep" if index % 2 else "fail"
        yield DecodeJob(path.name, path, 8, 8, (0, 4, 7), partial=partial)


def check(folder: Path, whole: list[bytes], count: int, seed: int) -> Counter[str]:
    """Every damaged file ends once, as announced and as its packets say; a whole file is then still decoded."""
    last = folder / "whole.mp4"
    last.write_bytes(whole[0])
    ends: dict[str, VideoDone | VideoFailed] = {}
    shown: dict[str, int] = {}
    clips: dict[str, int] = {}
    tally: Counter[str] = Counter()
    with DecodePool(2, stall_s=20, memory_mb=1500) as pool:
        for jobs in (damaged_jobs(folder, whole, count, seed), [DecodeJob(last.name, last, 8, 8, (0,))]):
            for event in pool.run(jobs):
                if isinstance(event, ClipBatch):
                    assert event.first_clip == clips.get(event.video_id, 0)
                    clips[event.video_id] = event.first_clip + len(event.clips)
                elif isinstance(event, VideoRestarted):
                    clips.pop(event.video_id, None)
                    tally["restarted"] += 1
                else:
                    assert event.video_id not in ends
                    ends[event.video_id] = event
                    tally[type(event).__name__] += 1
                    if isinstance(event, VideoDone):
                        shown[event.video_id] = shown_packets(folder / event.video_id)
                    (folder / event.video_id).unlink()
    assert len(ends) == count + 1
    for video_id, end in ends.items():
        if isinstance(end, VideoFailed):
            assert end.reason
            tally["killed"] += "was killed" in end.reason
            tally["crashed"] += "decoder process" in end.reason
        else:
            tally["noted"] += check_done(end, clips[video_id], shown[video_id], strict=is_strict(video_id))
    assert isinstance(ends[last.name], VideoDone)
    return tally


def is_strict(video_id: str) -> bool:
    """Whether the job refused a partial video."""
    stem = Path(video_id).stem
    return not stem.isdigit() or int(stem) % 2 == 0


def check_done(end: VideoDone, clips: int, shown: int, *, strict: bool) -> bool:
    """What was announced came, and any difference to the packets is within 2 % and noted; whether there was one."""
    assert end.n_clips == clips and end.n_frames >= 1
    assert end.expected_frames >= shown  # more only where the file is proved to be cut off
    if strict:
        assert 0.98 * end.expected_frames <= end.n_frames <= end.expected_frames / 0.98
    differs = end.n_frames != end.expected_frames
    assert not differs or any("decoded" in note for note in end.notes)
    return differs


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
    print(dict(check(tmp_path, sources(tmp_path, shared), int(os.environ.get("VAD_FUZZ_FILES", LONG_COUNT)), seed=3)))
