"""Features artefacts -> the layouts of others: every crop at its place, lists with labels beside the files."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.errors import UsageError
from pipelines.progress import Progress, Silent
from pipelines.records import NORMAL, Video, VideoFacts
from pipelines.store.feature_files import stem_of
from pipelines.store.features import FeatureStore
from pipelines.store.layouts import ORDERS, UNKNOWN, Layout, check_names, crop_names, find_layout

Dtype = Literal["float32", "float16"]
MARKER = "export.json"
HDF5_FILE, TABLE_FILE, NAMES_FILE = "features.h5", "features.npy", "names.csv"


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What an export writes: `crops` in the order of the files or of the axis, numbered by `numbers`; `warnings` say
    where the layout's own code expects something else."""

    store: FeatureStore
    to: str
    layout: Layout
    crops: tuple[str, ...]
    numbers: tuple[int, ...]
    videos: tuple[str, ...]
    out: Path
    dtype: Dtype
    n_bytes: int
    warnings: tuple[str, ...]

    @property
    def marker(self) -> dict[str, Any]:
        """What stands in the folder's export.json: by it the same command goes on, and another one is refused."""
        return {
            "schema": 1,
            "artifact": self.store.artifact.id,
            "encoder": self.store.artifact.recipe["encoder"],
            "layout": self.to,
            "crops": list(self.crops),
            "dtype": self.dtype,
        }


def plan_export(
    store: FeatureStore,
    to: str,
    out: Path,
    *,
    order: str | None = None,
    crops: Sequence[str] | None = None,
    dtype: Dtype = "float32",
) -> ExportPlan:
    """What `run_export` would write; reads shapes only.

    Args:
        to: a layout's name.
        order: which crop stands where: one of ORDERS or names with commas; the layout's own unless given.
        crops: of these, write only some (in layouts of one file a crop, each keeps its number).
        dtype: float32 holds every stored value exactly and is what the public loaders expect; float16 is half of it.

    Raises:
        UsageError: a crop that the layout needs and the artefact lacks, an order of crops that nobody knows, a folder
            with another export in it, bins that are not there.
    """
    layout = find_layout(to)
    if not (videos := tuple(sorted(store.videos()))):
        raise UsageError(f"{store.folder} holds no videos", hint="vad cache ls")
    names = _names(store, to, layout, order, crops)
    keep = check_names(names, crops)
    shapes = [store.shape(video) for video in videos]
    if layout.binned and {t for t, _, _ in shapes} != {32}:
        raise UsageError(f"{to} holds 32 bins a video, these features have up to {max(t for t, _, _ in shapes)} clips")
    planned = ExportPlan(
        store=store,
        to=to,
        layout=layout,
        crops=tuple(names[index] for index in keep),
        numbers=keep,
        videos=videos,
        out=out,
        dtype="float16" if layout.holds == "hdf5" else dtype,
        n_bytes=sum(t * len(keep) * d for t, _, d in shapes) * (2 if dtype == "float16" else 4),
        warnings=tuple(_warnings(layout, to, shapes[0][2], len(keep))),
    )
    _check_folder(planned)
    return planned


def run_export(
    plan: ExportPlan, videos: Sequence[Video] = (), *, normal: str = NORMAL, progress: Progress | None = None
) -> list[Path]:
    """Write the files, then a list for each part of `videos` (`normal` is their normal class); files that are there stay.

    Every file is written aside and renamed, so a killed export leaves nothing half-written.
    """
    sink = progress or Silent()
    plan.out.mkdir(parents=True, exist_ok=True)
    artifacts.write_text(plan.out / MARKER, json.dumps(plan.marker, indent=2) + "\n")
    sink.start(len(plan.videos), f"exporting to {plan.to}")
    if plan.layout.holds == "hdf5":
        written = [_write_hdf5(plan, sink)]
    elif plan.layout.holds == "table":
        written = _write_table(plan, sink)
    else:
        written = [path for video in _each(plan, sink) for path in _write_video(plan, video)]
        written += _write_lists(plan, videos, normal)
    sink.finish()
    return written


# ---- what is decided beforehand ----------------------------------------------------------------------------------


