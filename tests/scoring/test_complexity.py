"""Cost of a method: the reference's counts, operations by hand, and every method of the catalog."""

from __future__ import annotations

import json

import pytest

from pipelines import catalog
from pipelines.errors import UsageError
from pipelines.methods import mil_rank
from pipelines.recipe import resolve
from pipelines.scoring import complexity
from tests.toybags import tiny_config
from vadcli.app import run as vad

METHODS = sorted(name for name, entry in catalog.entries("methods").items() if entry.facts.get("KIND") == "features")


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(complexity, "MEASURE_S", 0.0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_cost(name):
    module = catalog.load("methods", name)
    config, _ = resolve(module.Config, [("test", tiny_config(module))])
    if name == "attributes":
        with pytest.raises(UsageError, match="reads regions"):
            complexity.measure(module, config, clips=12, classes=3)
        return
    features = "motion" if name == "motion-scalar" else "effnet:lite0+motion"
    found = complexity.measure(module, config, features=features, clips=12, classes=3)
    assert found.clips_per_s > 0 and found.flops == 2 * found.macs
    assert found.macs > 0 or found.parameters == 0  # neighbours and mixtures compare without parameters


def test_operations_grow_with_clips_and_those_of_linear_layers_by_hand():
    config = mil_rank.Config()
    one, two = (complexity.measure(mil_rank, config, features="clip:vit-b-16", clips=n) for n in (10, 20))
    assert two.macs == 2 * one.macs
    weights = sum(
        p.numel()
        for p in mil_rank.build(config, complexity.shape_of("clip:vit-b-16", 14), None).parameters()
        if p.dim() == 2
    )
    assert one.macs == 10 * weights


def test_the_published_parameter_counts_come_out_of_the_command(capsys):
    assert vad(["methods", "show", "rtfm", "--complexity", "--clips", "8", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["complexity"]
    assert answer["parameters"] == 24_718_849 and answer["dim"] == 2048 and answer["device"] == "cpu"


def test_an_unknown_encoder_is_refused():
    with pytest.raises(UsageError, match="unknown encoder"):
        complexity.measure(mil_rank, mil_rank.Config(), features="nothing")
