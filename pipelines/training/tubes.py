"""Boxes and stored frames become what methods of KIND "tubes" read: captioned crops, and tubes of cached vectors.

Memory: one batch of crops at a time; the vectors of every training region, (2, N_q, E_d) float16 each (times the
tube's length where tubes are fixed), in memory or mapped onto a temporary file where memory is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.errors import UsageError
from pipelines.extraction.region_captions import thinned
from pipelines.extraction.regions import Objects, ObjectsConfig, crops_of, objects_of
from pipelines.methods._base import Fit, Method, Phase
from pipelines.methods._tubes import Crops, TubeConfig, Tubes, TubeSpec, TubeVideo
from pipelines.records import Scores, Video, VideoFacts
from pipelines.regions.crops import cut_regions
from pipelines.regions.tracks import link
from pipelines.store.features import FeatureStore
from pipelines.store.frames import FramesStore
from pipelines.store.regions import BoxesStore, CaptionsStore
from pipelines.training.bags import BatchSource, abnormal, allocate

DRAWS = 20  # tries to find a crop whose captions are not over-represented in the batch


class StoredTubes:
    """Boxes and the frames that they stand on, read as one."""

    crops: tuple[str, ...] = ("center",)
    clip_len = stride = 1
    dim = 3

    def __init__(self, streams: Sequence[Sequence[FeatureStore]]) -> None:
        boxes, frames = streams
        self.boxes = tuple(BoxesStore(store.folder) for store in boxes)
        self.frames = tuple(FramesStore(store.folder) for store in frames)
        self.stacks: tuple[tuple[FeatureStore, ...], ...] = (self.boxes, self.frames)

    @property
    def streams(self) -> Mapping[str, slice]:
        """Names of the two artefacts; a box has no width."""
        return {self.boxes[0].name: slice(0, 0), "frames": slice(0, 3)}

    def videos(self) -> set[str]:
        """Ids that have boxes and frames."""
        parts = [set[str]().union(*(store.videos() for store in stack)) for stack in self.stacks]
        return parts[0] & parts[1]

    def facts(self, video_id: str) -> VideoFacts:
        """What is stored beside a video's frames."""
        return self.frames_of(video_id).facts(video_id)

    def frames_of(self, video_id: str) -> FramesStore:
        """The layer that holds a video's frames."""
        return next((store for store in self.frames if video_id in store), self.frames[0])

    def objects(self, video_id: str, config: TubeConfig) -> Objects:
        """The regions of every `every`-th frame, and their tracks over those frames."""
        boxes = next((store for store in self.boxes if video_id in store), self.boxes[0])
        n_frames, height, width, _ = self.frames_of(video_id).frames_shape(video_id)
        keys = ObjectsConfig.model_fields.keys() & TubeConfig.model_fields.keys()
        wanted = ObjectsConfig(**{key: getattr(config, key) for key in keys})
        found = objects_of(boxes.read_boxes(video_id), wanted, n_frames=n_frames, size=(height, width))
        kept = thinned(found, config.every)
        return Objects(kept.frame, kept.box, link(kept.frame // config.every, kept.box), n_frames, (height, width))

    def tubes(self, video_id: str, config: TubeConfig, length: int) -> TubeVideo:
        """A video's regions with the rows of each one's tube, and a way through its crops."""
        objects = self.objects(video_id, config)
        facts, every = self.facts(video_id), config.every
        frames = np.arange(objects.n_frames)
        regions = {
            "frame": objects.frame,
            "boxes": objects.box,
            "n_frames": objects.n_frames,
            "size": objects.size,
            "spans": np.stack([frames, frames + 1], axis=1),
        }
        fixed = config.tubes == "fixed"
        offsets = tuple(range(-(length - 1) * every, 1, every)) if fixed else (0,)
        rows = _fixed_rows(objects, length, every) if fixed else _tracked_rows(objects, length, every)
        count = len(objects.frame) * len(offsets)

        def crops() -> Iterator[tuple[NDArray[np.int64], Tensor]]:
            size = (config.size_px, config.size_px)
            stream = crops_of(objects, self.frames_of(video_id), video_id, offsets=offsets, size=size, tubes="fixed")
            for at, pictures in stream:  # (m, P, h, w, 3)
                numbers = (at[:, None] * len(offsets) + np.arange(len(offsets))).ravel()
                flat = pictures.flatten(0, 1)
                for start in range(0, len(numbers), config.score_batch):
                    part = slice(start, start + config.score_batch)
                    yield numbers[part], to_input(flat[part])

        return TubeVideo(video_id, facts.n_frames, every, regions, rows, count, crops)


class TubeMaterial:
    """One run's boxes, frames and captions. Nothing is learnt about them before the method, so `inputs` is empty."""

    def __init__(
        self,
        found: StoredTubes,
        config: TubeConfig,
        classes: Sequence[str],
        *,
        captions: Sequence[CaptionsStore],
        held: Sequence[Video],
        score: Callable[[Method, StoredTubes, str], Scores],
        device: str,
    ) -> None:
        self.score = score
        self.stored, self.config, self.classes, self.device = found, config, tuple(classes), device
        self.captions, self.unseen = tuple(captions), tuple(held)
        self.inputs = nn.Module()

    def start(self, videos: Sequence[Video], state: Mapping[str, Any] | None, where: Any) -> None:
        """Nothing to learn."""

    def every(self, videos: Sequence[Video]) -> Iterator[Any]:
        """Methods of tubes name their closed-form steps as a Fit."""
        raise UsageError("a method that reads tubes has no `fit`", hint="a Fit among its phases")

    def sources(
        self,
        phases: Sequence[Phase | Fit],
        videos: Sequence[Video],
        *,
        seed: int,
        pseudo: Mapping[str, NDArray[np.float32]],
    ) -> list[BatchSource]:
        """Crops of every training video; tubes of the normal ones, and of the held-out ones where there are any."""
        bad = abnormal(videos, self.classes).tolist()
        normal = [video for video, is_bad in zip(videos, bad, strict=True) if not is_bad]
        if not normal:
            raise UsageError("the state machine learns from normal videos; the training list has none")
        cache: dict[str, Vectors] = {}
        found: list[BatchSource] = []
        for index, phase in enumerate(phases):
            spec: TubeSpec = phase.data
            if spec.kind == "crops":
                found.append(CropBatches(self, videos, spec, seed=seed * 1009 + index))
            else:
                chosen = list(self.unseen or normal) if spec.part == "held" else normal
                vectors = cache.setdefault(spec.part, Vectors(self.stored, chosen, spec, device=self.device))
                found.append(TubeBatches(vectors, spec, seed=seed * 1009 + index, device=self.device))
        return found

    def held(self, phase: Phase, videos: Sequence[Video]) -> Iterator[Any]:
        """No phase of tubes validates."""
        return iter(())

    def facts(self, video_id: str) -> VideoFacts:
        return self.stored.facts(video_id)

    def __call__(self, method: Method, video_id: str) -> Scores:
        return self.score(method, self.stored, video_id)


class CropBatches:
    """Captioned crops in a shuffled order; at most `caption_cap` of a batch share a caption in a slot, where that can be."""

    def __init__(self, material: TubeMaterial, videos: Sequence[Video], spec: TubeSpec, *, seed: int) -> None:
        self.material, self.spec = material, spec
        self.rows, self.ids = self._rows(videos)
        self.generator = torch.Generator().manual_seed(seed)

    def _rows(self, videos: Sequence[Video]) -> tuple[NDArray[np.float32], list[str]]:
        """All captions (R, 1 + 9), the number of the video first.

        Raises:
            UsageError: fewer than two captioned regions.
        """
        parts, ids = [], [video.id for video in videos]
        for number, video in enumerate(ids):
            store = next((store for store in self.material.captions if video in store), None)
            if store is not None:
                rows = store.read_rows(video)
                parts.append(np.concatenate([np.full((len(rows), 1), number, np.float32), rows], axis=1))
        table = np.concatenate(parts) if parts else np.zeros((0, 10), np.float32)
        if len(table) < 2:
            raise UsageError(
                f"image-text alignment needs captioned regions; the training videos have {len(table)}",
                hint="vad extract DATASET --boxes B --text effnet (other proposers where these find nothing)",
            )
        return table, ids

    @property
    def epoch_steps(self) -> int:
        """Batches of one pass."""
        return max(1, len(self.rows) // self.spec.config.batch)

    def next(self, *, step: int, steps: int) -> Crops:
        """The next batch; the draw depends on the generator alone, so a stopped run goes on alike."""
        table = self.rows[self._draw()]
        x = torch.cat([self._crop(row) for row in table])
        words = torch.from_numpy(table[:, 6:].astype(np.int64)).to(self.material.device)
        ids = tuple(self.ids[int(number)] for number in table[:, 0])
        return Crops(to_input(x).to(self.material.device), words, ids, {"step": step, "steps": steps})

    def _draw(self) -> list[int]:
        batch = min(self.spec.config.batch, len(self.rows))
        most = max(1, int(self.spec.config.caption_cap * batch))
        order = torch.randperm(len(self.rows), generator=self.generator).tolist()
        chosen: list[int] = []
        counts: dict[tuple[int, int], int] = {}
        spare: list[int] = []
        for row in order[: DRAWS * batch]:
            keys = [(slot, int(self.rows[row, 6 + slot])) for slot in range(4)]
            if all(counts.get(key, 0) < most for key in keys):
                chosen.append(row)
                for key in keys:
                    counts[key] = counts.get(key, 0) + 1
            else:
                spare.append(row)
            if len(chosen) == batch:
                break
        return chosen + spare[: batch - len(chosen)]  # fewer different captions than the cap asks for

    def _crop(self, row: NDArray[np.float32]) -> Tensor:
        video, frame, box = self.ids[int(row[0])], int(row[1]), row[2:6]
        picture = self.material.stored.frames_of(video).read_frames(video, frame, frame + 1)
        side = self.spec.config.size_px
        return cut_regions(picture, box[None, None], size=(side, side))[:, 0]

    def every(self) -> Iterable[Any]:
        raise AssertionError("no closed-form step reads captioned crops")

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])


class Vectors:
    """The vectors of every region of some videos, made once by the frozen branches when they are first asked for."""

    def __init__(self, found: StoredTubes, videos: Sequence[Video], spec: TubeSpec, *, device: str) -> None:
        self.stored, self.spec, self.device = found, spec, device
        self.ids = [video.id for video in videos]
        self._made: tuple[NDArray[np.float16], tuple[int, ...], NDArray[np.int64], NDArray[np.int64]] | None = None

    def tubes(self) -> tuple[NDArray[np.float16], tuple[int, ...], NDArray[np.int64], NDArray[np.int64]]:
        """values (n, 1, D), the shape of a vector, rows (T, P) into values, and (T, 2) video number and frame."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> tuple[NDArray[np.float16], tuple[int, ...], NDArray[np.int64], NDArray[np.int64]]:
        assert self.spec.encode is not None
        videos = [self.stored.tubes(video, self.spec.config, self.spec.length) for video in self.ids]
        total, start = sum(video.count for video in videos), 0
        values: NDArray[np.float16] | None = None
        shape: tuple[int, ...] = (1,)
        rows, where = [], []
        for number, video in enumerate(videos):
            for at, crops in video.crops():
                vectors = self.spec.encode(crops.to(self.device))
                if values is None:
                    shape = tuple(vectors.shape[1:])
                    values = allocate((total, 1, int(np.prod(shape))))
                values[start + at, 0] = vectors.flatten(1).cpu().numpy().astype(np.float16)
            whole = (video.rows >= 0).all(axis=1)
            rows.append(video.rows[whole] + start)
            frame = video.regions["frame"][whole]
            where.append(np.stack([np.full(len(frame), number), frame], axis=1))
            start += video.count
        if values is None:
            values = np.zeros((0, 1, 1), np.float16)
        return values, shape, np.concatenate(rows), np.concatenate(where)


class TubeBatches:
    """Tubes in a shuffled order; an epoch's incomplete last batch is dropped."""

    def __init__(self, vectors: Vectors, spec: TubeSpec, *, seed: int, device: str) -> None:
        self.vectors, self.spec, self.device = vectors, spec, device
        self.generator = torch.Generator().manual_seed(seed)
        self.order, self.at = torch.empty(0, dtype=torch.int64), 0
        self.count = sum(
            int((vectors.stored.tubes(video, spec.config, spec.length).rows >= 0).all(axis=1).sum())
            for video in vectors.ids
        )

    @property
    def batch(self) -> int:
        return max(1, min(self.spec.config.tube_batch, self.count))

    @property
    def epoch_steps(self) -> int:
        """Batches of one pass."""
        return max(1, self.count // self.batch)

    def next(self, *, step: int, steps: int) -> Tubes:
        """The next batch.

        Raises:
            UsageError: the normal training videos have no tube of this length.
        """
        if not self.count:
            raise UsageError(
                f"the normal training videos have no region that can be followed for {self.spec.length} frames",
                hint="--set data.tubes=fixed, other proposers (vad extract DATASET --boxes motion+grid)",
            )
        if self.at + self.batch > len(self.order):
            self.order, self.at = torch.randperm(self.count, generator=self.generator), 0
        chosen = self.order[self.at : self.at + self.batch].numpy()
        self.at += self.batch
        return self._batch(chosen, {"step": step, "steps": steps})

    def _batch(self, chosen: NDArray[np.int64], extras: dict[str, Any]) -> Tubes:
        values, shape, rows, where = self.vectors.tubes()
        v = torch.from_numpy(values[rows[chosen], 0].astype(np.float32)).reshape(len(chosen), -1, *shape)
        ids = tuple(self.vectors.ids[int(number)] for number in where[chosen, 0])
        return Tubes(v.to(self.device), torch.from_numpy(where[chosen, 1].copy()), ids, extras)

    def every(self) -> Iterator[Tubes]:
        """All tubes in order, a video's own together (leave-one-video-out needs that)."""
        where = self.vectors.tubes()[3]
        for number in range(len(self.vectors.ids)):
            mine = np.flatnonzero(where[:, 0] == number)
            for start in range(0, len(mine), self.spec.config.tube_batch):
                yield self._batch(mine[start : start + self.spec.config.tube_batch], {})

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "order": self.order.clone(), "at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.order, self.at = state["order"], int(state["at"])


def cost(found: StoredTubes, videos: Iterable[Video], config: TubeConfig, *, length: int, macs: int) -> str:
    """One line: how many crops a run encodes at most, and what that takes."""
    have = found.videos()
    boxes = 0
    for video in videos:
        if video.id in have:
            store = next(store for store in found.boxes if video.id in store)
            n_frames = found.facts(video.id).n_frames
            boxes += min(store.count(video.id), config.max_boxes * n_frames) // config.every
    crops = boxes * (length if config.tubes == "fixed" else 1)
    return (
        f"at most {crops:,} crops of {config.size_px} px ({config.tubes} tubes), {macs / 1e9:.3g} GMAC each through both "
        f"branches: {crops * macs / 1e12:,.3g} TMAC once, besides the training of the branches"
    )


def to_input(crops: Tensor) -> Tensor:
    """uint8 (m, h, w, 3) -> float32 (m, 3, h, w) in [-1, 1]."""
    return crops.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def _fixed_rows(objects: Objects, length: int, every: int) -> NDArray[np.int64]:
    """A fixed region has crops of its own in every frame of its tube; none before the video's begin."""
    rows = np.arange(len(objects.frame))[:, None] * length + np.arange(length)
    early = objects.frame < (length - 1) * every
    rows[early] = -1
    return rows


def _tracked_rows(objects: Objects, length: int, every: int) -> NDArray[np.int64]:
    """A track's regions in the frames before; -1 where it was not seen."""
    from pipelines.regions.tracks import previous

    before = previous(objects.frame // every, objects.track)
    rows = [np.arange(len(objects.frame))]
    for _ in range(length - 1):
        last = rows[-1]
        rows.append(np.where(last >= 0, before[last.clip(0)] if len(before) else last, -1))
    return np.stack(rows[::-1], axis=1).astype(np.int64).reshape(len(objects.frame), length)
