"""The catalog: names and constants of methods, encoders and metrics, read without importing them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pipelines import catalog
from pipelines.errors import UsageError

FILES = [
    p
    for kind in ("methods", "encoders", "metrics")
    for p in sorted((Path(catalog.__file__).parent / kind).glob("*.py"))
]


def by_full_parse(path: Path) -> dict[str, object]:
    """The slow way: parse everything, take the literal assignments."""
    found: dict[str, object] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and target.id in catalog.READ and node.value is not None:
                try:
                    found[target.id] = ast.literal_eval(node.value)
                except ValueError:
                    continue
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_constants_are_those_of_a_full_parse(path):
    assert catalog.constants(path) == by_full_parse(path)


def test_constants_of_an_awkward_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        '"""A docstring with an example:\n\nNAME = "not-this"\n"""\n'
        "from x import y\n"
        'NAME: str = "mine"\n'
        "VARIANTS = (\n    'a',  # (first\n    'b',\n)\n"
        "SUMMARY = (\n    'one '\n    'two'\n)\n"
        "KIND = y.kind\n"
        "METRICS == ()\n"
        "class A:\n    NAME = 'inner'\n"
    )
    assert catalog.constants(path) == {"NAME": "mine", "VARIANTS": ("a", "b"), "SUMMARY": "one two"}


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UsageError, match=r"unknown method 'mil-rnak' \(did you mean 'mil-rank'\?\)"):
        catalog.load("methods", "mil-rnak")


def test_a_file_is_loaded_by_its_path(tmp_path):
    (tmp_path / "mine.py").write_text('NAME = "mine"\nVALUE = 3\n')
    assert catalog.load("methods", str(tmp_path / "mine.py")).VALUE == 3


@pytest.mark.parametrize(
    ("text", "message"), [("X = 1\n", "states no NAME"), ('NAME = "m"\n1 / 0\n', "fails to import: ZeroDivisionError")]
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        catalog.load("methods", str(tmp_path / "wrong.py"))


def test_plugins_are_found_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "their_method.py").write_text('NAME = "theirs"\nSUMMARY = "from a plug-in"\n')
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vad.methods]\ntheirs = their_method\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog.entries.cache_clear()
    try:
        entry = catalog.entries("methods")["theirs"]
        assert (entry.plugin, entry.summary) == (True, "from a plug-in")
        assert "theirs" in catalog.names("methods")
    finally:
        catalog.entries.cache_clear()
