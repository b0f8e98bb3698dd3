"""Figures for papers: their numbers by hand, and every kind of them from a run of a toy method in three formats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipelines import evaluate, plot, train
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.plot import PlotRequest
from pipelines.records import Event
from pipelines.report import bars, heat, inner
from pipelines.report.bars import Bar
from pipelines.report.inner import Stage
from pipelines.report.style import look, save
from pipelines.scoring.protocol import Protocol
from tests import media, toy
from tests.toy import Toy

METHOD = '''
"""A linear scorer with a pyramid's maps and a map of the picture."""

import numpy as np
import torch
from torch import nn

from pipelines.methods._base import DataConfig, Method, MethodConfig, Phase, scores_of

NAME = "with-maps"
SUMMARY = "a toy"
KIND = "features"
DEFAULT_FEATURES = ()


class Config(MethodConfig):
    steps: int = 2
    shift: float = 0.0
    data: DataConfig = DataConfig(length="bins-pad", size=16, crops="first")


class WithMaps(Method):
    def __init__(self, config, shape):
        super().__init__()
        self.config, self.weight = config, nn.Parameter(torch.ones(3))

    def clips(self, x):
        return (x[..., :3] * self.weight).sum(-1)

    def phases(self):
        c = self.config
        loss = lambda bag: {"l2": (self.weight**2).sum() * 0.0 + bag.x.sum() * 0.0}
        return [Phase("train", [{"params": [self.weight]}], c.data, loss, c.steps, c.optim)]

    def score(self, bag):
        line = self.clips(bag.x[0])
        maps = np.zeros((line.shape[1], 4, 5), np.float32)
        maps[:, 1, 2] = line.mean(0).numpy()
        return scores_of(bag, torch.sigmoid(line - 2 - self.config.shift), maps={"gradcam": maps})

    def stages(self, bag):
        x = bag.x[0].mean(0).numpy()
        pyramid = np.stack([x[:, 0], x[:, 1]], 1)
        return {"input": x, "half": x[::2], "map_before_sam": pyramid, "map_after_sam": 2 * pyramid}


