"""Features become batches: length policies, crops, pair and mixed batches, a sampler that resumes.

Everything is read once into one ragged float16 array with offsets (in memory, memory-mapped where it does not fit, on
the device where it fits). A batch is one gather from it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import UsageError, VerificationError
from pipelines.methods._base import DataConfig
from pipelines.recipe import suggest
from pipelines.records import Bag, Video
from pipelines.training.inputs import Inputs, JoinedFeatures

MEMORY_SHARE = 0.6  # of the free memory (of the machine, or of the device) that features may take
WINDOW_DRAWS = 200
RUN_LENGTH, RUN_COVER, RUN_LEVEL = 5, 0.5, 0.5  # a run of pseudo labels that a window should cover [code] CMSIL


class BatchSource(Protocol):
    """Where a phase's batches come from; its state is saved with a stopped run."""

    @property
    def epoch_steps(self) -> int:
        """Batches of one pass over the training list."""

    def next(self, *, step: int, steps: int) -> Any:
        """The batch of `step`; the same sequence for the same seed."""

    def every(self) -> Iterable[Any]:
        """The whole training list in order, unaugmented: bags of one video each, or windows."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""


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
    """Videos one after another: values (N+1, K, D) float16, offsets (V+1,) int64 into N, track (N+1,) float32 or None.

    The last row is zero: padding is gathered from it.
    """

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
    """Read every video once, apply the length policy, normalise, and lay them one after another.

    Args:
        track: one value a clip (pseudo labels) by video id, cut and pooled like the clips; a video without is zeros.

    Raises:
        VerificationError: NaN, widths or lengths that disagree; names the video.
    """
    sizes = [len(fixed_length(np.zeros(features.length(video), np.float32), data)) for video in video_ids]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    values = allocate((int(offsets[-1]) + 1, len(features.crops), features.dim))
    line = np.zeros(int(offsets[-1]) + 1, np.float32) if track else None
    for index, video in enumerate(video_ids):
        x = features.read(video)
        if line is not None and track and video in track:
            line[offsets[index] : offsets[index + 1]] = fixed_length(_track_of(track[video], len(x), video), data)
        values[offsets[index] : offsets[index + 1]] = _normalised(x, data, inputs)
    values[-1] = 0
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

    @property
    def epoch_steps(self) -> int:
        """Batches until the longest list is through."""
        return max(len(part.rows) // part.batch for part in self.lists)

    def every(self) -> Iterable[Bag]:
        """Bags belong to optimisations; a closed-form step reads whole videos (material.Whole)."""
        raise AssertionError("a batch source of bags has no order")

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
        padding = len(values) - 1
        at = torch.where(mask, first[:, None] + steps, padding).to(device)  # (B, S)
        if self.data.crops == "inside":
            x = (
                values.index_select(0, at.flatten()).reshape(*at.shape, *values.shape[1:]).permute(0, 2, 1, 3)
            )  # (B, K, S, D)
        else:
            flat = (at * k + crop[:, None].to(device)).flatten()
            x = (
                values.flatten(0, 1).index_select(0, flat).reshape(*at.shape, values.shape[2]).unsqueeze(1)
            )  # (B, 1, S, D)
        if self.ragged.track is not None:
            extras["pseudo"] = self.ragged.track[at].to(self.device)
        return Bag(
            x=x.to(self.device).float(),
            mask=mask.to(self.device),
            lengths=lengths.to(self.device),
            y=self.abnormal[video].float().to(self.device),
            classes=self.labels[video.to(self.device)],
            video_ids=tuple(self.ids[int(v)] for v in video),
            crops=self.crops if self.data.crops == "inside" else ("any",),
            streams=self.inputs.streams,
            extras=extras | {"crop_index": crop.to(self.device), "starts": starts.to(self.device)},
        )


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


def _normalised(x: NDArray[np.float16], data: DataConfig, inputs: Inputs) -> NDArray[Any]:
    """The segments of one video as the method sees them: (T, K, D) -> (S', K, D)."""
    if not inputs.l2 and not inputs.standardise:
        return fixed_length(x, data)
    clips = x.astype(np.float32)
    if data.normalise == "l2-clips":
        clips = inputs.unit(torch.from_numpy(clips)).numpy()
    return inputs.segments(torch.from_numpy(fixed_length(clips, data))).numpy()


def allocate(shape: tuple[int, int, int]) -> NDArray[np.float16]:
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
