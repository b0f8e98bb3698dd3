"""Evaluating trained runs: seeds, the same numbers as a referee's, other datasets, finding runs, comparing them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines import artifacts, evaluate, train
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.evaluate import EvalRequest
from pipelines.report.results import results
from pipelines.scoring.compare import compare
from pipelines.scoring.protocol import Protocol
from pipelines.store import runs
from tests import toy

FAST = Protocol(rounds=50, floors="none")
SMALL = ("steps=20", "data.batch_normal=4", "data.batch_abnormal=4")


@dataclass(frozen=True)
class Trained:
    """The toy with a group of two mil-rank seeds."""

    toy: toy.Toy
    group: Path

    def request(self, **changes: Any) -> EvalRequest:
        fields: dict[str, Any] = {
            "metrics": ("auc", "ap"),
            "protocol": FAST,
            "plots": "leave out",
            "device": "cpu",
            "manifest": self.toy.manifest,
            "cache_dir": str(self.toy.cache),
            "runs_dir": self.toy.runs,
        }
        return EvalRequest(**(fields | changes))

    def evaluate(self, **changes: Any) -> evaluate.EvalResult:
        return evaluate.run(self.request(**changes))


def train_one(made: toy.Toy, **changes: Any) -> train.TrainResult:
    fields: dict[str, Any] = {"method": "mil-rank", "dataset": "toy", "features": "toy", "sets": SMALL, "device": "cpu"}
    fields |= {"cache_dir": made.cache, "runs_dir": made.runs, "manifest": made.manifest}
    return train.run(train.TrainRequest(**(fields | changes)))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    made = toy.make(tmp_path_factory.mktemp("trained"), crops=2)
    return Trained(made, train_one(made, seeds=2).group)


@pytest.fixture
def trained(template: Trained, tmp_path: Path) -> Trained:
    """A copy that a test may change."""
    root = tmp_path / "world"
    shutil.copytree(template.toy.manifest.parent, root)
    old = template.toy
    copied = replace(old, manifest=root / old.manifest.name, cache=root / old.cache.name, runs=root / old.runs.name)
    return Trained(copied, copied.runs / template.group.relative_to(old.runs))


def test_a_group_is_evaluated_seed_by_seed(trained: Trained):
    result = trained.evaluate()
    assert [item.folder.parent.parent.name for item in result.evals] == ["seed-0", "seed-1"]
    values = [item.metrics["metrics"]["auc"]["value"] for item in result.evals]
    entry = result.summary["metrics"]["auc"]
    assert entry["value"] == pytest.approx(np.mean(values))
    assert entry["sd"] == pytest.approx(np.std(values, ddof=1))
    assert entry["seeds"] == values
    one = result.evals[0]
    assert one.folder.name.startswith("toy-default-")
    assert one.metrics["model"]["method"] == "mil-rank"
    assert one.metrics["recipe"]["selection"] == "last"
    assert one.metrics["ground_truth"]["length_source"] == {"features": 12}


def test_a_referee_of_our_own_scores_gives_the_same_metrics(trained: Trained):
    metrics = ("auc", "ap", "ano-auc", "ap-trapezoid", "video-auc", "macro-auc")
    ours = trained.evaluate(run=str(trained.group / "seed-0"), metrics=metrics).evals[0]
    brought = trained.evaluate(run=None, scores=ours.folder / "scores.npz", dataset="toy", metrics=metrics).evals[0]
    assert brought.metrics["metrics"] == ours.metrics["metrics"]
    elsewhere = trained.evaluate(
        run=None, scores=ours.folder / "scores.npz", dataset="toy", metrics=metrics, cache_dir=str(trained.group / "no"),
        again="new",
    ).evals[0]  # fmt: skip
    assert elsewhere.metrics["ground_truth"]["length_source"] == {"scores file": 12}
    assert elsewhere.metrics["metrics"] == ours.metrics["metrics"]
    assert brought.folder.parent == trained.toy.runs / "referee" / "toy"


def test_another_protocol_reuses_the_scores(trained: Trained):
    first = trained.evaluate().evals[0]
    second = trained.evaluate(protocol=replace(FAST, smooth="gaussian:2")).evals[0]
    assert second.metrics["scores"]["reused"] is True
    assert first.metrics["scores"]["reused"] is False
    assert (second.folder / "scores.npz").read_bytes() == (first.folder / "scores.npz").read_bytes()
    assert second.metrics["metrics"]["auc"] != first.metrics["metrics"]["auc"]


def test_the_threshold_is_the_one_that_the_run_recorded(trained: Trained):
    entry = trained.evaluate(metrics=("operating",)).evals[0].metrics["metrics"]["operating"]
    recorded = artifacts.read(trained.group / "seed-0").recorded["thresholds"]["0.99"]
    assert entry["threshold"] == recorded
    assert "recorded by the run" in entry["threshold_source"]
    smoothed = replace(FAST, smooth="gaussian:2")  # learnt on raw scores: not for smoothed ones
    entry = trained.evaluate(metrics=("operating",), protocol=smoothed).evals[0].metrics["metrics"]["operating"]
    assert entry["threshold"] is None
    learnt = replace(smoothed, threshold_policy="quantile:0.9")
    entry = trained.evaluate(metrics=("operating",), protocol=learnt).evals[0].metrics["metrics"]["operating"]
    assert entry["threshold_source"] == "quantile:0.9 of 5 normal val videos"


def test_missing_features_are_named_with_the_command(trained: Trained):
    store = next((trained.toy.cache / "features" / "toy").iterdir())
    array, aside = store / "features.zarr" / "test_03", trained.toy.cache / "test_03"
    array.rename(aside)
    with pytest.raises(VerificationError, match="1 of 12 videos have no scores: test_03") as error:
        trained.evaluate()
    assert "vad extract toy" in error.value.hint
    assert trained.evaluate(missing="allow").evals[0].metrics["videos"] == 11
    aside.rename(array)
    complete = trained.evaluate(missing="allow").evals[0]
    assert (complete.state, complete.metrics["videos"]) == ("new", 12)
    shutil.rmtree(store)
    with pytest.raises(MissingArtifactError, match="no features 'toy'") as missing:
        trained.evaluate()
    assert missing.value.hint.startswith("vad extract toy --encoder toy")


def test_changed_features_are_scored_again(trained: Trained):
    before = trained.evaluate().evals[0]
    toy_store = next((trained.toy.cache / "features" / "toy").iterdir())
    from pipelines.store.features import FeatureStore

    store = FeatureStore(toy_store)
    store.replace("test_01", np.asarray(store.read("test_01")) + np.float16(1), store.facts("test_01"))
    after = trained.evaluate(protocol=replace(FAST, smooth="mean:3")).evals[0]
    assert after.metrics["scores"]["reused"] is False
    assert after.metrics["scores"]["key"] != before.metrics["scores"]["key"]


def test_a_method_says_how_its_clips_become_frames(trained: Trained, monkeypatch: pytest.MonkeyPatch):
    from pipelines.methods.mil_rank import MilRank

    run = str(trained.group / "seed-0")
    repeated = trained.evaluate(run=run).evals[0].metrics
    linear = trained.evaluate(run=run, protocol=replace(FAST, expand="linear")).evals[0].metrics
    assert (repeated["scores"]["expand"], linear["scores"]["expand"]) == ("repeat", "linear")
    assert repeated["metrics"]["auc"]["value"] != linear["metrics"]["auc"]["value"]
    monkeypatch.setattr(MilRank, "expand", "linear")
    declared = trained.evaluate(run=run, again="new").evals[0].metrics
    assert declared["metrics"] == linear["metrics"]
    assert declared["scores"]["expand"] == "linear"


def other_dataset(trained: Trained, classes: list[str]) -> None:
    """Add `other`: the toy's test videos under other class names, with the same features."""
    document = yaml.safe_load(trained.toy.manifest.read_text())
    entry = dict(document["datasets"]["toy"], classes=classes, root="other")
    document["datasets"]["other"] = entry
    trained.toy.manifest.write_text(yaml.safe_dump(document))
    root = trained.toy.manifest.parent
    shutil.copytree(root / "toy", root / "other")
    names = dict(zip(toy.CLASSES, classes, strict=True))
    for path in (root / "other").iterdir():
        text = path.read_text()
        for old, new in names.items():
            text = text.replace(f",{old}", f",{new}")
        path.write_text(text)
    shutil.copytree(trained.toy.cache / "features" / "toy", trained.toy.cache / "features" / "other")


