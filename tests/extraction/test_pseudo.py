"""Pseudo labels: their numbers, their artefact, and the training that asks for them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipelines import artifacts
from pipelines.data.manifest import load
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.extraction import pseudo, text
from pipelines.scoring.infer import score_store
from pipelines.store.features import find_stores
from pipelines.train import TrainRequest, plan, run
from pipelines.training.checkpoint import load_run
from tests import toy

AFR = ("steps=3", "width=16", "levels=2", "stem=1", "data.size=16", "data.batch_normal=3", "data.batch_abnormal=3")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("pseudo"), train=8, val=2, test=2)


@pytest.fixture(scope="module")
def ranked(place):
    """A trained mil-rank run of the toy."""
    return run(request(place, method="mil-rank", sets=("steps=40",))).runs[0].folder


def request(place: toy.Toy, **values) -> TrainRequest:
    given = {"dataset": "toy", "method": "afr", "sets": AFR, "device": "cpu", "cache_dir": place.cache}
    return TrainRequest(manifest=place.manifest, **{**given, "runs_dir": place.runs, **values})


def test_scaling_is_min_max_and_a_constant_line_is_zeros():
    assert pseudo.scale(np.array([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
    assert pseudo.scale(np.full(3, 0.7)).tolist() == [0.0, 0.0, 0.0]


def test_class_share_by_hand():
    x = np.array([[[3.0, 0.0]], [[0.0, 0.5]]])  # two clips of one crop; length does not matter
    words = np.eye(2, dtype=np.float32)
    share = pseudo.class_share(x, words, [0], logit_scale=np.log(3.0))
    assert share == pytest.approx([0.75, 0.25])  # e^ln3 / (e^ln3 + e^0) = 3 / 4
    assert pseudo.class_share(x, words, [0, 1]) == pytest.approx([1.0, 1.0])


def test_crops_are_averaged_after_the_softmax():
    x = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    assert pseudo.class_share(x, np.eye(2, dtype=np.float32), [0]) == pytest.approx([0.5])


def test_afr_without_pseudo_labels_stops_before_any_step_and_says_the_command(place, tmp_path):
    with pytest.raises(MissingArtifactError) as raised:
        plan(request(place, runs_dir=tmp_path))
    assert raised.value.exit_code == 4
    assert "vad train toy --method mil-rank" in raised.value.hint and "--pseudo latest" in raised.value.hint


def test_with_a_run_at_hand_the_hint_is_the_exact_command(place, ranked):
    with pytest.raises(MissingArtifactError) as raised:
        plan(request(place))
    words = raised.value.hint.split("   ")[0].split()
    assert words[:5] == ["vad", "train", "toy", "--method", "afr"]
    assert plan(request(place, pseudo=words[words.index("--pseudo") + 1])).pseudo is not None


def test_labels_of_a_run_are_its_scaled_scores_and_cite_it(place, ranked):
    result = run(request(place, pseudo=str(ranked)))
    made = artifacts.read(result.runs[0].folder)
    (folder,) = [f for f in artifacts.find(place.cache / "pseudo", "pseudo") if f.name.startswith("run-mil-rank")]
    labels = artifacts.read(folder)
    assert labels.inputs == {"run": artifacts.read(ranked).id} and folder.parent.name == "toy"
    assert made.recipe["pseudo"] == labels.id == made.inputs["pseudo"]
    found = plan(request(place, pseudo=str(ranked))).pseudo.labels()
    assert sorted(found) == [v for v in place.ids["train"] if place.labels[v] != "normal"]
    own = score_store(load_run(ranked), find_stores([place.cache], "toy")[:1], sorted(found))
    for scores in own:
        line = scores.clips[0].astype(np.float64)
        expected = (line - line.min()) / (line.max() - line.min())
        assert found[scores.video_id] == pytest.approx(expected, abs=1e-6)


def test_a_run_trained_on_them_loads_and_expands_linearly(place, ranked):
    folder = run(request(place, pseudo=str(ranked))).runs[0].folder
    assert load_run(folder).method_name == "afr"
    assert artifacts.read(folder).recorded["expand"] == "linear"


def test_other_labels_are_another_run(place, ranked):
    add_clip(place)
    ids = {plan(request(place, features="toy", pseudo=which)).members[0].id for which in (str(ranked), "clip")}
    assert len(ids) == 2


def add_clip(place: toy.Toy) -> None:
    """Features of a CLIP encoder beside the toy's own, on the same clips: a class's axis is its direction."""
    if not any(s.artifact.recipe["encoder"] == "clip:vit-b-16" for s in find_stores([place.cache], "toy")):
        rng = np.random.default_rng(1)
        values = {}
        for video in place.labels:
            n = find_stores([place.cache], "toy")[0].shape(video)[0]
            x = rng.normal(size=(n, 1, 16)).astype(np.float32) * 0.1
            x[..., 3] += 1.0
            if video in place.intervals:
                a, b = place.intervals[video]
                x[a:b, :, toy.CLASSES.index(place.labels[video])] += 1.0
            values[video] = x
        toy.write_store(place.cache, "clip:vit-b-16", values)


def test_an_image_text_pair_marks_the_planted_clips(place, monkeypatch):
    add_clip(place)
    rows = np.eye(3, 16, dtype=np.float32)
    monkeypatch.setattr(text, "encode", lambda encoder, texts: rows[: len(texts)])
    dataset = load(place.manifest).dataset("toy")
    planned = plan(request(place, features="toy", pseudo="clip"))
    assert planned.pseudo.recipe["encoder"] == "clip:vit-b-16" and planned.pseudo.recipe["logit_scale"] == 100
    labels = planned.pseudo.labels()
    assert len(labels) == sum(dataset.is_abnormal(v) for v in dataset.videos("default", "train"))
    for video, line in labels.items():
        a, b = place.intervals[video]
        assert line[a:b].min() > 0.9
    (folder,) = [f for f in artifacts.find(place.cache / "pseudo", "pseudo") if f.name.startswith("clip-")]
    assert set(artifacts.read(folder).inputs) == {"features:clip:vit-b-16", "text"}


def test_labels_on_other_clips_are_refused(place, ranked):
    found = plan(request(place, pseudo=str(ranked))).pseudo
    dataset = load(place.manifest).dataset("toy")
    with pytest.raises(UsageError, match="clips of 4 every 4 frames, the features for clips of 8 every 8"):
        pseudo.resolve(str(ranked), dataset, dataset.videos("default", "train"), roots=found.roots, grid=(8, 8))


def test_a_method_without_pseudo_labels_refuses_them(place, ranked):
    with pytest.raises(UsageError, match="mil-rank takes no pseudo labels"):
        plan(request(place, method="mil-rank", sets=("steps=3",), pseudo=str(ranked)))


def test_no_features_of_the_pair_says_how_to_extract_them(tmp_path):
    bare = toy.make(tmp_path, train=4, val=2, test=2)
    with pytest.raises(MissingArtifactError) as raised:
        plan(request(bare, pseudo="clip"))
    assert "--encoder clip:vit-b-16" in raised.value.hint


def test_damaged_labels_are_a_verification_error(place, ranked, tmp_path):
    found = plan(request(place, pseudo=str(ranked))).pseudo
    own = dataclasses.replace(found, roots=artifacts.Roots((tmp_path,), found.roots.runs))
    folder = own.folder(tmp_path)
    artifacts.write(folder, artifacts.make("pseudo", own.id, own.recipe))
    (folder / pseudo.FILE).write_bytes(b"nothing")
    with pytest.raises(VerificationError, match="cannot read"):
        own.labels()
