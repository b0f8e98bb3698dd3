"""`vad extract`, `vad status` and `vad cache` as a user types them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data.init import init
from pipelines.store.features import FeatureStore, find_stores
from tests.extraction.fakes import write_noise
from vadcli.app import run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with six videos and an entry for them, and no cache."""
    for index in range(6):
        write_noise(tmp_path / "videos" / f"v{index}.mp4", seed=index)
    monkeypatch.chdir(tmp_path)
    for name in ("VAD_CACHE", "VAD_RUNS", "VAD_MANIFEST"):
        monkeypatch.delenv(name, raising=False)
    init(tmp_path / "videos", name="mine")
    return tmp_path


@pytest.fixture
def vad(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*argv: str) -> tuple[int, str, str]:
        code = run(argv)
        out, err = capsys.readouterr()
        return code, out, err

    return call


EXTRACT = ("extract", "mine", "--encoder", "motion", "--clip-len", "8", "--decoders", "1", "--device", "cpu")


def store_of(place: Path) -> FeatureStore:
    (store,) = find_stores([place / "vad_cache"], "mine")
    return store


def test_extract_prints_defaults_first_then_the_result_then_is_up_to_date(place: Path, vad: Any) -> None:
    code, out, err = vad(*EXTRACT)
    assert code == 0 and "clips of 8 every 8 frames" in err and "6 to do" in err and "motion" in out
    assert store_of(place).videos() == {f"v{index}" for index in range(6)}
    code, out, _ = vad(*EXTRACT)
    assert code == 0 and "up to date" in out


def test_extract_as_json(place: Path, vad: Any) -> None:
    code, out, _ = vad(*EXTRACT, "--json", "--limit", "2")
    answer = json.loads(out)
    assert code == 0 and answer["schema"] == 1 and answer["failures"] == {}
    (artifact,) = answer["artifacts"]
    assert len(artifact["done"]) == 2 and Path(artifact["folder"]) == store_of(place).folder


def test_crops_of_an_encoder_without_crops_are_warned_of(place: Path, vad: Any) -> None:
    assert "centre crop only" in vad(*EXTRACT, "--crops", "ten", "--dry-run")[2]
    assert "centre crop only" not in vad(*EXTRACT, "--dry-run")[2]


def test_dry_run_writes_nothing_and_says_the_id(place: Path, vad: Any) -> None:
    code, out, _ = vad(*EXTRACT, "--dry-run", "--json")
    (artifact,) = json.loads(out)["artifacts"]
    assert code == 0 and len(artifact["todo"]) == 6 and not (place / "vad_cache").exists()
    assert vad(*EXTRACT)[0] == 0
    assert store_of(place).artifact.id == artifact["id"] and store_of(place).artifact.recipe == artifact["recipe"]


def test_failed_videos_are_exit_3_until_they_are_redone(place: Path, vad: Any) -> None:
    (place / "videos" / "v3.mp4").write_text("no video")
    code, _, err = vad(*EXTRACT)
    assert code == 3 and "v3" in err and "--redo failed" in err
    assert vad(*EXTRACT)[0] == 3
    assert store_of(place).videos() == {"v0", "v1", "v2", "v4", "v5"}
    write_noise(place / "videos" / "v3.mp4", seed=3)
    assert vad(*EXTRACT, "--redo", "failed")[0] == 0 and len(store_of(place).videos()) == 6


def test_missing_video_is_a_recorded_failure(place: Path, vad: Any) -> None:
    (place / "videos" / "v3.mp4").unlink()
    code, _, err = vad(*EXTRACT)
    assert code == 3 and "missing" in err and len(store_of(place).videos()) == 5


