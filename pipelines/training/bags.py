"""Features become batches: joined streams, length policies, crops, pair and mixed batches, a sampler that resumes.

Everything is read once into one ragged float16 array with offsets (in memory, memory-mapped where it does not fit, on
the device where it fits). A batch is one gather from it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.methods._base import DataConfig
from pipelines.recipe import suggest
from pipelines.records import Bag, Video, VideoFacts
from pipelines.store.features import FeatureStore

MEMORY_SHARE = 0.6  # of the free memory (of the machine, or of the device) that features may take
WINDOW_DRAWS = 200
RUN_LENGTH, RUN_COVER, RUN_LEVEL = 5, 0.5, 0.5  # a run of pseudo labels that a window should cover [code] CMSIL


class BatchSource(Protocol):
    """Where a phase's batches come from; its state is saved with a stopped run."""

    def next(self, *, step: int, steps: int) -> Bag:
        """The batch of `step`; the same sequence for the same seed."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""


class JoinedFeatures:
    """One or several features artefacts read as one: `A+B` is joined per clip along D, in the order written.

    Args:
        stores: artefacts of the same clips (clip_len, stride, frame rate and last-clip rule agree).
        crops: the crop names to read; those that all artefacts have, in the first one's order, unless given.

    Raises:
        UsageError: the artefacts speak of different clips, or share no crop, or lack one that is asked for.
    """

    def __init__(self, stores: Sequence[FeatureStore], *, crops: Sequence[str] | None = None) -> None:
        self.stores = tuple(stores)
        self._check_clips()
        shared = tuple(c for c in self.stores[0].crops if all(c in store.crops for store in self.stores))
        self.crops = tuple(crops) if crops is not None else shared
        lacking = [c for c in self.crops if c not in shared]
        if not self.crops or lacking:
            have = ", ".join(f"{name} has {'/'.join(s.crops)}" for name, s in zip(self.names, self.stores, strict=True))
            raise UsageError(f"crops {'/'.join(lacking) or '(none shared)'} are not in all features: {have}")
        self._widths: tuple[int, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Encoder name of each stream."""
        return tuple(str(store.artifact.recipe["encoder"]) for store in self.stores)

    @property
    def clip_len(self) -> int:
        return int(self.stores[0].artifact.recipe["clip_len"])

    @property
    def stride(self) -> int:
        return int(self.stores[0].artifact.recipe["stride"])

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stream, from the first video of each artefact."""
        if self._widths is None:
            self._widths = tuple(store.shape(_any_video(store))[2] for store in self.stores)
        return self._widths

    @property
    def dim(self) -> int:
        return sum(self.widths)

    @property
    def streams(self) -> dict[str, slice]:
        """Name -> slice of D; a second stream of one encoder is named `<encoder>#2`."""
        found: dict[str, slice] = {}
        at = 0
        for name, width in zip(self.names, self.widths, strict=True):
            key = name if name not in found else f"{name}#{1 + sum(k.partition('#')[0] == name for k in found)}"
            found[key] = slice(at, at + width)
            at += width
        return found

    def videos(self) -> set[str]:
        """Ids that every stream has."""
        return set.intersection(*(store.videos() for store in self.stores))

    def facts(self, video_id: str) -> VideoFacts:
        """The first stream's facts of a video."""
        return self.stores[0].facts(video_id)

    def read(self, video_id: str) -> NDArray[np.float16]:
        """(T, K, D) float16 of one video.

        Raises:
            VerificationError: NaN or infinite values, another width, or streams of different length; names the video.
        """
        parts = [self._stream(store, video_id) for store in self.stores]
        lengths = [len(part) for part in parts]
        if len(set(lengths)) > 1:
            told = ", ".join(f"{name} has {n} clips" for name, n in zip(self.names, lengths, strict=True))
            raise VerificationError(
                f"video {video_id!r}: joined features differ in length: {told}",
                hint="vad extract DATASET --encoder A,B makes both from one decode",
            )
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def _stream(self, store: FeatureStore, video_id: str) -> NDArray[np.float16]:
        values = store.read(video_id)
        width = self.widths[self.stores.index(store)]
        if values.shape[2] != width:
            raise VerificationError(
                f"video {video_id!r}: features of width {values.shape[2]} in {store.folder.name}, the others have {width}"
            )
        crops = store.facts(video_id).crops
        if crops != self.crops:
            values = values[:, [_crop_index(crops, name, video_id) for name in self.crops]]
        if not np.isfinite(values).all():
            clip = int(np.argwhere(~np.isfinite(values).all(axis=(1, 2)))[0, 0])
            raise VerificationError(
                f"video {video_id!r}: NaN or infinite features at clip {clip} in {store.folder}",
                hint="vad cache verify",
            )
        return values

    def _check_clips(self) -> None:
        if not self.stores:
            raise UsageError("no features were named")
        first = self.stores[0].artifact.recipe
        for store in self.stores[1:]:
            recipe = store.artifact.recipe
            for key in ("clip_len", "stride", "fps", "last_clip"):
                if recipe.get(key) != first.get(key):
                    raise UsageError(
                        f"features cannot be joined: {key} is {first.get(key)} in {self.stores[0].folder.name} "
                        f"and {recipe.get(key)} in {store.folder.name}",
                        hint="extract both with the same --clip-len and --stride (one decode: --encoder A,B)",
                    )


