"""What every method of the catalog must do, by existing: gradients, padding, determinism, learning, chance on shuffled labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines import catalog
from pipelines.methods import _blocks
from pipelines.methods._base import DataConfig, Method, Resources, Shape
from pipelines.recipe import leaf_keys, resolve
from pipelines.records import Bag, Scores, VideoFacts
from pipelines.scoring import complexity
from pipelines.scoring.infer import make_bag
from pipelines.training.bags import Bags, Ragged, fixed_length
from pipelines.training.inputs import Inputs
from pipelines.training.loop import Session, make_optimizer, train
from pipelines.training.select import auc, video_score
from tests.toybags import CLASSES, STREAMS, planted, tiny_config

METHODS = sorted(  # of clips; methods of regions (`DEFAULT_FEATURES` with an @) have tests of their own
    name
    for name, entry in catalog.entries("methods").items()
    if entry.facts.get("KIND") == "features" and "@" not in "".join(entry.facts.get("DEFAULT_FEATURES", ()))
)
DIM = 20
SHAPE = Shape(DIM, STREAMS, CLASSES, ("center",), 16, 16)


def resources(videos: list[str], lengths: list[int], intervals: dict[str, tuple[int, int]]) -> Resources:
    """Text vectors for every class, and pseudo labels that are right about three quarters of the planted clips."""
    rng = np.random.default_rng(7)
    text = {name: rng.normal(size=(n, 8)).astype(np.float32) for name, n in (("classes", len(CLASSES)), ("coarse", 2))}
    pseudo = {}
    for video, n in zip(videos, lengths, strict=True):
        line = np.zeros(n, np.float32)
        if video in intervals:
            a, b = intervals[video]
            line[a : b - 1] = 1.0
        pseudo[video] = line
    return Resources(text=text, pseudo=pseudo)


def made(name: str, *, seed: int = 0, planned=None) -> Method:
    module = catalog.load("methods", name)
    config, _ = resolve(module.Config, [("test", tiny_config(module))])
    bags = planned or planted()
    torch.manual_seed(seed)
    return module.build(config, SHAPE, resources(bags.ids, bags.lengths, bags.intervals))


def sources(method: Method, bags, *, labels=None, seed: int = 0) -> list[Bags]:
    given = resources(bags.ids, bags.lengths, bags.intervals).pseudo
    return [source(phase.data, bags, given, labels or bags.videos, seed) for phase in method.phases()]


def source(data: DataConfig, bags, pseudo, videos, seed: int) -> Bags:
    """Batches of the planted bags under the phase's own length policy."""
    segments = [fixed_length(x, data) for x in bags.values]
    track = [fixed_length(pseudo[v], data) for v in bags.ids]
    rows = np.concatenate([*segments, np.zeros((1, 1, DIM))]).astype(np.float16)
    offsets = torch.tensor([0, *np.cumsum([len(x) for x in segments])])
    ragged = Ragged(torch.from_numpy(rows), offsets, torch.tensor(np.concatenate([*track, [0.0]]), dtype=torch.float32))
    inputs = Inputs(DIM, STREAMS, data)
    return Bags(ragged, videos, data, classes=CLASSES, crops=("center",), inputs=inputs, seed=seed)


def fit(name: str, bags, *, labels=None) -> Method:
    method = made(name, planned=bags)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        phases = method.phases()
        train(method, phases, sources(method, bags, labels=labels), Session())
    return method.eval()


def scored(method: Method, values: np.ndarray, video: str = "v") -> Scores:
    facts = VideoFacts(16 * len(values), 25.0, 32, 24, 16, 16, ("center",))
    bag = make_bag(values.astype(np.float16), facts, ("center",), video, SHAPE, Inputs(DIM, STREAMS, DataConfig()))
    with torch.no_grad():
        return method.eval().score(bag)


def bag_auc(method: Method, bags) -> float:
    """Video-level AUC against what is planted: what weak labels can ask of every method."""
    scores = [video_score(scored(method, values, video)) for video, values in zip(bags.ids, bags.values, strict=True)]
    return auc(np.array(scores), np.array([bool(truth.any()) for truth in bags.truths]))


@pytest.mark.parametrize("name", METHODS)
def test_the_file_states_what_the_catalog_reads(name):
    module = catalog.load("methods", name)
    assert name == module.NAME and module.SUMMARY and isinstance(module.DEFAULT_FEATURES, tuple)
    for preset in module.PRESETS.values():
        resolve(module.Config, [("preset", preset)])
    assert {"steps", "data.length", "optim.lr"} <= set(leaf_keys(module.Config))
    for joined in module.DEFAULT_FEATURES:  # encoders of the catalog, or layouts of published features
        assert all(complexity.width_of(part) > 0 for part in joined.split("+"))
    for row in module.RESULTS:
        assert {"dataset", "features", "metric"} <= row.keys()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("clips", [1, 5, 40])
def test_scores_are_finite_of_every_length_and_on_clips_spans(name, clips):
    values = np.random.default_rng(clips).normal(size=(clips, 1, DIM))
    scores = scored(made(name), values)
    assert scores.clips.shape == (1, clips) and np.isfinite(scores.clips).all()
    assert scores.clips.dtype == np.float32
    assert scores.spans.tolist() == [[16 * i, 16 * i + 16] for i in range(clips)]
    if scores.classes is not None:
        assert scores.classes.shape == (1, clips, len(CLASSES)) and (scores.classes >= 0).all()


@pytest.mark.parametrize("name", METHODS)
def test_scoring_twice_and_building_twice_give_the_same(name):
    values = np.random.default_rng(0).normal(size=(12, 1, DIM))
    method = made(name)
    first = scored(method, values).clips
    np.testing.assert_array_equal(first, scored(method, values).clips)
    np.testing.assert_array_equal(first, scored(made(name), values).clips)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation gave, in elements."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        for one in given if isinstance(given, (tuple, list)) else (given,):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.untyped_storage().nbytes() // one.element_size())
        return given