def _names(
    store: FeatureStore, to: str, layout: Layout, order: str | None, crops: Sequence[str] | None
) -> tuple[str, ...]:
    """The crops of the layout, in its order; those of the artefact as they stand where nothing has names for them."""
    have = store.crops
    nameless = all(name.startswith(UNKNOWN) for name in have)
    if order in (None, UNKNOWN) and (nameless or order or layout.n_crops in (None, 1)):
        names = have
    elif nameless:
        raise UsageError(
            f"which crop is which in {store.folder.name} is not known, so it cannot be put in the order {order}",
            hint="`vad cache diff` against features of named crops finds out; --crop-order unknown keeps it",
        )
    else:
        chosen = order or (layout.array_order if _is_array(layout, to) else layout.files_order)
        count = len(chosen.split(",")) if "," in chosen or layout.n_crops is None else layout.n_crops
        names = crop_names(chosen, count if chosen not in ORDERS else layout.n_crops or len(have))
    lacking = [name for name in (crops or names) if name not in have]
    if lacking:
        raise UsageError(
            f"{to} has the crops {', '.join(names)}; {store.folder.name} lacks {', '.join(lacking)}",
            hint=f"--crops {have[0]} writes one of them, --crop-order {','.join(have)} all that there are",
        )
    if layout.n_crops == 1 and len(crops or names) > 1:
        raise UsageError(
            f"{to} holds one vector a clip, these features have {len(names)} crops", hint=f"--crops {have[0]}"
        )
    return names


def _is_array(layout: Layout, to: str) -> bool:
    return layout.holds == "arrays" or to == "ur-dmu"


def _warnings(layout: Layout, to: str, dim: int, n_crops: int) -> Iterator[str]:
    if layout.dim not in (None, dim):
        yield f"{to} files have vectors of {layout.dim}, these have {dim}: code that expects {layout.dim} will not read them"
    if layout.n_crops not in (None, n_crops) and layout.holds != "text":
        yield f"{to} files have {layout.n_crops} crops a video, this writes {n_crops}"


def _check_folder(plan: ExportPlan) -> None:
    if not plan.out.exists():
        return
    if not plan.out.is_dir():
        raise UsageError(f"--out {plan.out} is a file", hint="give a folder")
    marker = plan.out / MARKER
    try:
        found = json.loads(marker.read_text(encoding="utf-8")) if marker.exists() else None
    except (OSError, ValueError):
        found = None
    if found != plan.marker and any(plan.out.iterdir()):
        raise UsageError(f"--out {plan.out} holds other files", hint="give a new folder")


# ---- writing -----------------------------------------------------------------------------------------------------


def _each(plan: ExportPlan, sink: Progress) -> Iterator[str]:
    for video in plan.videos:
        yield video
        sink.advance()


def _values(plan: ExportPlan, video: str) -> NDArray[np.float16]:
    have = plan.store.facts(video).crops
    return plan.store.read(video)[:, [have.index(name) for name in plan.crops]]


def _write_video(plan: ExportPlan, video: str) -> list[Path]:
    values = _values(plan, video)
    stem = artifacts.folder_name(video)
    if plan.layout.holds == "text":
        text = io.StringIO()
        np.savetxt(text, values[:, 0].astype(np.float32), fmt="%.9g")
        return [_save(plan.out / f"{stem}.txt", text.getvalue().encode())]
    if _is_array(plan.layout, plan.to):
        if plan.layout.n_crops == 1:
            values = values[:, 0]
        elif plan.to == "ur-dmu":
            values = values.transpose(1, 0, 2)
        return [_save(plan.out / f"{stem}{plan.layout.suffix}.npy", _npy(values, plan.dtype))]
    return [
        _save(plan.out / _crop_file(plan.layout, stem, number), _npy(values[:, index], plan.dtype))
        for index, number in enumerate(plan.numbers)
    ]


def _crop_file(layout: Layout, stem: str, number: int) -> str:
    """A crop's file name. The crop without a number gets one where the id itself ends like a crop (`cam__1`)."""
    if number == layout.bare_crop and stem_of(f"{stem}.npy", layout)[0] != stem:
        return f"{stem}__{number}.npy"
    return f"{stem}.npy" if number == layout.bare_crop else f"{stem}__{number}.npy"


def _npy(values: NDArray[Any], dtype: Dtype) -> bytes:
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(values, dtype=np.dtype(dtype)), allow_pickle=False)
    return out.getvalue()


