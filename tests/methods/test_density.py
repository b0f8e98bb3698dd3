"""Nearest neighbours, mixtures and attributes: by hand, against slow references, and on drawn scenes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from pipelines.errors import UsageError
from pipelines.extraction import boxes, regions
from pipelines.methods import attributes
from pipelines.methods._base import Resources, Shape
from pipelines.methods._density import Mixture, Nearest
from pipelines.methods._regions import frame_max, paint
from pipelines.records import Bag
from pipelines.store.runs import only_run
from pipelines.training.checkpoint import load_run
from tests.regions import scenes
from vadcli.app import run as vad


def videos(*counts: int, dim: int = 5, seed: int = 0) -> list[tuple[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [(f"v{i}", torch.randn(n, dim, generator=random)) for i, n in enumerate(counts)]


def test_distances_are_those_of_a_slow_search_and_leave_a_videos_own_vectors_out():
    known = videos(7, 5, 9)
    nearest = Nearest(k=2)
    assert nearest.fit(known) == 21
    query = torch.randn(4, 5)
    every = torch.cat([x for _, x in known]).numpy()
    slow = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(every).kneighbors(query.numpy())[0]
    np.testing.assert_allclose(nearest(query, "new").numpy(), (slow**2).mean(1), rtol=1e-5)
    others = np.concatenate([known[0][1], known[2][1]])
    slow = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(others).kneighbors(known[1][1].numpy())[0]
    np.testing.assert_allclose(nearest(known[1][1], "v1").numpy(), (slow**2).mean(1), rtol=1e-5)


def test_a_distance_far_from_the_origin_keeps_its_digits():
    nearest = Nearest()
    nearest.fit([("a", torch.full((1, 4), 1000.0))])
    assert nearest(torch.full((1, 4), 1000.25), "b").item() == 4 * 0.0625


def test_memory_is_half_precision_only_where_that_loses_nothing_and_bounded():
    exact, inexact = Nearest(), Nearest(limit=6)
    exact.fit([("a", torch.tensor([[0.5, 2.0]]))])
    assert exact.memory.dtype == torch.float16
    assert inexact.fit(videos(5, 5)) == 10 and inexact.memory.dtype == torch.float32
    assert len(inexact.memory) == len(inexact.owner) == 6


def test_nothing_to_compare_with_is_zero():
    nearest = Nearest()
    nearest.fit([("only", torch.randn(3, 4))])
    assert nearest(torch.randn(2, 4), "only").tolist() == [0, 0]
    assert nearest(torch.zeros(0, 4), "b").shape == (0,)


@pytest.mark.parametrize("dim", [3, 80])
def test_a_mixture_gives_scikit_learns_likelihood(dim):
    x = torch.randn(300, dim, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 2, dim)
    mixture = Mixture(dim, components=2)
    mixture.fit(x)
    if dim <= 64:
        slow = GaussianMixture(2, covariance_type="full", reg_covar=1e-6, random_state=0).fit(x.double().numpy())
        np.testing.assert_allclose(mixture(x).numpy(), -slow.score_samples(x.double().numpy()), rtol=1e-5)
    else:
        white = ((x.double() - mixture.mean) @ mixture.basis).numpy()
        assert white.shape == (300, 64)
        np.testing.assert_allclose(np.cov(white.T), np.eye(64), atol=1e-3)
    assert mixture(x + 20).min() > mixture(x).max()


def bag(frame: list[int], n_frames: int, x: torch.Tensor | None = None, boxes=None) -> Bag:
    spans = np.stack([np.arange(n_frames), np.arange(n_frames) + 1], axis=1)
    where = np.zeros((len(frame), 4), np.float32) if boxes is None else np.asarray(boxes, np.float32)
    regions = {
        "frame": np.array(frame, np.int64),
        "boxes": where,
        "n_frames": n_frames,
        "size": (40, 80),
        "spans": spans,
    }
    x = torch.zeros(1, 1, len(frame), 2) if x is None else x
    none = torch.zeros(1)
    extras = {"regions": regions, "n_frames": n_frames, "stride": 1, "spans": spans}
    return Bag(x, none, none, none, none, ("v",), ("center",), {}, extras)


def test_a_frame_is_its_highest_object_and_an_empty_one_gets_the_minimum():
    line = frame_max(torch.tensor([1.0, 3.0, 2.0]), bag([0, 0, 2], 4), 0.5)
    assert line.tolist() == [3.0, 0.5, 2.0, 0.5]
    assert frame_max(torch.zeros(0), bag([], 3), 0.5).tolist() == [0.5] * 3  # a video without any object


def test_a_map_shows_each_box_at_its_score():
    one = bag([0, 0], 2, boxes=[[0, 0, 16, 16], [8, 8, 80, 40]])
    found = paint(np.array([2.0, 1.0], np.float32), one.extras["regions"], low=-1.0)
    assert found.shape == (2, 10, 20)
    assert found[0, 3, 3] == 2 and found[0, 3, 4] == 1 and found[0, 0, 4] == -1 and (found[1] == -1).all()


def test_attributes_are_scaled_by_training_frames_and_added():
    shape = Shape(3, {"velocity@m": slice(0, 1), "effnet:lite0@m": slice(1, 3)}, ("n", "a"), ("center",), 3, 1)
    method = attributes.build(attributes.Config(components=1), shape, Resources())
    random = torch.Generator().manual_seed(0)
    train = []
    for name in "abc":
        one = bag([0, 0, 1, 3], 4, torch.randn(1, 1, 4, 3, generator=random))
        train.append(Bag(*[(name,) if f == "video_ids" else getattr(one, f) for f in Bag.__slots__]))
    method.fit(lambda: iter(train))
    lines = torch.cat([frame_max(method._objects(b)[1], b, float("nan")) for b in train])
    assert method.low[1] == np.nanmin(lines) and method.high[1] == np.nanmax(lines)
    scores = method.score(train[0]).clips[0]
    velocity, looks = method._calibrated(train[0])
    assert scores[0] == pytest.approx(float(velocity[:2].max() + looks[:2].max()), rel=1e-5)
    assert scores[2] == 0.0  # no object


def test_attributes_refuse_other_features():
    with pytest.raises(UsageError, match="reads two streams"):
        attributes.build(
            attributes.Config(), Shape(4, {"effnet": slice(0, 4)}, ("n", "a"), ("center",), 16, 16), Resources()
        )


@pytest.fixture(scope="module", params=["motion", "object"])
def world(request, tmp_path_factory):
    place = scenes.make(tmp_path_factory.mktemp(request.param), kind=request.param, train=4, test=2, n_frames=30)
    source = scenes.true_boxes(place, place.cache)
    planned = boxes.plan(place.dataset, str(source), layers=[place.cache])
    boxes.run(planned)
    settings = ["bins=1", "regions.overlap=keep", "regions.enlarge=1"]
    colours = place.cache / "colours.py"
    colours.write_text(COLOURS)
    for encoder, chosen in (("velocity", settings[:1]), (str(colours), [])):
        plan = regions.plan(
            place.dataset, [encoder], layers=[place.cache], boxes=planned.id, settings=[*chosen, *settings[1:]]
        )
        regions.run(plan, device="cpu")
    return request.param, place


COLOURS = '''
"""Mean colours."""
from pipelines.encoders._base import Encoder, EncoderConfig, Preprocess
NAME = "colours"
SUMMARY = "mean colours"
class Config(EncoderConfig):
    pass
class Colours(Encoder):
    revision = 1
    dim = 3
    def __init__(self, config):
        self.name, self.preprocess = NAME, Preprocess(resize=(16, 16), crop_px=None)
    def positions(self, clip_len):
        return (clip_len // 2,)
    def load(self, device, precision, *, weights=None):
        pass
    def encode(self, crops):
        return crops[:, :, 0].float().mean(dim=(2, 3)) / 255
def build(variant, config):
    return Colours(config)
'''


def reached(place, monkeypatch, capsys, *arguments: str) -> float:
    for name, value in (("CACHE", place.cache), ("RUNS", place.runs), ("MANIFEST", place.manifest)):
        monkeypatch.setenv(f"VAD_{name}", str(value))
    assert vad(["train", "scenes", *arguments, "--json"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert vad(["eval", "--metric", "auc", "--json"]) == 0, capsys.readouterr().err
    return float(json.loads(capsys.readouterr().out)["metrics"]["auc"]["value"])


def test_novel_motion_is_found_by_velocity_and_novel_objects_by_appearance(world, monkeypatch, capsys):
    kind, place = world
    right, wrong = ("velocity", "appearance") if kind == "motion" else ("appearance", "velocity")
    features = ("--features", "velocity@+colours@", "--method", "attributes")
    both = reached(place, monkeypatch, capsys, *features)
    alone = reached(place, monkeypatch, capsys, *features, "--preset", f"{right}-only")
    other = reached(place, monkeypatch, capsys, *features, "--preset", f"{wrong}-only")
    assert both > 0.95 and alone > 0.95 and other < 0.8, (kind, both, alone, other)


def test_a_run_on_regions_is_saved_and_scores_the_same(world, monkeypatch, capsys):
    kind, place = world
    reached(place, monkeypatch, capsys, "--features", "velocity@", "--method", "knn")
    run = load_run(only_run("latest", place.runs))
    assert run.method.nearest.memory.shape[1] == 1 and len(run.method.nearest.memory) == 4 * 30 * 2
    value = reached(place, monkeypatch, capsys, "--features", "velocity@", "--method", "gmm", "--set", "components=2")
    assert value > 0.95 or kind == "object"
