"""Floors and presets: the tables of measured floors, on the shared label files; toys without them."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import UsageError
from pipelines.metrics.frame import padded_auc
from pipelines.records import Event
from pipelines.scoring.block import EvalOptions, evaluate_scores, floors_alone
from pipelines.scoring.floors import floor_scores
from pipelines.scoring.presets import PRESETS, ClipFilter, PostProcess, post_process
from pipelines.scoring.smooth import Smooth, smooth
from tests.scoring.build import evaluation, shared_labels

FILTERS = {"37/11": (37, 11.0), "301/21": (301, 21.0), "899/282": (899, 282.0)}
CONSTANT = {  # micro raw, micro min-max, macro with padded raw scores: one row a filter
    "ped2": [(0.590, 0.590, 0.811), (0.644, 0.650, 0.867), (0.475, 0.673, 0.867)],
    "avenue-interval": [(0.518, 0.518, 0.591), (0.488, 0.490, 0.609), (0.511, 0.634, 0.650)],
    "avenue-pixel": [(0.496, 0.496, 0.584), (0.470, 0.473, 0.614), (0.490, 0.625, 0.660)],
    "shanghaitech": [(0.560, 0.560, 0.603), (0.702, 0.703, 0.836), (0.503, 0.770, 0.838)],
}
KNOWN_TOTALS = {
    "ped2": (2010, 1648),
    "avenue-interval": (15324, 3867),
    "avenue-pixel": (15324, 3712),
    "shanghaitech": (40791, 17326),
    "ucf": (1109680, 84128),
    "xd": (2330384, 537805),
}
WEAK = {  # auc, ap, ano-auc or ano-ap
    "ucf": {
        "constant": (0.500, 0.076, 0.500),
        "random": (0.500, 0.076, 0.500),
        "centre": (0.618, 0.100, 0.634),
        "length": (0.652, 0.104, 0.573),
        "video-oracle": (0.816, 0.182, 0.500),
        "oracle-centre": (0.865, 0.240, 0.634),
    },
    "xd": {
        "constant": (0.500, 0.231, 0.499),
        "random": (0.500, 0.231, 0.499),
        "centre": (0.545, 0.251, 0.542),
        "length": (0.590, 0.287, 0.438),
        "video-oracle": (0.849, 0.499, 0.499),
        "oracle-centre": (0.870, 0.542, 0.542),
    },
}


@pytest.mark.parametrize("dataset", CONSTANT)
@pytest.mark.parametrize("place", range(3))
def test_constant_score_through_zero_padded_filters(shared, dataset, place):
    labels = shared_labels(shared, dataset)
    taps, sigma = list(FILTERS.values())[place]
    how = Smooth("gaussian", sigma, "zero", taps)
    options = EvalOptions(smooth=how, rounds=0, floors="none")
    block = evaluate_scores(evaluation(labels, kind="one-class"), ["auc", "auc-minmax"], options)
    assert (block.counts["frames"], block.counts["positives"]) == KNOWN_TOTALS[dataset]
    raw, scaled, padded = CONSTANT[dataset][place]
    assert block.metrics["auc"]["value"] == pytest.approx(raw, abs=6e-4)
    assert block.metrics["auc-minmax"]["value"] == pytest.approx(scaled, abs=6e-4)
    macro = np.mean([padded_auc(smooth(np.ones(len(y)), how), y) for y in labels.values()])
    assert macro == pytest.approx(padded, abs=6e-4)


def test_constant_through_the_aed_mae_preset_on_shanghaitech(shared):
    data = evaluation(shared_labels(shared, "shanghaitech"), kind="one-class")
    block = evaluate_scores(data, ["auc", "macro-auc-pad"], EvalOptions(preset="aed-mae-shanghai", rounds=0))
    assert block.metrics["auc"]["value"] == pytest.approx(0.770, abs=6e-4)
    assert block.metrics["macro-auc-pad"]["value"] == pytest.approx(0.838, abs=1e-3)
    assert block.metrics["auc"]["floor"]["random"] == pytest.approx(0.769, abs=1.5e-3)
    assert block.metrics["auc"]["floor"]["centre"] == pytest.approx(0.770, abs=6e-3)
    assert any("floor 'constant'" in w for w in block.warnings) or block.metrics["auc"]["ci"] is None


@pytest.mark.parametrize(
    ("dataset", "expected"), [("ped2", 0.689), ("avenue-pixel", 0.555), ("avenue-interval", 0.508)]
)
def test_random_scores_gain_from_padding(shared, dataset, expected):
    data = evaluation(shared_labels(shared, dataset), kind="one-class")
    found = floors_alone(data, ["macro-auc-pad", "macro-auc"]).floors
    assert found["macro-auc-pad"]["random"] == pytest.approx(expected, abs=8e-3)
    assert found["macro-auc"]["random"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("dataset", WEAK)
def test_weakly_supervised_floors(shared, dataset):
    third = "ano-auc" if dataset == "ucf" else "ano-ap"
    block = floors_alone(evaluation(shared_labels(shared, dataset)), ["auc", "ap", third], EvalOptions(floor_seeds=2))
    assert (block.counts["frames"], block.counts["positives"]) == KNOWN_TOTALS[dataset]
    for floor, expected in WEAK[dataset].items():
        found = tuple(block.floors[m][floor] for m in ("auc", "ap", third))
        assert found == pytest.approx(expected, abs=1.1e-3), floor


def toy():
    labels = {f"v{i}": np.arange(60 + 10 * i) // 10 == 2 + i for i in range(4)} | {"n": np.zeros(80, bool)}
    return evaluation(labels)


@pytest.mark.parametrize("smoothing", [Smooth(), Smooth("gaussian", 5.0), Smooth("mean", 9)])
@pytest.mark.parametrize("normalise", ["none", "minmax"])
def test_a_constant_is_exactly_one_half_through_reflect_and_minmax(smoothing, normalise):
    found = floors_alone(toy(), ["auc", "ano-auc"], EvalOptions(smooth=smoothing, normalise=normalise)).floors
    assert found["auc"]["constant"] == 0.5
    assert found["ano-auc"]["constant"] == 0.5


def test_the_oracle_knows_videos_and_nothing_inside_them():
    found = floors_alone(toy(), ["auc", "ano-auc", "video-auc"]).floors
    assert found["video-auc"]["video-oracle"] == 1.0
    assert found["ano-auc"]["video-oracle"] == 0.5
    assert found["auc"]["video-oracle"] > 0.5


def test_random_floors_depend_on_video_and_seed_not_on_order():
    assert np.array_equal(floor_scores("random", "a", 9, abnormal=False), floor_scores("random", "a", 9, abnormal=True))
    assert not np.array_equal(
        floor_scores("random", "a", 9, abnormal=False), floor_scores("random", "b", 9, abnormal=False)
    )
    assert floor_scores("centre", "a", 5, abnormal=False) == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2])


def test_snippet_filters_look_ahead_or_average_blocks_with_zeros_beyond_the_end():
    frames = np.repeat([3.0, 6.0, 9.0], 16)
    slide = PostProcess(length="floor16", clip_filter=ClipFilter("slide", 3)).scores(frames)[0]
    assert slide[::16] == pytest.approx([6.0, 5.0, 3.0])
    block = PostProcess(length="floor16", clip_filter=ClipFilter("block", 2)).scores(np.append(frames, [9.0] * 5))[0]
    assert block[::16] == pytest.approx([4.5, 4.5, 4.5])
    assert len(block) == 48


def test_presets_choose_their_lengths():
    labels = {"a": np.arange(40) >= 30, "b": np.zeros(32, bool)}
    scores = {"a": np.arange(40.0), "b": np.zeros(32)}
    frames = {
        name: evaluate_scores(
            evaluation(labels, scores), ["auc"], EvalOptions(preset=name, rounds=0, floors="none")
        ).counts
        for name in ("vadclip", "rtfm")
    }
    assert (frames["vadclip"]["frames"], frames["vadclip"]["positives"]) == (64, 2)
    assert (frames["rtfm"]["frames"], frames["rtfm"]["positives"]) == (
        80,
        10,
    )  # no event past the end: padding is normal


def test_padding_is_labelled_by_the_annotation_or_held_where_the_published_file_does():
    labels, past = np.arange(40) >= 30, [Event(30, 43, "abnormal")]  # 40 frames, rounded up to 48
    annotated, held = post_process("rtfm", "ucf-crime"), post_process("rtfm", "shanghaitech")
    assert np.flatnonzero(annotated.labels(labels, past)).tolist() == list(range(30, 43))
    assert np.flatnonzero(held.labels(labels, past)).tolist() == list(range(30, 48))


def test_presets_that_do_not_run_say_so():
    with pytest.raises(UsageError, match="row of the table"):
        post_process("hf2vad", "ped2")
    with pytest.raises(UsageError, match="did you mean 'vadclip'"):
        post_process("vadclp", "ucf-crime")
    with pytest.raises(UsageError, match="no filter for dataset 'ped2'"):
        post_process("pel4vad", "ped2")
    assert {n for n, p in PRESETS.items() if p.works} == {"vadclip", "rtfm", "pel4vad", "aed-mae-shanghai"}
