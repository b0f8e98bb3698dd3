"""The train stage: what it assumes, groups and sweeps, what is up to date, and what it refuses before any step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.records import Failure
from pipelines.scoring.expand import expand
from pipelines.scoring.infer import score_store
from pipelines.store import runs
from pipelines.store.features import find_stores
from pipelines.train import TrainRequest, plan, run
from pipelines.training.checkpoint import load_run
from pipelines.training.group import split_sweep
from pipelines.training.select import SelectionConfig, auc
from pipelines.training.trackers import read_log
from tests import toy

FAST = ("steps=5",)


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def place(shared_place, tmp_path):
    """The toy, read only, with a runs folder of the test's own."""
    return replace(shared_place, runs=tmp_path / "runs")


@pytest.fixture
def own(tmp_path):
    """A toy that the test may change."""
    return toy.make(tmp_path)


def request(place: toy.Toy, **values) -> TrainRequest:
    given = {"dataset": "toy", "sets": FAST, "device": "cpu", "cache_dir": place.cache, "runs_dir": place.runs} | values
    return TrainRequest(manifest=place.manifest, **given)


def test_a_run_stands_where_it_should_and_is_latest(place):
    result = run(request(place))
    folder = result.runs[0].folder
    assert folder.relative_to(place.runs).parts[:2] == ("toy", "mil-rank") and folder.name == "seed-0"
    assert {p.name for p in folder.iterdir()} >= {
        "artifact.json",
        "config.yaml",
        "train.csv",
        "model.safetensors",
        "state.pt",
    }
    assert runs.resolve("latest", place.runs).runs == (folder,)
    assert (place.runs / "latest").read_text().strip() == str(result.group.relative_to(place.runs))
    artifact = artifacts.read(folder)
    assert artifact.recipe["selection"] == "last" and artifact.recipe["features"][0]["encoder"] == "toy"
    assert artifact.inputs == {"features:toy": find_stores([place.cache], "toy")[0].artifact.id}


def test_asking_again_is_up_to_date_and_new_forces(place):
    first = run(request(place))
    again = run(request(place))
    assert [o.status for o in again.runs] == ["up to date"] and again.group == first.group
    forced = run(request(place, new=True))
    assert [o.status for o in forced.runs] == ["trained"] and forced.group != first.group
    assert forced.runs[0].id == first.runs[0].id


def test_more_seeds_join_the_same_group_and_seeds_differ(place):
    first = run(request(place))
    more = run(request(place, seeds=3))
    assert more.group == first.group
    assert [o.status for o in more.runs] == ["up to date", "trained", "trained"]
    heads = [load_run(o.folder).method.state_dict()["head.weight"].tolist() for o in more.runs]
    assert heads[0] != heads[1] != heads[2]
    assert json.loads((more.group / "group.json").read_text())["seeds"] == [0, 1, 2]
    assert len(runs.resolve("latest", place.runs).runs) == 3


def test_the_same_seed_trains_the_same_weights(place, tmp_path):
    a, b = run(request(place)), run(request(place, runs_dir=tmp_path / "other"))
    one, two = ((x.runs[0].folder / "model.safetensors").read_bytes() for x in (a, b))
    assert one == two


def test_a_sweep_is_a_group_with_a_folder_for_each_value(place):
    result = run(request(place, sets=(*FAST, "optim.lr=1e-3,1e-2", "top=1,2"), seeds=1))
    places = sorted(str(o.folder.relative_to(result.group)) for o in result.runs)
    assert places == [f"optim.lr=1e-{a},top={b}/seed-0" for a in (2, 3) for b in (1, 2)]
    values = {(o.swept["optim.lr"], load_run(o.folder).config.optim.lr) for o in result.runs}
    assert values == {("1e-3", 1e-3), ("1e-2", 1e-2)}
    assert len(runs.resolve("latest", place.runs).runs) == 4


def test_a_list_in_brackets_is_no_sweep():
    fixed, combinations = split_sweep(["optim.milestones=[1,2]", "k=3"])
    assert fixed == ["optim.milestones=[1,2]", "k=3"] and combinations == [{}]
    with pytest.raises(UsageError, match="empty value"):
        split_sweep(["k=1,,2"])


def test_what_is_not_named_is_assumed_and_said(place):
    planned = plan(request(place, dataset=None))
    assert planned.dataset.name == "toy"
    told = " | ".join(planned.assumed)
    assert "dataset: toy" in told and "features: toy" in told and "preset: small-data" in told
    assert not place.runs.exists()


