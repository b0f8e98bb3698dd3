"""Smoothing and min-max."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipelines.errors import UsageError
from pipelines.scoring.smooth import GrowingLine, Smooth, kernel, minmax, parse_smooth, reach, smooth


@pytest.mark.parametrize(("edge", "mode"), [("reflect", "reflect"), ("nearest", "nearest"), ("zero", "constant")])
@pytest.mark.parametrize("n", [5, 40, 200])
def test_gaussian_is_scipys_with_four_sigma(edge, mode, n):
    line = np.random.default_rng(n).random(n)
    expected = ndimage.gaussian_filter1d(line, 3.0, mode=mode, truncate=4.0)
    assert smooth(line, Smooth("gaussian", 3.0, edge)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [3, 7])
def test_mean_and_median_are_scipys(width):
    line = np.random.default_rng(0).random(50)
    assert smooth(line, Smooth("mean", width)) == pytest.approx(ndimage.uniform_filter1d(line, width, mode="reflect"))
    assert smooth(line, Smooth("median", width)) == pytest.approx(ndimage.median_filter(line, width, mode="reflect"))


def test_renormalise_leaves_out_what_is_outside():
    assert smooth(np.array([0.0, 3.0, 6.0]), Smooth("mean", 3, "renormalise")) == pytest.approx([1.5, 3.0, 4.5])
    assert smooth(np.array([5.0, 1.0, 9.0]), Smooth("median", 3, "renormalise")) == pytest.approx([3.0, 5.0, 5.0])


@pytest.mark.parametrize("edge", ["reflect", "nearest", "renormalise"])
@pytest.mark.parametrize("kind", ["gaussian", "mean", "median"])
def test_a_constant_stays_exactly_constant(kind, edge):
    assert len(np.unique(smooth(np.full(200, 0.1), Smooth(kind, 17, edge)))) == 1


def test_zero_padding_draws_a_hill_on_a_constant():
    hill = smooth(np.ones(100), Smooth("gaussian", 8.0, "zero"))
    assert hill[0] < 0.6 < hill[50]


def test_published_kernel_is_early_by_one_tap_and_sums_below_one():
    taps = kernel(Smooth("gaussian", 282.0, "zero", taps=899))
    assert len(taps) == 899
    assert int(np.argmax(taps)) == 899 // 2 - 1
    assert 0.85 < taps.sum() < 0.9
    assert kernel(Smooth("gaussian", 20.0, "zero", taps=49)).sum() == pytest.approx(0.78, abs=0.005)


def test_minmax_scales_and_zeroes_what_counts_as_constant():
    assert minmax(np.array([2.0, 4.0, 3.0]))[0].tolist() == [0.0, 1.0, 0.5]
    assert minmax(np.array([5.0, 5.0 + 1e-9]))[1]
    assert minmax(np.array([5.0, 5.0]))[0].tolist() == [0.0, 0.0]
    assert not minmax(np.array([0.0, 1e-8]))[1]


def test_parse_reads_kind_width_and_edge():
    assert parse_smooth("gaussian:3") == Smooth("gaussian", 3.0, "reflect")
    assert parse_smooth("mean:7:nearest") == Smooth("mean", 7.0, "nearest")
    assert parse_smooth("none") == Smooth()
    assert str(parse_smooth("median:17")) == "median:17:reflect"


@pytest.mark.parametrize(
    "text",
    ["gausian:3", "gaussian", "mean:2.5", "gaussian:0", "mean:x", "median:3:mirror", "none:3", "", "gaussian:nan"],
)
def test_parse_refuses_what_it_does_not_know(text):
    with pytest.raises(UsageError):
        parse_smooth(text)


@pytest.mark.parametrize(
    "text",
    ["none", "gaussian:3", "gaussian:0.4:nearest", "mean:4", "mean:7:renormalise", "median:5", "gaussian:9:zero"],
)
@pytest.mark.parametrize("pieces", [(1,) * 60, (8,) * 8, (50, 3, 1, 10), (2,)])
def test_a_growing_line_settles_to_what_the_whole_line_gives(text, pieces):
    rng = np.random.default_rng(0)
    line, how = rng.normal(size=sum(pieces)), parse_smooth(text)
    growing, found, at = GrowingLine(how), [], 0
    for size in pieces:
        found.append(growing.push(line[at : at + size]))
        at += size
        assert sum(map(len, found)) == max(0, at - reach(how))
    found.append(growing.finish())
    np.testing.assert_allclose(np.concatenate(found), smooth(line, how), rtol=1e-9, atol=1e-12)