class Inputs(nn.Module):
    """What happens to a vector before a method sees it: L2 norm of each stream, then standardisation.

    `mean`, `std` (D,) float32 are saved with the weights; they are 0 and 1 unless `fit_to` was called.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, streams: Mapping[str, slice], data: DataConfig) -> None:
        super().__init__()
        self.streams = dict(streams)
        self.l2 = data.normalise != "none"
        self.standardise = data.standardise
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def unit(self, x: Tensor) -> Tensor:
        """Every stream's vector at length 1 (zeros stay zeros); the last axis is D."""
        parts = [nn.functional.normalize(x[..., where], dim=-1, eps=1e-6) for where in self.streams.values()]
        return torch.cat(parts, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) float32 -> the same shape."""
        if self.l2:
            x = self.unit(x)
        return (x - self.mean) / self.std if self.standardise else x

    def fit_to(self, values: Tensor) -> None:
        """Take mean and deviation per dimension from values (N, K, D), in float64 by blocks; a constant gets 1."""
        total = torch.zeros(values.shape[-1], dtype=torch.float64)
        square = torch.zeros_like(total)
        count = values.shape[0] * values.shape[1]
        rows = 65536 // values.shape[1] + 1
        for start in range(0, len(values), rows):
            x = values[start : start + rows].float()
            x = (self.unit(x) if self.l2 else x).double().flatten(0, 1).cpu()
            total += x.sum(0)
            square += (x * x).sum(0)
        mean = total / count
        std = (square / count - mean * mean).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))


def bin_edges(n: int, size: int) -> NDArray[np.int64]:
    """The integer edges linspace(0, n, size+1) of `size` bins over n clips [code], (size+1,)."""
    return np.linspace(0, n, size + 1, dtype=np.int64)


def bin_means(x: NDArray[Any], size: int) -> NDArray[np.float32]:
    """Mean of each of `size` bins along the first axis; an empty bin takes the clip at its edge [code].

    x (T, ...) -> (size, ...) float32. With T below `size`, clips repeat.
    """
    edges = bin_edges(len(x), size)
    starts, counts = edges[:-1], np.maximum(1, np.diff(edges))
    sums = np.add.reduceat(np.asarray(x, dtype=np.float32), starts, axis=0)  # equal starts give the clip itself
    return np.asarray(sums / counts.reshape(-1, *[1] * (x.ndim - 1)), dtype=np.float32)


def pick_indices(n: int, size: int) -> NDArray[np.int64]:
    """The clips at integer linspace(0, n-1, size) [code], (size,)."""
    return np.linspace(0, n - 1, size, dtype=np.int64)


def fixed_length(x: NDArray[Any], data: DataConfig) -> NDArray[Any]:
    """The clips of one video after its length policy, unpadded: x (T, ...) -> (S', ...) with S' at most `size`.

    `bins`: always `size` means. `bins-pad`: means when T > size. `pick-pad`: picked clips when T > size. `window`
    and `full` keep every clip (a window is cut when a batch is drawn).
    """
    if data.length == "bins" or (data.length == "bins-pad" and len(x) > data.size):
        return bin_means(x, data.size)
    if data.length == "pick-pad" and len(x) > data.size:
        return np.asarray(x[pick_indices(len(x), data.size)])
    return x


@dataclass(frozen=True, slots=True)
class Ragged:
    """Videos one after another: values (N, K, D) float16, offsets (V+1,) int64 into N, track (N,) float32 or None."""

    values: Tensor
    offsets: Tensor
    track: Tensor | None = None

    @property
    def lengths(self) -> Tensor:
        """Valid clips or segments of each video, (V,) int64."""
        return self.offsets[1:] - self.offsets[:-1]


def load_ragged(
    features: JoinedFeatures,
    video_ids: Sequence[str],
    data: DataConfig,
    *,
    inputs: Inputs,
    device: torch.device | str = "cpu",
    track: Mapping[str, NDArray[np.float32]] | None = None,
) -> Ragged:
    """Read every video once, apply the length policy, and lay them one after another.

    Args:
        track: one value a clip (pseudo labels) by video id, cut and pooled like the clips; a video without is zeros.

    Raises:
        VerificationError: NaN, widths or lengths that disagree; names the video.
    """
    shapes = [features.stores[0].shape(video)[0] for video in video_ids]
    sizes = [len(fixed_length(np.empty(n), data)) for n in shapes]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    values = _allocate((int(offsets[-1]), len(features.crops), features.dim))
    line = np.zeros(int(offsets[-1]), np.float32) if track else None
    for index, video in enumerate(video_ids):
        x = features.read(video)
        if data.normalise == "l2-clips":
            x = inputs.unit(torch.from_numpy(x.astype(np.float32))).numpy()
        values[offsets[index] : offsets[index + 1]] = fixed_length(x, data)
        if line is not None and track and video in track:
            line[offsets[index] : offsets[index + 1]] = fixed_length(_track_of(track[video], len(x), video), data)
    placed = _place(torch.from_numpy(values), device)
    tracked = None if line is None else torch.from_numpy(line).to(placed.device)
    return Ragged(placed, torch.from_numpy(offsets).to(placed.device), tracked)


class Bags:
    """Batches of videos for one phase, drawn from a Ragged array.

    Rows are (video, crop) pairs when `crops=samples`, videos otherwise. A `pairs` batch takes normals, then abnormals,
    each from its own shuffled list; a list's incomplete last batch is dropped and the list shuffled again. A batch is
    never larger than its list, and trimmed to its longest valid length. Windows are drawn anew for each batch.

    Raises:
        UsageError: a `pairs` batch without normal or without abnormal videos.
    """

    def __init__(
        self,
        ragged: Ragged,
        videos: Sequence[Video],
        data: DataConfig,
        *,
        classes: Sequence[str],
        crops: Sequence[str],
        inputs: Inputs,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.ragged, self.data, self.inputs = ragged, data, inputs
        self.device = torch.device(device)
        self.ids = tuple(video.id for video in videos)
        self.crops = tuple(crops)
        self.labels = multi_hot(videos, classes).to(self.device)  # (V, Y)
        self.abnormal = abnormal(videos, classes)  # (V,) bool, on the CPU
        self.generator = torch.Generator().manual_seed(seed)
        self.lists = [_List(rows, size) for rows, size in self._lists()]

    def next(self, *, step: int, steps: int) -> Bag:
        """The next batch."""
        rows = torch.cat([part.draw(self.generator) for part in self.lists])  # (B, 2): video, crop
        video, crop = rows.unbind(1)
        starts, lengths = self._windows(video)
        return self._gather(video, crop, starts, lengths, {"step": step, "steps": steps})

    def state_dict(self) -> dict[str, Any]:
        """The generator and each list's order and position."""
        return {
            "generator": self.generator.get_state(),
            "lists": [{"order": part.order.clone(), "at": part.at} for part in self.lists],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of batches."""
        self.generator.set_state(state["generator"])
        for part, saved in zip(self.lists, state["lists"], strict=True):
            part.order, part.at = saved["order"], int(saved["at"])

    def _lists(self) -> list[tuple[Tensor, int]]:
        data, videos = self.data, torch.arange(len(self.ids))
        if data.pairing == "mixed":
            return [(self._rows(videos), data.batch)]
        normal, abnormal = videos[~self.abnormal], videos[self.abnormal]
        if not len(normal) or not len(abnormal):
            raise UsageError(
                f"the training list has {len(normal)} normal and {len(abnormal)} abnormal videos; pairs need both",
                hint="vad data show DATASET lists the labels",
            )
        return [(self._rows(normal), data.batch_normal), (self._rows(abnormal), data.batch_abnormal)]

    def _rows(self, videos: Tensor) -> Tensor:
        crops = torch.arange(len(self.crops) if self.data.crops == "samples" else 1)
        return torch.cartesian_prod(videos, crops).reshape(-1, 2)

    def _windows(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """First clip and length of each row, (B,) each, on the CPU."""
        lengths = self.ragged.lengths.cpu()[video]
        if self.data.length != "window":
            return torch.zeros_like(lengths), lengths
        starts = [self._window(int(v), int(n)) for v, n in zip(video, lengths, strict=True)]
        return torch.tensor(starts, dtype=torch.int64), lengths.clamp(max=self.data.size)

    def _window(self, video: int, n: int) -> int:
        size = self.data.size
        if n <= size:
            return 0
        runs = self._runs(video)
        for _ in range(WINDOW_DRAWS):
            start = int(torch.randint(n - size + 1, (1,), generator=self.generator))
            covered = [min(b, start + size) - max(a, start) >= RUN_COVER * (b - a) for a, b in runs]
            if not runs or any(covered):
                break
        return start

    def _runs(self, video: int) -> list[tuple[int, int]]:
        if self.ragged.track is None:
            return []
        a, b = (int(n) for n in self.ragged.offsets[video : video + 2])
        return runs_above(self.ragged.track[a:b].cpu().numpy(), RUN_LEVEL, RUN_LENGTH)

    def _gather(self, video: Tensor, crop: Tensor, starts: Tensor, lengths: Tensor, extras: dict[str, Any]) -> Bag:
        values, device = self.ragged.values, self.ragged.values.device
        s, k = int(lengths.max()), values.shape[1]
        steps = torch.arange(s)
        mask = steps < lengths[:, None]  # (B, S)
        first = self.ragged.offsets.cpu()[video] + starts  # (B,)
        at = torch.where(mask, first[:, None] + steps, 0).to(device)  # (B, S)
        if self.data.crops == "inside":
            x = (
                values.index_select(0, at.flatten()).reshape(*at.shape, *values.shape[1:]).permute(0, 2, 1, 3)
            )  # (B, K, S, D)
        else:
            flat = (at * k + crop[:, None].to(device)).flatten()
            x = (
                values.flatten(0, 1).index_select(0, flat).reshape(*at.shape, values.shape[2]).unsqueeze(1)
            )  # (B, 1, S, D)
        mask = mask.to(self.device)
        x = self._prepare(x.to(self.device).float(), mask)
        if self.ragged.track is not None:
            extras["pseudo"] = self.ragged.track[at].to(self.device) * mask
        return Bag(
            x=x,
            mask=mask,
            lengths=lengths.to(self.device),
            y=self.abnormal[video].float().to(self.device),
            classes=self.labels[video.to(self.device)],
            video_ids=tuple(self.ids[int(v)] for v in video),
            crops=self.crops if self.data.crops == "inside" else ("any",),
            streams=self.inputs.streams,
            extras=extras | {"crop_index": crop.to(self.device), "starts": starts.to(self.device)},
        )

    def _prepare(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalise and zero the padding: x (B, K, S, D), mask (B, S)."""
        if self.inputs.l2 or self.inputs.standardise:
            x = self.inputs(x)
        return x if bool(mask.all()) else x.masked_fill(~mask[:, None, :, None], 0.0)


class _List:
    """A shuffled list of rows that gives batches for ever; `order` and `at` are its whole state."""

    def __init__(self, rows: Tensor, batch: int) -> None:
        self.rows, self.batch = rows, min(batch, len(rows))
        self.order, self.at = torch.empty(0, dtype=torch.int64), 0

    def draw(self, generator: torch.Generator) -> Tensor:
        if self.at + self.batch > len(self.order):
            self.order, self.at = torch.randperm(len(self.rows), generator=generator), 0
        chosen = self.order[self.at : self.at + self.batch]
        self.at += self.batch
        return self.rows[chosen]


def abnormal(videos: Sequence[Video], classes: Sequence[str]) -> Tensor:
    """(V,) bool: True for a video with any class beside the normal one (class 0)."""
    return torch.tensor([any(name != classes[0] for name in video.classes) for video in videos], dtype=torch.bool)


def multi_hot(videos: Sequence[Video], classes: Sequence[str]) -> Tensor:
    """(V, Y) float32 of the videos' classes, by name.

    Raises:
        UsageError: a video without a class, or with one that is not in the list; names the video.
    """
    labels = torch.zeros(len(videos), len(classes))
    for row, video in enumerate(videos):
        if not video.classes:
            raise UsageError(f"video {video.id!r} has no class label", hint="vad data check DATASET")
        for name in video.classes:
            if name not in classes:
                raise UsageError(f"video {video.id!r}: class {name!r} is not in the list{suggest(name, list(classes))}")
            labels[row, list(classes).index(name)] = 1.0
    return labels


def runs_above(values: NDArray[Any], level: float, shortest: int) -> list[tuple[int, int]]:
    """Half-open runs [a, b) of values > level that are at least `shortest` long."""
    high = np.concatenate([[False], np.asarray(values) > level, [False]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(high))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= shortest]


def _allocate(shape: tuple[int, int, int]) -> NDArray[np.float16]:
    """A float16 array in memory, or mapped onto an unnamed temporary file where memory is short."""
    size = int(np.prod(shape)) * 2
    if size <= MEMORY_SHARE * psutil.virtual_memory().available:
        return np.empty(shape, np.float16)
    with tempfile.TemporaryFile(prefix="vad-features-") as handle:
        handle.truncate(size)
        return np.memmap(handle, dtype=np.float16, mode="r+", shape=shape)


def _place(values: Tensor, device: torch.device | str) -> Tensor:
    """On the device when it is another one and has the room; a batch is moved over otherwise."""
    target = torch.device(device)
    if target.type != "cuda":
        return values
    free, _ = torch.cuda.mem_get_info(target)
    return values.to(target) if values.numel() * 2 <= MEMORY_SHARE * free else values


def _track_of(track: NDArray[np.float32], n: int, video_id: str) -> NDArray[np.float32]:
    if len(track) != n:
        raise VerificationError(f"video {video_id!r}: {len(track)} pseudo labels for {n} clips")
    return track


def _crop_index(crops: Sequence[str], name: str, video_id: str) -> int:
    if name not in crops:
        raise VerificationError(f"video {video_id!r}: no crop {name!r}, it has {'/'.join(crops)}")
    return list(crops).index(name)


def _any_video(store: FeatureStore) -> str:
    videos = store.videos()
    if not videos:
        raise MissingArtifactError(f"{store.folder} holds no videos yet", hint="vad extract DATASET, then vad status")
    return min(videos)
