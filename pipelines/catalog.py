"""A name <-> a file <-> a module, for methods, encoders and metrics; read without importing them."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal

from pipelines.errors import UsageError

Kind = Literal["methods", "encoders", "metrics"]
READ = ("NAME", "VARIANTS", "METRICS", "SUMMARY", "KIND", "DEFAULT_FEATURES", "WEIGHTS")
_DEFINITION = re.compile(rf"^(?P<name>{'|'.join(READ)})\s*(?::[^=\n]+)?=(?!=)", re.MULTILINE)


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
    for plugin in _plugins(kind) if _any_plugin() else ():
        found.setdefault(plugin.name, plugin)
    return found


def names(kind: Kind) -> list[str]:
    """Every name a user may type, variants included (`effnet:lite0`; an empty variant is the bare name), sorted."""
    listed: list[str] = []
    for entry in entries(kind).values():
        variants = entry.facts.get("VARIANTS")
        listed += (
            [f"{entry.name}:{v}" if v else entry.name for v in variants]
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
        from pipelines.recipe import suggest  # here, so that listing names needs no pydantic

        raise UsageError(f"unknown {kind.rstrip('s')} {name!r}{suggest(name, names(kind))}", hint=f"vad {kind} ls")
    return importlib.import_module(entry.module)


def constants(path: Path) -> dict[str, object]:
    """Literal top-level constants (of READ) of a source file, read without importing it.

    Only the statements that define them are parsed, so that listing dozens of large files stays fast.
    """
    found: dict[str, object] = {}
    source = path.read_text(encoding="utf-8")
    for match in _DEFINITION.finditer(source):
        if source.count('"""', 0, match.start()) % 2 == 0:
            try:
                found[match["name"]] = ast.literal_eval(_expression(source, match.end()))
            except (ValueError, SyntaxError):
                continue
    return found


def _expression(source: str, start: int) -> str:
    """The expression that begins at `start`: as many lines as it takes to be complete."""
    lines = source[start:].splitlines()
    for count in range(1, len(lines) + 1):
        text = "\n".join(lines[:count]).strip()
        try:
            ast.parse(text, mode="eval")
        except SyntaxError:
            if count < len(lines) and lines[count][:1] not in ("", " ", ")", "]", "}"):
                break
        else:
            return text
    raise SyntaxError("not an expression")


def _any_plugin() -> bool:
    """Whether any installed distribution declares an entry point of ours.

    A look at the text files is ten times faster than importing importlib.metadata, which every listing would pay for.
    """
    for folder in sys.path:
        try:
            names = [name for name in os.listdir(folder or ".") if name.endswith((".dist-info", ".egg-info"))]
        except OSError:
            continue
        for name in names:
            try:
                text = Path(folder, name, "entry_points.txt").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            if "[vad." in text:
                return True
    return False


def _plugins(kind: Kind) -> Iterator[Entry]:
    import importlib.metadata
    import importlib.util

    for point in importlib.metadata.entry_points(group=f"vad.{kind}"):
        spec = importlib.util.find_spec(point.value)
        if spec and spec.origin:
            path = Path(spec.origin)
            yield Entry(point.name, path, point.value, constants(path), plugin=True)


def source_hash(name: str) -> str | None:
    """sha256 of a plug-in file given as a path, None for a catalogued name (its package version says enough)."""
    import hashlib

    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if name.endswith(".py") else None


def _load_file(kind: Kind, path: Path) -> ModuleType:
    import hashlib
    import importlib.util

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
    except Exception as error:
        del sys.modules[module_name]
        raise UsageError(f"{path} fails to import: {type(error).__name__}: {error}") from error
    return module
