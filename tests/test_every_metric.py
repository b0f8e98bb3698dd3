"""What every metric family passes by existing."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import catalog
from pipelines.metrics._base import Measure, MetricOptions, UndefinedMetricError
from pipelines.scoring.measures import ALL, definition, measure, metric_names
from tests.metrics.build import given

FAMILIES = sorted(catalog.entries("metrics"))


def sample(order=(0, 1, 2, 3)):
    """Four videos with everything a metric may ask for except maps and boxes."""
    rng = np.random.default_rng(5)
    labels = [np.arange(64) // 16 == 1, np.arange(80) // 16 == 3, np.zeros(48, bool), np.zeros(64, bool)]
    scores = [np.clip(0.3 * rng.random(len(y)) + 0.5 * y, 0, 1) for y in labels]
    tables = [np.stack([1 - s, s, 0.3 * rng.random(len(s))], axis=1) for s in scores]
    events = [[(16, 32, "a")], [(48, 64, "b")], [], []]
    pick = list(order)
    return given(
        [scores[i] for i in pick],
        [labels[i] for i in pick],
        events=[events[i] for i in pick],
        classes=("Normal", "a", "b"),
        class_scores=[tables[i] for i in pick],
        fps=[10.0] * 4,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_states_name_summary_metrics_and_a_definition_for_each(family):
    module = catalog.load("metrics", family)
    assert family == module.NAME
    assert module.SUMMARY
    assert set(module.DEFINITIONS) == set(module.METRICS)


def test_no_name_is_answered_twice_and_all_is_made_of_known_names():
    stated = [n for f in FAMILIES for n in catalog.load("metrics", f).METRICS]
    assert len(stated) == len(set(stated))
    assert set(ALL["weak"]) | set(ALL["one-class"]) <= set(metric_names())


@pytest.mark.parametrize("name", metric_names())
def test_gives_a_fraction_with_its_definition_or_a_reason(name):
    try:
        found = measure(name, sample(), MetricOptions(threshold=0.5))
    except UndefinedMetricError as error:
        assert error.message
        assert name in ("pixel-auc", "rbdc", "tbdc")
        return
    assert isinstance(found, Measure)
    assert 0 <= found.value <= 1
    assert found.definition == definition(name)


@pytest.mark.parametrize("name", [n for n in metric_names() if n not in ("pixel-auc", "rbdc", "tbdc")])
def test_the_order_of_videos_changes_nothing(name):
    options = MetricOptions(threshold=0.5)
    assert measure(name, sample(), options).value == pytest.approx(
        measure(name, sample((2, 0, 3, 1)), options).value, abs=1e-12
    )
