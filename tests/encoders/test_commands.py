"""`vad encoders` and `vad weights` through real processes."""

from __future__ import annotations

import hashlib
import json

import pytest

from pipelines.encoders import effnet
from tests.cli.process import vad


@pytest.fixture
def alone(tmp_path):
    """An environment that sees no weights of this machine's caches and no network."""
    return {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "VAD_WEIGHTS": str(tmp_path / "own")}


def test_encoders_are_listed_with_their_variants():
    done = vad("encoders", "ls", "--json")
    names = [row["name"] for row in json.loads(done.stdout)["encoders"]]
    assert done.returncode == 0
    assert {"effnet:lite0", "motion", "clip:vit-b-16", "clip:vit-b-32", "clip:vit-l-14", "frames"} <= set(names)


def test_an_encoder_is_shown_with_its_card_and_what_was_not_verified(alone):
    shown = json.loads(vad("encoders", "show", "clip:vit-l-14", "--json", **alone).stdout)
    assert shown["dim"] == 768 and shown["preprocess"]["interpolation"] == "bicubic"
    assert len(shown["weights"]["sha256"]) == 64 and shown["weights"]["unverified"]
    assert shown["weights_path"] is None
    assert [option["key"] for option in shown["options"]] == ["reduction"]
    text = vad("encoders", "show", "clip:vit-l-14", **alone).stdout
    assert "not verified" in text and "vad weights fetch clip:vit-l-14" in text


def test_an_encoders_cost_is_counted_and_measured():
    shown = json.loads(vad("encoders", "show", "effnet:lite0", "--complexity", "--clip-len", "8", "--json").stdout)
    cost = shown["complexity"]
    # Tan's EfficientNet-Lite0: 407 M multiply-adds with the classifier's 1.28 M
    assert cost["macs"] == pytest.approx(407e6, rel=0.06)
    assert cost["parameters"] == 3_371_008 and cost["clips_per_s"] > 0


def test_an_unknown_encoder_names_the_nearest():
    done = vad("encoders", "show", "clip:vit-b-61")
    assert done.returncode == 2 and "did you mean 'clip:vit-b-16'" in done.stderr


def test_weights_are_listed_with_licence_and_place(alone):
    rows = {row["encoder"]: row for row in json.loads(vad("weights", "ls", "--json", **alone).stdout)["weights"]}
    assert rows["clip:vit-b-16"]["path"] is None and rows["clip:vit-b-16"]["bytes"] == 598641023
    assert rows["effnet:lite0"]["licence"] == "Apache-2.0"


def test_fetching_offline_is_exit_4_with_what_to_put_where(alone):
    done = vad("weights", "fetch", "clip:vit-b-32", **alone)
    assert done.returncode == 4
    assert "HF_HUB_OFFLINE" in done.stderr and "eaee4c876b93e66f7fac584b529025a96d71ad66" in done.stderr


def test_fetching_what_has_no_weights_is_a_usage_error(alone):
    assert vad("weights", "fetch", "motion", **alone).returncode == 2
    done = vad("weights", "fetch", "clip:vit-b-61", **alone)
    assert done.returncode == 2 and "did you mean" in done.stderr


def test_verify_tells_missing_wrong_and_good(alone, tmp_path):
    assert vad("weights", "verify", "clip:vit-b-16", **alone).returncode == 4
    wrong = tmp_path / "own" / "openai" / "clip-vit-base-patch16" / "pytorch_model.bin"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"something else")
    done = vad("weights", "verify", "--json", **alone)
    rows = {row["encoder"]: row["state"] for row in json.loads(done.stdout)["weights"]}
    assert done.returncode == 5
    assert rows["clip:vit-b-16"] == "wrong hash" and rows["clip:vit-l-14"] == "not here"
    assert hashlib.sha256(b"something else").hexdigest() != effnet.CARD.sha256
