"""Features of regions: any encoder over the crops of every box, cut on the fly from stored frames.

One row an object: a features artefact whose arrays are (M, 1, D) and whose facts say which frame each row belongs to and
where its box is (`facts.extra["regions"]`). Beside the encoders there are descriptors of the boxes alone: `boxes`, `tracks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.data.manifest import Dataset
from pipelines.encoders._base import Precision
from pipelines.errors import Stopped, UsageError, VadError
from pipelines.extraction.boxes import BoxesResult, Redo
from pipelines.extraction.engine import Stream
from pipelines.extraction.plan import EncoderChoice, Sampling, choose_encoders, make_recipe, split_encoders
from pipelines.extraction.stop import stop_on_signals
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint, parse_assignments, resolve
from pipelines.records import Failure, VideoFacts
from pipelines.regions._base import Proposals
from pipelines.regions.boxes import Boxes, RegionConfig, regions_of
from pipelines.regions.crops import cut_regions
from pipelines.regions.descriptors import DESCRIPTORS, WIDTHS
from pipelines.regions.tracks import TubeKind, link, tube_boxes
from pipelines.store.features import FeatureStore, artifact_folder, find_stores
from pipelines.store.frames import FramesStore
from pipelines.store.regions import BoxesStore, find_boxes, find_frames

REVISION = 1
WINDOW = 3  # frames around a region that an encoder sees unless --clip-len says otherwise


class ObjectsConfig(RegionConfig):
    """Regions, and how a region's crops follow it through the frames around its own."""

    tubes: TubeKind = "fixed"


@dataclass(frozen=True, slots=True)
class Objects:
    """One video's regions in frame order: frame (M,), box (M, 4), track (M,); size (height, width) of its frames."""

    frame: NDArray[np.int64]
    box: Boxes
    track: NDArray[np.int64]
    n_frames: int
    size: tuple[int, int]

    def facts(self, facts: VideoFacts) -> VideoFacts:
        """The frames' facts with what the rows of region features stand for; boxes in tenths of a pixel."""
        counts = np.bincount(self.frame, minlength=self.n_frames)
        boxes = [int(value) for value in np.rint(self.box * 10).astype(np.int64).ravel()]
        extra = {key: value for key, value in facts.extra.items() if key not in ("images", "folder", "regions")}
        extra["regions"] = {"per_frame": counts.tolist(), "boxes": boxes, "size": list(self.size)}
        return replace(facts, crops=("center",), stride=1, clip_len=1, extra=extra)


@dataclass(frozen=True, slots=True)
class RegionStream:
    """One artefact to make: its name as typed, the encoder (None for a descriptor), recipe, id, folder, what is left."""

    name: str
    choice: EncoderChoice | None
    recipe: dict[str, Any]
    id: str
    folder: Path
    done: frozenset[str]
    failed: Mapping[str, str]
    todo: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RegionsPlan:
    """What would be made from which boxes and frames."""

    dataset: str
    boxes: tuple[BoxesStore, ...]
    frames: tuple[FramesStore, ...]
    config: ObjectsConfig
    window: int
    streams: tuple[RegionStream, ...]


def plan(
    dataset: Dataset,
    encoders: Sequence[str],
    *,
    layers: Sequence[Path],
    boxes: str,
    settings: Sequence[str] = (),
    window: int = WINDOW,
    precision: Precision = "float32",
    redo: Redo = "none",
) -> RegionsPlan:
    """Which region features there are and which are to do; loads nothing.

    Args:
        encoders: encoders and descriptors (`effnet,velocity,boxes`).
        boxes: id or proposers of a boxes artefact.
        settings: `--set` assignments: `regions.X` for the regions, the rest for the encoders.
        window: frames an encoder sees around a region's own.

    Raises:
        MissingArtifactError: no boxes, or no frames. UsageError: an unknown encoder or setting.
    """
    found = find_boxes(layers, dataset.name, boxes)
    frames = find_frames(layers, dataset.name, str(found[0].artifact.recipe["frames"]))
    regional = [text for text in settings if text.startswith("regions.")]
    config, _ = resolve(ObjectsConfig, [("--set", parse_assignments(regional).get("regions", {}))])
    names = split_encoders(encoders)
    pixels = [name for name in names if name not in DESCRIPTORS]
    others = [text for text in settings if text not in regional]
    choices = {c.name: c for c in choose_encoders(pixels, others)} if pixels else {}
    for choice in choices.values():
        if choice.encoder.kind != "features":
            raise UsageError(f"{choice.name} makes no features of regions", hint="vad encoders ls")
    regions = {"boxes": found[0].artifact.id, **config.model_dump(mode="json")}
    streams = [
        _stream(dataset, name, choices.get(name), regions, found, layers, window=window, precision=precision, redo=redo)
        for name in names
    ]
    return RegionsPlan(dataset.name, tuple(found), tuple(frames), config, window, tuple(streams))


