"""Frames on disk: chunks along time, windows, the same commit rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from pipelines import artifacts
from pipelines.errors import VerificationError
from pipelines.store import frames
from pipelines.store.frames import FramesStore, FramesWriter
from pipelines.store.maintenance import verify
from tests.extraction.fakes import facts

FRAMES = np.random.default_rng(0).integers(0, 255, (23, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FramesStore:
    monkeypatch.setattr(frames, "CHUNK_BYTES", 5 * 6 * 8 * 3)  # five frames
    return FramesStore.create(tmp_path / "s", artifacts.make("frames", "0" * 64, {"encoder": "frames", "crops": []}))


def write(store: FramesStore, video_id: str, pieces: tuple[int, ...] = (3, 9, 11)) -> None:
    writer = FramesWriter(store, video_id)
    start = 0
    for count in pieces:
        writer.append(FRAMES[start : start + count])
        start += count
    writer.commit(facts(start, stride=1, clip_len=1))


def test_pieces_of_any_length_make_one_array(store: FramesStore) -> None:
    write(store, "a")
    np.testing.assert_array_equal(store.read_frames("a"), FRAMES)
    assert store.frames_shape("a") == (23, 6, 8, 3)
    assert len(list((store.path("a") / "c").iterdir())) == 5
    np.testing.assert_array_equal(zarr.open_array(str(store.path("a")), mode="r")[...], FRAMES)
    assert verify(store) == []


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (4, 6), (5, 10), (0, 23), (20, 99), (7, 7), (22, 23)])
def test_windows(store: FramesStore, start: int, stop: int) -> None:
    write(store, "a")
    np.testing.assert_array_equal(store.read_frames("a", start, stop), FRAMES[start:stop])


def test_length_that_fills_its_chunks(store: FramesStore) -> None:
    write(store, "a", (10,))
    np.testing.assert_array_equal(store.read_frames("a"), FRAMES[:10])
    assert len(list((store.path("a") / "c").iterdir())) == 2


def test_nothing_is_visible_before_the_commit_or_after_a_discard(store: FramesStore) -> None:
    writer = FramesWriter(store, "a")
    writer.append(FRAMES)
    assert store.videos() == set()
    writer.discard()
    assert store.videos() == set() and list((store.folder / ".staging").iterdir()) == []


def test_a_change_of_size_is_refused(store: FramesStore) -> None:
    writer = FramesWriter(store, "a")
    writer.append(FRAMES)
    with pytest.raises(VerificationError, match="change size"):
        writer.append(FRAMES[:, :4])


def test_damage_is_found(store: FramesStore) -> None:
    write(store, "a")
    write(store, "b")
    chunk = store.path("a") / "c" / "2" / "0" / "0" / "0"
    chunk.write_bytes(b"\0" * len(chunk.read_bytes()))
    assert [problem.video_id for problem in verify(store)] == ["a"]
