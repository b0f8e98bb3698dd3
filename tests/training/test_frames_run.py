"""A method that reads frames through the stages: train, resume, evaluate, pixel maps, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import MissingArtifactError, Stopped, UsageError
from pipelines.evaluate import EvalRequest
from pipelines.evaluate import run as evaluate
from pipelines.scoring.protocol import Protocol
from pipelines.store import scores as files
from pipelines.train import TrainRequest, plan, run
from pipelines.training import loop
from pipelines.training.checkpoint import load_run
from pipelines.training.trackers import read_log
from tests import toyframes


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory) -> toyframes.ToyFrames:
    return toyframes.make(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def method(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("method") / "mean_picture.py"
    path.write_text(toyframes.METHOD)
    return str(path)


@pytest.fixture
def place(shared_place, tmp_path) -> toyframes.ToyFrames:
    return replace(shared_place, runs=tmp_path / "runs")


def request(place: toyframes.ToyFrames, method: str, **values) -> TrainRequest:
    given = {"dataset": "squares", "device": "cpu", "cache_dir": place.cache, "runs_dir": place.runs} | values
    return TrainRequest(method=method, manifest=place.manifest, **given)


def test_train_and_eval_with_what_is_assumed(place, method):
    result = run(request(place, method, dataset=None))
    told = " | ".join(result.assumed)
    assert "dataset: squares (the last frames extracted)" in told and "frames: frames (" in told
    assert "held out: 1 of 6 normal training videos" in told
    recorded = result.runs[0].recorded
    assert recorded["steps"] == 12 * (100 // 8) and len(recorded["unseen"]) == 1
    assert recorded["thresholds_from"] == "frame scores of 1 normal held-out videos"
    wanted = EvalRequest(
        run=str(result.group), metrics=("auc", "macro-auc", "pixel-auc"), protocol=Protocol(rounds=0),
        manifest=place.manifest, cache_dir=str(place.cache), runs_dir=place.runs,
    )  # fmt: skip
    done = evaluate(wanted).evals[0]
    metrics = done.metrics["metrics"]
    assert metrics["auc"]["value"] == 1.0 and metrics["macro-auc"]["value"] == 1.0
    assert metrics["pixel-auc"]["value"] > 0.97 and metrics["pixel-auc"]["maps"] == ["12x16"]
    kept = files.read(done.folder / "scores.npz").rows["00"]
    assert kept.maps is not None and kept.maps.shape == (20, 12, 16) and kept.values.shape == (1, 20)


def test_a_learnt_run_scores_as_it_was_trained_and_closed_form_buffers_are_kept(place, method):
    folder = run(request(place, method)).runs[0].folder
    loaded = load_run(folder)
    assert loaded.kind == "frames" and float(loaded.method.spread) > 0 and float(loaded.method.spread) != 1


def test_held_out_videos_lower_the_learning_rate(place, method):
    """At a rate that moves nothing the loss of each epoch equals the first: two of them wait, then it falls tenfold."""
    folder = run(request(place, method, sets=("epochs=6", "optim.lr=1e-12"))).runs[0].folder
    rows = [row for row in read_log(folder / "train.csv") if row.get("val_loss")]
    assert [float(row["lr"]) for row in rows] == pytest.approx([1e-12, 1e-12, 1e-12, 1e-13, 1e-13, 1e-14])


@pytest.mark.parametrize("at", [7, 144, 145])
def test_a_stopped_training_ends_at_the_same_weights(place, method, tmp_path, monkeypatch, at):
    """At step 7, after the last step of the phase, and within the closed-form step."""
    whole = run(request(place, method)).runs[0].folder
    stopped = replace(place, runs=tmp_path / "stopped")
    count = 0
    real = loop.StopFlag.raise_stopped

    class Flag(loop.StopFlag):
        @property
        def signal(self):
            nonlocal count
            count += 1
            return None if count <= at else loop.signal.SIGTERM

        @signal.setter
        def signal(self, value):
            pass

        raise_stopped = real

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.train.stop_flag", _yielding(Flag))
        with pytest.raises(Stopped):
            run(request(stopped, method))
    result = run(request(stopped, method))
    assert result.runs[0].status == "resumed"
    one, two = (load_run(folder).method.state_dict() for folder in (whole, result.runs[0].folder))
    assert all(torch.equal(one[key], two[key]) for key in one)


def _yielding(flag):
    from contextlib import contextmanager

    @contextmanager
    def stop_flag():
        yield flag()

    return stop_flag


def test_a_list_with_anomalies_is_refused_and_named_or_filtered(tmp_path, method):
    place = toyframes.make(tmp_path, anomalous=2)
    with pytest.raises(UsageError, match="2 of 6 training videos of squares hold anomalies: train_00, train_01") as bad:
        plan(request(place, method))
    assert "--normal-only" in bad.value.hint
    planned = plan(request(place, method, anomalies="leave out"))
    assert {v.id for v in (*planned.train, *planned.unseen)} == {f"train_{i:02d}" for i in range(2, 6)}
    assert any("left out: 2 of 6" in line for line in planned.assumed)
    toyframes.toy_features(place)
    with pytest.raises(UsageError, match="mil-rank is no one-class method"):
        plan(request(place, "mil-rank", anomalies="leave out"))


def test_without_frames_the_message_has_the_command(place, method, tmp_path):
    with pytest.raises(MissingArtifactError, match="no frames of squares") as missing:
        plan(request(place, method, cache_dir=tmp_path / "empty"))
    assert missing.value.hint == "vad extract squares --encoder frames"


def test_nothing_held_out_says_so_and_thresholds_come_from_training(place, method):
    result = run(request(place, method, sets=("val_fraction=0", "epochs=1")))
    assert result.runs[0].recorded["thresholds_from"] == "frame scores of 6 normal training videos"
    with pytest.raises(UsageError, match="val_fraction"):
        plan(request(place, method, sets=("val_fraction=0,0.2",)))


def test_a_static_video_has_scores(place, method, tmp_path):
    still = np.full((9, *toyframes.SIZE, 3), 60, np.uint8)
    store = toyframes.write_store(tmp_path / "still", {"v": still})
    run_folder = run(request(place, method)).runs[0].folder
    from pipelines.scoring.infer import score_store

    (scores,) = score_store(load_run(run_folder), [store], ["v"])
    assert scores.clips.shape == (1, 9) and np.isfinite(scores.clips).all()
    assert scores.spans.tolist() == [[i, i + 1] for i in range(9)]


def test_a_dry_run_of_the_command(place, method, capsys):
    from vadcli.app import main

    words = ["train", "squares", "--method", method, "--dry-run", "--manifest", str(place.manifest)]
    words += ["--cache-dir", str(place.cache), "--runs-dir", str(place.runs)]
    with pytest.raises(SystemExit, match="0"):
        main(words)
    out = capsys.readouterr().out
    assert "epochs" in out and "held-out normal videos" in out and not Path(place.runs).exists()


def test_loose_videos_are_refused_with_the_way_to_go(place, method):
    from pipelines.scoring.scorer import load_scorer

    run(request(place, method, sets=("epochs=1",)))
    with pytest.raises(UsageError, match="reads stored frames") as refused:
        load_scorer(None, runs_dir=place.runs)
    assert "--encoder frames" in refused.value.hint