def build(config, shape, resources):
    return WithMaps(config, shape)
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy dataset with one video on disk, a sweep of two settings trained on it, and its evaluations."""
    root = tmp_path_factory.mktemp("figures")
    made = toy.make(root, test=8)
    (root / "method.py").write_text(METHOD)
    media.write_coded(root / "toy" / "test_01.mp4", 40)
    result = train.run(
        train.TrainRequest(
            method=str(root / "method.py"),
            dataset="toy",
            sets=("shift=0.0,1.5",),
            seeds=2,
            manifest=made.manifest,
            cache_dir=made.cache,
            runs_dir=made.runs,
        )
    )
    assert len(result.runs) == 4
    evaluate.run(
        evaluate.EvalRequest(
            protocol=Protocol(rounds=10),
            metrics=("auc", "ap"),
            plots="leave out",
            manifest=made.manifest,
            cache_dir=str(made.cache),
            runs_dir=made.runs,
        )
    )
    return made


def request(world: Toy, out: Path, **changes: Any) -> PlotRequest:
    places = {"manifest": world.manifest, "cache_dir": str(world.cache), "runs_dir": world.runs}
    return PlotRequest(**({"out": out, "formats": ("png",), "device": "cpu"} | places | changes))


def one_run(world: Toy) -> str:
    return str(next(world.runs.rglob("seed-0")))


def test_each_format_is_what_it_says_and_twice_the_same(world: Toy, tmp_path: Path):
    asked = request(world, tmp_path, formats=("pdf", "svg", "png"))
    drawn = plot.curves(asked, ("test_01", "test_02"))
    pdf, svg, png = drawn.paths
    assert [path.name for path in drawn.paths] == ["curves.pdf", "curves.svg", "curves.png"]
    assert pdf.read_bytes().startswith(b"%PDF")
    text = "".join(ElementTree.parse(svg).getroot().itertext())
    assert "test_01" in text and "true: fire" in text
    assert Image.open(png).size[0] == 440 * 2 + 40
    before = [path.read_bytes() for path in drawn.paths]
    plot.curves(asked, ("test_01", "test_02"))
    assert [path.read_bytes() for path in drawn.paths] == before


def test_an_unknown_video_or_format_is_named(world: Toy, tmp_path: Path):
    with pytest.raises(UsageError, match="'test_99'"):
        plot.curves(request(world, tmp_path), ("test_99",))
    with pytest.raises(UsageError, match="'gif'"):
        plot.curves(request(world, tmp_path, formats=("gif",)))
    with look(), pytest.raises(UsageError, match=r"x\.gif"):
        save(None, Path("x.gif"))  # type: ignore[arg-type]


def test_ablation_bars_are_the_settings_of_the_sweep(world: Toy, tmp_path: Path):
    drawn = plot.ablation(request(world, tmp_path), ("auc", "ap"))
    assert [row[:2] for row in drawn.rows] == [(s, m) for m in ("auc", "ap") for s in ("shift=0.0", "shift=1.5")]
    assert {row[3] for row in drawn.rows} == {2}
    for row in drawn.rows:
        found = [
            json.loads(path.read_text())["metrics"][row[1]]["value"]
            for path in world.runs.rglob("metrics.json")
            if row[0] in str(path)
        ]
        assert row[2] == pytest.approx(np.mean(found))
    with pytest.raises(UsageError, match="not a sweep"):
        plot.ablation(request(world, tmp_path, run=one_run(world)))
    with pytest.raises(MissingArtifactError, match="no setting has rbdc"):
        plot.ablation(request(world, tmp_path), ("rbdc",))


def test_class_bars_need_class_scores(world: Toy, tmp_path: Path):
    with pytest.raises(MissingArtifactError, match="no number of a class"):
        plot.classes(request(world, tmp_path))


def test_class_bars_average_seeds_and_keep_classes_with_an_event():
    head = ("class", "events", "videos", "positives", "auc", "map-iou vadclip")
    first = [("normal", 0, 0, 0, "", ""), ("fire", 2, 2, 9, 0.8, 0.1), ("fight", 5, 3, 9, 0.6, "")]
    second = [("normal", 0, 0, 0, "", ""), ("fire", 2, 2, 9, 0.9, 0.3), ("fight", 5, 3, 9, 0.7, 0.2)]
    tables = [[dict(zip(head, map(str, row), strict=True)) for row in rows] for rows in (first, second)]
    auc, detection = bars.class_panels(tables)
    assert [(bar.word, bar.note) for bar in auc.bars] == [("fight", "5"), ("fire", "2")]
    assert [bar.value for bar in auc.bars] == pytest.approx([0.65, 0.85])
    assert detection.bars[0].value is None and detection.bars[1].value == pytest.approx(0.2)
    assert auc.bars[0].spread == pytest.approx((0.65 - 0.05 * 2**0.5, 0.65 + 0.05 * 2**0.5))
    assert Bar("x", 0.5, (0.5,), (0.4, 0.6)).spread == (0.4, 0.6)


def test_rows_take_the_class_that_most_of_their_frames_show():
    spans = np.array([[0, 4], [4, 8], [8, 12], [12, 16]])
    events = (Event(5, 8, "a"), Event(8, 10, "b"), Event(12, 16, "b"))
    assert inner.row_labels(events, spans, 4, ("n", "a", "b")).tolist() == ["n", "a", "b", "b"]
    assert inner.row_labels(events, spans, 2, ("n", "a", "b")).tolist() == ["n", "b"]  # two clips a row
    assert inner.row_labels((), spans, 4, ("n", "a")).tolist() == ["n"] * 4


def test_purity_looks_at_other_videos_and_knows_its_chance():
    """Two classes far apart: within each, two videos. A third video's clip of class a lies among b."""
    x = np.float32([[0, 0], [0, 1], [0, 2], [10, 0], [10, 1], [10, 2], [10, 3.5]])
    labels = np.array(["a", "a", "a", "b", "b", "b", "a"])
    videos = np.array([0, 0, 1, 2, 2, 3, 4])
    found = inner.separation(Stage("s", x, labels, videos))
    # nearest from another video: 0 and 1 -> 2, 2 -> 1, 3 and 4 -> 5, 5 -> 4, all right; 6 -> 5, wrong
    assert found.purity == pytest.approx(6 / 7)
    same = [2 / 5, 2 / 5, 3 / 6, 1 / 5, 1 / 5, 2 / 6, 3 / 6]
    assert found.chance == pytest.approx(np.mean(same))
    assert found.silhouette is not None and 0 < found.silhouette < 1
    within = Stage("s", x[:2], labels[:2], videos[:2])
    assert inner.separation(within).purity is None


