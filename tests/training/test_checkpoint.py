"""A run on disk: weights that fit or are refused by name, states of other runs, features of another recipe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.methods._base import Shape
from pipelines.records import VideoFacts
from pipelines.scoring.infer import score_features, score_store, spans_of
from pipelines.store.features import find_stores
from pipelines.train import TrainRequest, run
from pipelines.training.checkpoint import load_run, load_state, save_state, shape_from, shape_record
from pipelines.training.inputs import JoinedFeatures
from tests import toy

STEPS = ("steps=8",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = toy.make(tmp_path_factory.mktemp("toy"), crops=2, streams=("aa", "bb"))
    result = run(request(place, features="aa+bb"))
    return place, result.runs[0].folder


def request(place: toy.Toy, **values) -> TrainRequest:
    given = {"dataset": "toy", "sets": STEPS, "device": "cpu"} | values
    return TrainRequest(manifest=place.manifest, cache_dir=place.cache, runs_dir=place.runs, **given)


def stores(place: toy.Toy, *names: str):
    found = {s.artifact.recipe["encoder"]: s for s in find_stores([place.cache], "toy")}
    return [found[name] for name in names]


def test_a_loaded_run_knows_what_it_was_trained_on(trained):
    _, folder = trained
    loaded = load_run(folder)
    assert (loaded.method_name, loaded.dataset, loaded.split, loaded.seed, loaded.selection) == (
        "mil-rank",
        "toy",
        "default",
        0,
        "last",
    )
    assert [need.stream for need in loaded.features] == ["aa", "bb"] and [need.dim for need in loaded.features] == [
        16,
        16,
    ]
    assert loaded.shape.streams == {"aa": slice(0, 16), "bb": slice(16, 32)}
    assert loaded.classes == toy.CLASSES and not loaded.method.training
    assert set(loaded.thresholds) == {"0.95", "0.99", "0.995", "0.999"}


def test_scores_have_every_crop_and_clip_and_their_spans(trained):
    place, folder = trained
    loaded = load_run(folder)
    joined = JoinedFeatures(stores(place, "aa", "bb"))
    for scores in score_store(loaded, stores(place, "aa", "bb"), place.ids["test"][:3]):
        t = joined.length(scores.video_id)
        assert scores.clips.shape == (2, t) and scores.crops == ("c0", "c1")
        assert scores.spans.tolist() == [[4 * i, 4 * i + 4] for i in range(t)] and scores.n_frames == 4 * t


def test_scores_from_arrays_equal_those_from_the_store_whatever_is_scored_beside(trained):
    place, folder = trained
    loaded = load_run(folder)
    aa, bb = stores(place, "aa", "bb")
    many = {s.video_id: s for s in score_store(loaded, [aa, bb], place.ids["test"])}
    for video in place.ids["test"][::5]:
        alone = score_features(loaded, {"bb": bb.read(video), "aa": aa.read(video)}, aa.facts(video), video_id=video)
        np.testing.assert_array_equal(alone.clips, many[video].clips)


def test_standardisation_comes_back_with_the_weights(trained):
    _, folder = trained
    loaded = load_run(folder)
    assert loaded.inputs.mean.abs().sum() > 0 and not torch.equal(loaded.inputs.std, torch.ones(32))


def damaged(folder, tmp_path, change):
    """A copy of the run whose weights went through `change`."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("artifact.json", "config.yaml"):
        (copy / name).write_bytes((folder / name).read_bytes())
    tensors = load_file(folder / "model.safetensors")
    metadata = {"method": "mil-rank"} | (change(tensors) or {})
    save_file(tensors, copy / "model.safetensors", metadata=metadata)
    return copy


def test_weights_of_another_shape_are_named(trained, tmp_path):
    def change(tensors):
        tensors["method.head.weight"] = torch.zeros(1, 7)

    with pytest.raises(
        VerificationError, match=r"head.weight has shape \(1, 7\), expected \(1, 64\)|head.weight has shape"
    ):
        load_run(damaged(trained[1], tmp_path, change))


def test_missing_and_unknown_weights_are_named(trained, tmp_path):
    def change(tensors):
        tensors["method.tail"] = tensors.pop("method.head.bias")

    with pytest.raises(VerificationError, match=r"head.bias is missing.*tail is unknown"):
        load_run(damaged(trained[1], tmp_path, change))


