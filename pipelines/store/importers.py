"""Published feature files -> features artefacts: every file matched to a video, checked, hashed, then stored."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.data.ids import normalise_id
from pipelines.errors import MissingArtifactError, UsageError, VadError
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint
from pipelines.records import Failure, Video, VideoFacts
from pipelines.spans import LastClip, n_clips
from pipelines.store.features import FeatureStore, artifact_folder
from pipelines.video.crops import CROPS

Dialect = Literal["vadclip", "ur-dmu"]
STRIDE = 16
_CROP = re.compile(r"__(\d)$")
_UR_DMU = ("tl", "tr", "center", "bl", "br")
_TORCHVISION = ("tl", "tr", "bl", "br", "center")
# which crop stands at which place, by who wrote the files
ORDERS: Mapping[str, tuple[str, ...]] = {
    "roc-ng": CROPS["ten"],  # [code] Roc-Ng/DeepMIL: centre, corners, then their mirrors; VadCLIP's files too
    "ur-dmu": (*_UR_DMU, *(f"{name}_m" for name in _UR_DMU)),  # [code] henrryzh1/UR-DMU's extractor
    "torchvision": (*_TORCHVISION, *(f"{name}_m" for name in _TORCHVISION)),  # torchvision TenCrop
    "unknown": tuple(f"unknown_{index}" for index in range(10)),
}


class Importable(Protocol):
    """What an import needs of a dataset; `pipelines.data.manifest.Dataset` has it."""

    @property
    def name(self) -> str: ...

    def all_videos(self) -> list[Video]: ...


@dataclass(frozen=True, slots=True)
class Format:
    """A published layout: its width, its default crop order for ten files and for one array, what made the numbers."""

    dim: int
    files_order: str
    array_order: str
    about: str


FORMATS: Mapping[Dialect, Format] = {
    "vadclip": Format(512, "roc-ng", "unknown", "VadCLIP's CLIP ViT-B/16 features, a vector a 16 frames"),
    "ur-dmu": Format(1024, "unknown", "ur-dmu", "I3D features as UR-DMU reads them, a vector a 16 frames"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """One video's files: the path of each crop (one path for an array of all), shape (T, K, D), hashes, or a problem."""

    video: Video
    files: tuple[Path, ...]
    shape: tuple[int, int, int] = (0, 0, 0)
    hashes: tuple[str, ...] = ()
    mean_norm: float = 0.0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import would store: `found` videos of which some have problems, `missing` and `extra` ids."""

    dataset: str
    dialect: Dialect
    recipe: dict[str, Any]
    id: str
    folder: Path
    found: tuple[Found, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    recorded: dict[str, Any]

    @property
    def good(self) -> list[Found]:
        return [item for item in self.found if item.problem is None]

    @property
    def bad(self) -> dict[str, str]:
        """Videos that cannot be stored, with the reason."""
        return {item.video.id: item.problem for item in self.found if item.problem is not None}


def plan_import(
    dataset: Importable,
    dialect: Dialect,
    source: Path,
    *,
    root: Path,
    lists: Sequence[Path] = (),
    order: str | None = None,
    crops: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> ImportPlan:
    """Match, open, check and hash every file; writes nothing.

    Args:
        dataset: whose videos the files are; ids are compared after `normalise_id`.
        dialect: the layout.
        source: the folder with the .npy files, searched with its subfolders.
        root: the cache root that the artefact would be written to.
        lists: csv files `path,label` that restrict the import to the videos they name; folders in their paths are
            ignored (they are their author's), a file is found by its name below `source`.
        order: what crop stands where: one of ORDERS, the dialect's own unless given.
        crops: keep these crops only, by name.
        progress: told of every video.

    Raises:
        MissingArtifactError: no such folder, or no .npy file in it.
        UsageError: an unknown order or crop, files that the dataset does not know at all, one id for two videos.
    """
    files = _scan(source)
    named = _listed(lists)
    videos = _by_normal_id(dataset)
    wanted = [id for id in files if id in videos and (named is None or id in named)]
    if not wanted:
        raise UsageError(
            f"none of the {len(files)} names in {source} is a video of {dataset.name!r}, first {next(iter(files))!r}",
            hint=f"vad data show {dataset.name}",
        )
    names = _crop_names(dialect, files[wanted[0]], order)
    keep = _kept(names, crops)
    sink = progress or Silent()
    sink.start(len(wanted), f"reading {dialect} files")
    found = []
    for id in sorted(wanted, key=lambda id: videos[id].id):
        found.append(_examine(videos[id], files[id], dialect, len(names), keep))
        sink.advance()
    sink.finish()
    recipe = _recipe(dialect, tuple(names[index] for index in keep), found)
    id8 = fingerprint(recipe)
    looked_for = [id for id in videos if named is None or id in named]
    return ImportPlan(
        dataset=dataset.name,
        dialect=dialect,
        recipe=recipe,
        id=id8,
        folder=artifact_folder(root, dataset.name, recipe, id=id8),
        found=tuple(found),
        missing=tuple(sorted(videos[id].id for id in looked_for if id not in files)),
        extra=tuple(sorted(id for id in files if id not in videos)),
        recorded=_recorded(dialect, source, lists, names, keep, found),
    )


def run_import(plan: ImportPlan, *, progress: Progress | None = None) -> FeatureStore:
    """Store every good video; those with a problem are recorded as failures. What is there already is kept."""
    sink = progress or Silent()
    artifact = artifacts.make("features", plan.id, plan.recipe, recorded=plan.recorded)
    store = FeatureStore.create(plan.folder, artifact)
    sink.start(len(plan.good), f"importing {plan.dialect} features")
    present = store.videos()
    for item in plan.good:
        if item.video.id not in present:
            values = _read(item, plan.recorded["kept"])
            store.write(item.video.id, values, _facts(item, plan))
        sink.advance()
    known = store.failures()
    for id, reason in plan.bad.items():
        if id not in known:
            store.record_failure(Failure(id, reason, artifacts.utc_now()))
    sink.finish()
    return store


# ---- matching --------------------------------------------------------------------------------------------------


def _scan(source: Path) -> dict[str, dict[int, Path]]:
    """Normal id -> {crop number, -1 for a file of all crops: path}."""
    if not source.is_dir():
        raise MissingArtifactError(f"there is no folder {source}", hint="--source FOLDER, where the .npy files lie")
    found: dict[str, dict[int, Path]] = {}
    for path in sorted(source.rglob("*.npy")):
        number = _CROP.search(path.stem)
        crop = int(number.group(1)) if number else -1
        other = found.setdefault(normalise_id(path.name), {}).setdefault(crop, path)
        if other != path:
            raise UsageError(
                f"two files for one crop of one video: {other} and {path}", hint="import one folder at a time"
            )
    if not found:
        raise MissingArtifactError(f"{source} has no .npy files", hint="unpack the download first")
    return found


def _listed(lists: Sequence[Path]) -> set[str] | None:
    if not lists:
        return None
    named: set[str] = set()
    for path in lists:
        try:
            with path.open(encoding="utf-8", newline="") as handle:
                rows = [row[0] for row in csv.reader(handle) if row and row[0].strip()]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"cannot read the list {path}: {error}") from error
        named |= {normalise_id(text) for text in rows if text.strip().lower() != "path"}
    return named


def _by_normal_id(dataset: Importable) -> dict[str, Video]:
    videos: dict[str, Video] = {}
    for video in dataset.all_videos():
        other = videos.setdefault(normalise_id(video.id), video)
        if other.id != video.id:
            raise UsageError(f"published names cannot tell the videos {other.id!r} and {video.id!r} apart")
    return videos


# ---- crops -----------------------------------------------------------------------------------------------------


def _crop_names(dialect: Dialect, files: Mapping[int, Path], order: str | None) -> tuple[str, ...]:
    form = FORMATS[dialect]
    chosen = order or (form.array_order if -1 in files else form.files_order)
    if chosen not in ORDERS:
        raise UsageError(f"unknown crop order {chosen!r}", hint=f"one of {', '.join(ORDERS)}")
    return ORDERS[chosen]


def _kept(names: Sequence[str], crops: Sequence[str] | None) -> tuple[int, ...]:
    unknown = [crop for crop in crops or () if crop not in names]
    if unknown:
        raise UsageError(f"no crop {unknown[0]!r} among {', '.join(names)}")
    return tuple(names.index(crop) for crop in crops) if crops else tuple(range(len(names)))


# ---- reading ---------------------------------------------------------------------------------------------------


def _examine(video: Video, files: Mapping[int, Path], dialect: Dialect, n_crops: int, keep: Sequence[int]) -> Found:
    paths = (files[-1],) if -1 in files else tuple(files[index] for index in keep if index in files)
    blank = Found(video, paths)
    if -1 not in files and len(paths) < len(keep):
        lost = [str(index) for index in keep if index not in files]
        return _bad(blank, f"{len(paths)} of {len(keep)} crops are there (no __{', __'.join(lost)})")
    try:
        values = _stack(paths, n_crops, keep, FORMATS[dialect].dim)
    except (VadError, OSError, ValueError) as error:
        return _bad(blank, str(error))
    problem = _problem(values, video)
    if problem:
        return _bad(blank, problem)
    hashes = tuple(_sha256(path) for path in paths)
    shape = (int(values.shape[0]), int(values.shape[1]), int(values.shape[2]))
    return Found(video, paths, shape, hashes, float(np.linalg.norm(values.astype(np.float32), axis=2).mean()))


def _bad(found: Found, problem: str) -> Found:
    return Found(found.video, found.files, problem=problem)


def _stack(paths: Sequence[Path], n_crops: int, keep: Sequence[int], dim: int) -> NDArray[np.float16]:
    """(T, K, D) float16 of one video from one array of all crops or from a file a crop."""
    arrays = [np.load(path, allow_pickle=False) for path in paths]
    if len(paths) == 1 and arrays[0].ndim == 3:
        values = _crops_second(arrays[0], n_crops, paths[0])[:, list(keep)]
    else:
        wrong = [f"{path.name} {a.shape}" for path, a in zip(paths, arrays, strict=True) if a.ndim != 2]
        if wrong or len({len(array) for array in arrays}) != 1:
            told = wrong or sorted({str(array.shape) for array in arrays})
            raise ValueError(f"crops of different or unknown shape: {', '.join(told)}, expected (T, {dim}) each")
        values = np.stack(arrays, axis=1)
    if values.shape[2] != dim:
        raise ValueError(f"vectors of {values.shape[2]}, expected {dim}")
    return np.asarray(values).astype(np.float16)


def _crops_second(array: NDArray[Any], n_crops: int, path: Path) -> NDArray[Any]:
    """(K, T, D) or (T, K, D) -> (T, K, D); the axis of size K tells, and both of size K is refused."""
    first, second = array.shape[0] == n_crops, array.shape[1] == n_crops
    if first and second:
        raise ValueError(f"{path.name}: shape {array.shape} does not say which axis holds the {n_crops} crops")
    if not first and not second:
        raise ValueError(f"{path.name}: no axis of shape {array.shape} holds {n_crops} crops")
    return array.transpose(1, 0, 2) if first else array


def _problem(values: NDArray[np.float16], video: Video) -> str | None:
    if not len(values):
        return "no vectors"
    bad = int((~np.isfinite(values).all(axis=(1, 2))).sum())
    if bad:
        return f"NaN or values beyond float16 in {bad} of {len(values)} clips"
    if video.n_frames and abs(STRIDE * len(values) - video.n_frames) > STRIDE:
        return f"{len(values)} vectors stand for {STRIDE * len(values)} frames, the video has {video.n_frames}"
    return None


def _read(found: Found, kept: Sequence[int]) -> NDArray[np.float16]:
    n_crops = len(ORDERS["unknown"])
    return _stack(found.files, n_crops, kept, found.shape[2])


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


# ---- what is recorded ------------------------------------------------------------------------------------------


def _recipe(dialect: Dialect, crops: tuple[str, ...], found: Sequence[Found]) -> dict[str, Any]:
    """A recipe with the keys of an extracted one. What made the vectors is not known: their content is the identity."""
    content = fingerprint(sorted([item.video.id, *item.hashes] for item in found if item.problem is None))
    return {
        "encoder": f"import:{dialect}",
        "revision": 1,
        "weights_sha256": None,
        "options": {"content": content},
        "decoder": "unknown",
        "clip_len": STRIDE,
        "stride": STRIDE,
        "fps": None,
        "last_clip": "drop",
        "crops": list(crops),
        "preprocess": {
            "resize": None,
            "crop_px": None,
            "interpolation": "unknown",
            "mean": [0.0, 0.0, 0.0],
            "std": [1.0, 1.0, 1.0],
        },
        "precision": "float32",
    }


def _recorded(
    dialect: Dialect,
    source: Path,
    lists: Sequence[Path],
    names: Sequence[str],
    keep: Sequence[int],
    found: Sequence[Found],
) -> dict[str, Any]:
    good = [item for item in found if item.problem is None]
    return {
        "about": FORMATS[dialect].about,
        "source": str(source),
        "lists": {str(path): _sha256(path) for path in lists},
        "crop_order": list(names),
        "kept": list(keep),
        "dim": FORMATS[dialect].dim,
        "mean_norm": sum(item.mean_norm for item in good) / len(good) if good else None,
    }


def _facts(found: Found, plan: ImportPlan) -> VideoFacts:
    n_frames, last_clip = _length(found.shape[0], found.video.n_frames)
    files = {path.name: sha for path, sha in zip(found.files, found.hashes, strict=True)}
    extra: dict[str, Any] = {
        "files": files,
        "n_frames_from": "list" if n_frames == found.video.n_frames else "features",
    }
    if found.video.n_frames and found.video.n_frames != n_frames:
        extra["published_frames"] = found.video.n_frames
    return VideoFacts(
        n_frames=n_frames,
        fps=found.video.fps,
        width=None,
        height=None,
        stride=STRIDE,
        clip_len=STRIDE,
        crops=tuple(plan.recipe["crops"]),
        last_clip=last_clip,
        extra=extra,
    )


def _length(n_vectors: int, published: int | None) -> tuple[int, LastClip]:
    """The video's length and the rule by which it makes `n_vectors` clips: the published length where one fits."""
    rules: tuple[LastClip, ...] = ("drop", "repeat")
    for rule in rules:
        if published and n_clips(published, clip_len=STRIDE, stride=STRIDE, last_clip=rule) == n_vectors:
            return published, rule
    return STRIDE * n_vectors, "drop"