def test_a_run_is_evaluated_on_another_dataset(trained: Trained):
    other_dataset(trained, ["calm", "flames", "brawl"])
    own = trained.evaluate().evals[0]
    result = trained.evaluate(dataset="other").evals[0]
    assert result.metrics["dataset"] == "other"
    assert result.folder.name.startswith("other-default-")
    assert result.metrics["metrics"]["auc"]["value"] == own.metrics["metrics"]["auc"]["value"]
    assert result.metrics["model"]["trained_on"]["dataset"] == "toy"


def test_text_classes_of_another_dataset_are_scored_zero_shot(trained: Trained):
    small = (*SMALL, "width=128", "lgt.layers=1", "lgt.heads=2", "macro=2")
    group = train_one(trained.toy, method="fine-vad", sets=small, text="seeded").group
    other_dataset(trained, ["normal", "fight", "fire"])  # the same words in another order, and other videos' labels
    own = trained.evaluate(run=str(group), metrics=("auc", "map-iou")).evals[0]
    crossed = trained.evaluate(run=str(group), dataset="other", metrics=("auc", "map-iou")).evals[0]
    assert own.metrics["scores"]["zero_shot"] is False
    assert crossed.metrics["scores"]["zero_shot"] is True
    assert crossed.metrics["scores"]["classes"] == ["normal", "fight", "fire"]
    assert crossed.metrics["metrics"]["auc"]["value"] == own.metrics["metrics"]["auc"]["value"]
    arrays = [np.load(item.folder / "scores.npz") for item in (own, crossed)]
    before, after = (one["test_01|classes"] for one in arrays)
    np.testing.assert_allclose(after[..., [0, 2, 1]], before, atol=1e-5)  # a column follows its word
    again = trained.evaluate(run=str(group), dataset="other", metrics=("ap",)).evals[0]
    assert (again.metrics["scores"]["reused"], again.metrics["scores"]["zero_shot"]) == (True, True)


