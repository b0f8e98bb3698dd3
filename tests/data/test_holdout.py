"""A held-out share keeps groups whole and classes in proportion, or refuses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.holdout import holdout, leaks, refuse_leaks
from pipelines.errors import UsageError, VerificationError
from pipelines.records import Video


def video(name: str, label: str = "normal", group: str | None = None, part: str = "train") -> Video:
    return Video(name, Path(name), part, (label,), group=group)


MANY = [video(f"{label}{index}", label) for label in ("normal", "fight", "fire") for index in range(20)]


def test_every_class_gives_its_share() -> None:
    train, val = holdout(MANY, 0.2, seed=3)
    assert Counter(v.classes[0] for v in val) == {"normal": 4, "fight": 4, "fire": 4}
    assert [v.id for v in train + val] != [v.id for v in MANY] and len(train) == 48


def test_the_draw_follows_the_seed_and_not_the_order() -> None:
    first = {v.id for v in holdout(MANY, 0.2, seed=3)[1]}
    assert {v.id for v in holdout(MANY[::-1], 0.2, seed=3)[1]} == first
    assert {v.id for v in holdout(MANY, 0.2, seed=4)[1]} != first


@given(
    st.lists(st.tuples(st.sampled_from(["normal", "fight"]), st.integers(0, 5)), min_size=2, max_size=40),
    st.integers(0, 9),
)
def test_no_group_is_ever_cut(items: list[tuple[str, int]], seed: int) -> None:
    videos = [video(str(index), label, f"g{group}") for index, (label, group) in enumerate(items)]
    try:
        train, val = holdout(videos, 0.25, seed, normal="normal")
    except UsageError:
        return
    assert not leaks((train, [Video(v.id, v.path, "val", v.classes, group=v.group) for v in val]))
    assert sorted(v.id for v in train + val) == sorted(v.id for v in videos)
    assert {"normal" in v.classes for v in val} == {"normal" in v.classes for v in train}


def test_one_group_of_everything_is_refused() -> None:
    videos = [video("a", "normal", "film"), video("b", "fight", "film"), video("c", "fight", "film")]
    with pytest.raises(UsageError, match="3 training videos in 1 groups cannot be parted"):
        holdout(videos, 0.3, normal="normal")


def test_a_side_without_normal_videos_is_refused() -> None:
    videos = [video(f"n{i}", "normal", "all normal") for i in range(6)] + [video(f"f{i}", "fight") for i in range(6)]
    with pytest.raises(UsageError, match="would lack normal or abnormal videos unless a group stood on both sides"):
        holdout(videos, 0.3, normal="normal")


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        holdout(MANY, share)


def test_a_group_on_both_sides_is_named() -> None:
    train, val = [video("a", group="film")], [video("b", group="film", part="val")]
    assert leaks((train, val)) == {"film": ("train", "val")}
    with pytest.raises(VerificationError, match=r"1 groups .* in the val list: film"):
        refuse_leaks(train, val, what="val")
    refuse_leaks(train, [video("c")], what="val")
