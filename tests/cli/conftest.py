"""A small demo, made once through a real process for all workers of `pytest -n`; tests copy what they change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.cli.process import SMALL, vad


@pytest.fixture(scope="session")
def small_demo(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, dict[str, Any], str]:
    """(folder, answer, stderr) of `vad demo` with SMALL videos and 150 steps."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base  # what all workers of one session see
    home, said = shared / "small-demo", shared / "small-demo.json"
    with FileLock(f"{home}.lock"):
        if not said.is_file():
            home.mkdir()
            done = vad("demo", "--videos", SMALL, "--set", "steps=150", "--json", cwd=home, timeout=600)
            assert done.returncode == 0, done.stderr
            said.write_text(json.dumps([json.loads(done.stdout), done.stderr]))
    answer, stderr = json.loads(said.read_text())
    return home / "vad-demo", answer, stderr
