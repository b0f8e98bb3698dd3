"""VadCLIP trained with learned prompts through a tiny CLIP on disk; the run then needs no CLIP at all."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

from pipelines import artifacts
from pipelines.encoders import _weights, clip
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.scoring.infer import score_store
from pipelines.store.features import find_stores
from pipelines.train import TrainRequest, plan, run
from pipelines.training import importing
from pipelines.training.checkpoint import load_run
from tests import toy

WIDTH = 32
TOWER = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES = {
    "projection_dim": WIDTH,
    "vision_config": {**TOWER, "patch_size": 56, "projection_dim": WIDTH},
    "text_config": {**TOWER, "vocab_size": 8, "projection_dim": WIDTH, "bos_token_id": 0, "eos_token_id": 1},
}
SETS = (
    "steps=2",
    f"width={WIDTH}",
    "lgt.layers=1",
    "lgt.max_clips=32",
    "data.size=32",
    "optim.lr=0.01",
    "optim.schedule=constant",
)
BATCH = ("data.batch_normal=2", "data.batch_abnormal=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The toy with words of the tiny vocabulary for its classes."""
    made = toy.make(tmp_path_factory.mktemp("prompts"), train=6, val=2, test=2)
    document = yaml.safe_load(made.manifest.read_text())
    document["datasets"]["toy"]["phrases"] = {"normal": "a", "fire": "b", "fight": "a b"}
    document["datasets"]["toy"]["class_titles"] = {"normal": "a", "fire": "b", "fight": "a b"}
    made.manifest.write_text(yaml.safe_dump(document))
    return made


@pytest.fixture
def tiny_clip(tmp_path, monkeypatch):
    """`clip:vit-b-32` as a tiny random network whose weights and tokenizer lie in VAD_WEIGHTS."""
    import transformers

    folder = tmp_path / "weights" / "clip-vit-base-patch32"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.CLIPModel(transformers.CLIPConfig(**SIZES)).save_pretrained(folder)
    words = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    card = dataclasses.replace(clip.CARDS["vit-b-32"], sha256=_weights.sha256_of(folder / "model.safetensors"))
    monkeypatch.setitem(clip.SIZES, "vit-b-32", SIZES)
    monkeypatch.setitem(clip.CARDS, "vit-b-32", card)
    monkeypatch.setenv("VAD_WEIGHTS", str(folder.parent))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def request(place: toy.Toy, **values) -> TrainRequest:
    given = {"text": "clip:vit-b-32", "sets": (*SETS, *BATCH), "cache_dir": place.cache, "runs_dir": place.runs}
    return TrainRequest("vadclip", "toy", device="cpu", manifest=place.manifest, **{**given, **values})


def test_prompts_are_learnt_and_the_loaded_run_needs_no_tower(place, tiny_clip, monkeypatch, tmp_path):
    folder = run(request(place)).runs[0].folder
    monkeypatch.setenv("VAD_WEIGHTS", str(tmp_path / "nothing"))
    loaded = load_run(folder)
    assert loaded.method.tower is None and loaded.method.prompt is not None
    frozen = next(iter(artifacts.find(place.cache / "text", "text")))
    assert frozen.name.startswith("clip-vit-b-32-")
    assert artifacts.read(folder).inputs["text:clip:vit-b-32"] == artifacts.read(frozen).id
    plain = torch.from_numpy(np.asarray(importing.load_file(frozen / "vectors.safetensors")["classes"]))
    unit = torch.nn.functional.normalize(loaded.method.class_text, dim=-1)
    assert not torch.allclose(unit, plain, atol=1e-2)  # learned tokens stand around the words
    moved = loaded.method.prompt.detach().abs().mean(dim=1)
    assert moved[1:10].min() > 1.3 * moved[30:].mean()  # rows after the last EOS stay at their random start
    scores = list(score_store(loaded, find_stores([place.cache], "toy"), ["test_00"]))
    assert scores[0].classes is not None and scores[0].classes.shape[2] == 3


def test_frozen_text_learns_no_prompt(place):
    folder = run(request(place, text="seeded", sets=("steps=1", "width=128", "lgt.layers=1", *BATCH))).runs[0].folder
    assert load_run(folder).method.prompt is None


def test_phrases_are_part_of_the_run(place, tiny_clip, tmp_path):
    document = yaml.safe_load(place.manifest.read_text())
    document["datasets"]["toy"]["phrases"] = {"normal": "b", "fire": "a"}
    document["datasets"]["toy"]["root"] = str(place.manifest.parent / "toy")
    other = tmp_path / "data_manifest.yaml"
    other.write_text(yaml.safe_dump(document))
    ids = {plan(request(dataclasses.replace(place, manifest=m))).members[0].id for m in (place.manifest, other)}
    assert len(ids) == 2


def test_published_weights_with_a_learned_prompt(place, tiny_clip, tmp_path):
    trained = load_run(run(request(place)).runs[0].folder)
    state = {k: v for k, v in trained.method.state_dict().items() if k != "class_text"}
    state["text_prompt_embeddings.weight"] = state.pop("prompt")  # as the public code names it
    torch.save(state, tmp_path / "model_ucf.pth")
    ask = importing.ImportRequest(
        "vadclip", tmp_path / "model_ucf.pth", "toy", sets=SETS, text="clip:vit-b-32", cache_dir=place.cache,
        runs_dir=tmp_path / "runs", manifest=place.manifest,
    )  # fmt: skip
    loaded = load_run(importing.run(ask).folder)
    torch.testing.assert_close(loaded.method.class_text, trained.method.class_text)
    with pytest.raises(UsageError, match="only CLIP's text tower can read"):
        importing.run(dataclasses.replace(ask, text="seeded"))


def test_without_the_towers_weights_nothing_is_begun(place, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("VAD_WEIGHTS", raising=False)
    with pytest.raises(MissingArtifactError) as raised:
        run(request(place, text="clip:vit-l-14", runs_dir=tmp_path / "runs"))
    assert raised.value.exit_code == 4 and "vad weights fetch clip:vit-l-14" in raised.value.hint
    assert not list((tmp_path / "runs").rglob("train.csv"))
