"""Configuration: typed, frozen, merged from named sources, and hashed to a fingerprint."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.errors import UsageError


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused, numbers in strings coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def canonical_json(value: Any) -> str:
    """`value` as JSON that is the same for equal values: sorted keys, no spaces, integral floats as written."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any) -> str:
    """sha256 (64 hex digits) of the canonical JSON; an artefact's id is its first 8 digits in names."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class _Loader(yaml.SafeLoader):
    """YAML without scripts or objects in which only true and false are booleans: `off` and `no` are words here, as a
    setting like `motar.mode=off` means them (a boolean setting still takes them)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _typed(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["optim.lr=2e-4", "k=3"]` as a nested dict of YAML-typed values.

    Raises:
        UsageError: an item without `=` or with an empty key.
    """
    merged: dict[str, Any] = {}
    for item in assignments:
        key, sep, text = item.partition("=")
        if not sep or not key.strip():
            raise UsageError(f"--set {item!r} is not key=value", hint="for example: --set optim.lr=2e-4")
        _put(merged, key.strip().split("."), _typed(text) if text else "")
    return merged


def read_config_file(path: Path) -> dict[str, Any]:
    """A YAML mapping from `path`.

    Raises:
        UsageError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        data = _typed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the config {path}: {error}") from error
    if not isinstance(data, dict):
        raise UsageError(f"the config {path} is not a mapping of keys to values")
    return data


def resolve(cls: type[C], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[C, dict[str, str]]:
    """The config from named layers, later ones winning leaf by leaf, and which layer each leaf came from.

    Args:
        cls: the configuration class; its defaults are the layer "default", those of its nested configs included.
        layers: for example `[("preset ucf-crime", {...}), ("--config", {...}), ("--set", {...})]`, nested dicts.

    Raises:
        UsageError: all wrong keys and values at once, an unknown key with the nearest known one.
    """
    merged = _nested_defaults(cls)
    origin: dict[str, str] = {}
    for name, layer in layers:
        for path, value in _leaves(layer):
            _put(merged, path, value)
            origin[".".join(path)] = name
    try:
        config = cls.model_validate(merged)
    except ValidationError as error:
        raise UsageError(_explain(cls, error, origin)) from error
    for path, _ in _leaves(config.model_dump()):
        origin.setdefault(".".join(path), "default")
    return config, origin


def _nested_defaults(cls: type[BaseModel]) -> dict[str, Any]:
    """The nested configs that `cls` gives as defaults, as dicts to merge into: a method's `optim` is not the class's own."""
    fields = {name: info.default for name, info in cls.model_fields.items()}
    return {name: value.model_dump() for name, value in fields.items() if isinstance(value, BaseModel)}


def leaf_keys(cls: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key that `--set` accepts for `cls`."""
    keys: list[str] = []
    for name, info in cls.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += leaf_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def suggest(word: str, known: Sequence[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _explain(cls: type[BaseModel], error: ValidationError, origin: Mapping[str, str]) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        source = origin.get(key, "config")
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {key!r} from {source}{suggest(key, leaf_keys(cls))}")
        else:
            lines.append(f"{key} = {item.get('input')!r} from {source}: {item['msg']}")
    return "the configuration has errors:\n  " + "\n  ".join(lines)


def _leaves(value: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, inner in value.items():
        here = (*path, str(key))
        found += _leaves(inner, here) if isinstance(inner, Mapping) and inner else [(here, inner)]
    return found


def _put(target: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        inner = target.get(part)
        if not isinstance(inner, dict):
            inner = target[part] = {}
        target = inner
    target[path[-1]] = value


def finite(value: float) -> float | None:
    """`value`, or None where it is NaN or infinite (JSON has no such numbers)."""
    return value if math.isfinite(value) else None
