"""Boxes and region features in the cache: made once, resumed, recorded failures, frames and videos without boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import MissingArtifactError, Stopped, UsageError
from pipelines.extraction import boxes, regions
from pipelines.records import VideoFacts
from pipelines.regions._base import Proposals
from pipelines.spans import region_frames, stored_spans
from pipelines.store.features import FeatureStore
from pipelines.store.frames import FramesStore
from pipelines.store.maintenance import verify
from pipelines.store.regions import BoxesStore, find_boxes
from tests.regions import scenes
from vadcli.app import run as vad


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return scenes.make(tmp_path_factory.mktemp("scenes"), train=2, test=1, n_frames=12)


def make_boxes(place, text="motion", **options):
    planned = boxes.plan(place.dataset, text, layers=[place.cache], **options)
    return planned, boxes.run(planned)


def csv(folder: Path, *rows: str) -> str:
    path = folder / "found.csv"
    path.write_text("\n".join(["video,frame,x1,y1,x2,y2,score", *rows]) + "\n")
    return str(path)


def test_boxes_are_made_once_and_only_what_is_missing_again(place):
    first, result = make_boxes(place)
    assert result.made == 3 and result.frames == 36 and result.boxes > 36 and not result.failed
    store = BoxesStore(result.folder)
    before = store.read_boxes("train_0")
    again, second = make_boxes(place)
    assert again.id == first.id and again.todo == () and second.made == 0
    assert store.discard("train_0")
    _, third = make_boxes(place)
    assert third.made == 1
    np.testing.assert_array_equal(store.read_boxes("train_0").box, before.box)
    assert verify(store) == []


def test_what_changes_boxes_changes_the_id(place):
    ids = {
        boxes.plan(place.dataset, text, layers=[place.cache], settings=settings).id
        for text, settings in (("motion", ()), ("motion", ("threshold=9",)), ("motion+grid", ()), ("grid", ()))
    }
    assert len(ids) == 4


def test_a_file_of_boxes_and_what_can_be_wrong_in_it(place, tmp_path):
    _, result = make_boxes(place, csv(tmp_path, "train_0,3,1,2,30,40,0.5", "train_0,1,1,2,30,40,0.25"))
    store = BoxesStore(result.folder)
    found = store.read_boxes("train_0")
    assert found.frame.tolist() == [1, 3] and found.score.tolist() == [0.25, 0.5]
    assert len(store.read_boxes("test_0")) == 0 and verify(store) == []  # a video without any box is a stored video
    for row, message in (
        ("nowhere,3,1,2,30,40,1", "videos of the boxes are not in scenes: 'nowhere'"),
        ("train_0,3,30,2,1,40,1", "line 2: no box"),
        ("train_0,x,1,2,30,40,1", "line 2"),
    ):
        with pytest.raises(UsageError, match=message):
            make_boxes(place, csv(tmp_path, row))
    _, late = make_boxes(place, csv(tmp_path, "train_0,12,1,2,30,40,1", "train_1,0,1,2,30,40,1"))
    assert list(late.failed) == ["train_0"] and "which has 12" in late.failed["train_0"] and late.made == 2


def test_region_features_have_a_row_a_region(place):
    make_boxes(place)
    planned = regions.plan(place.dataset, ["velocity,boxes"], layers=[place.cache], boxes="motion")
    results = regions.run(planned, device="cpu")
    velocity, geometry = (FeatureStore(result.folder) for result in results)
    facts = geometry.facts("test_0")
    frame = region_frames(facts)
    assert frame is not None and len(frame) == len(geometry.read("test_0")) == len(velocity.read("test_0"))
    assert (np.diff(frame) >= 0).all() and frame.max() == 11
    assert stored_spans(facts, len(frame)).tolist() == [[f, f + 1] for f in frame]
    box = np.array(facts.extra["regions"]["boxes"]).reshape(-1, 4) / 10
    expected = np.concatenate([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], axis=1) / scenes.HEIGHT
    np.testing.assert_allclose(geometry.read("test_0")[:, 0], expected, atol=2e-3)
    assert verify(geometry) == [] and verify(velocity) == []
    assert regions.plan(place.dataset, ["velocity,boxes"], layers=[place.cache], boxes="motion").streams[0].todo == ()


def test_velocity_is_in_pixels_of_the_frame(tmp_path):
    """A textured plate that fills its box moves by two pixels a frame, whatever its box is resized to."""
    place = scenes.make(tmp_path, train=1, test=1, n_frames=4)
    frames = FramesStore(next((place.cache / "frames" / "scenes").iterdir()))
    texture = np.random.default_rng(0).integers(0, 255, (30, 30, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    clip = np.stack([texture[20:84, 10 - 2 * t + 10 : 106 - 2 * t + 10] for t in range(4)])
    frames.discard("train_0")
    scenes.put(frames, "train_0", clip)
    rows = [f"train_0,{t},{20},{10},{60},{50},1" for t in range(4)]
    make_boxes(place, csv(tmp_path, *rows))
    planned = regions.plan(
        place.dataset, ["velocity"], layers=[place.cache], boxes="found", settings=["bins=1", "regions.enlarge=1"]
    )
    (result,) = regions.run(planned, device="cpu")
    speed = FeatureStore(result.folder).read("train_0")[1:3, 0, 0].astype(float)
    assert speed == pytest.approx([2, 2], abs=0.3)


def test_a_video_without_regions_has_no_rows_and_its_frames_are_known(place, tmp_path):
    given, _ = make_boxes(place, csv(tmp_path, "train_0,3,1,2,30,40,0.5"))
    planned = regions.plan(place.dataset, ["boxes"], layers=[place.cache], boxes=given.id)
    (result,) = regions.run(planned, device="cpu")
    store = FeatureStore(result.folder)
    assert store.read("test_0").shape == (0, 1, 4) and store.facts("test_0").n_frames == 12
    assert result.empty_frames == result.frames - 1 == 35


def test_region_features_are_resumed_and_need_their_boxes(place, tmp_path):
    with pytest.raises(MissingArtifactError, match="no boxes of scenes that 'yolox-nano' names"):
        regions.plan(place.dataset, ["boxes"], layers=[place.cache], boxes="yolox-nano")
    make_boxes(place)
    planned = regions.plan(place.dataset, ["tracks"], layers=[place.cache], boxes="motion")
    half = replace(planned, streams=tuple(replace(s, todo=s.todo[:1]) for s in planned.streams))
    regions.run(half, device="cpu")
    left = regions.plan(place.dataset, ["tracks"], layers=[place.cache], boxes="motion").streams[0]
    assert len(left.done) == 1 and len(left.todo) == 2


@pytest.mark.parametrize("stage", ["boxes", "regions"])
def test_a_stop_within_a_video_is_no_failure_of_it(place, monkeypatch, stage):
    def stopped(*arguments, **options):
        raise Stopped("stopped by SIGTERM")

    if stage == "boxes":
        monkeypatch.setattr(boxes.Detected, "boxes", stopped)
        settings = ["threshold=21"]  # not made before
        planned = boxes.plan(place.dataset, "motion", layers=[place.cache], settings=settings)
        with pytest.raises(Stopped):
            boxes.run(planned)
        again = boxes.plan(place.dataset, "motion", layers=[place.cache], settings=settings)
        assert len(again.todo) == 3 and not again.failed
        return
    given, _ = make_boxes(place)
    monkeypatch.setattr(regions, "_values", stopped)
    options = {"layers": [place.cache], "boxes": given.id, "settings": ["regions.max_boxes=7"]}
    with pytest.raises(Stopped):
        regions.run(regions.plan(place.dataset, ["boxes"], **options), device="cpu")
    (again,) = regions.plan(place.dataset, ["boxes"], **options).streams
    assert len(again.todo) == 3 and not again.failed


def test_boxes_of_zero_rows_survive_the_store(tmp_path):
    from pipelines import artifacts
    from pipelines.regions._base import joined

    store = BoxesStore.create(tmp_path / "s", artifacts.make("boxes", "0" * 64, {"encoder": "none"}))
    facts = VideoFacts(5, 25.0, 8, 6, 1, 1, ("center",))
    store.publish("a", store.stage_boxes("a", joined([]), facts))
    found = store.read_boxes("a")
    assert isinstance(found, Proposals) and found.box.shape == (0, 4) and store.count("a") == 0


def test_the_command_makes_boxes_then_their_features(place, monkeypatch, capsys):
    monkeypatch.setenv("VAD_CACHE", str(place.cache))
    monkeypatch.setenv("VAD_MANIFEST", str(place.manifest))
    assert vad(["extract", "scenes", "--boxes", "grid", "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["dry_run"] and len(planned["todo"]) == 3 and not Path(planned["folder"]).exists()
    assert vad(["extract", "scenes", "--boxes", "grid", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["artifacts"][0]
    assert made["boxes"] == 24 * 36
    assert vad(["extract", "scenes", "--boxes", "grid", "--encoder", "boxes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["artifacts"][0]["name"] == "boxes@grid"
    assert vad(["extract", "scenes", "--boxes-weights", "x.onnx"]) == 2
    assert vad(["extract", "scenes", "--boxes", "grdi"]) == 2
    assert "did you mean 'grid'" in capsys.readouterr().err
    assert find_boxes([place.cache], "scenes", "grid")
