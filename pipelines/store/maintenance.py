"""Looking after the cache: verify, set aside, collect garbage, remove, clean up after dead writers."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, VadError, VerificationError
from pipelines.records import VideoFacts
from pipelines.spans import n_clips, n_sampled_of, region_frames
from pipelines.store.features import STAGING, FeatureStore, values_checksum
from pipelines.store.frames import INDEX, FramesStore
from pipelines.store.listing import RATE, rows, size_bytes
from pipelines.store.regions import BoxesStore, CaptionsStore, RowsStore

BROKEN = "broken"
STALE_S = 7 * 86400  # what another host left under .staging/ is nobody's after this long


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


def open_store(folder: Path) -> FeatureStore:
    """The store in `folder`, of the class that its kind asks for."""
    store = FeatureStore(folder)
    kinds: dict[str, type[FeatureStore]] = {"frames": FramesStore, "boxes": BoxesStore, "captions": CaptionsStore}
    return kinds.get(store.artifact.kind, FeatureStore)(folder)


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
        if isinstance(store, RowsStore):
            return [Problem(video_id, what) for what in _rows_problems(store, video_id, facts)]
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
    n_frames, regions = n_sampled_of(facts), region_frames(facts)
    clips = n_clips(n_frames, clip_len=facts.clip_len, stride=facts.stride, last_clip=facts.last_clip)  # type: ignore[arg-type]
    if regions is not None:
        if len(values) != len(regions):
            yield f"{len(values)} rows, but {len(regions)} regions"
    elif len(values) != clips:
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


def _rows_problems(store: RowsStore, video_id: str, facts: VideoFacts) -> Iterator[str]:
    rows = store.read_rows(video_id)
    if len(rows) and (int(rows[:, 0].min()) < 0 or int(rows[:, 0].max()) >= n_sampled_of(facts)):
        yield f"boxes outside the {n_sampled_of(facts)} frames"
    if not np.isfinite(rows).all():
        yield "NaN or infinite boxes"
    if store.rows_checksum(video_id) != store.checksum(video_id):
        yield "the boxes do not match their checksum"


def _frames_problems(store: FramesStore, video_id: str, facts: VideoFacts) -> Iterator[str]:
    metadata = store.metadata(video_id)
    shape = store.frames_shape(video_id)
    n_frames = n_sampled_of(facts)
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
