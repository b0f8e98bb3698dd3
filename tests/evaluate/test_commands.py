"""`vad eval`, `vad floors`, `vad runs`, `vad metrics` as a user types them: output, JSON, exit codes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import yaml

from tests.evaluate.world import AUC, SCORES, World
from vadcli.app import run


@pytest.fixture
def vad(tiny: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`vad(...)` -> (exit code, stdout, stderr), inside the tiny world."""
    monkeypatch.chdir(tiny.root)
    for name in ("VAD_CACHE", "VAD_RUNS", "VAD_MANIFEST"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(word) for word in arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def as_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def test_one_table_with_protocol_interval_floor_and_n(vad, tiny: World):
    tiny.npz(SCORES)
    code, out, _ = vad(
        "eval", "--scores", "mine.npz", "--dataset", "tiny", "--metric", "auc,ap", "--rounds", 50, "--no-plots"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "mine.npz on tiny / default / test: 2 videos, 10 frames"
    assert "truth tiny:exact" in lines[1]
    row = next(line for line in lines if line.startswith("auc")).split()
    assert row[1] == "93.75"
    assert row[-1] == "10"
    assert lines[-1].startswith("new: ")


def test_json_has_the_contracts_shape(vad, tiny: World):
    tiny.npz(SCORES)
    arguments = (
        "eval",
        "--scores",
        "mine.npz",
        "--dataset",
        "tiny",
        "--metric",
        "auc",
        "--metric",
        "ap",
        "--json",
        "--no-plots",
    )
    code, out, _ = vad(*arguments)
    found = as_json(out)
    assert (code, found["schema"], found["dataset"], found["split"]) == (0, 1, "tiny", "default")
    assert (found["videos"], found["frames"]) == (2, 10)
    entry = found["metrics"]["auc"]
    assert entry["value"] == pytest.approx(AUC)
    assert {"value", "ci", "n", "floor", "definition"} <= entry.keys()
    assert {"constant", "random", "random_sd"} <= entry["floor"].keys()
    assert found["evals"][0]["state"] == "new"
    assert as_json(vad(*arguments)[1])["evals"][0]["state"] == "up to date"


def test_exit_codes_say_what_is_wrong(vad, tiny: World):
    tiny.npz(SCORES)
    tiny.npz({"a": SCORES["a"]}, "half.npz")
    base = ("--dataset", "tiny", "--no-ci", "--no-floors", "--no-plots")
    assert vad("eval", "--scores", "mine.npz", "--metric", "auc")[0] == 2  # whose videos?
    assert vad("eval", "--scores", "mine.npz", "--metric", "auk", *base)[0] == 2
    code, _, err = vad("eval", "--scores", "mine.npz", "--metric", "map-iou", *base)
    assert code == 2
    assert "no class probabilities" in err
    assert vad("eval", "--scores", "none.npz", *base)[0] == 4
    assert vad("eval")[0] == 4  # no run yet
    code, _, err = vad("eval", "--scores", "half.npz", "--metric", "auc", *base)
    assert code == 5
    assert "1 of 2 videos have no scores: b" in err
    assert vad("eval", "--scores", "half.npz", "--metric", "auc", "--allow-missing", *base)[0] == 0
    assert vad("eval", "--scores", "mine.npz", "--compat", "nonsense", *base)[0] == 2
    assert vad("eval", "--scores", "mine.npz", "--tiou", "0", *base)[0] == 2


def test_a_dry_run_writes_nothing(vad, tiny: World):
    tiny.npz(SCORES)
    code, out, _ = vad("eval", "--scores", "mine.npz", "--dataset", "tiny", "--dry-run", "--json")
    planned = as_json(out)["evals"][0]
    assert (code, planned["state"], planned["videos"]) == (0, "to do", 2)
    assert not (tiny.root / "vad_runs").exists()


def test_breakdowns_and_polarity_are_shown(vad, tiny: World):
    tiny.npz({video: [-s for s in rows] for video, rows in SCORES.items()})
    code, out, err = vad(
        "eval", "--scores", "mine.npz", "--dataset", "tiny", "--metric", "auc", "--by", "class", "--no-ci", "--no-plots"
    )
    assert code == 0
    assert "by class" in out
    assert "fire (events of class fire)" in out
    assert "below 0.5" in err
    assert "! within its interval of a floor" in out


def test_floors_alone(vad):
    code, out, _ = vad("floors", "tiny", "--metric", "auc,ap", "--json")
    found = as_json(out)
    assert code == 0
    assert (found["videos"], found["frames"], found["positives"]) == (2, 10, 2)
    floors = found["floors"]
    assert floors["constant"] == {"auc": 0.5, "ap": 0.2}
    assert floors["video-oracle"]["auc"] == pytest.approx(12 / 16)
    assert "video-oracle" in vad("floors", "tiny")[1]


def test_floors_need_a_length_from_somewhere(vad, tiny: World):
    document = yaml.safe_load(tiny.manifest.read_text())
    for part in document["datasets"]["tiny"]["splits"]["default"].values():
        part["fields"] = ["video", "label"]
    tiny.manifest.write_text(yaml.safe_dump(document))
    for part in ("test", "val", "train"):
        lines = (tiny.root / "tiny" / f"{part}.txt").read_text().splitlines()
        tiny.write(f"tiny/{part}.txt", "".join(line.rpartition(",")[0] + "\n" for line in lines))
    code, _, err = vad("floors", "tiny")
    assert code == 4
    assert "length of video 'a' is known from nowhere" in err
    tiny.write("lengths.csv", "video,frames\na,6\nb,4\n")
    assert vad("floors", "tiny", "--lengths", "lengths.csv")[0] == 0


def test_motion_is_a_floor_where_its_features_are(vad, tiny: World):
    from tests.toy import write_store

    motion = {"a": [0, 9, 0], "b": [1, 1]}  # clips of 2 frames; the event is clip 1 of a
    features = {v: np.array(rows, np.float32).reshape(-1, 1, 1) for v, rows in motion.items()}
    write_store(tiny.root / "vad_cache", "motion", features, stride=2, dataset="tiny")
    floors = as_json(vad("floors", "tiny", "--metric", "auc", "--json")[1])["floors"]
    assert floors["motion"]["auc"] == 1.0


def test_metrics_are_listed_and_shown(vad):
    listed = {row["metric"] for row in as_json(vad("metrics", "ls", "--json")[1])["metrics"]}
    assert {"auc", "ap", "ano-auc", "video-auc", "map-iou", "operating"} <= listed
    assert as_json(vad("metrics", "show", "ano-auc", "--json")[1])["definition"] == "auc_ano"
    code, _, err = vad("metrics", "show", "auk")
    assert code == 2
    assert "did you mean 'auc'" in err


def test_runs_without_any(vad):
    assert vad("runs", "ls")[0] == 0
    assert as_json(vad("runs", "ls", "--json")[1])["runs"] == []
    assert vad("runs", "show")[0] == 4
    assert vad("runs", "table", "--dataset", "tiny")[0] == 4


def test_two_brought_files_compare(vad, tiny: World):
    tiny.npz(SCORES)
    tiny.npz({"a": [0.5] * 6, "b": [0.5] * 4}, "flat.npz")
    folders = [
        as_json(vad("eval", "--scores", f"{name}.npz", "--dataset", "tiny", "--metric", "auc", "--no-ci", "--no-plots", "--json")[1])["evals"][0]["folder"]
        for name in ("mine", "flat")
    ]  # fmt: skip
    code, out, _ = vad("runs", "compare", *folders, "--rounds", 20, "--json")
    row = as_json(out)["metrics"][0]
    assert code == 0
    assert (row["first"], row["second"]) == (pytest.approx(AUC), 0.5)
    assert row["share_above_0"] == 1.0