def run(
    planned: RegionsPlan, *, device: str, redo: Redo = "none", progress: Progress | None = None
) -> tuple[BoxesResult, ...]:
    """Make what is missing, a video at a time for every stream; what fails is recorded and the rest goes on.

    Memory: `GROUP` frames' crops of one encoder, whatever the length of a video.

    Raises:
        Stopped: SIGTERM came; finished videos are kept.
    """
    sink = progress or Silent()
    results = []
    with stop_on_signals() as stop:
        for stream in planned.streams:
            store = FeatureStore.create(stream.folder, _artifact(planned, stream))
            sink.start(len(stream.todo), f"{stream.recipe['encoder']} of {planned.dataset}")
            encoder = _loaded(stream, planned.window, device) if stream.todo else None
            failed, rows = dict(stream.failed), (0, 0, 0)
            for video in stream.todo:
                stop.check()
                counts = _one(planned, stream, store, encoder, video, failed, replace_old=redo == "all")
                rows = (rows[0] + counts[0], rows[1] + counts[1], rows[2] + counts[2])
                sink.advance()
            sink.finish()
            videos = len(stream.done) + len(stream.todo) + len(stream.failed)
            made = sum(video in store for video in stream.todo)
            regions, frames, empty = rows
            results.append(BoxesResult(stream.folder, stream.id, videos, made, regions, frames, empty, failed))
    return tuple(results)


def objects_of(found: Proposals, config: RegionConfig, *, n_frames: int, size: tuple[int, int]) -> Objects:
    """A video's regions and their tracks from its proposals; size (height, width) of the frames."""
    frames, boxes = [], []
    edges = np.searchsorted(found.frame, np.arange(n_frames + 1))
    for index in np.flatnonzero(np.diff(edges)):
        part = slice(int(edges[index]), int(edges[index + 1]))
        regions = regions_of(found.box[part], found.score[part], config, size=size)
        frames.append(np.full(len(regions), index, np.int64))
        boxes.append(regions)
    frame = np.concatenate(frames) if frames else np.zeros(0, np.int64)
    box = np.concatenate(boxes) if boxes else np.zeros((0, 4), np.float32)
    return Objects(frame, box, link(frame, box), n_frames, size)


def crops_of(
    objects: Objects, frames: FramesStore, video: str, *, offsets: Sequence[int], size: tuple[int, int], tubes: TubeKind
) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """(rows, crops uint8 (m, P, h, w, 3)) of every frame that has regions, in order.

    `offsets` are frame distances from a region's own frame; beyond the video's ends the end's frame is repeated.
    """
    low, high = min(*offsets, 0), max(*offsets, 0)
    tube = tube_boxes(objects.frame, objects.box, objects.track, before=-low, after=high, kind=tubes)
    picked = [offset - low for offset in offsets]
    block = frames.read_frames(video, 0, 0)
    first = 0
    for now in np.unique(objects.frame):
        wanted = np.clip(now + np.asarray(offsets), 0, objects.n_frames - 1)
        if len(block) == 0 or wanted.min() < first or wanted.max() >= first + len(block):
            first = int(wanted.min())
            block = frames.read_frames(video, first, min(objects.n_frames, first + 64 + high - low))
        rows = np.flatnonzero(objects.frame == now)
        yield rows, cut_regions(block[wanted - first], tube[rows][:, picked], size=size)


def _one(
    planned: RegionsPlan,
    stream: RegionStream,
    store: FeatureStore,
    encoder: Stream | None,
    video: str,
    failed: dict[str, str],
    *,
    replace_old: bool,
) -> tuple[int, int, int]:
    """Make one video's features: counts of regions, frames and frames without any; zeros where it fails."""
    try:
        boxes = next(candidate for candidate in planned.boxes if video in candidate)
        frames = next((candidate for candidate in planned.frames if video in candidate), None)
        if frames is None:
            raise VadError("no stored frames")
        n_frames, height, width, _ = frames.frames_shape(video)
        objects = objects_of(boxes.read_boxes(video), planned.config, n_frames=n_frames, size=(height, width))
        values = _values(planned, stream, encoder, objects, frames, video, size=(height, width))
        facts = objects.facts(boxes.facts(video))
    except Stopped:
        raise  # of the run, not of the video
    except VadError as error:
        store.record_failure(Failure(video, error.message.splitlines()[0], artifacts.utc_now()))
        failed[video] = error.message
        return 0, 0, 0
    (store.replace if replace_old else store.write)(video, values, facts)
    return len(values), n_frames, n_frames - len(np.unique(objects.frame))


