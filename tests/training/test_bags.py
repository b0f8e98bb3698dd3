"""Length policies by hand, masks, trimming, pairs, crops, and a sampler that goes on where it stopped."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.methods._base import DataConfig
from pipelines.records import Video
from pipelines.training.bags import (
    Bags,
    Ragged,
    abnormal,
    bin_edges,
    bin_means,
    fixed_length,
    load_ragged,
    multi_hot,
    pick_indices,
    runs_above,
)
from pipelines.training.inputs import Inputs, JoinedFeatures, stream_names
from tests.toy import write_store

CLASSES = ("normal", "a", "b")


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1)


def videos(*labels: str) -> list[Video]:
    return [Video(f"v{i}", Path("none"), "train", tuple(label.split("-"))) for i, label in enumerate(labels)]


def ragged(*lengths: int, crops: int = 1, dim: int = 2) -> Ragged:
    """Value of clip t of video v, crop k, is 100 v + t + k / 8 in every dimension."""
    rows = [[[100 * v + t + k / 8] * dim for k in range(crops)] for v, n in enumerate(lengths) for t in range(n)]
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return Ragged(torch.tensor([*rows, [[0.0] * dim] * crops], dtype=torch.float16), offsets)


def bags(data: DataConfig, labels: list[str], lengths: list[int], *, crops: int = 1, seed: int = 0, **more) -> Bags:
    store = more.pop("ragged", None) or ragged(*lengths, crops=crops)
    inputs = Inputs(2, {"x": slice(0, 2)}, data)
    names = [f"c{k}" for k in range(crops)]
    return Bags(store, videos(*labels), data, classes=CLASSES, crops=names, inputs=inputs, seed=seed)


def test_bins_of_seven_clips_into_three_have_the_edges_0_2_4_7():
    assert bin_edges(7, 3).tolist() == [0, 2, 4, 7]
    got = bin_means(column(1, 3, 10, 20, 5, 6, 7), 3)
    assert got.ravel().tolist() == [2.0, 15.0, 6.0]


def test_bins_of_a_short_video_repeat_the_clip_at_their_edge():
    # edges linspace(0, 2, 6) = 0, .4, .8, 1.2, 1.6, 2 -> 0 0 0 1 1 2: bins 0-1 empty (clip 0), 2 = clip 0, 3 empty (1), 4 = clip 1
    assert bin_means(column(5, 9), 5).ravel().tolist() == [5, 5, 5, 9, 9]


def test_bins_pad_leaves_a_short_video_alone_and_bins_a_long_one():
    data = DataConfig(length="bins-pad", size=3)
    assert fixed_length(column(1, 2, 3), data).ravel().tolist() == [1, 2, 3]
    assert fixed_length(column(1, 3, 10, 20, 5, 6, 7), data).ravel().tolist() == [2, 15, 6]


def test_pick_pad_takes_integer_linspace_of_the_clips():
    assert pick_indices(7, 4).tolist() == [0, 2, 4, 6]
    data = DataConfig(length="pick-pad", size=4)
    assert fixed_length(column(0, 1, 2, 3, 4, 5, 6), data).ravel().tolist() == [0, 2, 4, 6]
    assert len(fixed_length(column(1, 2, 3), data)) == 3


@pytest.mark.parametrize("length", ["window", "full"])
def test_window_and_full_keep_every_clip(length):
    assert len(fixed_length(column(*range(9)), DataConfig(length=length, size=4))) == 9


def test_bins_agree_with_a_slow_mean_of_each_bin():
    x = np.random.default_rng(0).normal(size=(37, 2, 3)).astype(np.float32)
    edges = np.linspace(0, 37, 9).astype(int)
    slow = np.stack([x[a:b].mean(0) if b > a else x[a] for a, b in pairwise(edges)])
    np.testing.assert_allclose(bin_means(x, 8), slow, rtol=1e-5, atol=1e-6)


def test_a_batch_is_trimmed_to_its_longest_video_and_padding_is_zero():
    source = bags(DataConfig(length="bins-pad", size=50), ["normal", "a"], [3, 5])
    bag = source.next(step=0, steps=1)
    assert bag.x.shape == (2, 1, 5, 2)
    assert bag.lengths.tolist() == [3, 5]
    assert bag.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert bag.x[0, 0, :, 0].tolist() == [0, 1, 2, 0, 0]
    assert bag.x[1, 0, :, 0].tolist() == [100, 101, 102, 103, 104]


def test_padding_stays_zero_after_standardisation(tmp_path):
    joined = JoinedFeatures([write_store(tmp_path, "aa", {"v0": feature(0, 2) + 5, "v1": feature(1, 4) + 5})])
    data = DataConfig(length="full", standardise=True)
    inputs = Inputs(3, joined.streams, data)
    inputs.fit_to(joined.read(v) for v in ("v0", "v1"))
    store = load_ragged(joined, ["v0", "v1"], data, inputs=inputs)
    source = Bags(store, videos("normal", "a"), data, classes=CLASSES, crops=joined.crops, inputs=inputs, seed=0)
    bag = source.next(step=0, steps=1)
    assert not bag.x[0, 0, 2:].any() and bag.x[0, 0, :2].all()
    expected = inputs(torch.from_numpy(joined.read("v1")[:, 0].astype(np.float32)))
    torch.testing.assert_close(bag.x[1, 0], expected, atol=2e-3, rtol=2e-3)


def test_pairs_put_normals_first_and_never_exceed_a_list():
    source = bags(
        DataConfig(length="full", batch_normal=30, batch_abnormal=30), ["a", "normal", "b", "normal", "a"], [2] * 5
    )
    bag = source.next(step=0, steps=1)
    assert bag.y.tolist() == [0, 0, 1, 1, 1]
    assert {*bag.video_ids[:2]} == {"v1", "v3"}
    assert bag.classes.sum(0).tolist() == [2, 2, 1]


def test_mixed_batches_take_any_video():
    source = bags(DataConfig(length="full", pairing="mixed", batch=3), ["normal"] * 2 + ["a"] * 2, [2] * 4)
    assert len(source.next(step=0, steps=1).video_ids) == 3


@pytest.mark.parametrize("labels", [["normal", "normal"], ["a", "b"]])
def test_pairs_without_one_kind_are_refused(labels):
    with pytest.raises(UsageError, match=r"\d normal and \d abnormal"):
        bags(DataConfig(length="full"), labels, [2, 2])


def test_every_crop_is_a_sample_of_its_own():
    source = bags(DataConfig(length="full", batch_normal=3, batch_abnormal=3), ["normal", "a"], [1, 1], crops=3)
    bag = source.next(step=0, steps=1)
    assert bag.x.shape == (6, 1, 1, 2)
    assert sorted(bag.x[:, 0, 0, 0].tolist()) == [0, 0.125, 0.25, 100, 100.125, 100.25]
    assert sorted(bag.extras["crop_index"].tolist()) == [0, 0, 1, 1, 2, 2]


def test_crops_inside_stand_on_their_axis_by_name():
    source = bags(DataConfig(length="full", crops="inside"), ["normal", "a"], [2, 1], crops=3)
    bag = source.next(step=0, steps=1)
    assert bag.crops == ("c0", "c1", "c2")
    assert bag.x[0, :, :, 0].tolist() == [[0, 1], [0.125, 1.125], [0.25, 1.25]]
    assert bag.x[1, :, :, 0].tolist() == [[100, 0], [100.125, 0], [100.25, 0]]


def test_first_takes_the_first_crop_only():
    bag = bags(DataConfig(length="full", crops="first"), ["normal", "a"], [1, 1], crops=3).next(step=0, steps=1)
    assert bag.x[:, 0, 0, 0].tolist() == [0, 100]


def test_windows_are_contiguous_and_move():
    source = bags(DataConfig(length="window", size=4, pairing="mixed", batch=1), ["a"], [30])
    starts = set()
    for step in range(20):
        bag = source.next(step=step, steps=20)
        line = bag.x[0, 0, :, 0]
        assert (line.diff() == 1).all() and len(line) == 4
        assert int(bag.extras["starts"][0]) == int(line[0])
        starts.add(int(line[0]))
    assert len(starts) > 5


def test_a_window_is_redrawn_until_it_covers_half_of_a_pseudo_run():
    track = torch.zeros(201)
    track[90:100] = 0.9
    store = ragged(200)
    store = Ragged(store.values, store.offsets, track)
    data = DataConfig(length="window", size=10, pairing="mixed", batch=1)
    source = bags(data, ["a"], [200], ragged=store)
    for step in range(10):
        bag = source.next(step=step, steps=10)
        assert int((bag.extras["pseudo"][0] > 0.5).sum()) >= 5


def test_runs_above_are_half_open_and_long_enough():
    assert runs_above(np.array([0, 1, 1, 0, 1, 1, 1]), 0.5, 3) == [(4, 7)]
    assert runs_above(np.array([1, 1, 1]), 0.5, 3) == [(0, 3)]


@settings(max_examples=30, deadline=None)
@given(
    normal=st.integers(1, 9),
    bad=st.integers(1, 9),
    batch=st.integers(1, 12),
    warm=st.integers(0, 7),
    seed=st.integers(0, 99),
)
def test_a_restored_sampler_gives_the_same_batches(normal, bad, batch, warm, seed):
    labels = ["normal"] * normal + ["a"] * bad
    data = DataConfig(length="window", size=2, batch_normal=batch, batch_abnormal=batch)
    first = bags(data, labels, [5] * len(labels), seed=seed)
    for step in range(warm):
        first.next(step=step, steps=99)
    state = first.state_dict()
    second = bags(data, labels, [5] * len(labels), seed=seed + 1)
    second.load_state_dict(state)
    for step in range(4):
        a, b = first.next(step=step, steps=99), second.next(step=step, steps=99)
        assert a.video_ids == b.video_ids and torch.equal(a.x, b.x)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 20), batch=st.integers(1, 25), seed=st.integers(0, 99))
def test_an_epoch_never_repeats_a_video_and_a_batch_is_never_empty(count, batch, seed):
    labels = ["normal"] * count + ["a"]
    source = bags(DataConfig(length="full", batch_normal=batch, batch_abnormal=1), labels, [1] * len(labels), seed=seed)
    size = min(batch, count)
    seen: list[str] = []
    for step in range(count // size):
        drawn = source.next(step=step, steps=99).video_ids[:-1]
        assert len(drawn) == size
        seen += drawn
    assert len(seen) == len(set(seen))


def test_seeds_draw_different_orders():
    labels = ["normal"] * 9 + ["a"] * 9
    drawn = [bags(DataConfig(length="full"), labels, [1] * 18, seed=s).next(step=0, steps=1).video_ids for s in (0, 1)]
    assert drawn[0] != drawn[1]


def test_labels_are_mapped_by_name_and_multi_hot():
    listed = videos("normal", "b-a", "b")
    assert multi_hot(listed, CLASSES).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    assert abnormal(listed, CLASSES).tolist() == [False, True, True]


def test_an_unknown_or_missing_class_names_the_video():
    with pytest.raises(UsageError, match=r"'v0'.*'aa'.*did you mean 'a'"):
        multi_hot(videos("aa"), CLASSES)
    with pytest.raises(UsageError, match="'v0' has no class"):
        multi_hot([Video("v0", Path("none"), "train", ())], CLASSES)


def feature(seed: int, n: int = 5, *, crops: int = 1, dim: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, crops, dim)).astype(np.float32)


def test_joined_features_stand_in_the_order_written(tmp_path):
    a = write_store(tmp_path, "aa", {"v": feature(0)})
    b = write_store(tmp_path, "bb", {"v": feature(1, dim=2)})
    joined = JoinedFeatures([b, a])
    assert joined.streams == {"bb": slice(0, 2), "aa": slice(2, 5)}
    np.testing.assert_array_equal(joined.read("v"), np.concatenate([b.read("v"), a.read("v")], axis=2))


def test_joined_features_of_different_length_name_the_video_and_both_numbers(tmp_path):
    a = write_store(tmp_path, "aa", {"v": feature(0, 5)})
    b = write_store(tmp_path, "bb", {"v": feature(1, 6)})
    with pytest.raises(VerificationError, match=r"'v'.*5 clips.*6 clips"):
        JoinedFeatures([a, b]).read("v")


def test_joined_features_of_different_strides_are_refused_with_both_numbers(tmp_path):
    a = write_store(tmp_path, "aa", {"v": feature(0)}, stride=4)
    b = write_store(tmp_path, "bb", {"v": feature(1)}, stride=8)
    with pytest.raises(UsageError, match=r"clip_len is 4 .* and 8"):
        JoinedFeatures([a, b])


def test_nan_features_name_the_video_and_the_clip(tmp_path):
    broken = feature(0)
    broken[3] = np.nan
    store = write_store(tmp_path, "aa", {"fine": feature(1), "torn": broken})
    with pytest.raises(VerificationError, match=r"'torn'.*clip 3"):
        JoinedFeatures([store]).read("torn")


def test_a_video_of_another_width_is_named(tmp_path):
    store = write_store(tmp_path, "aa", {"a": feature(1), "b": feature(0, dim=4)})
    with pytest.raises(VerificationError, match=r"'b'.*width 4.*3"):
        JoinedFeatures([store]).read("b")


def test_an_empty_store_is_a_missing_artefact(tmp_path):
    store = write_store(tmp_path, "aa", {"a": feature(1)})
    for entry in store.group.iterdir():
        if entry.is_dir():
            entry.rename(tmp_path / "moved")
    with pytest.raises(MissingArtifactError, match="no videos"):
        _ = JoinedFeatures([store]).dim


def test_fewer_crops_are_read_by_name(tmp_path):
    store = write_store(tmp_path, "aa", {"v": feature(0, crops=3)})
    picked = JoinedFeatures([store], crops=("c2",)).read("v")
    np.testing.assert_array_equal(picked[:, 0], store.read("v")[:, 2])
    with pytest.raises(UsageError, match="nine"):
        JoinedFeatures([store], crops=("nine",))


def test_a_second_stream_of_one_encoder_gets_a_name_of_its_own():
    assert stream_names(("m", "m", "e", "m")) == ("m", "m#2", "e", "m#3")


@pytest.mark.parametrize("normalise", ["l2-clips", "l2-segments"])
def test_vectors_are_unit_per_stream(tmp_path, normalise):
    data = DataConfig(length="full", normalise=normalise)
    joined = JoinedFeatures([write_store(tmp_path, name, {"v": feature(i)}) for i, name in enumerate(("aa", "bb"))])
    inputs = Inputs(joined.dim, joined.streams, data)
    store = load_ragged(joined, ["v"], data, inputs=inputs)
    made = Bags(
        store,
        videos("a")[:1],
        DataConfig(length="full", pairing="mixed", normalise=normalise),
        classes=CLASSES,
        crops=joined.crops,
        inputs=inputs,
        seed=0,
    )
    x = made.next(step=0, steps=1).x[0, 0]
    np.testing.assert_allclose(x[:, :3].norm(dim=1), 1, atol=2e-3)
    np.testing.assert_allclose(x[:, 3:].norm(dim=1), 1, atol=2e-3)


def test_l2_before_binning_differs_from_l2_after(tmp_path):
    two = np.array([[[3.0, 0.0]], [[0.0, 1.0]]], np.float32)
    joined = JoinedFeatures([write_store(tmp_path, "aa", {"v": two})])
    got = {}
    for normalise in ("l2-clips", "l2-segments"):
        data = DataConfig(length="bins", size=1, normalise=normalise, pairing="mixed")
        inputs = Inputs(2, joined.streams, data)
        store = load_ragged(joined, ["v"], data, inputs=inputs)
        got[normalise] = store.values[0, 0].tolist()
    assert got["l2-clips"] == pytest.approx([0.5, 0.5], abs=1e-3)
    assert got["l2-segments"] == pytest.approx([3 / 10**0.5, 1 / 10**0.5], abs=1e-3)


def test_standardisation_uses_every_clip_and_leaves_constants_alone():
    inputs = Inputs(2, {"x": slice(0, 2)}, DataConfig(standardise=True))
    inputs.fit_to([np.array([[[1, 5]], [[3, 5]]], np.float16), np.array([[[8, 5]]], np.float16)])
    assert inputs.mean.tolist() == [4.0, 5.0]
    assert inputs.std.tolist() == pytest.approx([(26 / 3) ** 0.5, 1.0])


def test_memory_mapped_values_equal_those_in_memory(tmp_path, monkeypatch):
    joined = JoinedFeatures([write_store(tmp_path, "aa", {"v": feature(0), "w": feature(1, 7)})])
    data = DataConfig(length="full")
    inputs = Inputs(3, joined.streams, data)
    inside = load_ragged(joined, ["v", "w"], data, inputs=inputs)
    monkeypatch.setattr("pipelines.training.bags.MEMORY_SHARE", 0.0)
    mapped = load_ragged(joined, ["v", "w"], data, inputs=inputs)
    assert torch.equal(inside.values, mapped.values) and inside.offsets.tolist() == [0, 5, 12]


def test_pseudo_labels_of_another_length_name_the_video(tmp_path):
    joined = JoinedFeatures([write_store(tmp_path, "aa", {"v": feature(0)})])
    data = DataConfig(length="full")
    with pytest.raises(VerificationError, match=r"'v': 4 pseudo labels for 5 clips"):
        load_ragged(joined, ["v"], data, inputs=Inputs(3, joined.streams, data), track={"v": np.zeros(4, np.float32)})
