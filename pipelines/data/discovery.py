"""Which manifest is meant, and its plain contents; light, so that listing datasets costs no model building."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import MissingArtifactError, UsageError

FILE = "data_manifest.yaml"
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


def packaged_path() -> Path:
    """The manifest that comes with the package: beside this module in a wheel, the repository's own in a checkout."""
    inside = Path(__file__).with_name(FILE)
    return inside if inside.is_file() else Path(__file__).parents[2] / FILE


def chosen_path(path: Path | None = None) -> Path:
    """`path` > VAD_MANIFEST > data_manifest.yaml here or in a parent > the packaged one.

    Raises:
        MissingArtifactError: the file named by the option or the variable does not exist.
    """
    named = path or (Path(os.environ["VAD_MANIFEST"]) if os.environ.get("VAD_MANIFEST") else None)
    if named is not None:
        if not named.expanduser().is_file():
            raise MissingArtifactError(
                f"there is no manifest {named}", hint="`vad data init FOLDER` writes one for your own videos"
            )
        return named.expanduser().absolute()
    here = Path.cwd()
    found = (folder / FILE for folder in (here, *here.parents) if (folder / FILE).is_file())
    return next(found, packaged_path())


def read_yaml(path: Path) -> dict[str, Any]:
    """The manifest as plain data.

    Raises:
        UsageError: not readable, not YAML, a key written twice, or not a mapping.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        _refuse_duplicates(yaml.compose(text, Loader=loader()), path)
        data = yaml.load(text, Loader=loader())  # noqa: S506  a SafeLoader in either spelling
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the manifest {path}: {error}", hint="`vad data check` reads it again") from error
    if not isinstance(data, dict):
        raise UsageError(f"the manifest {path} is not a mapping", hint="it starts with `schema: 1` and `datasets:`")
    return data


def with_packaged(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the manifest at `path` with `extends` resolved, the packaged one), as plain data."""
    packaged = packaged_path()
    base = read_yaml(packaged)
    own = base if path == packaged else read_yaml(path)
    return {**own, "datasets": _extended(own.get("datasets"), base.get("datasets") or {}, path)}, base


def _extended(entries: Any, base: Mapping[str, Any], path: Path) -> Any:
    """`entries` with `extends` resolved; anything that is not a mapping is left for the models to refuse."""
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        return entries
    merged: dict[Any, Any] = {}
    for name, entry in entries.items():
        if isinstance(entry, dict) and "extends" in entry:
            parent = entry["extends"]
            if parent not in base:
                from pipelines.recipe import suggest

                raise UsageError(
                    f"{path}: datasets.{name} extends {parent!r}, which the packaged manifest does not have"
                    f"{suggest(str(parent), list(base))}"
                )
            entry = {**base[parent], **{key: value for key, value in entry.items() if key != "extends"}}
        merged[name] = entry
    return merged


def expanded(text: str) -> str | None:
    """`text` with its variables replaced, or None where one is not set."""
    return None if unset(text) else _VARIABLE.sub(lambda match: os.environ[match.group(1) or match.group(2)], text)


def unset(text: str) -> str | None:
    """The first variable in `text` that is not set, or None."""
    names = (match.group(1) or match.group(2) for match in _VARIABLE.finditer(text))
    return next((name for name in names if not os.environ.get(name)), None)


def summary(path: Path | None = None) -> tuple[Path, list[dict[str, Any]]]:
    """(the manifest's path, one plain row per dataset) for a list: nothing is validated, which `load` does.

    `here` is "yes" where the footage folder exists, "lists" where only annotations do, else "no".
    """
    chosen = chosen_path(path)
    own, base = with_packaged(chosen)
    entries = own["datasets"] if isinstance(own["datasets"], dict) else {}
    names = [*entries, *(name for name in base.get("datasets") or {} if name not in entries)]
    homes = {name: chosen if name in entries else packaged_path() for name in names}
    merged = {**(base.get("datasets") or {}), **entries}
    return chosen, [_row(name, merged[name], homes[name]) for name in names if isinstance(merged[name], dict)]


def _row(name: str, entry: Mapping[str, Any], home: Path) -> dict[str, Any]:
    splits = entry.get("splits") if isinstance(entry.get("splits"), dict) else {}
    truths = entry.get("truths") if isinstance(entry.get("truths"), dict) else {}
    counts = (entry.get("expected") or {}).get(next(iter(splits or {}), ""), {})
    return {
        "name": name,
        "kind": entry.get("kind", "weak"),
        "here": _here(entry, home),
        "train": (counts.get("train") or {}).get("videos"),
        "test": (counts.get("test") or {}).get("videos"),
        "classes": len(entry.get("classes") or ()),
        "splits": list(splits or {}),
        "truths": list(truths or {}),
        "encoder": entry.get("encoder", "effnet:lite0+motion"),
        "crops": entry.get("crops", "center"),
        "title": entry.get("title", ""),
    }


def _here(entry: Mapping[str, Any], home: Path) -> str:
    for key, word in (("root", "yes"), ("annotations", "lists")):
        text = expanded(str(entry.get(key) or ""))
        if text and (home.parent / Path(text).expanduser()).is_dir():
            return word
    return "no"


def _refuse_duplicates(node: Any, path: Path) -> None:
    """YAML keeps the last of two equal keys silently; a dataset defined twice must be an error."""
    values: list[Any] = []
    if node is not None and node.id == "mapping":
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and key.value != "<<":
                raise UsageError(
                    f"{path.name}:{line}: the key {key.value!r} is written twice (first on line {seen[key.value]})"
                )
            seen[str(key.value)] = line
            values.append(value)
    elif node is not None and node.id == "sequence":
        values = node.value
    for value in values:
        _refuse_duplicates(value, path)


def loader() -> Any:
    """libyaml's safe loader where PyYAML was built with it (ten times faster), else the Python one."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
