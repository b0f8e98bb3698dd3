"""Totals beside the known ones: a difference is named by its convention or its length rule."""

from __future__ import annotations

import pytest

from pipelines.data.manifest import load, packaged_path
from pipelines.data.totals import KNOWN, REAL, compare, known_totals


def ucf(frames: int, positives: int, truth: str = "half_open", videos: int = 290) -> str:
    found = compare(
        "ucf-crime", split="default", part="test", truth=truth, videos=videos, frames=frames, positives=positives
    )
    assert found is not None
    return ("as known: " if found.agrees else "differs: ") + found.message


def test_twelve_positive_counts_and_four_totals_are_known_for_ucf() -> None:
    rows = known_totals("ucf-crime")
    assert len(rows) == 12 and len({row.positives for row in rows}) == 12
    assert {row.frames for row in rows} == {1_111_808, 1_109_824, 1_109_680, 1_114_144}


def test_a_known_total_is_named_with_its_rule() -> None:
    assert ucf(1_109_680, 84_128).startswith("as known: ") and "Wu et al." in ucf(1_109_680, 84_128)
    assert ucf(1_114_144, 84_343, "inclusive").startswith("as known: ")


def test_another_conventions_positives_are_named() -> None:
    assert "these are the positives of 'inclusive', not of 'half_open' (decoded lengths)" in ucf(1_111_808, 84_331)


def test_positives_of_no_convention_are_flagged() -> None:
    assert "84,182 positive are known under half_open" in ucf(1_111_808, 84_000)
    assert "84,343 positive are known under inclusive" in ucf(1_114_144, 52_844, "inclusive"), "MGFN's half-empty file"


def test_files_that_are_not_the_dataset_are_flagged_by_their_total() -> None:
    assert "75,680 frames" in ucf(75_680, 3_000) and "no known total; the nearest is" in ucf(75_680, 3_000)
    assert "in 5 of 290 videos" in ucf(20_000, 2_000, videos=5), "CMSIL's list of 50 rows is five videos"


def test_avenues_two_truths_are_told_apart() -> None:
    found = compare("avenue", split="default", part="test", truth="pixel", videos=21, frames=15_324, positives=3_867)
    assert found is not None and not found.agrees and "positives of 'interval'" in found.message


def test_a_dataset_without_known_totals_has_no_comparison() -> None:
    assert compare("mine", split="default", part="test", truth="frames", videos=1, frames=2, positives=1) is None


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_totals_speak_of_splits_and_truths_that_exist(name: str) -> None:
    dataset = load(packaged_path()).dataset(name)
    for row in known_totals(name) + known_totals(name, part="val"):
        assert row.split in dataset.splits and row.truth in dataset.truths
        expected = dataset.expected(row.split, row.part)
        assert expected is not None and expected.videos == row.videos
        if row.lengths == REAL and expected.frames is not None:
            assert row.frames == expected.frames
