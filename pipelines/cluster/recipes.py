"""Recipe files: a list of `vad` commands with names, needs and variables. Read, checked all at once, never executed here.

schema: 1
title: what it makes
vars: {dataset: ucf-crime, seeds: 3}             # --with seeds=5 changes one
steps:
  - {name: extract, run: extract $dataset}
  - {name: train, run: "train $dataset --seeds $seeds", needs: extract}
  - {name: eval, run: "eval --run ${train.group}"}   # a value of another step's --json answer; implies `needs: train`
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pipelines.errors import MissingArtifactError, UsageError
from pipelines.recipe import Config, fingerprint, read_config_file, suggest

PACKAGED = Path(__file__).parents[1] / "recipes"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[\w.-]+)\})")
RESOURCES = (
    "partition",
    "gres",
    "cpus-per-task",
    "mem",
    "timeout",
    "array-parallelism",
    "shards",
    "account",
    "qos",
    "constraint",
)


class StepEntry(Config):
    """One step as it stands in the file; `slurm` holds options of the same name, for this step alone."""

    name: str
    run: str | tuple[str, ...]
    needs: str | tuple[str, ...] = ()
    slurm: dict[str, str | int] = Field(default_factory=dict)


class Document(Config):
    """A recipe file."""

    schema_: Literal[1] = Field(alias="schema")
    title: str
    notes: tuple[str, ...] = ()
    vars: dict[str, Any] = Field(default_factory=dict)
    steps: tuple[StepEntry, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One command: `argv` follows `vad`, with variables in place and `${step.key}` still open; `needs` are step names."""

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...]
    slurm: Mapping[str, str]

    @property
    def references(self) -> tuple[str, ...]:
        """`step.key` of every value that another step's answer fills in."""
        return tuple(dict.fromkeys(found for word in self.argv for found in _references(word)))

    def filled(self, answers: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        """The command with each reference replaced from the steps' answers.

        Raises:
            MissingArtifactError: a step has no answer yet, or its answer has no such key.
        """
        return tuple(VARIABLE.sub(lambda match: _fill(match, answers), word) for word in self.argv)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe: steps in an order in which each comes after what it needs; `id` hashes what is executed."""

    name: str
    path: Path
    title: str
    notes: tuple[str, ...]
    variables: Mapping[str, str]
    steps: tuple[Step, ...]

    @property
    def id(self) -> str:
        return fingerprint([[step.name, list(step.argv), list(step.needs)] for step in self.steps])

    def step(self, name: str) -> Step:
        """The step called `name`.

        Raises:
            UsageError: there is none; the nearest is proposed.
        """
        names = [step.name for step in self.steps]
        if name not in names:
            raise UsageError(
                f"{self.name} has no step {name!r}{suggest(name, names)}", hint=f"steps: {', '.join(names)}"
            )
        return self.steps[names.index(name)]


def packaged() -> list[Path]:
    """The recipes that come with the package, by name."""
    return sorted(PACKAGED.glob("*.yaml"))


def find(text: str) -> Path:
    """The recipe file that `text` means: a path, or the name of one that comes with the package.

    Raises:
        MissingArtifactError: neither.
    """
    path = Path(text).expanduser()
    if path.is_file():
        return path.absolute()
    names = {found.stem: found for found in packaged()}
    if text in names:
        return names[text]
    raise MissingArtifactError(f"there is no recipe {text!r}{suggest(text, list(names))}", hint="vad run ls")


def load(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` with variables changed by `key=value` texts.

    Raises:
        UsageError: everything that is wrong with it, at once.
    """
    document = _document(path)
    problems: list[str] = []
    variables = _variables(document, changes, problems)
    steps = [_step(entry, index, variables, problems) for index, entry in enumerate(document.steps)]
    problems += _unused(document.steps, changes)
    problems += _wrong_names(steps)
    ordered = _ordered(steps, problems) if not problems else []
    if problems:
        raise UsageError(f"the recipe {path} has errors:\n  " + "\n  ".join(problems), hint="vad run show RECIPE")
    return Recipe(path.stem, path, document.title, document.notes, variables, tuple(ordered))


def _document(path: Path) -> Document:
    data = read_config_file(path)
    try:
        return Document.model_validate(data)
    except ValidationError as error:
        lines = [_explain(item) for item in error.errors()]
        raise UsageError(f"the recipe {path} has errors:\n  " + "\n  ".join(dict.fromkeys(lines))) from error


def _explain(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"] if part not in ("str", "tuple[str, ...]"))
    known = [*StepEntry.model_fields] if place.startswith("steps.") else ["schema", "title", "notes", "vars", "steps"]
    if item["type"] == "extra_forbidden":
        return f"unknown key {place!r}{suggest(place.rpartition('.')[2], known)}"
    if item["type"] == "missing":
        return f"{place} is missing"
    return f"{place} = {item.get('input')!r}: {item['msg']}"


def _variables(document: Document, changes: Sequence[str], problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in document.vars.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            problems.append(f"vars.{key} = {value!r} is neither text nor a number; put it in quotes")
        if not VARIABLE.fullmatch(f"${key}"):
            problems.append(f"vars.{key}: a variable's name is letters, digits and _")
        found[key] = str(value)
    for item in changes:
        key, sign, value = item.partition("=")
        if not sign or key not in found:
            known = suggest(key, list(found)) if sign else ""
            problems.append(f"--with {item!r}: not one of {', '.join(found) or 'no variables'}{known}")
        found[key] = value
    return found


def _step(entry: StepEntry, index: int, variables: Mapping[str, str], problems: list[str]) -> Step:
    where = f"steps.{entry.name or index}"
    if not NAME.fullmatch(entry.name):
        problems.append(f"{where}: a step's name is letters, digits, - and _")
    words = _words(entry, where, problems)
    argv = tuple(_substituted(word, where, variables, problems) for word in words)
    if argv[:1] == ("run",):
        problems.append(f"{where}: a recipe cannot run another recipe")
    if not argv:
        problems.append(f"{where}.run is empty")
    problems += [
        f"{where}.slurm.{key}: unknown{suggest(key, RESOURCES)}: {', '.join(RESOURCES)}"
        for key in entry.slurm
        if key not in RESOURCES
    ]
    listed = entry.needs.replace(",", " ").split() if isinstance(entry.needs, str) else entry.needs
    implied = (name.partition(".")[0] for word in argv for name in _references(word))
    slurm = {key: str(value) for key, value in entry.slurm.items()}
    return Step(entry.name, argv, tuple(dict.fromkeys([*listed, *implied])), slurm)


def _words(entry: StepEntry, where: str, problems: list[str]) -> list[str]:
    try:
        words = shlex.split(entry.run) if isinstance(entry.run, str) else list(entry.run)
    except ValueError as error:
        problems.append(f"{where}.run = {entry.run!r}: {error}")
        return ["?"]
    return words[1:] if words[:1] == ["vad"] else words


def _substituted(word: str, where: str, variables: Mapping[str, str], problems: list[str]) -> str:
    """`word` with variables in place; references to answers, and `$$`, stay for later."""

    def put(match: re.Match[str]) -> str:
        name = match["plain"] or match["braced"] or ""
        if match["escaped"] or "." in name:
            return match[0]
        if name not in variables:
            problems.append(f"{where}: there is no variable {match[0]}{suggest(name, list(variables))}")
        return variables.get(name, "").replace("$", "$$")

    return VARIABLE.sub(put, word)


def _references(word: str) -> Iterator[str]:
    for match in VARIABLE.finditer(word):
        if match["braced"] and "." in match["braced"]:
            yield match["braced"]


def _fill(match: re.Match[str], answers: Mapping[str, Mapping[str, Any]]) -> str:
    if match["escaped"]:
        return "$"
    step, *keys = str(match["braced"]).split(".")
    value: Any = answers.get(step)
    if value is None:
        raise MissingArtifactError(f"{match[0]}: the step {step!r} has given no answer yet", hint="run it first")
    for key in keys:
        inside = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list) else {}
        found = inside.get(int(key) if isinstance(value, list) and key.isdigit() else key)
        if found is None:
            there = ", ".join(map(str, inside)) or "nothing"
            raise MissingArtifactError(f"{match[0]}: the answer of {step!r} has no {key!r}; there is {there}")
        value = found
    return str(value)


def _unused(entries: Iterable[StepEntry], changes: Sequence[str]) -> Iterator[str]:
    """A changed variable that no command reads would change nothing without a word."""
    text = " ".join(entry.run if isinstance(entry.run, str) else " ".join(entry.run) for entry in entries)
    read = {match["plain"] or match["braced"] for match in VARIABLE.finditer(text)}
    for item in changes:
        key = item.partition("=")[0]
        if key and key not in read:
            yield f"--with {item!r}: no command reads ${key}"


def _wrong_names(steps: Sequence[Step]) -> Iterator[str]:
    names = [step.name for step in steps]
    yield from (f"two steps are called {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1)
    for step in steps:
        for name in step.needs:
            if name not in names:
                yield f"steps.{step.name} needs {name!r}, which is no step{suggest(name, names)}"
    if not steps:
        yield "steps is empty"


def _ordered(steps: Sequence[Step], problems: list[str]) -> list[Step]:
    """The steps, each after what it needs, otherwise in the file's order."""
    left, done = list(steps), list[Step]()
    while left:
        ready = next((step for step in left if set(step.needs) <= {one.name for one in done}), None)
        if ready is None:
            problems.append(f"these steps need each other: {', '.join(step.name for step in left)}")
            return []
        left.remove(ready)
        done.append(ready)
    return done