def test_another_number_of_classes_is_scored_zero_shot_too(trained: Trained):
    small = (*SMALL, "width=128", "lgt.layers=1", "lgt.heads=2", "macro=2")
    group = train_one(trained.toy, method="fine-vad", sets=small, text="seeded").group
    other_dataset(trained, ["calm", "flames", "brawl"])
    document = yaml.safe_load(trained.toy.manifest.read_text())
    entry = document["datasets"]["other"]
    entry |= {"classes": ["calm", "trouble"], "class_aliases": {"flames": "trouble", "brawl": "trouble"}}
    trained.toy.manifest.write_text(yaml.safe_dump(document))
    metrics = trained.evaluate(run=str(group), dataset="other", metrics=("auc", "map-iou")).evals[0].metrics
    assert metrics["scores"]["classes"] == ["calm", "trouble"]
    assert metrics["metrics"]["map-iou"]["abnormal-only"]["avg"] is not None


def test_what_cannot_go_zero_shot_says_why_and_keeps_its_binary_metrics(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
):
    from pipelines.methods.fine_vad import FineVad

    small = (*SMALL, "width=128", "lgt.layers=1", "lgt.heads=2", "macro=2")
    group = train_one(trained.toy, method="fine-vad", sets=small, text="seeded").group
    other_dataset(trained, ["calm", "flames", "brawl"])
    monkeypatch.setattr(FineVad, "class_words", "")
    metrics = trained.evaluate(run=str(group), dataset="other", metrics=("auc",)).evals[0].metrics
    assert metrics["metrics"]["auc"]["value"] is not None
    assert metrics["scores"]["zero_shot"] is False
    assert (
        "not zero-shot: the classes of fine-vad are not read as text; --class-map FILE maps its classes"
        in metrics["warnings"]
    )


