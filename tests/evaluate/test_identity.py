"""What an evaluation's id depends on, what is up to date, and that nothing is overwritten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import evaluate
from tests.evaluate.world import AUC, QUICK, SCORES, World


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def eval_id(world: World, path: Path, **changes) -> str:
    return evaluate.plan(world.request(path, **changes))[0].id


def test_asking_again_is_up_to_date_and_writes_nothing(tiny: World):
    path = tiny.npz(SCORES)
    first = tiny.evaluate(path).evals[0]
    before = digest(tiny.root / "runs")
    again = tiny.evaluate(path).evals[0]
    assert (first.state, again.state) == ("new", "up to date")
    assert again.folder == first.folder
    assert again.metrics == first.metrics
    assert digest(tiny.root / "runs") == before


def test_new_computes_again_beside_the_old(tiny: World):
    path = tiny.npz(SCORES)
    first = tiny.evaluate(path).evals[0]
    before = digest(first.folder)
    second = tiny.evaluate(path, again="new").evals[0]
    assert second.state == "new"
    assert second.folder != first.folder
    assert second.metrics["metrics"] == first.metrics["metrics"]
    assert digest(first.folder) == before


def test_an_evaluation_of_everything_answers_for_one_metric(tiny: World):
    path = tiny.npz(SCORES)
    everything = tiny.evaluate(path, metrics=("all",)).evals[0]
    one = tiny.evaluate(path, metrics=("auc",)).evals[0]
    assert (one.state, one.folder) == ("up to date", everything.folder)
    assert list(one.metrics["metrics"]) == ["auc"]
    other = tiny.evaluate(path, metrics=("macro-auc",)).evals[0]  # not part of `all` for this kind
    assert other.state == "new"


def test_the_id_follows_scores_truth_and_protocol(tiny: World):
    path = tiny.npz(SCORES)
    plain = eval_id(tiny, path)
    assert eval_id(tiny, path) == plain
    assert eval_id(tiny, tiny.npz(SCORES | {"b": [0.0] * 4}, "other.npz")) != plain
    assert eval_id(tiny, path, protocol=replace(QUICK, smooth="gaussian:2")) != plain
    assert eval_id(tiny, path, protocol=replace(QUICK, tail="truncate")) != plain
    assert eval_id(tiny, path, protocol=replace(QUICK, gt="wide")) != plain
    assert eval_id(tiny, path, protocol=replace(QUICK, gt="exact")) == plain  # the default truth by its name
    tiny.write("tiny/truth.csv", "video,start,end,label\na,2,5,fire\n")
    assert eval_id(tiny, path) != plain


def test_the_id_does_not_follow_labels_of_other_parts(tiny: World):
    path = tiny.npz(SCORES)
    plain = eval_id(tiny, path)
    tiny.write("tiny/train.txt", "t,fire,8\nu,normal,8\nw,normal,9\n")
    tiny.write("tiny/truth.csv", "video,start,end,label\na,2,4,fire\nt,0,4,fire\n")
    assert eval_id(tiny, path) == plain


def test_the_id_does_not_follow_the_order_of_the_list(tiny: World):
    path = tiny.npz(SCORES)
    plain = eval_id(tiny, path)
    tiny.write("tiny/test.txt", "b,normal,4\na,fire,6\n")
    assert eval_id(tiny, path) == plain


def test_an_evaluation_with_missing_videos_is_redone_when_they_come(tiny: World):
    path = tiny.npz({"a": SCORES["a"]})
    assert tiny.evaluate(path, missing="allow").evals[0].metrics["videos"] == 1
    tiny.npz(SCORES)  # the same file, now complete
    result = tiny.evaluate(path, missing="allow").evals[0]
    assert (result.state, result.metrics["videos"]) == ("new", 2)


def test_planning_computes_and_writes_nothing(tiny: World):
    planned = evaluate.plan(tiny.request(tiny.npz(SCORES)))[0]
    assert planned.existing is None
    assert not (tiny.root / "runs").exists()
    assert tiny.evaluate(tiny.npz(SCORES)).evals[0].folder == planned.folder


def test_a_failing_evaluation_leaves_nothing(tiny: World, monkeypatch: pytest.MonkeyPatch):
    from pipelines.report import evaluation

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(evaluation, "draw_curves", fail)
    with pytest.raises(OSError, match="disk full"):
        tiny.evaluate(tiny.npz(SCORES))
    assert not [path for path in (tiny.root / "runs").rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert tiny.evaluate(tiny.npz(SCORES)).evals[0].metrics["metrics"]["auc"]["value"] == pytest.approx(AUC)
