"""A name <-> a file <-> a module, for methods, encoders and metrics; read without importing them."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

from pipelines.errors import UsageError
from pipelines.recipe import suggest

Kind = Literal["methods", "encoders", "metrics"]
READ = ("NAME", "VARIANTS", "METRICS", "SUMMARY", "KIND", "DEFAULT_FEATURES")


@dataclass(frozen=True, slots=True)
class Entry:
    """One catalogued module: its name, file, import path, and the constants it states at top level."""

    name: str
    path: Path
    module: str
    facts: dict[str, object]
    plugin: bool = False

    @property
    def summary(self) -> str:
        return str(self.facts.get("SUMMARY", ""))


@cache
def entries(kind: Kind) -> dict[str, Entry]:
    """Every module of `kind` by NAME: the package's own files and plug-ins (entry point group `vad.<kind>`)."""
    folder = Path(__file__).parent / kind
    found: dict[str, Entry] = {}
    for path in sorted(folder.glob("*.py")):
        if path.name.startswith("_"):
            continue
        facts = constants(path)
        if isinstance(facts.get("NAME"), str):
            name = str(facts["NAME"])
            found[name] = Entry(name, path, f"pipelines.{kind}.{path.stem}", facts)
    for point in importlib.metadata.entry_points(group=f"vad.{kind}"):
        spec = importlib.util.find_spec(point.value)
        if spec and spec.origin:
            found.setdefault(
                point.name, Entry(point.name, Path(spec.origin), point.value, constants(Path(spec.origin)), plugin=True)
            )
    return found


def names(kind: Kind) -> list[str]:
    """Every name a user may type, variants included (`effnet:lite0`), sorted."""
    listed: list[str] = []
    for entry in entries(kind).values():
        variants = entry.facts.get("VARIANTS")
        listed += (
            [f"{entry.name}:{v}" for v in variants]
            if isinstance(variants, (list, tuple)) and variants
            else [entry.name]
        )
    return sorted(listed)


def load(kind: Kind, name: str) -> ModuleType:
    """The module behind `name` (`mil-rank`, `clip:vit-b-16`), or behind a file `./mine.py`.

    Raises:
        UsageError: no such name (with the nearest one), or a file that states no NAME.
    """
    if name.endswith(".py"):
        return _load_file(kind, Path(name))
    base = name.partition(":")[0]
    entry = entries(kind).get(base)
    if entry is None or (":" in name and name not in names(kind)):
        raise UsageError(f"unknown {kind.rstrip('s')} {name!r}{suggest(name, names(kind))}", hint=f"vad {kind} ls")
    return importlib.import_module(entry.module)


def constants(path: Path) -> dict[str, object]:
    """Literal top-level constants of a source file, read without importing it."""
    found: dict[str, object] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id in READ:
                try:
                    found[target.id] = ast.literal_eval(value)
                except ValueError:
                    continue
    return found


def source_hash(name: str) -> str | None:
    """sha256 of a plug-in file given as a path, None for a catalogued name (its package version says enough)."""
    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if name.endswith(".py") else None


def _load_file(kind: Kind, path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"no file {path} to load a {kind.rstrip('s')} from")
    if not isinstance(constants(path).get("NAME"), str):
        raise UsageError(f'{path} states no NAME = "..." at top level', hint="the README shows a complete example")
    module_name = f"vad_plugin_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001  a plug-in may raise anything
        del sys.modules[module_name]
        raise UsageError(f"{path} fails to import: {type(error).__name__}: {error}") from error
    return module
