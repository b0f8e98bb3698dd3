"""Shards, time limits and array variables, against hand calculations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cluster import plan
from pipelines.cluster.plan import balanced, by_size, divide, measured_lengths, minutes, shard_index
from pipelines.errors import UsageError
from pipelines.records import Video
from tests.extraction.fakes import write_noise


def test_longest_first_to_the_emptiest_by_hand() -> None:
    costs = {"a": 7.0, "b": 6.0, "c": 5.0, "d": 4.0, "e": 2.0}
    assert balanced(costs, 2) == [("a", "d", "e"), ("b", "c")]  # 13 and 11: the best that any division reaches is 12


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.floats(0.1, 1e6), min_size=1, max_size=40), st.integers(1, 12)
)
def test_every_video_stands_in_exactly_one_shard_and_none_is_far_above_the_best(
    costs: dict[str, float], count: int
) -> None:
    groups = balanced(costs, count)
    assert sorted(name for group in groups for name in group) == sorted(costs)
    assert balanced(dict(reversed(costs.items())), count) == groups
    loads = [sum(costs[name] for name in group) for group in groups]
    bound = max(sum(costs.values()) / len(groups), max(costs.values()))
    assert max(loads) <= 2 * bound  # list scheduling; longest-first does better, 4/3 of the optimum
    for group in groups:
        assert [costs[name] for name in group] == sorted((costs[name] for name in group), reverse=True)


def test_a_dataset_of_real_proportions_is_balanced() -> None:
    import numpy as np

    lengths = np.random.default_rng(0).lognormal(8, 1, 1900)
    groups = balanced({f"v{i}": float(n) for i, n in enumerate(lengths)}, 64)
    loads = [sum(lengths[int(name[1:])] for name in group) for group in groups]
    assert max(loads) / (lengths.sum() / 64) < 1.01  # contiguous pieces reach 1.5 to 1.8


def test_a_video_that_cannot_finish_in_time_is_refused_with_its_numbers() -> None:
    found = divide({"short": 1000.0, "long": 100_000.0}, shards=2, frames_per_s=20.0, limit_s=3600.0)
    assert [part.videos for part in found.parts] == [("short",)]
    assert found.parts[0].seconds == 30 + 1000 / 20
    assert found.refused == {"long": "100000 frames take 84 min at 20 frames/s, the time limit is 60 min"}
    assert divide({"long": 1e9}, shards=2).refused == {}  # without a rate nobody knows


def test_videos_without_a_file_are_left_to_the_last_task() -> None:
    found = divide({"a": 2.0, "b": 1.0}, shards=2, missing=("gone",))
    assert [part.videos for part in found.parts] == [("a",), ("b", "gone")]
    assert [part.videos for part in divide({}, shards=2, missing=("gone",)).parts] == [("gone",)]


def test_lengths_come_from_lists_containers_and_sizes(tmp_path: Path) -> None:
    real = write_noise(tmp_path / "a.mp4", n_frames=30)
    (tmp_path / "b.mp4").write_bytes(real.read_bytes()[: real.stat().st_size // 2])  # unreadable, half as large
    videos = [
        Video("listed", tmp_path / "x.mp4", "train", ("normal",), n_frames=77),
        Video("a", real, "train", ("normal",)),
        Video("b", tmp_path / "b.mp4", "train", ("normal",)),
    ]
    sizes = {"a": real.stat().st_size, "b": real.stat().st_size // 2}
    found = measured_lengths(videos[1:], sizes)
    assert found["a"] == pytest.approx(30, abs=1) and found["b"] == pytest.approx(15, abs=1)
    assert measured_lengths(videos[:1], {}) == {"listed": 77.0}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1"}, 2),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0"}, 3),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_STEP": "2"}, 2),
        ({"PBS_ARRAYID": "0"}, 0),
        ({"PBS_ARRAY_INDEX": "4"}, 0),  # 1 to 4
        ({"PBS_ARRAY_INDEX": "1"}, 1),
        ({"SGE_TASK_ID": "2", "SGE_TASK_FIRST": "1", "SGE_TASK_STEPSIZE": "1"}, 1),
        ({"SGE_TASK_ID": "undefined", "LSB_JOBINDEX": "4"}, 0),
        ({"LSB_JOBINDEX": "2"}, 2),
    ],
)
def test_array_variables_of_schedulers(environment: dict[str, str], expected: int) -> None:
    assert shard_index(4, None, environment) == expected


@pytest.mark.parametrize("numbers", [range(4), range(1, 5)])
def test_arrays_from_0_and_from_1_cover_every_shard_once(numbers: range) -> None:
    assert sorted(shard_index(4, None, {"PBS_ARRAYID": str(n)}) for n in numbers) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((4, None, {}), "no array variable"),
        ((4, None, {"LSB_JOBINDEX": "0"}), "no array variable"),
        ((4, None, {"PBS_ARRAYID": "7"}), "PBS_ARRAYID=7 does not fit"),
        ((4, 4, {}), "--shard-id 4: 0 to 3"),
        ((0, None, {}), "at least 1"),
    ],
)
def test_numbers_that_do_not_fit(arguments: Any, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        shard_index(*arguments)


def test_shards_by_size_are_the_same_in_every_task_and_leave_nothing_out() -> None:
    sizes = {f"v{i}": 1000 * (i % 7) + i for i in range(23)}
    parts = [by_size(sizes, num_shards=5, index=index) for index in range(5)]
    assert sorted(name for part in parts for name in part) == sorted(sizes)
    assert by_size(sizes, num_shards=40, index=39) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90m", 90),
        ("4h", 240),
        ("1.5h", 90),
        ("2d", 2880),
        ("1:30:00", 90),
        ("1:30:20", 91),
        ("30:00", 30),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-00:00:00", 1440),
    ],
)
def test_time_limits(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "soon", "4 h", "-3", "infinite"])
def test_time_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="no time limit"):
        minutes(text)


def test_default_shards() -> None:
    assert plan.default_shards(1000, at_once=4) == 16
    assert plan.default_shards(3) == 3 and plan.default_shards(0) == 1