def test_a_saved_config_feeds_the_same_run(place):
    first = run(request(place, sets=("steps=5", "optim.lr=0.005")))
    planned = plan(request(place, sets=(), config=first.runs[0].folder / "config.yaml"))
    assert planned.members[0].id == first.runs[0].id and planned.done == (True,)
    assert yaml.safe_load((first.runs[0].folder / "config.yaml").read_text())["optim"]["lr"] == 0.005


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"sets": ("steps=6",)}, {"selection": SelectionConfig(mode="val")}, {"precision": "bf16"}]
)
def test_whatever_changes_the_weights_changes_the_run_id(place, change):
    assert plan(request(place)).members[0].id != plan(request(place, **change)).members[0].id


def test_an_edited_label_changes_the_run_id_and_the_root_does_not(own, tmp_path):
    before = plan(request(own)).members[0].id
    (tmp_path / "toy").rename(tmp_path / "moved")
    own.manifest.write_text(own.manifest.read_text().replace("root: toy", "root: moved"))
    assert plan(request(own)).members[0].id == before
    lines = (tmp_path / "moved/train.txt").read_text().replace("train_01,fire", "train_01,fight")
    (tmp_path / "moved/train.txt").write_text(lines)
    assert plan(request(own)).members[0].id != before


def test_val_selection_keeps_the_best_step_and_logs_it(place):
    chosen = SelectionConfig(mode="val", every=10, metric="frame-auc")
    result = run(request(place, sets=("steps=40",), selection=chosen))
    recorded = result.runs[0].recorded
    rows = {
        int(r["step"]): float(r["val_frame_auc"])
        for r in read_log(result.runs[0].folder / "train.csv")
        if r["val_frame_auc"]
    }
    assert sorted(rows) == [10, 20, 30, 40]
    assert recorded["selection_value"] == pytest.approx(max(rows.values())) and rows[recorded["best_step"]] == max(
        rows.values()
    )
    assert set(recorded["held"]) == set(place.ids["val"])


def test_without_a_val_part_groups_of_the_training_list_are_held_out(tmp_path):
    place = toy.make(tmp_path, groups=True)
    text = yaml.safe_load(place.manifest.read_text())
    del text["datasets"]["toy"]["splits"]["default"]["val"]
    place.manifest.write_text(yaml.safe_dump(text))
    planned = plan(request(place, selection=SelectionConfig(mode="val", share=0.25)))
    assert planned.held and not {v.group for v in planned.train} & {v.group for v in planned.held}
    assert len(planned.train) + len(planned.held) == 24


def test_a_val_part_that_shares_a_group_with_training_is_refused(tmp_path):
    place = toy.make(tmp_path, groups=True)
    with pytest.raises(VerificationError, match="training list and in the val list"):
        plan(request(place, selection=SelectionConfig(mode="val")))


def test_best_on_test_is_allowed_and_marked(place):
    result = run(request(place, selection=SelectionConfig(mode="best-on-test", every=5)))
    assert artifacts.read(result.runs[0].folder).recipe["selection"] == "best-on-test"
    assert result.runs[0].recorded["selection_metric"] == "test_video_auc"
    assert any("chosen on the test videos" in line for line in result.assumed)


def test_patience_ends_a_training_early(place):
    chosen = SelectionConfig(mode="val", every=2, patience=2)
    result = run(request(place, sets=("steps=500", "optim.lr=0.0"), selection=chosen))
    assert result.runs[0].recorded["steps"] == 6 and result.runs[0].recorded["best_step"] == 2


def test_motion_scalar_needs_no_training_and_learns_thresholds(tmp_path):
    place = toy.make(tmp_path, streams=("toy", "motion"))
    result = run(request(place, method="motion-scalar", sets=()))
    recorded = result.runs[0].recorded
    assert recorded["steps"] == 0 and 0 < recorded["thresholds"]["0.99"] <= 1
    loaded = load_run(result.runs[0].folder)
    store = next(s for s in find_stores([place.cache], "toy") if s.artifact.recipe["encoder"] == "motion")
    got = next(score_store(loaded, [store], ["test_00"])).clips
    np.testing.assert_allclose(got[0], np.clip(store.read("test_00")[:, 0, 0], 0, 1), rtol=1e-3)


def test_mil_rank_finds_the_planted_clips(tmp_path):
    place = toy.make(tmp_path, train=60, val=0)
    result = run(request(place, sets=("steps=400",)))
    loaded = load_run(result.runs[0].folder)
    lines, labels = [], []
    for scores in score_store(loaded, find_stores([place.cache], "toy"), place.ids["test"]):
        truth = np.zeros(scores.n_frames, bool)
        if scores.video_id in place.intervals:
            a, b = place.intervals[scores.video_id]
            truth[a * toy.STRIDE : b * toy.STRIDE] = True
        lines.append(expand(scores).scores)
        labels.append(truth)
    assert auc(np.concatenate(lines), np.concatenate(labels)) > 0.95


