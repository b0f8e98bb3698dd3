"""Runs that one command trains together: seeds and sweeps, their folders, and which of them are done."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pipelines import artifacts
from pipelines.errors import UsageError
from pipelines.recipe import fingerprint
from pipelines.training.checkpoint import STATE

GROUP = "group.json"
LATEST = "latest"
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a group: where it stands below the group's folder, its recipe and id, and its swept values."""

    place: str
    seed: int
    swept: Mapping[str, str]
    recipe: dict[str, Any]

    @property
    def id(self) -> str:
        """The run id: a hash of features, configuration, video list with labels, selection and seed."""
        return fingerprint(self.recipe)


def split_sweep(assignments: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """`["lr=1e-3", "k=1,2,3"]` -> the fixed assignments, and every combination of the swept ones.

    A value with commas is a sweep; a list value is written in brackets (`milestones=[500,1000]`).
    """
    fixed: list[str] = []
    swept: dict[str, list[str]] = {}
    for item in assignments:
        key, _, text = item.partition("=")
        if "," in text and not text.lstrip().startswith(("[", "{", '"', "'")):
            values = [value.strip() for value in text.split(",")]
            if not all(values):
                raise UsageError(f"--set {item!r}: an empty value in the sweep", hint="for example --set k=1,2,3")
            swept[key.strip()] = list(dict.fromkeys(values))
        else:
            fixed.append(item)
    return fixed, [dict(zip(swept, values, strict=True)) for values in product(*swept.values())]


def place_of(swept: Mapping[str, str], seed: int) -> str:
    """`seed-0`, or `k=1,optim.lr=1e-3/seed-0` in a sweep."""
    name = ",".join(f"{key}={value}" for key, value in swept.items())
    return f"{artifacts.folder_name(name)}/seed-{seed}" if swept else f"seed-{seed}"


def group_id(members: Sequence[Member]) -> str:
    """Hash of the members' recipes without their seeds: `--seeds 3` after `--seeds 1` adds to the same group."""
    recipes = {m.place.partition("/seed-")[0] if m.swept else "": {**m.recipe, "seed": None} for m in members}
    return fingerprint(recipes)


def find_group(root: Path, id: str) -> Path | None:
    """The newest group folder of `id` below `<runs>/<dataset>/<method>`, complete or not."""
    found = [folder for folder in root.glob(f"{id[:8]}-*") if folder.is_dir()]
    same = [folder for folder in found if read_group(folder).get("id") in (None, id)]
    return max(same, key=lambda folder: folder.name, default=None)


def new_group(root: Path, id: str) -> Path:
    """A folder name that does not exist yet: `<id8>-<utc time>`."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder, count = root / f"{id[:8]}-{stamp}", 1
    while folder.exists():
        folder, count = root / f"{id[:8]}-{stamp}-{count}", count + 1
    return folder


def is_done(folder: Path, member: Member) -> bool:
    """Whether the member's artifact.json is there; it is written last."""
    return (folder / artifacts.FILE).is_file() and artifacts.read(folder).id == member.id


def is_begun(folder: Path) -> bool:
    """Whether a stopped training left a state to go on from."""
    return (folder / STATE).is_file() and not (folder / artifacts.FILE).is_file()


def read_group(folder: Path) -> dict[str, Any]:
    """The group.json of a folder, {} where there is none."""
    try:
        data = json.loads((folder / GROUP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def write_group(folder: Path, id: str, members: Sequence[Member]) -> None:
    """Write group.json: every member so far, those of earlier commands first."""
    before = {entry["folder"]: entry for entry in read_group(folder).get("members", [])}
    now = {m.place: {"folder": m.place, "seed": m.seed, "set": dict(m.swept), "id": m.id} for m in members}
    entries = list((before | now).values())
    swept: dict[str, list[str]] = {}
    for entry in entries:
        for key, value in entry["set"].items():
            if value not in swept.setdefault(key, []):
                swept[key].append(value)
    data = {"schema": 1, "id": id, "seeds": sorted({e["seed"] for e in entries}), "sweep": swept, "members": entries}
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_text(folder / GROUP, json.dumps(data, indent=2) + "\n")


def claim_group(group: Path, id: str, members: Sequence[Member], *, again: Literal["find", "new"]) -> Path:
    """Write group.json and return the group's folder: `group`, or the one that another process began meanwhile.

    Several tasks may train members of one group at once: the first one's folder is everybody's.
    """
    group.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(group.parent / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        found = (find_group(group.parent, id) if again == "find" else None) or group
        write_group(found, id, members)
        return found
    finally:
        os.close(descriptor)


def write_latest(runs: Path, folder: Path) -> None:
    """Name `folder` as the last run group, relative to the runs folder."""
    artifacts.write_text(runs / LATEST, f"{folder.relative_to(runs)}\n")


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the run folder's lock; two processes that train one run would overwrite each other's state.

    Raises:
        UsageError: another process trains it now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{folder} is being trained by another process", hint="--new trains a copy") from error
        yield
    finally:
        os.close(descriptor)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration with dotted keys, as `--set` takes them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
