"""Configurations are merged leaf by leaf: what a layer does not say keeps the value of the layer below it."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from pipelines import catalog
from pipelines.errors import UsageError
from pipelines.recipe import Config, parse_assignments, read_config_file, resolve


class Optim(Config):
    name: str = "adam"
    lr: float = 0.1
    milestones: tuple[int, ...] = ()


class Whole(Config):
    steps: int = 10
    optim: Optim = Optim(name="adamw", lr=0.2)
    words: dict[str, str] = Field(default_factory=dict)


def test_a_nested_value_keeps_its_neighbours_from_the_default():
    config, origin = resolve(Whole, [("--set", parse_assignments(["optim.lr=0.5"]))])
    assert config.optim == Optim(name="adamw", lr=0.5)
    assert origin == {
        "optim.lr": "--set",
        "optim.name": "default",
        "optim.milestones": "default",
        "steps": "default",
        "words": "default",
    }


def test_later_layers_win_leaf_by_leaf():
    layers = [("preset", {"optim": {"lr": 0.3, "milestones": (1, 2)}}), ("--set", {"optim": {"lr": 0.4}})]
    config, origin = resolve(Whole, layers)
    assert config.optim == Optim(name="adamw", lr=0.4, milestones=(1, 2))
    assert (origin["optim.lr"], origin["optim.milestones"]) == ("--set", "preset")


def test_a_saved_config_comes_back_as_it_was():
    config, _ = resolve(Whole, [("preset", {"optim": {"name": "sgd"}, "words": {"a": "b"}})])
    assert resolve(Whole, [("file", config.model_dump(mode="json"))])[0] == config


class Switches(Config):
    mode: Literal["off", "soft", "no"] = "soft"
    flag: bool = False


@pytest.mark.parametrize(("text", "mode"), [("off", "off"), ("no", "no"), ("'off'", "off")])
def test_off_is_a_word_and_a_boolean_still_takes_it(text, mode, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"mode: {text}\nflag: on\n")
    for layer in (parse_assignments([f"mode={text}", "flag=on"]), read_config_file(path)):
        config, _ = resolve(Switches, [("given", layer)])
        assert (config.mode, config.flag) == (mode, True)
    assert resolve(Switches, [("given", parse_assignments(["flag=true"]))])[0].flag is True


def test_a_config_file_builds_no_objects(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("mode: !!python/object/apply:os.system ['touch pwned']\n")
    with pytest.raises(UsageError, match="cannot read the config"):
        read_config_file(path)


def test_a_nested_config_that_is_no_mapping_is_refused():
    with pytest.raises(UsageError, match=r"optim = 3 from --set"):
        resolve(Whole, [("--set", {"optim": 3})])


FEATURES = [name for name, entry in catalog.entries("methods").items() if entry.facts.get("KIND") == "features"]


@pytest.mark.parametrize("name", sorted(FEATURES))
def test_presets_and_sets_never_drop_a_methods_own_data_and_optimiser(name):
    module = catalog.load("methods", name)
    plain = module.Config()
    config, _ = resolve(module.Config, [("--set", parse_assignments(["optim.lr=0.123", "data.batch=7"]))])
    assert config.optim == plain.optim.model_copy(update={"lr": 0.123})
    assert config.data == plain.data.model_copy(update={"batch": 7})
    for preset, values in module.PRESETS.items():
        said = values.get("data", {})
        data = resolve(module.Config, [(preset, values)])[0].data
        assert all(getattr(data, key) == getattr(plain.data, key) for key in type(data).model_fields if key not in said)
