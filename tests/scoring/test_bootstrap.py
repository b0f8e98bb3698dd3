"""Resampling of videos: reproducible, stratified, and equal to evaluating copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as cases
from hypothesis import settings
from hypothesis import strategies as st

from pipelines.errors import VerificationError
from pipelines.metrics import frame
from pipelines.metrics._base import MetricOptions
from pipelines.scoring.block import EvalOptions, compare_scores, evaluate_scores
from pipelines.scoring.bootstrap import Ranking, interval, multiplicities, paired, ranking, samples
from pipelines.scoring.measures import measure
from tests.metrics.build import given
from tests.scoring.build import evaluation


def test_draws_are_reproducible_and_keep_each_stratum_size():
    abnormal = np.array([True] * 3 + [False] * 5)
    drawn = multiplicities(abnormal, rounds=40, seed=7)
    assert np.array_equal(drawn, multiplicities(abnormal, rounds=40, seed=7))
    assert not np.array_equal(drawn, multiplicities(abnormal, rounds=40, seed=8))
    assert (drawn[:, :3].sum(axis=1) == 3).all()
    assert (drawn[:, 3:].sum(axis=1) == 5).all()


@settings(max_examples=120, deadline=None, derandomize=True)
@cases(st.integers(0, 10**6), st.sampled_from([2, 5, 1000]))
def test_weights_equal_copies_of_videos(seed, levels):
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, levels, int(rng.integers(3, 20))) / levels for _ in range(5)]
    labels = [rng.random(len(s)) < 0.4 for s in scores]
    labels[0][0], labels[1][0] = True, False
    weights = rng.integers(0, 3, 5)
    weights[:2] = np.maximum(weights[:2], 1)
    ranked = ranking(scores, labels)
    copies = np.repeat(np.arange(5), weights)
    plain = frame.curve(np.concatenate([scores[i] for i in copies]), np.concatenate([labels[i] for i in copies]))
    assert ranked.auc(weights) == pytest.approx(plain.auc(), abs=1e-12)
    assert ranked.ap_step(weights) == pytest.approx(plain.ap_step(), abs=1e-12)
    assert ranked.ap_trapezoid(weights) == pytest.approx(plain.ap_trapezoid(), abs=1e-12)


def toy(seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    labels = {f"a{i}": np.arange(64) // 16 == i % 3 for i in range(8)} | {f"n{i}": np.zeros(48, bool) for i in range(8)}
    return evaluation(labels, {v: y + noise * rng.standard_normal(len(y)) for v, y in labels.items()})


@pytest.mark.parametrize(
    "name",
    [
        "auc",
        "ap",
        "ap-trapezoid",
        "ano-auc",
        "ano-ap",
        "auc-minmax",
        "macro-auc",
        "macro-auc-pad",
        "video-auc",
        "video-ap",
        "video-acc",
    ],
)
def test_all_ones_give_the_metric_itself(name):
    rng = np.random.default_rng(2)
    labels = [np.arange(30) // 10 == 1, np.arange(20) // 10 == 0, np.zeros(25, bool)]
    data = given([np.round(rng.random(len(y)) + 0.4 * y, 1) for y in labels], labels)
    options = MetricOptions(threshold=1.0)
    drawn = samples(name, data, options, np.ones((1, 3), dtype=np.int64))
    assert drawn[0] == pytest.approx(measure(name, data, options).value, abs=1e-12)


def test_a_block_repeats_from_its_seed_and_holds_the_value():
    options = EvalOptions(rounds=200, seed=3, floors="none")
    one, other = (evaluate_scores(toy(), ["auc", "ap", "video-auc"], options).metrics for _ in range(2))
    assert one == other
    low, high = one["auc"]["ci"]
    assert low < one["auc"]["value"] < high
    assert evaluate_scores(toy(), ["auc"], EvalOptions(rounds=200, seed=4, floors="none")).metrics["auc"]["ci"] != [
        low,
        high,
    ]


def test_interval_is_the_percentile_of_the_defined_rounds():
    assert interval(np.append(np.arange(1001) / 1000, np.nan)) == pytest.approx([0.025, 0.975])
    assert interval(np.array([np.nan])) is None


def test_paired_differences_use_the_same_resamples():
    first = np.array([0.5, 0.6, 0.7, 0.8])
    assert paired(first, first - 0.1)["ci"] == pytest.approx([0.1, 0.1])
    assert paired(first, first - 0.1)["share_above_0"] == 1.0


def test_comparing_a_file_with_itself_gives_zero_and_a_better_one_wins():
    options = EvalOptions(rounds=200)
    same = compare_scores(toy(), toy(), ["auc"], options)["auc"]
    assert (same["difference"], same["ci"], same["share_above_0"]) == (0.0, [0.0, 0.0], 0.0)
    better = compare_scores(toy(noise=0.2), toy(noise=2.0), ["auc", "video-auc"], options)["auc"]
    assert better["ci"][0] > 0
    assert better["share_above_0"] == 1.0


def test_comparing_needs_the_same_videos_and_the_same_truth_in_any_order():
    one, other = toy(1), toy(2)
    turned = type(other)(other.frames[::-1], other.truths[::-1], other.classes)
    assert compare_scores(one, turned, ["auc"], EvalOptions(rounds=20)) == compare_scores(
        one, other, ["auc"], EvalOptions(rounds=20)
    )
    fewer = type(other)(other.frames[1:], other.truths[1:], other.classes)
    with pytest.raises(VerificationError, match="'a0'"):
        compare_scores(one, fewer, ["auc"], EvalOptions(rounds=20))


def test_ranking_collapses_ties_within_a_video():
    ranked = ranking([np.repeat([0.1, 0.2], 16)], [np.repeat([False, True], 16)])
    assert isinstance(ranked, Ranking)
    assert (ranked.negative_count.tolist(), ranked.positive_count.tolist()) == ([16], [16])
