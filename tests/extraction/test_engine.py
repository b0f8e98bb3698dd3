"""Batches across videos, exact batch sizes, order of arrival, errors of threads."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines import artifacts
from pipelines.encoders._base import Preprocess
from pipelines.errors import VadError
from pipelines.extraction.batches import Batcher, Piece
from pipelines.extraction.engine import Engine, Stream, as_tensor, torch_threads
from pipelines.extraction.jobs import VideoDone
from pipelines.extraction.plan import Sampling, make_recipe
from pipelines.extraction.writer import Target, Ticket, Writer
from pipelines.store.features import FeatureStore
from tests.extraction.fakes import FakeEncoder, choice, video

VIDEO = video(Path("v.mp4"), "v")


class Means(FakeEncoder):
    """Two numbers a crop: the mean grey value, and its own batch's size."""

    def __init__(self) -> None:
        super().__init__(name="means", dim=2, preprocess=Preprocess(resize=None, crop_px=None), sha256=None)
        self.sizes: list[int] = []

    def encode(self, crops: Tensor) -> Tensor:
        self.sizes.append(len(crops))
        grey = crops.float().mean(dim=(2, 3, 4, 5))
        return torch.stack([grey, torch.zeros_like(grey)], dim=2)


def grey(*values: int, size: int = 4) -> np.ndarray:
    return np.stack([np.full((1, size, size, 3), value, np.uint8) for value in values])


def piece(first: int, *values: int, size: int = 4) -> Piece:
    return Piece(Ticket(VIDEO, (0,)), first, torch.from_numpy(grey(*values, size=size))[:, None])


def values(batch: list[Piece]) -> list[int]:
    return [int(v) for one in batch for v in one.crops[:, 0, 0, 0, 0, 0]]


def done(n_clips: int) -> VideoDone:
    return VideoDone("v", n_clips, n_clips, n_clips, n_clips, 25.0, 4, 4, 1.0, "pyav", "1", "source")


def writer(tmp_path: Path) -> Writer:
    recipe = make_recipe(choice(Means()), sampling=Sampling(1, 1), crops=("center",))
    artifact = artifacts.make("features", "0" * 64, recipe.model_dump(mode="json"))
    store = FeatureStore.create(tmp_path / "s", artifact)
    return Writer([Target("means", store, recipe, frozenset(), frozenset())], {})


def stream(encoder: Any) -> Stream:
    return Stream(encoder, ("center",), (0,), "cpu")


def test_batches_are_exact_and_cross_videos() -> None:
    batcher = Batcher(4)
    assert batcher.add(piece(0, 1, 2, 3)) == []
    full = batcher.add(piece(0, 4, 5, 6, 7, 8, 9))
    assert [values(batch) for batch in full] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [one.first_clip for one in full[1]] == [1]
    assert [values(batch) for batch in batcher.flush()] == [[9]] and batcher.flush() == []


def test_crops_of_different_sizes_share_no_batch() -> None:
    batcher = Batcher(2)
    assert batcher.add(piece(0, 1)) == [] and batcher.add(piece(0, 2, size=6)) == []
    assert [values(batch) for batch in batcher.add(piece(1, 3))] == [[1, 3]]
    assert [values(batch) for batch in batcher.flush()] == [[2]]


def test_a_short_batch_is_filled_up_and_cut_again() -> None:
    encoder = Means()
    one = stream(encoder)
    vectors = one.encode(one.cut(grey(10, 20, 30), (0,)))
    assert encoder.sizes == [one.batch] and one.batch > 3
    assert vectors.shape == (3, 1, 2) and vectors[:, 0, 0].tolist() == [10, 20, 30]


def test_only_the_wanted_positions_reach_the_encoder() -> None:
    frames = np.arange(2 * 3 * 16 * 3, dtype=np.uint8).reshape(2, 3, 4, 4, 3)
    crops = Stream(Means(), ("center",), (5,), "cpu").cut(frames, (1, 5, 7))
    np.testing.assert_array_equal(crops[:, 0, 0].numpy(), frames[:, 1])


def test_clips_that_arrive_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    target = writer(tmp_path)
    ticket = target.begin(VIDEO, (0,))
    target.deliver(ticket, 0, 2, np.full((1, 1, 2), 3, np.float16))
    target.decoded(ticket, done(3))
    assert "v" not in target.targets[0].store
    target.deliver(ticket, 0, 0, np.array([[[1, 1]], [[2, 2]]], np.float16))
    assert target.targets[0].store.read("v")[:, 0, 0].tolist() == [1, 2, 3]
    assert target.finished.get().reasons == {}


def test_engine_delivers_every_clip_of_many_videos(tmp_path: Path) -> None:
    target = writer(tmp_path)
    names = [f"v{index}" for index in range(20)]
    with Engine({0: stream(Means())}, target, threads=3) as engine:
        for number, name in enumerate(names):
            ticket = target.begin(video(Path("x.mp4"), name), (0,))
            for start in range(0, 11, 4):
                clips = [number * 10 + clip for clip in range(start, min(start + 4, 11))]
                engine.submit(ticket, start, grey(*[value % 256 for value in clips]), (0,))
            target.decoded(ticket, done(11))
        engine.flush()
    store = target.targets[0].store
    for number, name in enumerate(names):
        assert store.read(name)[:, 0, 0].tolist() == [(number * 10 + clip) % 256 for clip in range(11)]


def test_error_of_a_thread_is_raised(tmp_path: Path) -> None:
    class Broken(Means):
        def encode(self, crops: Tensor) -> Tensor:
            raise VadError("the encoder is broken")

    target = writer(tmp_path)
    with pytest.raises(VadError, match="broken"), Engine({0: stream(Broken())}, target, threads=2) as engine:
        engine.submit(target.begin(VIDEO, (0,)), 0, grey(1), (0,))
        engine.flush()


def test_submit_waits_while_the_threads_are_busy(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(Means):
        def encode(self, crops: Tensor) -> Tensor:
            gate.wait(30)
            return super().encode(crops)

    target = writer(tmp_path)
    submitted = []
    with Engine({0: stream(Slow())}, target, threads=1) as engine:

        def feed() -> None:
            for start in range(0, 80, 8):
                engine.submit(ticket, start, grey(*range(8)), (0,))
                submitted.append(start)

        ticket = target.begin(VIDEO, (0,))
        feeder = threading.Thread(target=feed)
        feeder.start()
        feeder.join(0.3)
        assert len(submitted) <= 2  # one runs, one waits, the third submit blocks
        gate.set()
        feeder.join(30)
        engine.flush()
    assert len(submitted) == 10


def test_shared_memory_is_not_copied() -> None:
    frames = grey(1, 2)
    frames.flags.writeable = False
    assert as_tensor(frames).data_ptr() == frames.__array_interface__["data"][0]


def test_crops_never_hold_the_shared_memory() -> None:
    frames = grey(1, 2)
    crops = stream(Means()).cut(frames, (0,))  # no resize, no crop: nothing needs new memory
    frames[:] = 99
    assert crops.unique().tolist() == [1, 2]


def test_torch_threads_come_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