def test_a_sample_keeps_abnormal_clips():
    labels = np.array(["n"] * 950 + ["a"] * 50)
    stage = Stage("s", np.zeros((1000, 2), np.float32), labels, np.zeros(1000, np.int64))
    some = inner.sample(stage, "n", most=200)
    assert len(some.x) == 200 and (some.labels == "a").sum() == 50
    many = inner.sample(replace(stage, labels=np.array(["a"] * 900 + ["n"] * 100)), "n", most=200)
    assert (many.labels == "n").sum() == 100


def test_projections_are_two_columns_whatever_comes():
    rng = np.random.default_rng(0)
    for shape in ((40, 80), (40, 1), (3, 5), (6, 2)):
        for project in (inner.pca, inner.tsne):
            found = project(rng.normal(size=shape).astype(np.float32))
            assert found.shape == (shape[0], 2) and np.isfinite(found).all()
    assert not inner.pca(np.ones((8, 3), np.float32)).any()
    assert not inner.tsne(np.ones((8, 3), np.float32)).any()


def test_stages_of_a_run_stand_with_their_numbers(world: Toy, tmp_path: Path):
    drawn = plot.stages(request(world, tmp_path, run=one_run(world)))
    assert [row[0] for row in drawn.rows] == ["input", "half"]
    clips, width, silhouette, purity, chance = drawn.rows[0][1:]
    assert width == 16 and clips > drawn.rows[1][1]
    # the planted classes are a shift by 4 deviations along an axis each
    assert purity > chance + 0.1 and silhouette > 0
    assert any("map_before_sam" in note for note in drawn.notes)
    with pytest.raises(UsageError, match="'trunk'"):
        plot.stages(request(world, tmp_path, run=one_run(world)), ("trunk",))


def test_maps_over_time_and_over_the_picture(world: Toy, tmp_path: Path):
    drawn = plot.maps(request(world, tmp_path, run=one_run(world)), ("test_01", "test_03"))
    assert [path.name for path in drawn.paths] == [
        f"maps-{video}-{kind}.png" for video in ("test_01", "test_03") for kind in ("time", "gradcam")
    ]
    of_video, alone = (Image.open(tmp_path / f"maps-{video}-gradcam.png") for video in ("test_01", "test_03"))
    assert of_video.size[1] > 1.4 * alone.size[1]  # pictures stand above the maps where the video is there


def test_before_and_after_share_their_colours_and_come_in_order():
    stages = {
        "input": np.zeros((3, 9), np.float32),
        "map_after_sam": np.full((3, 2), 8.0, np.float32),
        "map_before_sam": np.full((3, 2), 1.0, np.float32),
        "map_half": np.zeros((2, 2), np.float32),
    }
    found = heat.time_maps(stages, 3)
    assert list(found) == ["map_before_sam", "map_after_sam"]
    one = heat.TimeMaps("v", found, np.array([[0, 4], [4, 8], [8, 12]]), np.zeros(3, np.float32), (), None)
    with look():
        images = [axes.images[0] for axes in heat.time_figure(one).axes if axes.images]
    assert [image.get_clim() for image in images] == [(1.0, 8.0), (1.0, 8.0)]


def test_pictures_are_taken_at_peaks_that_lie_apart():
    scores = np.zeros(100)
    scores[[10, 11, 12, 50, 90]] = [0.9, 1.0, 0.8, 0.7, 0.6]
    assert heat.peaks(scores, 3) == [11, 50, 90]
    assert heat.peaks(np.ones(2), 5) == [0, 1]
