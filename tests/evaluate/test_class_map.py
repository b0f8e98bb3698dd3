"""Class scores of one class list as scores of another."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.manifest import load
from pipelines.errors import UsageError
from pipelines.records import Scores
from pipelines.scoring.gather import mapped_classes, read_class_map, to_data
from pipelines.scoring.sources import Provided
from tests.evaluate.world import QUICK, World

SOURCE = ("none", "arson", "burning", "brawl")


def provided(classes: tuple[str, ...] | None = SOURCE) -> Provided:
    """Class scores of SOURCE for a (6 frames) and b (4 frames), one clip each."""
    rows = np.array([[[0.1, 0.2, 0.3, 0.4]]], dtype=np.float32)
    scores = {
        video: Scores(video, np.ones((1, 1), np.float32), np.array([[0, n]]), n, n, classes=rows)
        for video, n in (("a", 6), ("b", 4))
    }
    return Provided(scores=scores, fps={}, length_source={}, classes=classes, facts={})


def test_probabilities_of_classes_that_map_to_one_are_added():
    values = np.array([[[0.1, 0.2, 0.3, 0.4]]], dtype=np.float32)
    mapped = mapped_classes(values, SOURCE, ("normal", "fire"), {"arson": "fire", "burning": "fire"})
    np.testing.assert_allclose(mapped, [[[0.1, 0.5]]], rtol=1e-6)


def test_only_mapped_classes_are_measured(tiny: World):
    dataset = load(tiny.manifest).dataset("tiny")
    path = tiny.write("map.yaml", "arson: fire\nburning: fire\n")
    data, _ = to_data(provided(), dataset.videos(None, "test"), dataset, protocol=QUICK, class_map=path)
    assert data.classes == ("normal", "fire")
    np.testing.assert_allclose(data.frames[0].classes[0], [0.1, 0.5], rtol=1e-6)


def test_without_a_map_foreign_class_scores_are_left_out(tiny: World):
    dataset = load(tiny.manifest).dataset("tiny")
    data, _ = to_data(provided(), dataset.videos(None, "test"), dataset, protocol=QUICK)
    assert data.frames[0].classes is None
    assert data.classes == ("normal", "fire", "fight")


def test_a_csv_says_the_same_and_wrong_names_are_told(tiny: World):
    target = ("normal", "fire", "fight")
    assert read_class_map(tiny.write("m.csv", "arson,fire\nbrawl,fight\n"), SOURCE, target) == {
        "arson": "fire",
        "brawl": "fight",
    }
    with pytest.raises(UsageError, match=r"'arsn' is no class of the run \(did you mean 'arson'"):
        read_class_map(tiny.write("m.yaml", "arsn: fire\n"), SOURCE, target)
    with pytest.raises(UsageError, match="'flame' is no class of the dataset"):
        read_class_map(tiny.write("m.yaml", "arson: flame\n"), SOURCE, target)
    with pytest.raises(UsageError, match="is no mapping"):
        read_class_map(tiny.write("m.yaml", "- fire\n"), SOURCE, target)
