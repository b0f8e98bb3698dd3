"""The hand-made dataset as a fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluate.world import World, make


@pytest.fixture
def tiny(tmp_path: Path) -> World:
    """See `tests.evaluate.world`."""
    return make(tmp_path)
