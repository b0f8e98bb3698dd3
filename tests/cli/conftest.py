"""A small demo, made once through a real process; tests copy what they change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import SMALL, vad


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """(folder, answer, stderr) of `vad demo` with SMALL videos and 150 steps."""
    home = tmp_path_factory.mktemp("demo")
    done = vad("demo", "--videos", SMALL, "--set", "steps=150", "--json", cwd=home, timeout=600)
    assert done.returncode == 0, done.stderr
    return home / "vad-demo", json.loads(done.stdout), done.stderr