def test_the_weights_of_another_method_are_refused(trained, tmp_path):
    with pytest.raises(VerificationError, match=r"weights of 'fine-vad'.*'mil-rank'"):
        load_run(damaged(trained[1], tmp_path, lambda tensors: {"method": "fine-vad"}))


def test_damaged_weights_are_a_verification_error(trained, tmp_path):
    copy = damaged(trained[1], tmp_path, lambda tensors: None)
    (copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(VerificationError, match="cannot read the weights"):
        load_run(copy)


def test_an_unfinished_run_says_how_to_go_on(tmp_path):
    with pytest.raises(MissingArtifactError):
        load_run(tmp_path)


def test_an_artefact_of_another_kind_is_no_run(tmp_path):
    artifacts.write(tmp_path, artifacts.make("features", "0" * 64, {}))
    with pytest.raises(UsageError, match="kind 'features'"):
        load_run(tmp_path)


def test_features_of_another_recipe_are_refused_with_what_differs(trained, tmp_path):
    _, folder = trained
    rng = np.random.default_rng(0)
    other = [toy.write_store(tmp_path, name, {"v": rng.normal(size=(5, 2, 16))}, stride=8) for name in ("aa", "bb")]
    with pytest.raises(UsageError, match=r"clip_len: 4 / 8.*stride: 4 / 8"):
        list(score_store(load_run(folder), other, ["v"]))


def test_one_stream_for_a_run_of_two_is_refused(trained):
    place, folder = trained
    with pytest.raises(UsageError, match=r"trained on aa\+bb, 1 features"):
        list(score_store(load_run(folder), stores(place, "aa"), ["test_00"]))


def test_arrays_that_do_not_fit_name_the_video(trained):
    place, folder = trained
    loaded = load_run(folder)
    aa = stores(place, "aa")[0]
    facts, x = aa.facts("test_00"), aa.read("test_00")
    with pytest.raises(UsageError, match="needs the streams bb"):
        score_features(loaded, {"aa": x}, facts, video_id="test_00")
    with pytest.raises(VerificationError, match="'test_00': stream bb has shape"):
        score_features(loaded, {"aa": x, "bb": x[:-1]}, facts, video_id="test_00")
    torn = np.array(x)
    torn[0] = np.nan
    with pytest.raises(VerificationError, match=r"'test_00'.*NaN.*stream bb"):
        score_features(loaded, {"aa": x, "bb": torn}, facts, video_id="test_00")


def test_a_state_of_another_run_is_refused(tmp_path):
    save_state(tmp_path / "state.pt", {"run_id": "a" * 64, "weights": {"w": torch.ones(2)}})
    assert torch.equal(load_state(tmp_path / "state.pt", run_id="a" * 64)["weights"]["w"], torch.ones(2))
    with pytest.raises(VerificationError, match="aaaaaaaa, not of bbbbbbbb"):
        load_state(tmp_path / "state.pt", run_id="b" * 64)


def test_a_damaged_state_and_a_pickle_bomb_are_refused(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(VerificationError, match="cannot read the training state"):
        load_state(path, run_id="a" * 64)
    torch.save({"run_id": "a" * 64, "evil": pytest}, path, pickle_module=_modules_by_name())
    with pytest.raises(VerificationError, match="cannot read the training state"):
        load_state(path, run_id="a" * 64)


def _modules_by_name():
    """A pickle module that stores a module as a call, as an attacker's file would."""
    import pickle
    import types

    class Pickler(pickle.Pickler):
        def reducer_override(self, value):
            return (__import__, (value.__name__,)) if isinstance(value, types.ModuleType) else NotImplemented

    made = types.ModuleType("pickled")
    made.__dict__.update(pickle.__dict__)
    made.Pickler = Pickler
    return made


def test_a_shape_survives_json_whose_keys_are_sorted():
    record = shape_record(load_shape())
    record["streams"] = dict(sorted(record["streams"].items()))
    assert list(shape_from(record).streams) == ["zz", "aa"]


def load_shape():
    return Shape(5, {"zz": slice(0, 2), "aa": slice(2, 5)}, ("n", "a"), ("center",), 8, 8)


def test_spans_come_from_the_array_and_are_never_empty():
    facts = VideoFacts(30, None, None, None, 16, 16, ("center",))
    assert spans_of(3, facts).tolist() == [[0, 16], [16, 30], [29, 30]]