def _values(
    planned: RegionsPlan,
    stream: RegionStream,
    encoder: Stream | None,
    objects: Objects,
    frames: FramesStore,
    video: str,
    *,
    size: tuple[int, int],
) -> NDArray[np.float16]:
    """(M, 1, D) float16."""
    if encoder is None:
        describe = DESCRIPTORS[stream.name]
        return describe(objects.frame, objects.box, objects.track, size=size)[:, None].astype(np.float16)
    net = encoder.encoder
    offsets = [position - planned.window // 2 for position in encoder.positions]
    side = _side(net.preprocess.crop_px or net.preprocess.resize)
    values = np.zeros((len(objects.frame), 1, net.dim), np.float16)
    for rows, crops in _grouped(
        crops_of(objects, frames, video, offsets=offsets, size=side, tubes=planned.config.tubes), encoder.batch
    ):
        values[rows] = encoder.encode(crops[:, None].to(encoder.device))
    if net.lengths:
        scale = (objects.box[:, 2:] - objects.box[:, :2]).mean(axis=1) / np.mean(side)
        values *= scale[:, None, None].astype(np.float16)
    return values


def _grouped(parts: Iterator[tuple[NDArray[np.int64], Any]], size: int) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """The same rows and crops in batches of `size`; the last may be shorter."""
    import torch

    rows: list[NDArray[np.int64]] = []
    crops: list[Any] = []
    for some, pictures in parts:
        rows.append(some)
        crops.append(pictures)
        if sum(map(len, rows)) >= size:
            all_rows, all_crops = np.concatenate(rows), torch.cat(crops)
            full = len(all_rows) // size * size
            for start in range(0, full, size):
                yield all_rows[start : start + size], all_crops[start : start + size]
            rows, crops = [all_rows[full:]], [all_crops[full:]]
    if rows and len(rest := np.concatenate(rows)):
        yield rest, torch.cat(crops)


def _side(asked: int | tuple[int, int] | None) -> tuple[int, int]:
    if asked is None:
        raise UsageError("an encoder of native frames has no size for a region", hint="effnet, velocity, clip:...")
    return (asked, asked) if isinstance(asked, int) else asked


def _loaded(stream: RegionStream, window: int, device: str) -> Stream | None:
    if stream.choice is None:
        return None
    encoder = stream.choice.encoder
    encoder.load(device, stream.recipe["precision"])
    return Stream(encoder, ("center",), encoder.positions(window), device)


def _stream(
    dataset: Dataset,
    name: str,
    choice: EncoderChoice | None,
    regions: Mapping[str, Any],
    boxes: Sequence[BoxesStore],
    layers: Sequence[Path],
    *,
    window: int,
    precision: Precision,
    redo: Redo,
) -> RegionStream:
    recipe = _recipe(name, choice, window, precision) | {"regions": dict(regions)}
    recipe["encoder"] = f"{recipe['encoder']}@{boxes[0].name.replace('+', '_')}"  # `+` joins features
    id = fingerprint(recipe)
    stores = [store for store in find_stores(layers, dataset.name) if store.artifact.id == id]
    have = frozenset[str]().union(*(store.videos() for store in stores)) if redo != "all" else frozenset[str]()
    failed = {v: f.reason for s in stores for v, f in s.failures().items()} if redo == "none" else {}
    boxed = frozenset[str]().union(*(store.videos() for store in boxes))
    todo = tuple(v.id for v in dataset.all_videos() if v.id in boxed and v.id not in have and v.id not in failed)
    folder = artifact_folder(layers[0], dataset.name, recipe, id=id)
    return RegionStream(name, choice, recipe, id, folder, have, failed, todo)


def _recipe(name: str, choice: EncoderChoice | None, window: int, precision: Precision) -> dict[str, Any]:
    if choice is not None:
        return make_recipe(choice, sampling=Sampling(window, 1), crops=("center",), precision=precision).model_dump(
            mode="json"
        ) | {"regions_revision": REVISION}
    assert name in WIDTHS
    return {
        "encoder": name,
        "revision": 1,
        "weights_sha256": None,
        "options": {},
        "decoder": "none",
        "clip_len": window,
        "stride": 1,
        "fps": None,
        "last_clip": "drop",
        "crops": ["center"],
        "precision": "float32",
        "regions_revision": REVISION,
    }


def _artifact(planned: RegionsPlan, stream: RegionStream) -> artifacts.Artifact:
    inputs = {"boxes": planned.boxes[0].artifact.id, "frames": planned.frames[0].artifact.id}
    return artifacts.make("features", stream.id, stream.recipe, inputs=inputs)
