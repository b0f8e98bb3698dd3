"""RefineVAD's transfer: a training that starts from another run's CORE, end to end on stored features."""

from __future__ import annotations

import pytest
import torch
import yaml

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.train import TrainRequest, plan, run
from pipelines.training.checkpoint import load_run
from tests import toy

SMALL = ("steps=2", "width=8", "motar.layers=1", "motar.heads=2", "data.batch_normal=2", "data.batch_abnormal=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The toy, and a second dataset whose classes are the toy's under other names."""
    made = toy.make(tmp_path_factory.mktemp("transfer"), train=8, val=2, test=2)
    document = yaml.safe_load(made.manifest.read_text())
    document["datasets"]["other"] = document["datasets"]["toy"] | {
        "classes": ["normal", "blaze", "fight"],
        "class_aliases": {"fire": "blaze"},
    }
    made.manifest.write_text(yaml.safe_dump(document))
    (made.cache / "features" / "other").symlink_to(made.cache / "features" / "toy")
    return made


@pytest.fixture(scope="module")
def source(place):
    return run(request(place, dataset="toy")).runs[0].folder


def request(place: toy.Toy, **values) -> TrainRequest:
    given = {"method": "refine-vad", "dataset": "other", "sets": SMALL, "device": "cpu", "cache_dir": place.cache}
    return TrainRequest(manifest=place.manifest, runs_dir=place.runs, **{**given, **values})


def test_the_core_is_taken_over_frozen_and_cited(place, source):
    sets = (*SMALL, f"init_core={source}", "core.freeze=true", "core.class_map={blaze: fire, fight: fight}")
    folder = run(request(place, sets=sets)).runs[0].folder
    made, theirs = artifacts.read(folder), load_run(source)
    assert made.recipe["started_from"] == theirs.artifact.id == made.inputs["run:core"]
    loaded = load_run(folder)
    assert loaded.config.init_core == theirs.artifact.id
    assert loaded.method.categories == ("fire", "fight") and loaded.classes == ("normal", "blaze", "fight")
    assert torch.equal(loaded.method.core.prototypes, theirs.method.core.prototypes)
    assert torch.equal(loaded.method.core.category.weight, theirs.method.core.category.weight)
    assert loaded.method.to_category.tolist() == [[0, 0], [1, 0], [0, 1]]


def test_without_freezing_the_prototypes_move(place, source):
    sets = (*SMALL, f"init_core={source}", "optim.lr=0.01", "core.class_map={blaze: fire}")
    loaded = load_run(run(request(place, sets=sets)).runs[0].folder)
    assert not torch.equal(loaded.method.core.prototypes, load_run(source).method.core.prototypes)


def test_a_saved_config_names_the_same_source(place, source):
    first = run(request(place, sets=(*SMALL, f"init_core={source}"))).runs[0]
    again = plan(request(place, sets=(), config=first.folder / "config.yaml"))
    assert again.members[0].id == first.id and again.done == (True,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("width=16", "has width=8"),
        ("core.attend=swap", "core.attend=broadcast"),
        ("core.class_map={blaze: flood}", "'blaze' -> 'flood'"),
        ("core.class_map={smoke: fire}", "'smoke' -> 'fire'"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_before_any_step(place, source, change, says):
    with pytest.raises(UsageError, match=says):
        plan(request(place, sets=(*SMALL, f"init_core={source}", change)))


def test_a_run_of_another_method_and_a_missing_run_are_refused(place, source):
    other = run(request(place, dataset="toy", method="mil-rank", sets=("steps=1",))).runs[0].folder
    with pytest.raises(UsageError, match="not a refine-vad run with a CORE"):
        plan(request(place, sets=(*SMALL, f"init_core={other}")))
    with pytest.raises(MissingArtifactError, match="no run matches 'nothing'"):
        plan(request(place, sets=(*SMALL, "init_core=nothing")))