def test_list_of_videos(place: Path, vad: Any) -> None:
    (place / "few.txt").write_text("v1\n\nv4\n")
    assert vad(*EXTRACT, "--videos", "few.txt")[0] == 0
    assert store_of(place).videos() == {"v1", "v4"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("extract", "mien"), "did you mean 'mine'"),
        (("extract", "videos"), "vad data init videos"),
        (("extract", "mine", "--encoder", "motoin"), "did you mean 'motion'"),
        (("extract", "mine", "--crops", "tne"), "did you mean 'ten'"),
        (("extract", "mine", "--encoder", "motion", "--set", "grdi=[2,2]"), "did you mean 'grid'"),
        (("extract", "mine", "--encoder", "effnet:lite0,motion", "--set", "grid=[2,2]"), "which of the encoders"),
        (("extract", "mine", "--encoder", "motion", "--size", "64"), "belongs to the encoder `frames`"),
        (("extract", "mine", "--encoder", "motion", "--lazy"), "--encoder frames --lazy"),
        (("extract", "mine", "--encoder", "motion", "--stride", "0"), "stride"),
        (("extract", "mine", "--redo", "some"), "failed"),
        (("extract", "mine", "--videos", "nowhere.txt"), "cannot read the list"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what_to_type(place: Path, vad: Any, argv: tuple[str, ...], said: str) -> None:
    code, _, err = vad(*argv)
    assert code == 2 and said in err and not (place / "vad_cache").exists()


def test_status_counts(place: Path, vad: Any) -> None:
    (place / "videos" / "v3.mp4").write_text("no video")
    vad(*EXTRACT, "--limit", "4")
    code, out, _ = vad("status", "mine", "--json")
    (counted,) = json.loads(out)["datasets"]["mine"]
    assert code == 0 and (counted["done"], counted["failed"], counted["missing"]) == (3, 1, 2)
    assert "motion" in vad("status")[1]


def test_status_of_nothing_names_the_next_command(place: Path, vad: Any) -> None:
    code, _, err = vad("status", "mine")
    assert code == 0 and "vad extract mine" in err
    assert vad("status", "nowhere")[0] == 2


def test_cache_ls_and_show(place: Path, vad: Any) -> None:
    vad(*EXTRACT)
    listed = json.loads(vad("cache", "ls", "--json")[1])["artifacts"]
    assert [(row["dataset"], row["encoder"], row["videos"]) for row in listed] == [("mine", "motion", 6)]
    shown = json.loads(vad("cache", "show", listed[0]["id"][:8], "--json")[1])
    assert shown["recipe"]["clip_len"] == 8 and shown["bytes"] > 0
    assert vad("cache", "show", "nothing")[0] == 4


def test_cache_verify_names_the_broken_and_fix_lets_extract_redo_them(place: Path, vad: Any) -> None:
    vad(*EXTRACT)
    assert vad("cache", "verify")[0] == 0
    store = store_of(place)
    before = np.array(store.read("v2"))
    chunk = store.path("v2") / "c" / "0" / "0" / "0"
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    code, _, err = vad("cache", "verify")
    assert code == 5 and "v2" in err
    assert vad("cache", "verify", "--fix")[0] == 5 and "v2" not in store
    assert vad(*EXTRACT)[0] == 0
    np.testing.assert_array_equal(store.read("v2"), before)
    assert vad("cache", "verify")[0] == 0


def test_cache_gc_and_rm_delete_only_with_yes(place: Path, vad: Any) -> None:
    vad(*EXTRACT)  # not the encoder that the entry names, and no run uses it
    folder = store_of(place).folder
    unused = json.loads(vad("cache", "gc", "--json")[1])["unused"]
    assert [row["path"] for row in unused] == [str(folder)] and folder.exists()
    vad("cache", "rm", "motion", "--video", "v1")
    assert "v1" in store_of(place)
    vad("cache", "rm", "motion", "--video", "v1", "--yes")
    assert "v1" not in store_of(place)
    assert vad("cache", "rm", "motion")[0] == 0 and folder.exists()
    assert vad("cache", "gc", "--yes")[0] == 0 and not folder.exists()


def test_cache_import(place: Path, vad: Any) -> None:
    (place / "in").mkdir()
    for id in ("v0", "v1", "stranger"):
        for crop in range(10):
            np.save(place / "in" / f"{id}__{crop}.npy", np.full((2, 512), crop + 1, np.float32))
    argv = ("cache", "import", "vadclip", "--dataset", "mine", "--source", "in", "--json")
    planned = json.loads(vad(*argv, "--dry-run")[1])
    assert planned["good"] == ["v0", "v1"] and planned["extra"] == ["stranger"] and len(planned["missing"]) == 4
    assert not (place / "vad_cache").exists()
    code, out, _ = vad(*argv)
    assert code == 0 and json.loads(out)["id"] == planned["id"]
    assert store_of(place).read("v1")[0, 7, 0] == 8
    shutil.rmtree(place / "in")
    assert vad(*argv)[0] == 4


def test_random_weights_make_an_artefact_of_their_own_and_say_so(place: Path, vad: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipelines.encoders.i3d.PIXELS", 32)
    monkeypatch.setattr("pipelines.encoders.i3d.SHORT_SIDE", 36)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    i3d = (
        "extract",
        "mine",
        "--encoder",
        "i3d",
        "--clip-len",
        "4",
        "--decoders",
        "1",
        "--device",
        "cpu",
        "--limit",
        "1",
    )
    code, _, err = vad(*i3d)
    assert code == 4 and "vad weights fetch i3d" in err  # never silently
    code, _, err = vad(*i3d, "--random-weights", "--crops", "ten")
    assert code == 0 and "these features mean nothing" in err
    store = store_of(place)
    assert store.artifact.recipe["weights_sha256"] == "random weights, seed 0"
    assert store.read("v0").shape[1:] == (10, 1024)


def test_clips_too_short_for_an_encoder_are_refused_in_a_dry_run_too(place: Path, vad: Any) -> None:
    code, _, err = vad("extract", "mine", "--encoder", "i3d:r50", "--clip-len", "4", "--dry-run")
    assert code == 2 and "at least 7 frames" in err
