"""Streams of different crops read as one: what is dropped is said, and sound goes with every crop."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import train as stage
from pipelines.errors import UsageError, VerificationError
from pipelines.training.inputs import JoinedFeatures
from tests import toy

FIVE = ("center", "tl", "tr", "bl", "br")


def random(t: int, k: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(t, k, d)).astype(np.float32)


def pair(tmp_path, other: tuple[str, ...], *, clips: int = 6):
    rgb = toy.write_store(tmp_path, "rgb", {"v": random(6, 5, 3)}, crops=FIVE)
    return rgb, toy.write_store(tmp_path, "other", {"v": random(clips, len(other), 2, 1)}, crops=other)


def test_crops_that_the_other_stream_lacks_are_named(tmp_path):
    joined = JoinedFeatures(pair(tmp_path, ("center",)))
    assert joined.crops == ("center",) and joined.left_out == {"rgb": ("tl", "tr", "bl", "br")}
    assert JoinedFeatures(pair(tmp_path / "same", FIVE)).left_out == {}


def test_training_says_which_crops_are_not_read(tmp_path):
    place = toy.make(tmp_path)
    ids = [id for part in place.ids.values() for id in part]
    toy.write_store(place.cache, "ten", {id: random(9, 5, 4) for id in ids}, crops=FIVE)
    toy.write_store(place.cache, "one", {id: random(9, 1, 4) for id in ids}, crops=("center",))
    places = {"cache_dir": place.cache, "runs_dir": place.runs, "manifest": place.manifest}
    planned = stage.plan(stage.TrainRequest(dataset="toy", features="ten+one", **places))
    (line,) = [line for line in planned.assumed if line.startswith("crops:")]
    assert line == "crops: center of ten; tl, tr, bl, br are not read, the other stream lacks them"
    planned = stage.plan(stage.TrainRequest(dataset="toy", features="ten", **places))
    assert not [line for line in planned.assumed if line.startswith("crops:")]


@pytest.mark.parametrize("sound_first", [False, True])
def test_sound_goes_with_every_crop(tmp_path, sound_first):
    rgb, sound = pair(tmp_path, ("all",))
    streams = [sound, rgb] if sound_first else [rgb, sound]
    joined = JoinedFeatures(streams)
    assert joined.crops == FIVE and joined.left_out == {} and joined.dim == 5
    values = joined.read("v")[..., joined.streams["other"]]
    np.testing.assert_array_equal(values, np.repeat(sound.read("v"), 5, axis=1))
    np.testing.assert_array_equal(joined.read("v")[..., joined.streams["rgb"]], rgb.read("v"))


@pytest.mark.parametrize("clips", [5, 7])
def test_sound_may_differ_by_one_clip_and_the_shorter_counts(tmp_path, clips):
    joined = JoinedFeatures(pair(tmp_path, ("all",), clips=clips))
    assert joined.length("v") == len(joined.read("v")) == min(6, clips)


def test_more_than_one_clip_is_refused_and_so_is_any_difference_of_pictures(tmp_path):
    with pytest.raises(VerificationError, match="rgb has 6 clips, other has 4 clips"):
        JoinedFeatures(pair(tmp_path, ("all",), clips=4)).read("v")
    with pytest.raises(VerificationError, match="differ in length"):
        JoinedFeatures(pair(tmp_path / "b", FIVE, clips=5)).read("v")


def test_sound_alone_is_a_stream_of_one_crop(tmp_path):
    _, sound = pair(tmp_path, ("all",))
    joined = JoinedFeatures([sound])
    assert joined.crops == ("all",)
    np.testing.assert_array_equal(joined.read("v"), sound.read("v"))
    with pytest.raises(UsageError, match="crops tl are not"):
        JoinedFeatures([sound], crops=("tl",))
