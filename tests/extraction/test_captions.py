"""Captions as a text stream: rows read, clips served, vectors by hand, and a training on the joined streams."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.manifest import load
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.extraction import captions, text
from pipelines.store.features import FeatureStore
from pipelines.train import TrainRequest, run
from pipelines.training.checkpoint import load_run
from tests import toy
from vadcli.app import run as vad


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("captions"), train=8, val=2, test=2, crops=2)


def write(folder: Path, *rows: str, head: str = "video,clip,caption") -> Path:
    path = folder / "captions.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def made(place: toy.Toy, source: Path, **options: str) -> tuple[captions.CaptionResult, FeatureStore]:
    dataset = load(place.manifest).dataset("toy")
    planned = captions.plan(dataset, source, layers=[place.cache], **{"encoder": "seeded", **options})
    result = captions.run(planned)
    return result, FeatureStore(result.folder)


def test_a_captioned_clip_holds_its_words_and_the_others_are_zero_and_counted(place, tmp_path):
    result, store = made(place, write(tmp_path, "train_00,1,a car burns", "train_00,2,"))
    values, visual = (
        store.read("train_00"),
        captions._reference(load(place.manifest).dataset("toy"), [place.cache], None),
    )
    assert values.shape == (visual.shape("train_00")[0], 1, text.SEEDED_DIM)
    assert np.allclose(values[1, 0], text.seeded_vector("a car burns"), atol=1e-3)
    assert not values[[0, *range(2, len(values))]].any()
    assert result.clips - result.empty_clips == 1 and result.videos == 12 and len(result.silent) == 11
    assert store.crops == ("all",) and store.facts("train_00").n_frames == visual.facts("train_00").n_frames


def test_seconds_frames_and_overlaps_are_weighted_by_shared_frames(place, tmp_path):
    # clips of 4 frames at 25 fps: 0.08 s .. 0.2 s is frames 2 to 5, two of clip 0 and one of clip 1
    rows = ("train_01,0.08,0.2,,,smoke", "train_01,,,4,8,fire")
    _, store = made(place, write(tmp_path, *rows, head="video,start,end,start_frames,end_frames,caption"))
    smoke, fire = text.seeded_vector("smoke"), text.seeded_vector("fire")
    both = 1 * smoke + 4 * fire
    values = store.read("train_01")[:, 0].astype(np.float32)
    assert np.allclose(values[0], smoke, atol=1e-3)
    assert np.allclose(values[1], both / np.linalg.norm(both), atol=1e-3)


def test_json_lines_are_the_same_artefact_and_other_words_another(place, tmp_path):
    dataset = load(place.manifest).dataset("toy")
    table = write(tmp_path, "train_00,1,a car burns")
    lines = tmp_path / "captions.jsonl"
    lines.write_text(json.dumps({"video": "train_00", "clip": 1, "caption": "a car burns"}) + "\n")
    ids = [captions.plan(dataset, p, layers=[place.cache], encoder="seeded").id for p in (table, lines)]
    other = captions.plan(dataset, write(tmp_path, "train_00,1,rain"), layers=[place.cache], encoder="seeded").id
    assert ids[0] == ids[1] != other


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("trian_00,0,x", r"'trian_00' \(did you mean 'train_00'\?\)"),
        ("train_00,-1,x", "line 2: clip -1"),
        ("train_00,,x", "line 2: neither clip nor start and end"),
        (",0,x", "line 2: no video"),
        ("train_00,one,x", "line 2: invalid literal"),
        ("train_00,0,", "no caption in it"),
    ],
)
def test_wrong_rows_are_named(place, tmp_path, row, says):
    with pytest.raises(UsageError, match=says):
        made(place, write(tmp_path, row))


def test_a_caption_outside_its_video_is_named_before_anything_is_written(place, tmp_path):
    dataset = load(place.manifest).dataset("toy")
    planned = captions.plan(dataset, write(tmp_path, "train_00,999,x"), layers=[place.cache], encoder="seeded")
    with pytest.raises(UsageError, match="line 2: clip 999 of video 'train_00'"):
        captions.run(planned)
    assert not planned.folder.exists()


def test_without_visual_features_the_hint_extracts_them(place, tmp_path):
    dataset = load(place.manifest).dataset("toy")
    with pytest.raises(MissingArtifactError) as raised:
        captions.plan(dataset, write(tmp_path, "train_00,0,x"), layers=[tmp_path / "empty"])
    assert raised.value.hint.startswith("vad extract toy")


def test_refine_vad_trains_on_visual_and_captions(place, tmp_path, capsys):
    rows = [f"{v},{c},{place.labels[v]}" for v in place.labels for c in range(5)]
    argv = ["extract", "toy", "--captions", str(write(tmp_path, *rows)), "--text", "seeded", "--like", "toy"]
    where = ["--manifest", str(place.manifest), "--cache-dir", str(place.cache)]
    assert vad([*argv, *where, "--dry-run"]) == 0 and "captions:seeded" in capsys.readouterr().out
    assert vad([*argv, *where, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    sets = ("steps=2", "width=8", "motar.layers=1", "motar.heads=2", "data.batch_normal=2", "data.batch_abnormal=2")
    result = run(
        TrainRequest(
            method="refine-vad", dataset="toy", features=f"toy+{answer['id'][:8]}", sets=sets, device="cpu",
            manifest=place.manifest, cache_dir=place.cache, runs_dir=tmp_path / "runs",
        )
    )  # fmt: skip
    loaded = load_run(result.runs[0].folder)
    assert loaded.shape.streams == {"toy": slice(0, 16), "captions:seeded": slice(16, 16 + text.SEEDED_DIM)}
    assert loaded.shape.crops == ("c0", "c1")


def test_text_without_captions_is_refused(place, capsys):
    assert vad(["extract", "toy", "--text", "seeded", "--manifest", str(place.manifest)]) == 2
    assert "belong to --captions" in capsys.readouterr().err
