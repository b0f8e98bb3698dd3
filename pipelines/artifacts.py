"""The cache contract: artifact.json, the two roots, write aside + rename, names on disk, lineage."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pipelines.errors import MissingArtifactError, UsageError, VerificationError

SCHEMA = 1
FILE = "artifact.json"
RECORDED_PACKAGES = ("vadcli", "torch", "numpy", "zarr", "decord2", "av", "transformers", "scikit-learn", "scipy")


@dataclass(frozen=True, slots=True)
class Artifact:
    """What stands in an artefact's artifact.json.

    `id` is a sha256 in hex of what the kind's id is defined over; `recipe` the resolved configuration; `inputs` the
    ids of the artefacts that it was made from, by role; `recorded` facts that are kept but not hashed.
    """

    kind: str
    id: str
    recipe: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    recorded: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA

    @property
    def id8(self) -> str:
        return self.id[:8]


@dataclass(frozen=True, slots=True)
class Roots:
    """Where artefacts live: `features[0]` is written, the others are read-only layers; `runs` is personal."""

    features: tuple[Path, ...]
    runs: Path

    @property
    def cache(self) -> Path:
        return self.features[0]


def resolve_roots(
    *, cache_dir: str | Path | None = None, runs_dir: str | Path | None = None, manifest_cache_dir: str | None = None
) -> Roots:
    """--cache-dir > VAD_CACHE > cache_dir of the manifest > ./vad_cache; --runs-dir > VAD_RUNS > ./vad_runs.

    `VAD_CACHE=/mine:/group` (os.pathsep) stacks read-only layers below the first.
    """
    text = str(cache_dir or os.environ.get("VAD_CACHE") or manifest_cache_dir or "vad_cache")
    features = tuple(Path(part).expanduser().absolute() for part in text.split(os.pathsep) if part)
    if not features:
        raise UsageError(f"the cache directory {text!r} names no folder", hint="--cache-dir DIR")
    runs = Path(runs_dir or os.environ.get("VAD_RUNS") or "vad_runs").expanduser().absolute()
    return Roots(features, runs)


def make(kind: str, id: str, recipe: Mapping[str, Any], **fields: Any) -> Artifact:
    """A new Artifact with the time, library versions and host facts of this process filled in."""
    return Artifact(
        kind=kind, id=id, recipe=dict(recipe), versions=versions(), host=host(), created=utc_now(), **fields
    )


def write(folder: Path, artifact: Artifact) -> None:
    """Write artifact.json into `folder` by write-aside and rename."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FILE, json.dumps(asdict(artifact), indent=2, sort_keys=True) + "\n")


def read(folder: Path) -> Artifact:
    """The Artifact of `folder`.

    Raises:
        MissingArtifactError: no artifact.json.
        VerificationError: it is not one, or of a newer schema.
    """
    path = folder / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingArtifactError(f"{folder} is not an artefact: it has no {FILE}") from error
    except (OSError, ValueError) as error:
        raise VerificationError(
            f"cannot read {path}: {error}", hint="`vad cache verify` names what is damaged"
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("schema"), int) or data["schema"] > SCHEMA:
        raise VerificationError(
            f"{path} has schema {data.get('schema') if isinstance(data, dict) else None!r}, this version reads {SCHEMA}"
        )
    try:
        return Artifact(**data)
    except TypeError as error:
        raise VerificationError(f"{path} is not an artefact's description: {error}") from error


def find(root: Path, kind: str) -> Iterator[Path]:
    """Folders below `root` that hold an artefact of `kind`, without descending into artefacts."""
    if not root.is_dir():
        return
    for entry in sorted(root.iterdir()):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        if (entry / FILE).is_file():
            try:
                if read(entry).kind == kind:
                    yield entry
            except VerificationError:
                continue
        else:
            yield from find(entry, kind)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`: write aside in the same folder, flush to disk, rename."""
    aside = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        with aside.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def commit(staging: Path, final: Path, *, step: Callable[[str], None] = lambda name: None) -> bool:
    """Publish the folder `staging` as `final`; True when this call won.

    Every file is flushed to disk, then the folder is renamed: a name that exists is complete. The rename onto an
    existing non-empty folder fails, so the first writer wins and the loser's copy is deleted. Both must be on one
    file system. `step` is called after each step (tests stop the process there).
    """
    for path in sorted(staging.rglob("*"), reverse=True):
        _fsync(path)
    _fsync(staging)
    step("flushed")
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(staging, ignore_errors=True)
        return False
    try:
        os.rename(staging, final)
    except OSError:
        if not final.exists():
            raise
        shutil.rmtree(staging, ignore_errors=True)
        return False
    step("renamed")
    _fsync(final.parent)
    step("done")
    return True


def folder_name(video_id: str) -> str:
    """`video_id` as one name on disk: '/', '%', a leading dot or '__' and control characters are percent-encoded.

    Raises:
        UsageError: an empty id or one of more than 200 bytes.
    """
    if not video_id or len(video_id.encode()) > 200:
        raise UsageError(f"video id {video_id[:60]!r}... has {len(video_id.encode())} bytes; 1 to 200 are allowed")
    name = "".join(char if char.isprintable() and char not in "/\\%" else quote(char, safe="") for char in video_id)
    if name.startswith("__"):
        name = "%5F" + name[1:]
    return "%2E" + name[1:] if name.startswith(".") else name


def video_id_of(name: str) -> str:
    """The inverse of `folder_name`."""
    return unquote(name)


def versions() -> dict[str, str]:
    """Versions of python and of the libraries that can change a number."""
    import importlib.metadata  # here, because every listing imports this module

    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def host() -> dict[str, Any]:
    """Facts of this machine that are recorded and never hashed."""
    return {"platform": sys.platform, "machine": platform.machine(), "cpus": os.cpu_count()}


def utc_now() -> str:
    """The time as ISO 8601 in UTC with seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
