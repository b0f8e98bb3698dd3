"""What is in the cache, from folder listings and artifact.json alone: no numpy, no zarr, no model is imported."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines import artifacts
from pipelines.artifacts import Artifact
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.video.crops import CROPS

GROUPS = {  # kinds with one array a video
    "features": "features.zarr",
    "frames": "frames.zarr",
    "boxes": "boxes.zarr",
    "captions": "captions.zarr",
}
KINDS = (*GROUPS, "text", "pseudo")
FAILURES = "failures"
RATE = "rate.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One artefact of the cache in a listing; `layer` 0 is the root that is written."""

    folder: Path
    artifact: Artifact
    dataset: str
    layer: int
    n_videos: int
    n_failed: int

    @property
    def encoder(self) -> str:
        return str(self.artifact.recipe.get("encoder", self.artifact.kind))

    @property
    def group(self) -> Path:
        return self.folder / GROUPS.get(self.artifact.kind, "-")


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """Counts of one artefact against a dataset's list of videos."""

    row: Row
    done: int
    failed: int
    missing: int
    stray: int = 0  # stored, but no longer in the list
    missing_ids: tuple[str, ...] = field(default=(), repr=False)


def stored_ids(group: Path) -> set[str]:
    """Ids of all complete videos of a Zarr group, from one listdir."""
    try:
        names = os.listdir(group)
    except FileNotFoundError:
        return set()
    return {artifacts.video_id_of(name) for name in names if name != "zarr.json" and not name.startswith(".")}


def failure_lines(folder: Path) -> list[dict[str, Any]]:
    """Every recorded failure of an artefact as it was written, oldest file first; half-written lines are skipped."""
    found: list[dict[str, Any]] = []
    for path in sorted((folder / FAILURES).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("video_id"), str):
                found.append(entry)
    return found


def failed_ids(folder: Path) -> set[str]:
    """Ids with a recorded failure, whether or not a later try succeeded."""
    return {entry["video_id"] for entry in failure_lines(folder)}


def crops_word(names: Sequence[str]) -> str:
    """`five`, `ten`, a single crop's own name, or the number of crops where the names are no named set."""
    if len(names) == 1:
        return names[0]
    return next((word for word, known in CROPS.items() if tuple(names) == known), f"{len(names)}crops")


def rows(layers: Sequence[Path], *, dataset: str | None = None, kinds: Iterable[str] = KINDS) -> list[Row]:
    """Every artefact over the cache layers. Counts come from folder listings."""
    return [
        _row(folder, root, layer)
        for layer, root in enumerate(layers)
        for kind in kinds
        for folder in artifacts.find(root / kind / artifacts.folder_name(dataset) if dataset else root / kind, kind)
    ]


def find_row(layers: Sequence[Path], reference: str) -> Row:
    """The one artefact that `reference` means: an id or its beginning, a folder, a folder's name, or an encoder.

    Raises:
        MissingArtifactError: none.
        UsageError: several; all are listed.
    """
    listed = rows(layers)
    wanted = Path(reference).expanduser().absolute()
    for matches in (
        [row for row in listed if row.folder == wanted],
        [row for row in listed if row.folder.name == reference or f"{row.dataset}/{row.folder.name}" == reference],
        [row for row in listed if len(reference) >= 4 and row.artifact.id.startswith(reference)],
        [row for row in listed if reference in (row.encoder, f"{row.dataset}/{row.encoder}")],
    ):
        first = [row for row in matches if row.layer == min(match.layer for match in matches)]
        same = {row.artifact.id: row for row in reversed(matches)}
        if len(same) == 1 or len(first) == 1 == len(same):
            return first[0]
        if matches:
            lines = "\n  ".join(f"{row.artifact.id8}  {row.folder}" for row in matches)
            raise UsageError(f"{reference!r} means {len(matches)} artefacts:\n  {lines}", hint="give the id")
    from pipelines.recipe import suggest

    near = suggest(reference, [row.folder.name for row in listed] + sorted({row.encoder for row in listed}))
    raise MissingArtifactError(
        f"no artefact {reference!r} in {os.pathsep.join(map(str, layers))}{near}", hint="vad cache ls"
    )


def size_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def status(layers: Sequence[Path], dataset: str, ids: Iterable[str]) -> list[DatasetStatus]:
    """Done, failed and missing of every features and frames artefact of a dataset, one entry an artefact id.

    A video counts as done when any layer holds it. Folder listings only: no array is opened.
    """
    wanted = set(ids)
    grouped: dict[str, list[Row]] = {}
    for row in rows(layers, dataset=dataset, kinds=GROUPS):
        grouped.setdefault(row.artifact.id, []).append(row)
    return [_status(group, wanted) for group in grouped.values()]


def _status(group: Sequence[Row], wanted: set[str]) -> DatasetStatus:
    have = set[str]().union(*(stored_ids(row.group) for row in group))
    failed = set[str]().union(*(failed_ids(row.folder) for row in group)) - have
    missing = wanted - have - failed
    return DatasetStatus(
        row=group[0],
        done=len(have & wanted),
        failed=len(failed & wanted),
        missing=len(missing),
        stray=len(have - wanted),
        missing_ids=tuple(sorted(missing)),
    )


def _row(folder: Path, root: Path, layer: int) -> Row:
    artifact = artifacts.read(folder)
    have = stored_ids(folder / GROUPS.get(artifact.kind, "-"))
    failed = failed_ids(folder) - have
    parts = folder.relative_to(root).parts
    dataset = artifacts.video_id_of(parts[1]) if len(parts) > 2 else ""
    return Row(folder, artifact, dataset, layer, len(have), len(failed))


def describe(row: Row) -> dict[str, Any]:
    """One artefact as JSON types: artifact.json, counts, size and rate."""
    return {
        **asdict(row.artifact),
        "folder": str(row.folder),
        "dataset": row.dataset,
        "videos": row.n_videos,
        "failed": row.n_failed,
        "bytes": size_bytes(row.folder),
        "frames_per_s": known_rate(row.folder),
    }


def known_rate(folder: Path) -> float | None:
    """Frames per second of the last run that wrote to this artefact, or None."""
    try:
        return float(json.loads((folder / RATE).read_text(encoding="utf-8"))["frames_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
