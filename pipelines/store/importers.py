"""Published feature files -> features artefacts: every file matched to a video, checked, hashed, then stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.data.ids import normalise_id, own_id
from pipelines.errors import UsageError, VadError
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint
from pipelines.records import Failure, Video, VideoFacts
from pipelines.spans import LastClip, n_clips
from pipelines.store.compare import Side
from pipelines.store.feature_files import Piece, file_sha256, read_names, scan
from pipelines.store.features import FeatureStore, artifact_folder
from pipelines.store.layouts import STRIDE, UNKNOWN, WHOLE, Layout, check_names, crop_names, find_layout

FACTS = ("n_frames", "fps", "width", "height", "duration_s", "last_clip")  # that an HDF5 dataset may carry


class Importable(Protocol):
    """What an import needs of a dataset; `pipelines.data.manifest.Dataset` has it."""

    @property
    def name(self) -> str: ...

    def all_videos(self) -> list[Video]: ...


@dataclass(frozen=True, slots=True)
class Found:
    """One video's pieces (a file or dataset a crop, or one of all), shape (T, K, D), hashes, or a problem."""

    video: Video
    files: tuple[Piece, ...]
    shape: tuple[int, int, int] = (0, 0, 0)
    hashes: tuple[str, ...] = ()
    mean_norm: float = 0.0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How the arrays of one import are read: their width, crops, axis and clips.

    `keep` are places among `crops`; `axis` is the crops' axis (0 or 1) or None where each array's shape says;
    `attributes` are what each video's HDF5 dataset says.
    """

    layout: Layout
    dim: int
    crops: tuple[str, ...]
    keep: tuple[int, ...]
    axis: int | None
    clip_len: int
    stride: int
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the crops that are stored."""
        return tuple(self.crops[index] for index in self.keep)


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import would store: `found` videos of which some have problems, `missing` and `extra` ids."""

    dataset: str
    dialect: str
    reading: Reading
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
    dialect: str,
    source: Path,
    *,
    root: Path,
    lists: Sequence[Path] = (),
    order: str | None = None,
    crops: Sequence[str] | None = None,
    axis: int | None = None,
    stride: int | None = None,
    origin: str | None = None,
    progress: Progress | None = None,
) -> ImportPlan:
    """Match, open, check and hash every file; writes nothing.

    Args:
        dataset: whose videos the files are; ids are compared as written, then after `normalise_id`.
        dialect: the layout, one of LAYOUTS.
        source: the folder with the files, searched with its subfolders, or the one file.
        root: the cache root that the artefact would be written to.
        lists: published lists that restrict the import to the videos they name; folders in their paths are ignored
            (they are their author's), a file is found by its name below `source`. For `npy` they say whose rows are
            whose, in their order.
        order: what crop stands where: one of ORDERS or names with commas; the layout's own unless given.
        crops: keep these crops only, by name.
        axis: the crops' axis, for arrays whose shape does not say.
        stride: frames of a clip, and from clip to clip; 16, or what an HDF5 file says, unless given.
        origin: where the files were got, in words; recorded.
        progress: told of every video.

    Raises:
        MissingArtifactError: no such folder, or no file of this layout in it.
        UsageError: an unknown layout, order or crop, files that the dataset does not know at all.
    """
    layout = find_layout(dialect)
    table = [entry for path in lists for entry in read_names(path)]
    files = scan(source, layout, table=table)
    match = _matcher(dataset)
    ours = {name: video for name in files if (video := match(name)) is not None}
    named = None if not lists else {video.id for name, _ in table if (video := match(name)) is not None}
    wanted = {video.id: (video, files[name]) for name, video in ours.items() if named is None or video.id in named}
    if not wanted:
        raise UsageError(
            f"none of the {len(files)} names in {source} is a video of {dataset.name!r}, first {next(iter(files))!r}",
            hint=f"vad data show {dataset.name}",
        )
    reading = _reading(layout, {id: pieces for id, (_, pieces) in wanted.items()}, order, crops, axis, stride)
    sink = progress or Silent()
    sink.start(len(wanted), f"reading {dialect} files")
    found = []
    for _, (video, pieces) in sorted(wanted.items()):
        found.append(_examine(video, pieces, reading))
        sink.advance()
    sink.finish()
    recipe = _recipe(dialect, reading, found)
    id8 = fingerprint(recipe)
    looked_for = {video.id for video in dataset.all_videos() if named is None or video.id in named}
    return ImportPlan(
        dataset=dataset.name,
        dialect=dialect,
        reading=reading,
        recipe=recipe,
        id=id8,
        folder=artifact_folder(root, dataset.name, recipe, id=id8),
        found=tuple(found),
        missing=tuple(sorted(looked_for - set(wanted))),
        extra=tuple(sorted(name for name in files if name not in ours)),
        recorded=_recorded(reading, source, lists, origin, found),
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
            store.write(item.video.id, read_video(item.files, plan.reading), _facts(item, plan.reading))
        sink.advance()
    known = store.failures()
    for id, reason in plan.bad.items():
        if id not in known:
            store.record_failure(Failure(id, reason, artifacts.utc_now()))
    sink.finish()
    return store


def open_files(
    source: Path,
    dialect: str,
    videos: Iterable[str],
    *,
    lists: Sequence[Path] = (),
    order: str | None = None,
    axis: int | None = None,
) -> tuple[Side, dict[str, str]]:
    """Files of a layout as one side of a comparison, for the ids `videos`; and what could not be read, with the reason.

    Raises:
        MissingArtifactError, UsageError: as `plan_import`.
    """
    layout = find_layout(dialect)
    table = [entry for path in lists for entry in read_names(path)]
    files = scan(source, layout, table=table)
    match = _matcher(_Ids(tuple(videos)))
    ours = {video.id: (video, pieces) for name, pieces in files.items() if (video := match(name)) is not None}
    reading = _reading(layout, {id: pieces for id, (_, pieces) in ours.items()}, order, None, axis, None)
    found = {id: _examine(video, pieces, reading) for id, (video, pieces) in ours.items()}
    bad = {id: item.problem for id, item in found.items() if item.problem}
    good = frozenset(set(found) - set(bad))
    return Side(good, lambda id: read_video(found[id].files, reading), lambda id: reading.kept), bad


@dataclass(frozen=True, slots=True)
class _Ids:
    """A dataset that is nothing but ids; of unknown length, so that no file is refused for it."""

    ids: tuple[str, ...]
    name: str = "the artefact"

    def all_videos(self) -> list[Video]:
        return [Video(id, Path(id), "train", ()) for id in self.ids]


# ---- matching --------------------------------------------------------------------------------------------------


def _matcher(dataset: Importable) -> Callable[[str], Video | None]:
    """A video by any spelling of its name: its id as written (and as a name on disk), else its published id."""
    exact: dict[str, Video] = {}
    normal: dict[str, set[str]] = {}
    for video in dataset.all_videos():
        exact[video.id] = exact[artifacts.folder_name(video.id)] = video
        normal.setdefault(normalise_id(video.id), set()).add(video.id)

    def match(name: str) -> Video | None:
        for text in (name, own_id(name), artifacts.video_id_of(name)):
            if text in exact:
                return exact[text]
        ids = normal.get(normalise_id(name), set())
        if len(ids) > 1:
            a, b = sorted(ids)[:2]
            raise UsageError(f"the published name {name!r} cannot tell the videos {a!r} and {b!r} apart")
        return exact[next(iter(ids))] if ids else None

    return match


# ---- how the arrays are read -----------------------------------------------------------------------------------


def _reading(
    layout: Layout,
    files: Mapping[str, Mapping[int, Piece]],
    order: str | None,
    crops: Sequence[str] | None,
    axis: int | None,
    stride: int | None,
) -> Reading:
    """Width, crops and clips of one import. What the layout leaves open is what most of the files have."""
    attributes = {id: found for id, pieces in files.items() if (found := next(iter(pieces.values())).attributes())}
    said = next((a for a in attributes.values() if isinstance(a.get("crops"), list)), {})
    shapes = [shape for pieces in files.values() if (shape := _shape(next(iter(pieces.values())))) is not None]
    by_file = any(-1 not in pieces for pieces in files.values())
    if layout.n_crops is not None:
        n_crops = len(order.split(",")) if order and "," in order else layout.n_crops
    elif by_file:
        n_crops = max(max(pieces) for pieces in files.values()) + 1
    else:
        axis = _common_axis(shapes, axis)
        n_crops = _most(shape[axis] for shape in shapes if len(shape) == 3) if axis is not None else 1
    if layout.n_crops == 1 and order is None:
        names: tuple[str, ...] = (WHOLE,) if layout.dim == 128 else (UNKNOWN,)
    elif order is None and len(said.get("crops", ())) == n_crops:
        names = tuple(said["crops"])
    else:
        names = crop_names(order or (layout.files_order if by_file else layout.array_order), n_crops)
    step = stride or int(said.get("stride", STRIDE))
    return Reading(
        layout=layout,
        dim=layout.dim or _most(shape[-1] for shape in shapes),
        crops=names,
        keep=check_names(names, crops),
        axis=axis,
        clip_len=stride or int(said.get("clip_len", step)),
        stride=step,
        attributes=attributes,
    )


def _shape(piece: Piece) -> tuple[int, ...] | None:
    """Shape of a piece that opens, as (T, D) or three axes."""
    try:
        return _three_axes(piece.read(), piece).shape
    except (VadError, OSError, ValueError, RuntimeError, KeyError):
        return None


def _common_axis(shapes: Sequence[tuple[int, ...]], given: int | None) -> int | None:
    """The axis that holds the crops in arrays of three axes, where no layout tells how many crops there are.

    It is the one of a single size in files of different lengths; among files of one length, the one of 5 or 10.

    Raises:
        UsageError: both or none could be it.
    """
    cubes = [shape for shape in shapes if len(shape) == 3]
    if not cubes or given is not None:
        return given if cubes else None
    constant = [axis for axis in (0, 1) if len({shape[axis] for shape in cubes}) == 1]
    usual = [axis for axis in constant if cubes[0][axis] in (1, 5, 10)]
    found = constant if len(constant) == 1 else usual
    if len(found) != 1:
        raise UsageError(
            f"the shape {cubes[0]} does not say which axis holds the crops", hint="--crop-axis 0 or --crop-axis 1"
        )
    return found[0]


def _most(values: Iterable[int]) -> int:
    """The most frequent value, or 0 of none."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else 0


# ---- reading ---------------------------------------------------------------------------------------------------


def _examine(video: Video, files: Mapping[int, Piece], reading: Reading) -> Found:
    pieces = (files[-1],) if -1 in files else tuple(files[index] for index in reading.keep if index in files)
    blank = Found(video, pieces)
    if -1 not in files and len(pieces) < len(reading.keep):
        lost = [str(index) for index in reading.keep if index not in files]
        return replace(
            blank, problem=f"{len(pieces)} of {len(reading.keep)} crops are there (no __{', __'.join(lost)})"
        )
    try:
        values = read_video(pieces, reading)
        hashes = tuple(piece.sha256() for piece in pieces)
    except (VadError, OSError, ValueError, RuntimeError, KeyError, MemoryError) as error:
        return replace(blank, problem=str(error) or type(error).__name__)
    problem = _problem(values, video, reading)
    if problem:
        return replace(blank, problem=problem)
    shape = (int(values.shape[0]), int(values.shape[1]), int(values.shape[2]))
    return Found(video, pieces, shape, hashes, float(np.linalg.norm(values.astype(np.float32), axis=2).mean()))


def read_video(pieces: Sequence[Piece], reading: Reading) -> NDArray[np.float16]:
    """(T, K, D) float16 of one video from one array of all crops or from an array a crop.

    Raises:
        ValueError, OSError: no numbers, shapes that do not fit, an axis that could be either.
    """
    arrays = [_three_axes(piece.read(), piece) for piece in pieces]
    if len(arrays) == 1 and arrays[0].ndim == 3:
        values = _crops_second(arrays[0], reading, pieces[0])[:, list(reading.keep)]
    else:
        values = _stacked(arrays, pieces, reading)
    if values.shape[2] != reading.dim:
        swapped = f": axis 0 is {reading.dim} long, are the axes swapped?" if len(values) == reading.dim else ""
        raise ValueError(f"vectors of {values.shape[2]}, expected {reading.dim}{swapped}")
    with np.errstate(over="ignore"):  # said as values beyond float16
        return np.asarray(values).astype(np.float16)


def _three_axes(array: NDArray[Any], piece: Piece) -> NDArray[Any]:
    """Numbers of two or three axes; a leading or trailing axes of size 1 (`(1, T, K, D)`, `(T, D, 1, 1)`) go."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{piece.name}: {array.dtype} are not numbers")
    while array.ndim > 3 and 1 in array.shape:
        array = array.squeeze(array.shape.index(1))
    if piece.rows and array.ndim == 3 and len(array) == 1:  # a video's entry of (V, T, D)
        array = array[0]
    if array.ndim not in (2, 3):
        raise ValueError(f"{piece.name}: shape {array.shape}, expected clips x width or clips x crops x width")
    return array


def _stacked(arrays: Sequence[NDArray[Any]], pieces: Sequence[Piece], reading: Reading) -> NDArray[Any]:
    wrong = [f"{piece.name} {a.shape}" for piece, a in zip(pieces, arrays, strict=True) if a.ndim != 2]
    if wrong or len({len(array) for array in arrays}) != 1:
        told = wrong or sorted({str(array.shape) for array in arrays})
        raise ValueError(f"crops of different or unknown shape: {', '.join(told)}, expected (T, {reading.dim}) each")
    if len(arrays) != len(reading.keep):
        raise ValueError(f"{pieces[0].name} holds one crop, expected {len(reading.crops)}")
    return np.stack(arrays, axis=1)


def _crops_second(array: NDArray[Any], reading: Reading, piece: Piece) -> NDArray[Any]:
    """(K, T, D) or (T, K, D) -> (T, K, D); the axis of size K tells, and both of size K is refused."""
    n_crops = len(reading.crops)
    fits = [axis for axis in (0, 1) if array.shape[axis] == n_crops]
    if not fits:
        raise ValueError(f"{piece.name}: no axis of shape {array.shape} holds {n_crops} crops")
    if len(fits) == 2 and reading.axis is None:
        raise ValueError(
            f"{piece.name}: shape {array.shape} does not say which axis holds the {n_crops} crops (--crop-axis)"
        )
    axis = fits[0] if reading.axis is None or reading.axis not in fits else reading.axis
    return array.transpose(1, 0, 2) if axis == 0 else array


def _problem(values: NDArray[np.float16], video: Video, reading: Reading) -> str | None:
    if not len(values):
        return "no vectors"
    bad = int((~np.isfinite(values).all(axis=(1, 2))).sum())
    if bad:
        return f"NaN or values beyond float16 in {bad} of {len(values)} clips"
    n_frames = reading.attributes.get(video.id, {}).get("n_sampled") or video.n_frames
    most = reading.layout.slack_clips * reading.stride
    if n_frames and not reading.layout.binned and abs(reading.stride * len(values) - n_frames) > most:
        return f"{len(values)} vectors stand for {reading.stride * len(values)} frames, the video has {n_frames}"
    return None


# ---- what is recorded ------------------------------------------------------------------------------------------


def _recipe(dialect: str, reading: Reading, found: Sequence[Found]) -> dict[str, Any]:
    """A recipe with the keys of an extracted one. What made the vectors is not known: their content is the identity."""
    content = fingerprint(sorted([item.video.id, *item.hashes] for item in found if item.problem is None))
    return {
        "encoder": f"import:{dialect}",
        "revision": 1,
        "weights_sha256": None,
        "options": {"content": content},
        "decoder": UNKNOWN,
        "clip_len": reading.clip_len,
        "stride": reading.stride,
        "fps": None,
        "last_clip": "drop",
        "crops": list(reading.kept),
        "preprocess": {"resize": None, "crop_px": None, "interpolation": UNKNOWN, "mean": None, "std": None},
        "precision": UNKNOWN,
    }


def _recorded(
    reading: Reading, source: Path, lists: Sequence[Path], origin: str | None, found: Sequence[Found]
) -> dict[str, Any]:
    good = [item for item in found if item.problem is None]
    containers = {piece.path for item in good for piece in item.files if piece.key or piece.rows}
    return {
        "about": reading.layout.about,
        "origin": origin or UNKNOWN,
        "source": str(source),
        "lists": {str(path): file_sha256(path) for path in lists},
        "containers": {path.name: file_sha256(path) for path in sorted(containers)},
        "crop_order": list(reading.crops),
        "kept": list(reading.keep),
        "dim": reading.dim,
        "mean_norm": sum(item.mean_norm for item in good) / len(good) if good else None,
    }


def _facts(found: Found, reading: Reading) -> VideoFacts:
    said = reading.attributes.get(found.video.id, {})
    extra: dict[str, Any] = {
        "files": {piece.name: sha for piece, sha in zip(found.files, found.hashes, strict=True)},
        **{key: said[key] for key in ("n_sampled", "sampled_fps") if key in said},
    }
    facts = VideoFacts(
        n_frames=0,
        fps=found.video.fps,
        width=None,
        height=None,
        stride=reading.stride,
        clip_len=reading.clip_len,
        crops=reading.kept,
        extra=extra,
    )
    if "n_frames" in said:
        known = {key: said[key] for key in FACTS if said.get(key) is not None}
        return replace(facts, **known, extra=extra | {"n_frames_from": "file"})
    if reading.layout.binned:
        return _binned(facts, found)
    n_frames, last_clip = _length(found.shape[0], found.video.n_frames, reading)
    extra["n_frames_from"] = "list" if n_frames == found.video.n_frames else "features"
    if found.video.n_frames and found.video.n_frames != n_frames:
        extra["published_frames"] = found.video.n_frames
    return replace(facts, n_frames=n_frames, last_clip=last_clip)


def _binned(facts: VideoFacts, found: Found) -> VideoFacts:
    """Bins of a whole video: clips of a video that was resampled to as many clips as there are bins."""
    n_sampled = facts.stride * found.shape[0]
    known = found.video.n_frames
    extra = facts.extra | {"n_sampled": n_sampled, "n_frames_from": "list" if known else UNKNOWN}
    return replace(facts, n_frames=known or n_sampled, extra=extra)


def _length(n_vectors: int, published: int | None, reading: Reading) -> tuple[int, LastClip]:
    """The video's length and the rule by which it makes `n_vectors` clips: the published length where one fits."""
    rules: tuple[LastClip, ...] = ("drop", "repeat")
    for rule in rules:
        made = n_clips(published or 0, clip_len=reading.clip_len, stride=reading.stride, last_clip=rule)
        if published and made == n_vectors:
            return published, rule
    return reading.stride * (n_vectors - 1) + reading.clip_len, "drop"
