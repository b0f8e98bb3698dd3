"""Published checkpoints as runs: wrappers, strict keys, and a run that eval takes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.methods import hl_net, rtfm
from pipelines.methods._base import Resources, Shape
from pipelines.recipe import resolve
from pipelines.store import runs
from pipelines.training.checkpoint import load_run
from pipelines.training.importing import ImportRequest, read_checkpoint, run
from tests import toy
from vadcli.app import run as vad


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return toy.make(tmp_path_factory.mktemp("importing"), train=4, val=2, test=4)


def public(*, dim: int = 16, branch: int = 4) -> dict[str, torch.Tensor]:
    """RTFM's weights under the public keys, from another seed than any run's."""
    config, _ = resolve(rtfm.Config, [("test", {"branch": branch})])
    torch.manual_seed(99)
    net = rtfm.build(config, Shape(dim, {"x": slice(0, dim)}, toy.CLASSES, ("c0",), 4, 4), Resources())
    return {key.replace("aggregate.", "Aggregate."): value for key, value in net.state_dict().items()}


def request(place: toy.Toy, checkpoint, **values) -> ImportRequest:
    given = {
        "method": "rtfm",
        "dataset": "toy",
        "sets": ("branch=4",),
        "cache_dir": place.cache,
        "runs_dir": place.runs,
    }
    return ImportRequest(checkpoint=checkpoint, manifest=place.manifest, **{**given, **values})


@pytest.mark.parametrize("form", ["plain", "state_dict", "module", "safetensors"])
def test_every_wrapping_gives_the_same_tensors(tmp_path, form):
    state = public()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pkl")
    if form == "safetensors":
        save_file(state, path)
    else:
        wrapped = {"module." + k: v for k, v in state.items()} if form == "module" else state
        torch.save({"epoch": 3, "state_dict": wrapped} if form == "state_dict" else wrapped, path)
    found, sha256 = read_checkpoint(path)
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)
    assert len(sha256) == 64


def test_an_imported_run_is_a_run(place, tmp_path):
    path = tmp_path / "rtfm.pkl"
    torch.save(public(), path)
    result = run(request(place, path))
    loaded = load_run(result.folder)
    assert all(
        torch.equal(loaded.method.state_dict()[k.replace("Aggregate.", "aggregate.")], v) for k, v in public().items()
    )
    artifact = artifacts.read(result.folder)
    assert artifact.recipe["selection"] == "published" and artifact.recorded["sha256"] == result.sha256
    assert artifact.recorded["imported"] == str(path) and artifact.recorded["thresholds"]
    assert runs.resolve("latest", place.runs).runs == (result.folder,)
    assert run(request(place, path)).status == "up to date"


def test_eval_takes_it(place, tmp_path, capsys):
    path = tmp_path / "rtfm.pth"
    torch.save(public(), path)
    where = ["--manifest", str(place.manifest), "--runs-dir", str(place.runs), "--cache-dir", str(place.cache)]
    argv = ["runs", "import", str(path), "--method", "rtfm", "--dataset", "toy", "--set", "branch=4", *where, "--json"]
    assert vad(argv) == 0
    folder = json.loads(capsys.readouterr().out)["folder"]
    assert vad(["eval", "--run", folder, "--metric", "auc", *where, "--json"]) == 0
    assert "auc" in capsys.readouterr().out


def test_every_difference_is_listed(place, tmp_path):
    state = public(branch=8)
    state["extra.weight"] = state.pop("fc3.weight")
    path = tmp_path / "other.pkl"
    torch.save(state, path)
    with pytest.raises(UsageError) as raised:
        run(request(place, path))
    text = raised.value.message
    assert "fc3.weight is missing" in text and "extra.weight is unknown" in text
    shapes = [line for line in text.splitlines() if "has shape" in line]
    assert len(shapes) == sum(
        a.shape != b.shape for a, b in zip(public().values(), public(branch=8).values(), strict=True)
    )
    assert raised.value.exit_code == 2


def test_a_checkpoint_of_another_method_is_refused(place, tmp_path):
    config, _ = resolve(hl_net.Config, [])
    net = hl_net.build(config, Shape(16, {"x": slice(0, 16)}, toy.CLASSES, ("c0",), 4, 4), Resources())
    path = tmp_path / "hl.pkl"
    torch.save(net.state_dict(), path)
    with pytest.raises(UsageError, match="does not fit rtfm"):
        run(request(place, path))


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_with_code_in_it_is_not_executed(place, tmp_path, capsys):
    path = tmp_path / "model.pkl"
    torch.save({"model": Harmful()}, path)
    with pytest.raises(VerificationError, match="as plain tensors") as raised:
        run(request(place, path))
    assert "executed" not in capsys.readouterr().out and "state_dict()" in raised.value.hint


def test_what_is_no_checkpoint_is_named(place, tmp_path):
    with pytest.raises(MissingArtifactError, match="there is no checkpoint"):
        run(request(place, tmp_path / "none.pkl"))
    path = tmp_path / "list.pkl"
    torch.save([1, 2], path)
    with pytest.raises(VerificationError, match="holds a list"):
        run(request(place, path))
    with pytest.raises(UsageError, match="afr knows no published state dict"):
        run(request(place, path, method="afr"))
