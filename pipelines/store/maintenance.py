"""Looking after the cache: list, show, verify, collect garbage, remove, and the counts of `vad status`."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.artifacts import Artifact
from pipelines.errors import MissingArtifactError, UsageError, VadError, VerificationError
from pipelines.recipe import suggest
from pipelines.records import VideoFacts
from pipelines.spans import n_clips
from pipelines.store.features import STAGING, FeatureStore, values_checksum
from pipelines.store.frames import INDEX, FramesStore

KINDS = ("features", "frames", "text", "captions", "boxes", "pseudo")
RATE = "rate.json"
BROKEN = "broken"
STALE_S = 7 * 86400  # what another host left under .staging/ is nobody's after this long


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


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one stored video; `serious` problems make it unusable."""

    video_id: str
    what: str
    serious: bool = True


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that nobody uses, with its size and why it is listed."""

    path: Path
    n_bytes: int
    why: str


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """Counts of one artefact against a dataset's list of videos."""

    row: Row
    done: int
    failed: int
    missing: int
    stray: int = 0  # stored, but no longer in the list
    missing_ids: tuple[str, ...] = field(default=(), repr=False)


# ---- listing ---------------------------------------------------------------------------------------------------


def open_store(folder: Path) -> FeatureStore:
    """The store in `folder`, of the class that its kind asks for."""
    store = FeatureStore(folder)
    return FramesStore(folder) if store.artifact.kind == "frames" else store


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
    for row in rows(layers, dataset=dataset, kinds=("features", "frames")):
        grouped.setdefault(row.artifact.id, []).append(row)
    return [_status(group, wanted) for group in grouped.values()]


def _status(group: Sequence[Row], wanted: set[str]) -> DatasetStatus:
    stores = [open_store(row.folder) for row in group]
    have = set[str]().union(*(store.videos() for store in stores))
    failed = set[str]().union(*(store.failures().keys() for store in stores)) - have
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
    n_videos = n_failed = 0
    if artifact.kind in ("features", "frames"):
        store = open_store(folder)
        n_videos, n_failed = len(store.videos()), len(store.failures())
    parts = folder.relative_to(root).parts
    dataset = artifacts.video_id_of(parts[1]) if len(parts) > 2 else ""
    return Row(folder, artifact, dataset, layer, n_videos, n_failed)


# ---- staging and rates -----------------------------------------------------------------------------------------


def clean_staging(store: FeatureStore) -> int:
    """Delete what dead writers of this host left under .staging/, and put back arrays that they had moved aside.

    Another host's leftovers go after a week. Returns the number of folders that were dealt with.
    """
    count = 0
    for entry in _stale(store.folder / STAGING):
        if entry.name.startswith("old-"):
            for array in entry.iterdir():
                final = store.group / array.name
                if not final.exists():
                    os.rename(array, final)
        shutil.rmtree(entry, ignore_errors=True)
        count += 1
    return count


def _stale(staging: Path) -> Iterator[Path]:
    if not staging.is_dir() or not os.access(staging, os.W_OK):
        return
    for entry in sorted(staging.iterdir()):
        node, _, rest = entry.name.removeprefix("old-").rpartition("-")[0].rpartition("-")
        if node == os.uname().nodename and rest.isdigit():
            if not _alive(int(rest)):
                yield entry
        elif time.time() - entry.stat().st_mtime > STALE_S:
            yield entry


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def record_rate(store: FeatureStore, *, frames_per_s: float, device: str) -> None:
    """Remember how fast the last run was, for the next estimate."""
    if frames_per_s > 0:
        text = json.dumps({"frames_per_s": frames_per_s, "device": device, "when": artifacts.utc_now()})
        artifacts.write_text(store.folder / RATE, text + "\n")