def _save(path: Path, data: bytes) -> Path:
    """Write `data` aside and rename; a file that is there was complete and is kept."""
    if not path.exists():
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(data)
        os.replace(aside, path)
    return path


def _write_hdf5(plan: ExportPlan, sink: Progress) -> Path:
    import h5py

    path, aside = plan.out / HDF5_FILE, plan.out / f".{HDF5_FILE}.{os.getpid()}"
    with h5py.File(aside, "w") as file:
        file.attrs.update({"artifact": plan.store.artifact.id, "encoder": str(plan.marker["encoder"])})
        for video in _each(plan, sink):
            dataset = file.create_dataset(artifacts.folder_name(video), data=_values(plan, video))
            dataset.attrs.update(_attributes(video, plan.store.facts(video), plan.crops))
    os.replace(aside, path)
    return path


def _attributes(video: str, facts: VideoFacts, crops: Sequence[str]) -> dict[str, Any]:
    """What an HDF5 dataset carries, by which an import has the same clips again; what is unknown is left out."""
    plain = asdict(facts)
    extra = plain.pop("extra")
    kept = {k: v for k, v in (plain | {k: extra.get(k) for k in ("n_sampled", "sampled_fps")}).items() if v is not None}
    return {**kept, "crops": list(crops), "video_id": video}


def _write_table(plan: ExportPlan, sink: Progress) -> list[Path]:
    """One array of all clips, rows of one video after another, and the names and lengths in their order."""
    lengths = [plan.store.shape(video)[0] for video in plan.videos]
    dim, n_crops = plan.store.shape(plan.videos[0])[2], len(plan.crops)
    shape = (sum(lengths), dim) if n_crops == 1 else (sum(lengths), n_crops, dim)
    path, aside = plan.out / TABLE_FILE, plan.out / f".{os.getpid()}-{TABLE_FILE}"
    table = np.lib.format.open_memmap(aside, mode="w+", dtype=np.dtype(plan.dtype), shape=shape)
    row = 0
    for video, length in zip(_each(plan, sink), lengths, strict=True):
        table[row : row + length] = _values(plan, video).reshape(length, *shape[1:])
        row += length
    table.flush()
    os.replace(aside, path)
    names = _csv(
        [("video", "clips"), *((artifacts.folder_name(v), n) for v, n in zip(plan.videos, lengths, strict=True))]
    )
    artifacts.write_text(plan.out / NAMES_FILE, names)
    return [path, plan.out / NAMES_FILE]


# ---- lists -------------------------------------------------------------------------------------------------------


def _write_lists(plan: ExportPlan, videos: Sequence[Video], normal: str) -> list[Path]:
    """A list for each part, abnormal videos first, as the public loaders count on; VadCLIP's is a csv with labels."""
    stored = set(plan.videos)
    abnormal = {video.id: any(name != normal for name in video.classes) for video in videos}
    parts: dict[str, list[Video]] = {}
    for video in sorted(videos, key=lambda video: (not abnormal[video.id], video.id)):
        if video.id in stored:
            parts.setdefault(video.split, []).append(video)
    written = []
    for part, listed in sorted(parts.items()):
        lines = [(file, video) for video in listed for file in _files(plan, video.id, part)]
        if plan.to == "vadclip":
            path = plan.out / f"{part}.csv"
            artifacts.write_text(path, _csv([("path", "label"), *((f, "-".join(v.classes)) for f, v in lines)]))
        else:
            path = plan.out / f"{part}.list"
            label = {True: " 1.0", False: " 0.0"} if plan.to == "pel4vad" else {True: "", False: ""}
            artifacts.write_text(path, "".join(f"{file}{label[abnormal[video.id]]}\n" for file, video in lines))
        written.append(path)
    return written


def _files(plan: ExportPlan, video: str, part: str) -> list[str]:
    """A video's files in a list. VadCLIP tests one crop; the others list all."""
    stem = artifacts.folder_name(video)
    if plan.layout.holds == "text":
        return [f"{stem}.txt"]
    if _is_array(plan.layout, plan.to):
        return [f"{stem}{plan.layout.suffix}.npy"]
    numbers = plan.numbers[:1] if plan.to == "vadclip" and part == "test" else plan.numbers
    return [_crop_file(plan.layout, stem, number) for number in numbers]


def _csv(rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