def test_runs_are_found_by_latest_id_path_and_method(trained: Trained):
    root = trained.toy.runs
    for text in ("latest", "mil-rank", "toy/mil-rank", trained.group.name[:6], str(trained.group)):
        assert runs.resolve(text, root).folder == trained.group
    one = trained.group / "seed-1"
    assert runs.resolve(artifacts.read(one).id[:12], root).runs == (one,)
    assert runs.resolve(str(one), root).runs == (one,)
    facts = runs.facts(runs.resolve("latest", root), root)
    assert (facts.method, facts.seeds, facts.selection, facts.latest) == ("mil-rank", (0, 1), "last", True)


def test_two_that_match_are_both_listed(trained: Trained):
    second = train_one(trained.toy, sets=("steps=10", *SMALL[1:])).group
    with pytest.raises(UsageError) as error:
        runs.resolve("mil-rank", trained.toy.runs)
    assert str(second) in error.value.message
    assert str(trained.group) in error.value.message
    assert runs.resolve("latest", trained.toy.runs).folder == second


def test_no_run_says_what_to_type(tmp_path: Path):
    with pytest.raises(MissingArtifactError, match="no latest run") as error:
        runs.resolve("latest", tmp_path)
    assert "vad train" in error.value.hint
    with pytest.raises(MissingArtifactError, match="no run matches 'mil-rank'"):
        runs.resolve("mil-rank", tmp_path)
    (tmp_path / "latest").write_text("toy/mil-rank/gone\n")
    with pytest.raises(MissingArtifactError, match="is gone"):
        runs.resolve("latest", tmp_path)


def test_a_sweep_is_never_averaged_over_its_settings(trained: Trained):
    group = train_one(trained.toy, sets=("steps=10,30", *SMALL[1:]), seeds=2).group
    result = trained.evaluate(run=str(group))
    assert len(result.evals) == 4
    assert "metrics" not in result.summary
    assert list(result.summary["settings"]) == ["steps=10", "steps=30"]
    assert len(result.summary["settings"]["steps=10"]["seeds"]) == 2
    table = results([str(group)], trained.toy.runs, dataset="toy", split=None, columns=["auc"], papers="leave out")
    assert [row[0] for row in table.rows] == ["mil-rank steps=10", "mil-rank steps=30"]


def test_a_paired_comparison_of_a_run_with_itself_is_zero(trained: Trained):
    from pipelines.data.manifest import load

    trained.evaluate()
    records = runs.resolve_eval("latest", trained.toy.runs)
    found = compare(records, records, load(trained.toy.manifest), rounds=50)
    assert {row["metric"] for row in found["metrics"]} == {"auc", "ap"}
    assert all(row["difference"] == 0 and row["ci"] == [0, 0] for row in found["metrics"])
    assert len(found["pairs"]) == 2


def test_the_interval_of_a_group_is_of_the_mean_over_seeds_on_shared_resamples(trained: Trained):
    result = trained.evaluate()
    rounds = [np.load(item.folder / "draws.npz")["auc"] for item in result.evals]
    assert [len(one) for one in rounds] == [50, 50]
    low, high = np.quantile((rounds[0] + rounds[1]) / 2, [0.025, 0.975])
    assert result.summary["metrics"]["auc"]["ci"] == pytest.approx([low, high])
    assert result.summary["interval"].startswith("of the mean over seeds")
    single = [item.metrics["metrics"]["auc"]["ci"] for item in result.evals]
    assert single[0] == pytest.approx(list(np.quantile(rounds[0], [0.025, 0.975])))
    for item in result.evals:
        (item.folder / "draws.npz").unlink()
    alone = trained.evaluate().summary
    assert (alone["metrics"]["auc"]["ci"], alone["interval"]) == (single[0], "of seed 0 alone")


