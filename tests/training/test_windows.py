"""Windows of frames: borders, order, streaming, augmentation, memory."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pipelines.methods._frames import WindowConfig, WindowSpec
from pipelines.records import Video
from pipelines.training import windows
from pipelines.training.windows import (
    StoredFrames,
    WindowBatches,
    resize,
    sliding,
    to_input,
    training_targets,
    window_indices,
)
from tests import toyframes


def plain(**values) -> WindowConfig:
    return WindowConfig(**({"size": (4, 4), "augment": "none", "colour": "grey", "score_batch": 3} | values))


def numbered(n: int, size: int = 4) -> np.ndarray:
    """Frame i is i everywhere."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, size, size, 3)).copy()


def seen(video) -> tuple[list[int], list[list[int]]]:
    """Targets and the numbers of the frames in each window."""
    targets, found = [], []
    for batch in video.windows:
        targets += batch.frames.tolist()
        found += ((batch.x[:, :, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    return targets, found


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        ("repeat", [[0, 0, 2], [1, 1, 3], [0, 2, 4], [1, 3, 3], [2, 4, 4]]),
        ("clamp", [[0, 0, 2], [0, 1, 3], [0, 2, 4], [1, 3, 4], [2, 4, 4]]),
        ("shift", [[0, 2, 4]] * 5),
    ],
)
def test_borders_by_hand(border, expected):
    got = window_indices(np.arange(5), 5, offsets=(-2, 0, 2), border=border)
    assert got.tolist() == expected


def test_a_video_shorter_than_the_window_repeats_its_last_frame():
    assert window_indices(np.arange(2), 2, offsets=(0, 1, 2, 3), border="shift").tolist() == [[0, 1, 1, 1]] * 2
    spec = WindowSpec(plain(), tuple(range(-8, 8)), "shift")
    assert training_targets(2, spec).tolist() == [0]
    assert seen(sliding([numbered(2)], spec, video_id="v"))[1] == [[0, *[1] * 15]] * 2


@pytest.mark.parametrize("border", ["repeat", "clamp", "shift"])
@pytest.mark.parametrize("offsets", [(0,), (-3, 0, 3), tuple(range(-8, 8)), (0, 1, 2), (-4, -3, -2, -1, 0)])
@pytest.mark.parametrize(("pieces", "stride"), [((1,) * 21, 1), ((21,), 1), ((5, 9, 7), 2), ((2, 1), 1), ((20, 1), 5)])
def test_streamed_windows_are_those_of_the_whole_video(border, offsets, pieces, stride):
    n = sum(pieces)
    spec = WindowSpec(plain(score_stride=stride), offsets, border)
    cuts = np.cumsum((0, *pieces))
    video = sliding((numbered(n)[a:b] for a, b in pairwise(cuts)), spec, video_id="v")
    targets, found = seen(video)
    assert targets == list(range(0, n, stride)) and video.n_frames() == n
    assert found == window_indices(np.array(targets), n, offsets=offsets, border=border).tolist()


@pytest.mark.parametrize("border", ["repeat", "shift"])
def test_scoring_holds_a_window_and_a_batch_however_long_the_video(border):
    spec = WindowSpec(plain(), tuple(range(-8, 8)), border)
    stream = windows._Stream(spec, "v", torch.device("cpu"))
    most = 0
    for _ in stream.windows(numbered(1) for _ in range(500)):
        most = max(most, len(stream.held))
    assert most <= 16 + 16 + spec.config.score_batch


def test_training_targets_of_whole_windows():
    assert training_targets(20, WindowSpec(plain(stride=2), tuple(range(-8, 8)), "shift")).tolist() == [8, 10, 12]
    assert training_targets(5, WindowSpec(plain(), (-3, 0, 3))).tolist() == [0, 1, 2, 3, 4]


def test_input_is_minus_one_to_one_and_grey_is_bt601():
    assert to_input(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 200
    assert resize(red, plain(), (4, 4)).unique().tolist() == [60]  # 0.299 * 200
    assert resize(red, plain(colour="rgb"), (2, 2))[0, :, 0, 0].tolist() == [200, 0, 0]


def test_odd_sizes_and_single_channels_are_resized():
    out = resize(np.full((2, 7, 13, 1), 9, np.uint8), plain(colour="rgb"), (5, 3))
    assert out.shape == (2, 3, 5, 3) and out.unique().tolist() == [9]


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> StoredFrames:
    toy = toyframes.make(tmp_path_factory.mktemp("frames"), train=3)
    return StoredFrames([windows.FramesStore(next((toy.cache / "frames" / "squares").iterdir()))])


def batches(frames: StoredFrames, *, seed: int = 0, partner=None, border="repeat", **config) -> WindowBatches:
    videos = [Video(f"train_{i:02d}", None, "train", ("normal",)) for i in range(3)]
    spec = WindowSpec(WindowConfig(**({"size": (12, 16), "batch": 7} | config)), (-2, 0, 2), border, partner)
    return WindowBatches(frames, videos, spec, seed=seed)


def drawn(source: WindowBatches, count: int) -> list[torch.Tensor]:
    return [source.next(step=i, steps=count).x for i in range(count)]


def test_batches_repeat_for_a_seed_and_differ_between_seeds(frames):
    one, two, other = (torch.stack(drawn(batches(frames, seed=s), 12)) for s in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == (12, 7, 3, 3, 12, 16) and one.min() >= -1 and one.max() <= 1


def test_an_epoch_shows_every_window_once(frames):
    source = batches(frames, augment="none")
    assert source.epoch_steps == 60 // 7
    rows = [
        (v, int(t))
        for _ in range(8)
        for b in [source.next(step=0, steps=1)]
        for v, t in zip(b.video_ids, b.frames, strict=True)
    ]
    assert len(set(rows)) == len(rows) == 56


def test_a_state_goes_on_with_the_same_batches(frames):
    source = batches(frames, partner=(2, 4))
    drawn(source, 5)
    state = source.state_dict()
    rest = drawn(source, 10)
    again = batches(frames, partner=(2, 4), seed=9)
    again.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(rest, drawn(again, 10), strict=True))


def test_frames_on_demand_are_the_frames_in_memory(frames, monkeypatch):
    kept = drawn(batches(frames), 4)
    monkeypatch.setattr(windows.FramePool.__init__, "__kwdefaults__", {"keep": 0})
    source = batches(frames)
    assert source.pool.kept is None
    assert all(torch.equal(a, b) for a, b in zip(kept, drawn(source, 4), strict=True))


def test_a_window_is_cropped_and_flipped_as_one(frames):
    video = frames.read("train_00", 0, 20)
    source = batches(frames, margin=0.5)
    full = resize(video, source.spec.config, (18, 24))
    bag = source.next(step=0, steps=1)
    for x, name, t in zip(bag.x, bag.video_ids, bag.frames.tolist(), strict=True):
        if name == "train_00":
            at = window_indices(np.array([t]), 20, offsets=(-2, 0, 2), border="repeat")[0]
            cuts = [
                to_input(c)
                for top in range(7)
                for left in range(9)
                for c in [full[at][:, :, top : top + 12, left : left + 16]]
            ]
            assert any(torch.equal(x, c) or torch.equal(x, c.flip(-1)) for c in cuts)


def test_partners_are_other_moments_of_the_same_video(frames):
    source = batches(frames, partner=(5, 6), augment="none")
    rows = np.array([[0, 0], [0, 19], [0, 10], [1, 3]])
    for _ in range(20):
        found = source._partners(rows)
        assert (found[:, 0] == rows[:, 0]).all()
        assert set(np.abs(found[:, 1] - rows[:, 1])) <= {5, 6}
        assert (found[:, 1] >= 0).all() and (found[:, 1] < 20).all()


def test_one_pass_for_validation_holds_every_window_once_and_nothing_in_memory(frames):
    source = batches(frames, augment="none")
    found = [(v, int(t)) for b in source.once() for v, t in zip(b.video_ids, b.frames, strict=True)]
    assert len(found) == len(set(found)) == 60 and source.pool.kept is None
