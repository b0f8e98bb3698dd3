"""Every verdict of `vad cache diff`, each provoked by a planted difference, on real features and on drawn ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UsageError
from pipelines.store.compare import Difference, Side, compare
from pipelines.store.layouts import ORDERS
from pipelines.video.crops import CROPS

Values = dict[str, np.ndarray]
PERMUTATION = [3, 0, 9, 1, 4, 8, 7, 2, 5, 6]


def side(values: Values, crops: tuple[str, ...] = CROPS["ten"]) -> Side:
    half = {video: x.astype(np.float16) for video, x in values.items()}
    return Side(frozenset(half), half.__getitem__, lambda video: crops[: half[video].shape[1]])


def drawn(*, videos: int = 6, clips: int = 24, crops: int = 10, dim: int = 96, seed: int = 0) -> Values:
    """Features as networks give them: a large part that all share, a scene, slow change within a video, crops."""
    rng = np.random.default_rng(seed)
    common = 4 * np.abs(rng.normal(size=dim))
    found = {}
    for index in range(videos):
        steps = np.cumsum(rng.normal(size=(clips + index, 1, dim)), axis=0) * 0.25
        crop = 0.35 * rng.normal(size=(1, crops, dim))
        found[f"v{index}"] = common + 0.5 * rng.normal(size=dim) + steps + crop
    return found


def real(shared: Path) -> Values:
    return {"01_002": np.load(shared / "shanghaitech-pair" / "01_002.npy").astype(np.float32)}


def each(values: Values, change: Callable[[np.ndarray], np.ndarray]) -> Values:
    return {video: change(x) for video, x in values.items()}


def rotated(values: Values, dim: int) -> Values:
    """The same clips in another space: a random network layer over the vectors."""
    rng = np.random.default_rng(7)
    width = next(iter(values.values())).shape[2]
    weights = rng.normal(size=(width, dim)) / np.sqrt(width)
    return each(values, lambda x: x @ weights)


def noisy(values: Values) -> Values:
    rng = np.random.default_rng(1)
    return each(values, lambda x: x + 0.4 * x.std() * rng.normal(size=x.shape))


def strangers(values: Values) -> Values:
    """Vectors of the same mean and spread that have nothing to do with the clips."""
    rng = np.random.default_rng(2)
    mean = np.mean([x.mean((0, 1)) for x in values.values()], axis=0)
    return each(values, lambda x: mean + x.std() * rng.normal(size=x.shape))


PLANTED: dict[str, tuple[Callable[[Values], Values], tuple[str, ...]]] = {
    "same": (lambda v: v, ("same",)),
    "rounded": (lambda v: each(v, lambda x: x * (1 + 1e-4)), ("same",)),
    "later": (lambda v: each(v, lambda x: np.concatenate([x[:1], x[:-1]])), ("shifted",)),
    "earlier": (lambda v: each(v, lambda x: x[1:]), ("shifted",)),
    "two-earlier": (lambda v: each(v, lambda x: x[2:]), ("shifted",)),
    "permuted": (lambda v: each(v, lambda x: x[:, PERMUTATION]), ("permuted",)),
    "both": (lambda v: each(v, lambda x: x[1:, PERMUTATION]), ("shifted", "permuted")),
    "noise": (noisy, ("preprocessing",)),
    "doubled": (lambda v: each(v, lambda x: 2 * x), ("preprocessing",)),
    "unit": (lambda v: each(v, lambda x: x / np.linalg.norm(x, axis=2, keepdims=True)), ("preprocessing",)),
    "other space": (lambda v: rotated(v, next(iter(v.values())).shape[2]), ("encoder",)),
    "other width": (lambda v: rotated(v, 50), ("encoder",)),
    "strangers": (strangers, ("unrelated",)),
    "strangers of other width": (lambda v: rotated(strangers(v), 50), ("unrelated",)),
    "backwards": (lambda v: each(v, lambda x: x[::-1]), ("unrelated",)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_verdicts_on_drawn_features(name: str) -> None:
    change, kinds = PLANTED[name]
    values = drawn()
    assert compare(side(values), side(change(values))).kinds == kinds


@pytest.mark.real
@pytest.mark.parametrize("name", PLANTED)
def test_verdicts_on_the_published_features_of_one_video(shared: Path, name: str) -> None:
    change, kinds = PLANTED[name]
    values = real(shared)
    assert compare(side(values, ORDERS["torchvision"]), side(change(values), ORDERS["torchvision"])).kinds == kinds


def found(change: str) -> Difference:
    values = drawn()
    return compare(side(values), side(PLANTED[change][0](values)))


def test_words_say_what_was_planted() -> None:
    assert found("later").words == "shifted by one clip: B has each clip of A one clip later"
    assert found("two-earlier").words.startswith("shifted by 2 clips: B has each clip of A 2 clips earlier")
    assert (found("later").shift_clips, found("two-earlier").shift_clips) == (1, -2)
    pairs = dict(found("permuted").crops)
    assert [pairs[CROPS["ten"][a]] for a in PERMUTATION] == list(CROPS["ten"])
    assert "B's norms are 2 times A's" in found("doubled").words
    assert "widths 96 and 50" in found("other width").words
    assert "up to rounding" in found("rounded").words and found("rounded").identical < 6
    assert found("same").words == "the same features" and found("same").identical == 6


def test_a_high_cosine_between_everything_does_not_fool() -> None:
    """Strangers with the common mean have a plain cosine of 0.9; without the means nothing is left."""
    values = drawn()
    result = compare(side(values), side(PLANTED["strangers"][0](values)))
    assert result.cosine is not None and result.cosine > 0.8 and abs(result.cosine - result.others_cosine) < 0.05
    assert abs(result.centred) < 0.1


def test_other_videos_are_the_scale_that_own_clips_are_judged_by() -> None:
    result = found("noise")
    assert 0.3 < result.centred < 0.999 and result.centred > result.others_centred + 0.3


def test_unknown_crops_get_their_names() -> None:
    values = drawn()
    moved = each(values, lambda x: x[:, PERMUTATION])
    result = compare(side(values), side(moved, ORDERS["unknown"]))
    assert result.kinds == ("permuted",)
    names = {theirs: ours for ours, theirs in result.crops}
    assert names["unknown_0"] == CROPS["ten"][PERMUTATION[0]]


def test_one_crop_against_ten_finds_which_it_is() -> None:
    values = drawn()
    single = each(values, lambda x: x[:, 7:8])
    assert compare(side(values), side(single, (CROPS["ten"][7],))).kinds == ("same",)
    told = compare(side(values), side(single, ("unknown",)))
    assert told.kinds == ("permuted",) and told.crops == ((CROPS["ten"][7], "unknown"),)


def test_videos_are_counted_and_none_in_common_is_said() -> None:
    values = drawn()
    longer = {f"v{k}": x for k, x in enumerate(values.values())} | {"w": values["v0"]}
    longer["v1"] = longer["v1"][:-1]
    del longer["v0"]
    result = compare(side(values), side(longer), limit=3)
    assert (result.compared, result.only_a, result.only_b, result.other_length) == (3, 1, 1, 1)
    with pytest.raises(UsageError, match="no video in common"):
        compare(side(values), side({"x": values["v0"]}))