def test_two_groups_compare_jointly_over_seeds(trained: Trained):
    from pipelines.data.manifest import load

    second = train_one(trained.toy, sets=("steps=10", *SMALL[1:]), seeds=2).group
    for group in (trained.group, second):
        trained.evaluate(run=str(group))
    pair = [runs.resolve_eval(str(group), trained.toy.runs) for group in (trained.group, second)]
    found = compare(*pair, load(trained.toy.manifest), rounds=50)
    draws = [[np.load(record.folder / "draws.npz")["auc"] for record in records] for records in pair]
    difference = (
        draws[0][0] + draws[0][1] - draws[1][0] - draws[1][1]
    ) / 2  # the evaluations drew 50 rounds of seed 0 too
    row = next(row for row in found["metrics"] if row["metric"] == "auc")
    assert row["ci"] == pytest.approx(list(np.quantile(difference, [0.025, 0.975])))
    assert row["share_above_0"] == pytest.approx((difference > 0).mean())
    each = [next(r for r in one["metrics"] if r["metric"] == "auc")["difference"] for one in found["pairs"]]
    assert row["difference"] == pytest.approx(sum(each) / 2)
    assert "draws" not in str(found)


def test_a_comparison_says_which_is_better(trained: Trained):
    ours = trained.evaluate(run=str(trained.group / "seed-0")).evals[0]
    arrays = dict(np.load(ours.folder / "scores.npz"))
    perfect = {}
    for video in trained.toy.ids["test"]:
        a, b = trained.toy.intervals.get(video, (0, 0))
        rows = np.zeros(arrays[video].shape[-1])
        rows[a:b] = 1
        perfect[video] = rows
    path = trained.toy.runs.parent / "perfect.npz"
    np.savez(path, **perfect)
    scored = trained.evaluate(run=None, scores=path, dataset="toy", clip_frames=toy.STRIDE, against=str(ours.folder))
    row = scored.comparison["metrics"][0]
    assert (row["metric"], row["first"]) == ("auc", 1.0)
    assert row["difference"] == pytest.approx(1 - ours.metrics["metrics"]["auc"]["value"])
    assert 0 < row["ci"][0] <= row["difference"] <= row["ci"][1]
    assert row["share_above_0"] == 1.0


def test_evaluations_of_different_protocols_do_not_compare(trained: Trained):
    from pipelines.data.manifest import load

    run = str(trained.group / "seed-0")
    plain, smoothed = (
        trained.evaluate(run=run, protocol=replace(FAST, smooth=how)).evals[0] for how in ("none", "mean:3")
    )
    pair = [[runs.read_eval(item.folder)] for item in (plain, smoothed)]
    with pytest.raises(UsageError, match="smooth: none / mean:3"):
        compare(pair[0], pair[1], load(trained.toy.manifest))
    truth = trained.toy.manifest.parent / "toy" / "truth.csv"
    truth.write_text(truth.read_text().replace("test_01,", "test_01,0,4,fire\ntest_01,", 1))
    with pytest.raises(VerificationError, match="annotations of toy changed"):
        compare(pair[0], pair[0], load(trained.toy.manifest))


def test_the_table_prefers_plain_evaluations_and_refuses_mixed_protocols(trained: Trained):
    trained.evaluate()
    smoothed = trained.evaluate(protocol=replace(FAST, smooth="mean:3"))
    options = {"dataset": "toy", "split": None, "columns": ["auc"], "papers": "leave out"}
    table = results([], trained.toy.runs, **options)
    assert len(table.rows) == 1
    assert "smooth none" in table.notes[0]
    named = ["mil-rank", str(smoothed.evals[0].folder)]
    with pytest.raises(UsageError, match="2 protocols would stand in one column"):
        results(named, trained.toy.runs, **options)
    split = results(named, trained.toy.runs, protocols="split", **options)
    assert split.columns[-2:] == ("auc [A]", "auc [B]")
    assert [[cell == "-" for cell in row[-2:]] for row in split.rows] == [[False, True], [True, False]]


def test_an_eval_artefact_names_its_inputs(trained: Trained):
    folder = trained.evaluate().evals[0].folder
    artifact = artifacts.read(folder)
    assert artifact.kind == "eval"
    assert artifact.inputs == {"run": artifacts.read(trained.group / "seed-0").id}
    assert json.loads((folder / "metrics.json").read_text())["identity"]["eval"] == artifact.id
