"""What every method of KIND "frames" must do, by existing: gradients, frozen parts, determinism, any length and size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import catalog
from pipelines.methods._base import Fit, Phase, Resources, Shape
from pipelines.methods._frames import FrameMethod
from pipelines.recipe import leaf_keys, resolve
from pipelines.records import Scores, Video
from pipelines.scoring import complexity
from pipelines.scoring.infer import score_frames
from pipelines.store.frames import FramesStore
from pipelines.training.loop import Session, make_optimizer, train
from pipelines.training.material import FrameMaterial
from pipelines.training.member import in_steps
from pipelines.training.windows import StoredFrames, sliding
from tests import toyframes

METHODS = sorted(name for name, entry in catalog.entries("methods").items() if entry.facts.get("KIND") == "frames")
SHAPE = Shape(3, {"frames": slice(0, 3)}, ("normal", "anomaly"), ("center",), 1, 1)
TINY: dict[str, dict[str, Any]] = {
    "conv-ae": {"widths": [4, 6, 8, 8], "data": {"size": 32, "batch": 4}},
    "memae": {"widths": [4, 6, 8, 8], "slots": 6, "data": {"size": 32, "batch": 4}},
    "fastano": {"widths": [4, 6, 8], "data": {"size": [24, 32], "batch": 4}},
    "sd-mae": {"patch": 8, "width": 16, "decoder_width": 8, "heads": 2, "data": {"size": [24, 32], "batch": 4}},
    "mdsf": {
        "widths": [4, 4, 8, 8],
        "align_width": 4,
        "se_reduction": 2,
        "mask_patch": 8,
        "data": {"size": 32, "batch": 4},
    },
}


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> FrameMaterial:
    place = toyframes.make(tmp_path_factory.mktemp("frames"), train=3, test=0, n=40)
    store = FramesStore(next((place.cache / "frames" / "squares").iterdir()))
    return FrameMaterial(StoredFrames([store]), SHAPE, device="cpu")


VIDEOS = tuple(Video(f"train_{i:02d}", None, "train", ("normal",)) for i in range(3))


def made(name: str, *, seed: int = 0, **sets: Any) -> FrameMethod:
    module = catalog.load("methods", name)
    config, _ = resolve(module.Config, [("test", TINY[name]), ("sets", sets)])
    torch.manual_seed(seed)
    return module.build(config, SHAPE, Resources())


def scored(method: FrameMethod, frames: np.ndarray) -> Scores:
    return score_frames(method, sliding([frames], method.spec, video_id="v"))


def noise(n: int, h: int = 24, w: int = 32, c: int = 3) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 255, (n, h, w, c), dtype=np.uint8)


@pytest.mark.parametrize("name", METHODS)
def test_the_file_states_what_the_catalog_reads(name):
    module = catalog.load("methods", name)
    assert name == module.NAME and module.SUMMARY and module.DEFAULT_FEATURES == ("frames",)
    for preset in module.PRESETS.values():
        resolve(module.Config, [("preset", preset)])
    assert {"epochs", "data.size", "optim.lr", "val_fraction", "theta_quantile"} <= set(leaf_keys(module.Config))
    for row in module.RESULTS:
        assert {"dataset", "features", "metric", "value"} <= row.keys()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(1, 24, 32, 3), (5, 17, 45, 3), (40, 24, 32, 1)], ids=["one", "odd", "grey"])
def test_scores_of_every_length_and_size(name, shape):
    scores = scored(made(name), noise(*shape))
    n = shape[0]
    assert scores.clips.shape == (1, n) and scores.clips.dtype == np.float32 and np.isfinite(scores.clips).all()
    assert scores.spans.tolist() == [[i, i + 1] for i in range(n)] and scores.n_frames == n
    assert scores.maps["score"].shape[0] == n and np.isfinite(scores.maps["score"]).all()


@pytest.mark.parametrize("name", METHODS)
def test_a_static_black_video_has_finite_scores(name):
    assert np.isfinite(scored(made(name), np.zeros((20, 24, 32, 3), np.uint8)).clips).all()


@pytest.mark.parametrize("name", METHODS)
def test_scoring_is_deterministic_and_batches_change_nothing(name):
    frames = noise(21)
    method = made(name)
    torch.manual_seed(1)
    first = scored(method, frames)
    torch.manual_seed(2)
    np.testing.assert_array_equal(first.clips, scored(method, frames).clips)
    np.testing.assert_array_equal(first.clips, scored(made(name), frames).clips)
    other = scored(made(name, data={"score_batch": 3}), frames)
    np.testing.assert_allclose(first.clips, other.clips, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_every_parameter_of_each_phase_and_nothing_else_moves(name, material):
    method = made(name)
    for phase, source in zip(
        method.phases(), material.sources(method.phases(), VIDEOS, seed=0, pseudo={}), strict=True
    ):
        if isinstance(phase, Fit):
            method.eval()
            with torch.no_grad():
                phase.run(source.every())
            continue
        optimizer = make_optimizer(phase)
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        names = {id(p): n for n, p in method.named_parameters()}
        frozen = {n: p.clone() for n, p in method.state_dict().items() if not _belongs(n, own, names)}
        reached: set[int] = set()
        for step in range(6):
            method.train()
            terms = phase.losses(source.next(step=step, steps=6))
            assert all(term.dim() == 0 and bool(torch.isfinite(term)) for term in terms.values())
            method.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            reached |= {i for i, n in names.items() if i in own and _moved(method.get_parameter(n))}
            optimizer.step()
        assert not [names[i] for i in own - reached]
        after = method.state_dict()
        assert not [n for n, value in frozen.items() if not torch.equal(value, after[n])], phase.name


def _moved(parameter: torch.nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


def _belongs(name: str, own: set[int], names: dict[int, str]) -> bool:
    """Whether a tensor is the phase's: one of its parameters, or a buffer of a module that holds one."""
    home = name.rpartition(".")[0]
    return any(names[i] == name or names[i].rpartition(".")[0] == home for i in own)


@pytest.mark.parametrize("name", METHODS)
def test_training_twice_gives_the_same_weights_and_seeds_differ(name, material):
    one, two, other = (few(name, material, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def few(name: str, material: FrameMaterial, *, seed: int) -> dict[str, torch.Tensor]:
    method = made(name, seed=seed)
    phases = [replace(p, epochs=None, steps=2) if isinstance(p, Phase) else p for p in method.phases()]
    train(method, phases, material.sources(phases, VIDEOS, seed=seed, pseudo={}), Session())
    return {key: value.clone() for key, value in method.state_dict().items()}


def test_epochs_become_steps(material):
    method = made("conv-ae", epochs=3)
    (phase,) = method.phases()
    (source,) = material.sources([phase], VIDEOS, seed=0, pseudo={})
    assert source.epoch_steps == 3 * (40 - 15) // 4 and in_steps(phase, source).steps == 3 * source.epoch_steps


@pytest.mark.parametrize("name", METHODS)
def test_its_cost_can_be_asked_for(name, monkeypatch):
    monkeypatch.setattr(complexity, "MEASURE_S", 0.0)
    module = catalog.load("methods", name)
    config, _ = resolve(module.Config, [("test", TINY[name])])
    found = complexity.measure(module, config)
    assert found.clips == 8 and found.flops > 0 and found.clips_per_s > 0
    assert found.parameters == sum(p.numel() for p in made(name).parameters())