def known_rate(folder: Path) -> float | None:
    """Frames per second of the last run that wrote to this artefact, or None."""
    try:
        return float(json.loads((folder / RATE).read_text(encoding="utf-8"))["frames_per_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ---- verify ----------------------------------------------------------------------------------------------------


def verify(
    store: FeatureStore, *, videos: Iterable[str] | None = None, each: Callable[[str], None] = lambda video: None
) -> list[Problem]:
    """Everything wrong with the stored videos: arrays that do not open, lengths, NaN, constants, zeros, checksums.

    Constant values and all-zero clips are what a lost write looks like, and no network gives them; a descriptor
    without weights gives them for a still picture, so there they are remarks as long as the checksum holds.
    """
    found: list[Problem] = []
    for video_id in sorted(store.videos() if videos is None else videos):
        found += _verify_video(store, video_id)
        each(video_id)
    return found


def set_broken_aside(store: FeatureStore, video_ids: Iterable[str]) -> Path:
    """Move videos to `broken/` of the artefact, so that the same extract does them again; returns that folder."""
    folder = store.folder / BROKEN / artifacts.utc_now().replace(":", "")
    folder.mkdir(parents=True, exist_ok=True)
    for video_id in video_ids:
        os.rename(store.path(video_id), folder / store.path(video_id).name)
    return folder


def _verify_video(store: FeatureStore, video_id: str) -> list[Problem]:
    try:
        facts = store.facts(video_id)
        if isinstance(store, FramesStore):
            whats = list(_frames_problems(store, video_id, facts))
            return [Problem(video_id, what) for what in whats]
        values = store.read(video_id)
        checksum = store.checksum(video_id)
    except (VadError, OSError, ValueError, KeyError, TypeError, ImportError) as error:
        return [Problem(video_id, f"does not open: {error}")]
    problems = [Problem(video_id, what) for what in _value_problems(values, facts, checksum)]
    recipe = store.artifact.recipe
    imported = str(recipe.get("encoder", "")).startswith("import:")
    still = recipe.get("weights_sha256") is None and not imported and not problems
    return problems + [Problem(video_id, what, serious=not still) for what in _zero_problems(values)]


def _value_problems(values: NDArray[np.float16], facts: VideoFacts, checksum: str | None) -> Iterator[str]:
    n_frames = int(facts.extra.get("n_sampled", facts.n_frames))
    clips = n_clips(n_frames, clip_len=facts.clip_len, stride=facts.stride, last_clip=facts.last_clip)  # type: ignore[arg-type]
    if len(values) != clips:
        yield f"{len(values)} clips, but {n_frames} frames make {clips}"
    if values.shape[1] != len(facts.crops):
        yield f"{values.shape[1]} crops, but {len(facts.crops)} names"
    bad = int((~np.isfinite(values).all(axis=(1, 2))).sum())
    if bad:
        yield f"NaN or infinite values in {bad} of {len(values)} clips"
    if checksum is not None and values_checksum(values) != checksum:
        yield "the values do not match their checksum"


def _zero_problems(values: NDArray[np.float16]) -> Iterator[str]:
    zero = int((~values.any(axis=(1, 2))).sum())
    if zero:
        yield f"{zero} of {len(values)} clips are all zeros"
    elif values.size > 1 and (values == values.flat[0]).all():
        yield f"every value is {float(values.flat[0]):g}"


def _frames_problems(store: FramesStore, video_id: str, facts: VideoFacts) -> Iterator[str]:
    metadata = store.metadata(video_id)
    shape = store.frames_shape(video_id)
    n_frames = int(facts.extra.get("n_sampled", facts.n_frames))
    if shape[0] != n_frames:
        yield f"{shape[0]} frames stored, {n_frames} decoded"
    if INDEX in facts.extra:
        lost = [name for name in facts.extra[INDEX] if not (Path(facts.extra["folder"]) / name).is_file()]
        if lost:
            yield f"{len(lost)} of {shape[0]} indexed images are gone, first {lost[0]}"
    elif store.frames_checksum(video_id) != metadata["attributes"].get("checksum"):
        yield "the frames do not match their checksum"


# ---- garbage ---------------------------------------------------------------------------------------------------


def garbage(root: Path, *, named: Collection[tuple[str, str]], runs: Path) -> list[Garbage]:
    """What of the cache `root` neither a run below `runs` nor a manifest entry uses, and leftovers of dead writers.

    `named` are (dataset, id) of the features that manifest entries ask for; an id says nothing of its dataset.
    """
    of_runs = _ids_of_runs(runs)
    found = [
        Garbage(row.folder, size_bytes(row.folder), "no run and no manifest entry uses it")
        for row in rows([root])
        if row.artifact.id not in of_runs and (row.dataset, row.artifact.id) not in named
    ]
    listed = {item.path for item in found}
    for row in rows([root]):
        if row.folder not in listed:
            left = [*_stale(row.folder / STAGING), *(row.folder / BROKEN).glob("*")]
            found += [Garbage(path, size_bytes(path), "left by a killed writer or set aside") for path in left]
    return found


def remove(path: Path) -> None:
    """Delete an artefact or a leftover: renamed out of sight first, so that no reader sees half of it."""
    aside = path.with_name(f".removed-{os.getpid()}-{path.name}")
    os.rename(path, aside)
    shutil.rmtree(aside)


def _ids_of_runs(runs: Path) -> set[str]:
    found: set[str] = set()
    for path in runs.rglob(artifacts.FILE) if runs.is_dir() else ():
        try:
            found |= set(artifacts.read(path.parent).inputs.values())
        except (MissingArtifactError, VerificationError):
            continue
    return found


def describe(row: Row) -> dict[str, Any]:
    """One artefact as JSON types: artifact.json, counts, size and rate."""
    from dataclasses import asdict

    return {
        **asdict(row.artifact),
        "folder": str(row.folder),
        "dataset": row.dataset,
        "videos": row.n_videos,
        "failed": row.n_failed,
        "bytes": size_bytes(row.folder),
        "frames_per_s": known_rate(row.folder),
    }