def test_features_can_be_named_by_id_encoder_or_joined(tmp_path):
    place = toy.make(tmp_path, streams=("toy", "clip:b", "motion"))
    ids = {s.artifact.recipe["encoder"]: s.artifact.id for s in find_stores([place.cache], "toy")}
    assert plan(request(place, features=ids["motion"][:8])).choice.encoders == ("motion",)
    assert plan(request(place, features="clip")).choice.encoders == ("clip:b",)
    assert plan(request(place, features="motion+clip:b")).choice.encoders == ("motion", "clip:b")


def test_two_features_that_match_are_both_listed(own):
    rng = np.random.default_rng(0)
    toy.write_store(own.cache, "toy", {v: rng.normal(size=(5, 1, 16)) for p in own.ids.values() for v in p}, stride=8)
    with pytest.raises(UsageError, match=r"2 features of toy match 'toy'(.|\n)*clips of 4(.|\n)*clips of 8"):
        plan(request(own, features="toy"))
    assert plan(request(own)).choice.why == "default"  # unnamed: the newest


def test_missing_features_say_what_to_extract(place, tmp_path):
    with pytest.raises(MissingArtifactError, match="match 'clip'") as caught:
        plan(request(place, features="clip"))
    assert "vad extract toy --encoder clip" in caught.value.hint
    with pytest.raises(MissingArtifactError, match="no features of toy"):
        plan(request(place, cache_dir=tmp_path / "empty"))


def test_videos_without_features_are_counted_and_named(own):
    store = find_stores([own.cache], "toy")[0]
    store.path("train_03").rename(own.cache / "away")
    with pytest.raises(MissingArtifactError, match=r"1 of 24 videos of toy have no features: train_03"):
        plan(request(own))
    store.record_failure(Failure("train_03", "313 of 602", "2024-01-01T00:00:00Z"))
    planned = plan(request(own))
    assert len(planned.train) == 23 and any("left out: 1" in line for line in planned.assumed)


@pytest.mark.parametrize("label", ["normal", "fire"])
def test_lists_of_one_kind_are_refused_before_any_step(own, tmp_path, label):
    text = "".join(f"{video},{label}\n" for video in own.ids["train"])
    (tmp_path / "toy/train.txt").write_text(text)
    with pytest.raises(UsageError, match=r"has (24 normal and 0|0 normal and 24) abnormal"):
        plan(request(own))


def test_all_configuration_errors_come_at_once(place):
    with pytest.raises(UsageError) as caught:
        plan(request(place, sets=("optim.lrr=1", "steps=none", "dropout=2")))
    for word in ("optim.lrr", "did you mean 'optim.lr'", "steps", "dropout"):
        assert word in caught.value.message


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"preset": "sultany"}, "did you mean 'sultani'"),
        ({"method": "mil-rang"}, "did you mean 'mil-rank'"),
        ({"split": "defualt"}, "did you mean 'default'"),
        ({"seeds": 0}, "at least one"),
        ({"device": "cuda:99"}, "cannot be used"),
    ],
)
def test_wrong_names_are_refused_with_the_nearest(place, values, word):
    with pytest.raises(UsageError, match=word):
        plan(request(place, **values))


def test_resume_without_a_stopped_run_says_so(place):
    with pytest.raises(MissingArtifactError, match="no stopped run"):
        run(request(place, resume=True))
    assert not place.runs.exists()


def test_bf16_trains_and_is_another_run(place):
    result = run(request(place, precision="bf16"))
    assert artifacts.read(result.runs[0].folder).recipe["precision"] == "bf16"


def test_a_batch_larger_than_the_list_still_trains(place):
    planned = request(place, sets=("steps=3", "data.batch_normal=500", "data.batch_abnormal=500"))
    assert run(planned).runs[0].recorded["steps"] == 3


def test_a_method_of_ones_own_file_trains_and_loads_again(place, tmp_path):
    source = tmp_path / "mine.py"
    text = (Path(__file__).parents[2] / "pipelines/methods/mil_rank.py").read_text()
    source.write_text(text.replace('NAME = "mil-rank"', 'NAME = "mine"'))
    result = run(request(place, method=str(source)))
    assert result.runs[0].folder.relative_to(place.runs).parts[1] == "mine"
    assert load_run(result.runs[0].folder).method_name == "mine"
    before = plan(request(place, method=str(source))).members[0].id
    source.write_text(source.read_text() + "\n# edited\n")
    assert plan(replace(request(place), method=str(source))).members[0].id != before