@pytest.mark.parametrize("name", METHODS)
def test_a_long_video_never_needs_a_clip_by_clip_matrix(name, monkeypatch):
    """By shape: the largest tensor of scoring T clips is below T x T / 2; rows of such matrices are made in blocks."""
    monkeypatch.setattr(_blocks, "BLOCK", 256)
    clips = 1500
    values = np.random.default_rng(0).normal(size=(clips, 1, DIM))
    method = made(name)
    with Largest() as seen:
        scored(method, values)
    assert 0 < seen.numel < clips**2 / 2


@pytest.mark.parametrize("name", METHODS)
def test_a_clip_needs_no_more_clips_before_it_than_the_method_says(name):
    """What `vad watch` rests on: the last clip's score from its last `live_clips` clips is that from all of them."""
    method = made(name)
    if method.live_clips is None:
        return
    values = np.random.default_rng(0).normal(size=(12, 1, DIM))
    whole = scored(method, values).clips[:, -1]
    np.testing.assert_allclose(scored(method, values[-method.live_clips :]).clips[:, -1], whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_stages_are_pictures_of_every_clip(name):
    method = made(name).eval()
    values = np.random.default_rng(0).normal(size=(12, 1, DIM)).astype(np.float16)
    facts = VideoFacts(192, 25.0, 32, 24, 16, 16, ("center",))
    bag = make_bag(values, facts, ("center",), "v", SHAPE, Inputs(DIM, STREAMS, DataConfig()))
    with torch.no_grad():
        found = method.stages(bag)
    assert found and all(v.ndim == 2 and np.isfinite(v).all() for v in found.values())


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_every_parameter_of_each_phase(name):
    method, bags = made(name), planted()
    for phase, batches in zip(method.phases(), sources(method, bags), strict=True):
        method.train()
        torch.manual_seed(0)
        reached: set[int] = set()
        optimizer = make_optimizer(phase)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for step in range(4):  # dropout, a hinge or a zero-initialised layer may hide a parameter in the first batches
            terms = phase.losses(batches.next(step=step, steps=4))
            assert all(term.dim() == 0 and bool(torch.isfinite(term)) for term in terms.values())
            optimizer.zero_grad()
            sum(terms.values()).backward()
            reached |= {id(p) for p in parameters if p.grad is not None and bool(p.grad.abs().sum() > 0)}
            optimizer.step()
        names = {id(p): n for n, p in method.named_parameters()}
        lost = [names.get(id(p), "outside the method") for p in parameters if id(p) not in reached]
        assert not lost, lost


@pytest.mark.parametrize("name", METHODS)
def test_what_stands_in_padding_changes_no_loss(name):
    method, bags = made(name), planted()
    for phase, source in zip(method.phases(), sources(method, bags), strict=True):
        bag = source.next(step=0, steps=1)
        if bool(bag.mask.all()):
            assert phase.data.length == "bins"  # the one policy that pads nothing
            continue
        noise = torch.randn(bag.x.shape, generator=torch.Generator().manual_seed(3)) * 50
        dirty = torch.where(bag.mask[:, None, :, None], bag.x, noise)
        other = Bag(dirty, bag.mask, bag.lengths, bag.y, bag.classes, bag.video_ids, bag.crops, bag.streams, bag.extras)
        method.eval()
        for key, (a, b) in losses_of(phase, bag, other).items():
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=f"{phase.name}: {key}")


def losses_of(phase, *bags: Bag):
    found = []
    for bag in bags:
        torch.manual_seed(5)
        with torch.no_grad():
            found.append(phase.losses(bag))
    return {key: tuple(terms[key] for terms in found) for key in found[0]}


@pytest.mark.parametrize("name", METHODS)
def test_training_twice_gives_the_same_weights(name):
    bags = planted(videos=12)
    one, two = (fit_few(name, bags, seed=0) for _ in range(2))
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_seeds_differ(name):
    bags = planted(videos=12)
    if not made(name).phases():
        return
    one, two = fit_few(name, bags, seed=0), fit_few(name, bags, seed=1)
    assert any(not torch.equal(one[key], two[key]) for key in one)


def fit_few(name: str, bags, *, seed: int) -> dict[str, torch.Tensor]:
    method = made(name, seed=seed, planned=bags)
    short = [replace(p, steps=3, schedule=None) for p in method.phases()]
    train(method, short, sources(method, bags, seed=seed), Session())
    return {key: value.clone() for key, value in method.state_dict().items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_planted_anomaly_is_found(name):
    if not made(name).phases():
        return
    bags, unseen = planted(videos=24, seed=1), planted(videos=24, seed=2)
    trained = fit(name, bags)
    assert bag_auc(trained, bags) > 0.9
    assert bag_auc(trained, unseen) > 0.65


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_shuffled_labels_fall_to_chance(name):
    """Random labels point towards or against what is planted; over labels and their opposites the mean is one half."""
    if not made(name).phases():
        return
    bags, unseen = planted(videos=24, seed=1), planted(videos=24, seed=2)
    reached = []
    for seed in range(3):
        labels = bags.shuffled(seed)
        normal, crash = ((replace(v, classes=(c,)) for v in labels) for c in CLASSES[:2])
        opposite = [b if v.classes == (CLASSES[0],) else a for v, a, b in zip(labels, normal, crash, strict=True)]
        reached += [bag_auc(fit(name, bags, labels=given), unseen) for given in (labels, opposite)]
    assert abs(np.mean(reached) - 0.5) < 0.2
