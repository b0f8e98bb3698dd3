"""What a user gets wrong ends with exit 2 or 4 and a message that names it, before any training step."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines import catalog
from pipelines.errors import UsageError
from pipelines.scoring.infer import score_store
from pipelines.store.features import find_stores
from pipelines.train import method_class
from pipelines.training.checkpoint import load_run
from tests import toy
from tests.toybags import flat, tiny_config
from vadcli.app import run as vad

METHODS = sorted(
    name
    for name, entry in catalog.entries("methods").items()
    if entry.facts.get("KIND") == "features" and method_class(catalog.load("methods", name)).supervision == "weak"
)
TEXTUAL = ("fine-vad", "vadclip", "dsanet")
BY_CLASS = (*TEXTUAL, "pel4vad", "refine-vad")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("bad"), train=8, val=2, test=4, crops=2)


@pytest.fixture
def place(shared, tmp_path):
    """The toy's lists, to be changed, over shared features."""
    shutil.copytree(shared.manifest.parent / "toy", tmp_path / "toy")
    shutil.copy(shared.manifest, tmp_path / "data_manifest.yaml")
    return replace(shared, manifest=tmp_path / "data_manifest.yaml", runs=tmp_path / "runs")


def options(place: toy.Toy) -> list[str]:
    return [
        f"--{k}={v}" for k, v in (("manifest", place.manifest), ("cache-dir", place.cache), ("runs-dir", place.runs))
    ]


def train(place: toy.Toy, method: str, *more: str) -> int:
    """Exit code of `vad train` with the test's tiny sizes for two steps."""
    values = flat(tiny_config(catalog.load("methods", method))) | {"steps": 2}
    values |= {"width": 128} if method in TEXTUAL else {}
    sets = [f"--set={k}={list(v) if isinstance(v, tuple) else v}" for k, v in values.items()]
    pseudo = ["--pseudo=latest"] if method == "afr" and any(place.runs.rglob("artifact.json")) else []
    return vad(["train", "toy", "--method", method, "--device=cpu", *pseudo, *sets, *options(place), *more])


def refused(place: toy.Toy, capsys, code: int, *words: str, also: tuple[int, ...] = ()) -> None:
    """Nothing was trained, and stderr has the words."""
    said = " ".join(capsys.readouterr().err.split())
    assert code in (2, 4, *also) and all(word in said for word in words), said
    assert not list(place.runs.rglob("train.csv")) and "Traceback" not in said


def relabel(place: toy.Toy, old: str, new: str) -> None:
    path = place.manifest.parent / "toy" / "train.txt"
    path.write_text(path.read_text().replace(f",{old}", f",{new}"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("old", "new"), [("fire", "normal"), ("normal", "fire")])
def test_a_list_of_one_kind(place, capsys, method, old, new):
    relabel(place, "fight", "fire")
    relabel(place, old, new)
    refused(place, capsys, train(place, method), "normal and abnormal videos", "vad data show")


@pytest.mark.parametrize("method", BY_CLASS)
def test_a_class_without_training_videos(place, capsys, method):
    relabel(place, "fight", "fire")
    refused(place, capsys, train(place, method), "none is labelled fight", "mil-rank needs normal and abnormal only")


@pytest.mark.parametrize("method", BY_CLASS)
def test_no_class_labels_at_all(place, capsys, method):
    for name in ("fire", "fight"):
        relabel(place, name, "abnormal")
    refused(place, capsys, train(place, method), "'abnormal' is no class", "train_01", also=(5,))  # the lists are wrong


@pytest.mark.parametrize("method", TEXTUAL)
@pytest.mark.parametrize(
    ("sets", "word"),
    [
        (("data.size=300",), "more than the 256 positions"),
        (("data.size=6", "top=1"), "below one attention window"),
        (("lgt.attn_window=80", "data.size=64"), "below one attention window"),
    ],
)
def test_lengths_below_a_window_or_above_the_positions(place, capsys, method, sets, word):
    given = [f"--set={one}" for one in sets if method == "fine-vad" or not one.startswith("top")]
    refused(place, capsys, train(place, method, *given), word, "--set")


def test_lengths_that_the_top_pooling_swallows(place, capsys):
    code = train(place, "fine-vad", "--set=data.size=16", "--set=top=16")
    refused(place, capsys, code, "top=16 is the whole of data.size=16", "--set top=0.1")


@pytest.mark.parametrize("method", METHODS)
def test_videos_of_one_clip_train_and_score(tmp_path, capsys, method):
    """Nothing to refuse: one clip is a video."""
    place = toy.make(tmp_path, train=8, val=2, test=4)
    shutil.rmtree(place.cache)
    rng = np.random.default_rng(0)
    toy.write_store(place.cache, "toy", {v: rng.normal(size=(1, 1, 16)) for p in place.ids.values() for v in p})
    if method == "afr":
        assert train(place, "mil-rank") == 0
    assert train(place, method) == 0, capsys.readouterr().err


@pytest.mark.parametrize("method", TEXTUAL)
def test_text_that_is_wider_than_the_network(place, capsys, method):
    code = train(place, method, "--set=width=32")
    refused(place, capsys, code, "text vectors of width 128 do not fit width=32", "--set width=128")


@pytest.mark.parametrize("method", TEXTUAL)
def test_an_over_long_prompt(place, capsys, method):
    text = yaml.safe_load(place.manifest.read_text())
    text["datasets"]["toy"]["phrases"] = {"fire": "a very " + "big " * 70 + "fire"}
    place.manifest.write_text(yaml.safe_dump(text))
    refused(place, capsys, train(place, method), "the prompt of class 'fire'", "73 words")


def test_pseudo_labels_that_were_not_given(place, capsys):
    refused(place, capsys, train(place, "afr"), "pseudo", "vad train")


def test_fewer_crops_than_trained_with(place, capsys, tmp_path):
    assert train(place, "rtfm", "--set=data.crops=inside") == 0
    other = tmp_path / "one-crop"
    rng = np.random.default_rng(0)
    toy.write_store(other, "toy", {v: rng.normal(size=(9, 1, 16)) for v in place.ids["test"]})
    place = replace(place, cache=other)
    capsys.readouterr()
    assert vad(["eval", "--metric", "auc", *options(place)]) == 4
    assert "vad extract toy" in capsys.readouterr().err
    loaded = load_run(next(place.runs.rglob("model.safetensors")).parent)
    with pytest.raises(UsageError, match=r"trained with 2 crops inside a sample; these features lack c1"):
        next(score_store(loaded, find_stores([other], "toy"), ["test_00"]))


def test_features_of_another_width_than_trained_with(place, capsys, tmp_path):
    assert train(place, "mil-rank") == 0
    other = tmp_path / "wide"
    rng = np.random.default_rng(0)
    toy.write_store(other, "toy", {v: rng.normal(size=(9, 2, 24)) for v in place.ids["test"]})
    capsys.readouterr()
    assert vad(["eval", "--metric", "auc", *options(replace(place, cache=other))]) in (2, 4, 5)
    said = capsys.readouterr().err
    assert "24" in said and "16" in said and "Traceback" not in said


def test_a_checkpoint_of_another_method(place, capsys, tmp_path):
    assert train(place, "mil-rank") == 0
    (weights,) = place.runs.rglob("model.safetensors")
    copied = Path(shutil.copy(weights, tmp_path / "published.safetensors"))
    capsys.readouterr()
    argv = ["runs", "import", "--method", "rtfm", str(copied), "--dataset", "toy"]
    assert vad([*argv, *options(place)]) == 2
    said = capsys.readouterr().err
    assert "head.weight" in said or "fc1" in said
