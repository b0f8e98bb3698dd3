"""Shared fixtures. Tests that need the shared footage ask for `shared` and skip visibly where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers of `pytest -n` share the cores; set before torch is imported


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the shared footage and annotations (VAD_TEST_DATA)."""
    root = os.environ.get("VAD_TEST_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("VAD_TEST_DATA is not set: the shared footage is absent")
    return Path(root)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The long tier runs with CI_FULL=1 only."""
    if os.environ.get("CI_FULL") == "1":
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="long tier: CI_FULL=1"))
