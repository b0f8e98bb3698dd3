"""Stored frames become windows: resized for the network, augmented, drawn in an order that resumes.

Memory is bounded: resized training frames are kept where all of them fit CACHE_BYTES, and read one by one otherwise;
a video is scored in blocks, with the frames of one batch and of one window's reach in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import MissingArtifactError
from pipelines.methods._frames import Border, WindowConfig, WindowSpec
from pipelines.records import Video, VideoFacts, WindowedVideo, Windows
from pipelines.store.frames import FramesStore

CACHE_BYTES = 2 * 2**30  # of resized training frames in memory
BLOCK = 64  # frames read at once when a video is gone through
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as image libraries convert


class StoredFrames:
    """Frames artefacts of one recipe (cache layers) read as one: a video is read from the first that has it."""

    names = ("frames",)
    crops = ("center",)
    clip_len = stride = 1
    dim = 3
    streams: Mapping[str, slice] = {"frames": slice(0, 3)}

    def __init__(self, stores: Sequence[FramesStore]) -> None:
        self.stacks = (tuple(stores),)

    def videos(self) -> set[str]:
        """Ids that some layer has."""
        return set[str]().union(*(store.videos() for store in self.stacks[0]))

    def facts(self, video_id: str) -> VideoFacts:
        """What is stored beside a video's frames."""
        return self._holder(video_id).facts(video_id)

    def length(self, video_id: str) -> int:
        """N of a video, without reading frames."""
        return self._holder(video_id).frames_shape(video_id)[0]

    def read(self, video_id: str, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames [start, stop), (n, H, W, C) uint8.

        Raises:
            MissingArtifactError, VerificationError: no such video, or damaged; names it.
        """
        return self._holder(video_id).read_frames(video_id, start, stop)

    def blocks(self, video_id: str) -> Iterator[NDArray[np.uint8]]:
        """The whole video, BLOCK frames at a time."""
        for start in range(0, self.length(video_id), BLOCK):
            yield self.read(video_id, start, start + BLOCK)

    def _holder(self, video_id: str) -> FramesStore:
        found = next((store for store in self.stacks[0] if video_id in store), None)
        if found is None:
            raise MissingArtifactError(
                f"no frames of video {video_id!r} in {self.stacks[0][0].folder}",
                hint="vad status lists what is missing",
            )
        return found


def window_indices(targets: NDArray[np.int64], n: int, *, offsets: Sequence[int], border: Border) -> NDArray[np.int64]:
    """The frames of the windows that speak for `targets` in a video of n frames, (T, L) int64 within [0, n)."""
    at = targets[:, None] + np.asarray(offsets, dtype=np.int64)
    if border == "repeat":
        return np.where((at >= 0) & (at < n), at, targets[:, None])
    if border == "shift":
        at = at - np.maximum(0, at.max(axis=1, keepdims=True) - (n - 1))
        at = at - np.minimum(0, at.min(axis=1, keepdims=True))
    return np.clip(at, 0, n - 1)


def training_targets(n: int, spec: WindowSpec) -> NDArray[np.int64]:
    """Frames whose windows are trained on: every `stride`-th; only whole windows where borders would shift them."""
    first, last = (-min(0, *spec.offsets), n - max(0, *spec.offsets)) if spec.border == "shift" else (0, n)
    targets = np.arange(first, last, spec.config.stride, dtype=np.int64)
    return targets if len(targets) else np.zeros(1, np.int64)


def resize(frames: NDArray[np.uint8], config: WindowConfig, size: tuple[int, int]) -> Tensor:
    """(n, H, W, C) uint8 -> (n, C', h, w) uint8, bilinear with antialiasing; C' as the configuration's colour asks."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if x.shape[1] == 1:
        x = x.expand(-1, 3, -1, -1)
    if config.colour == "grey":
        weights = torch.tensor(GREY).view(1, 3, 1, 1)
        x = (x.float() * weights).sum(1, keepdim=True).round().to(torch.uint8)
    if tuple(x.shape[2:]) == size:
        return x.contiguous()
    return torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True).contiguous()


def to_input(frames: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return frames.float().div_(127.5).sub_(1.0)


def sliding(
    blocks: Iterable[NDArray[np.uint8]], spec: WindowSpec, *, video_id: str, device: torch.device | str = "cpu"
) -> WindowedVideo:
    """A video's windows in order while its frames come in; only the frames that a batch reaches are held.

    Args:
        blocks: (n, H, W, C) uint8, in order.
        spec: its configuration's `score_stride` and `score_batch` are used.
    """
    stream = _Stream(spec, video_id, torch.device(device))
    return WindowedVideo(video_id, stream.windows(blocks), lambda: stream.received)


class WindowBatches:
    """Batches of windows for one phase, shuffled over all training videos, augmented, from a seed.

    An epoch's incomplete last batch is dropped and the list shuffled again. A batch is never larger than the list.
    """

    def __init__(
        self, frames: StoredFrames, videos: Sequence[Video], spec: WindowSpec, *, seed: int, device: str = "cpu"
    ) -> None:
        self.frames, self.spec, self.device = frames, spec, torch.device(device)
        self.ids = tuple(video.id for video in videos)
        self.lengths = [frames.length(video) for video in self.ids]
        self.rows = _rows(self.lengths, spec)  # (R, 2): video, frame
        self.batch = min(spec.config.batch, len(self.rows))
        self.generator = torch.Generator().manual_seed(seed)
        self.order, self.at = torch.empty(0, dtype=torch.int64), 0
        self._pool: FramePool | None = None

    @property
    def epoch_steps(self) -> int:
        """Batches of one pass over the training windows."""
        return len(self.rows) // self.batch

    @property
    def pool(self) -> FramePool:
        """The training frames at their size before the crop; made when the first batch is asked for."""
        if self._pool is None:
            self._pool = FramePool(self.frames, self.ids, self.lengths, self.spec.config)
        return self._pool

    def share(self, other: WindowBatches) -> None:
        """Read from another phase's frames where they are the same."""
        if (other.ids, _frame_key(other.spec.config)) == (self.ids, _frame_key(self.spec.config)):
            self._pool = other.pool

    def next(self, *, step: int, steps: int) -> Windows:
        """The next batch."""
        if self.at + self.batch > len(self.order):
            self.order, self.at = torch.randperm(len(self.rows), generator=self.generator), 0
        rows = self.rows[self.order[self.at : self.at + self.batch].numpy()]
        self.at += self.batch
        return self._batch(rows, {"step": step, "steps": steps})

    def _batch(self, rows: NDArray[np.int64], extras: dict[str, Any]) -> Windows:
        crops = self._crops(len(rows))
        if self.spec.partner is not None:
            extras["partner"] = self._gather(self._partners(rows), crops)
        return Windows(
            x=self._gather(rows, crops),
            frames=torch.from_numpy(rows[:, 1].copy()).to(self.device),
            video_ids=tuple(self.ids[v] for v in rows[:, 0]),
            extras=extras,
        )

    def every(self) -> Iterator[Windows]:
        """Every training video's windows in order, as scoring sees them, `stride` apart."""
        step = self.spec.config.stride
        config = self.spec.config.model_copy(update={"score_stride": step, "score_batch": self.spec.config.batch})
        spec = WindowSpec(config, self.spec.offsets, self.spec.border)
        for video in self.ids:
            yield from sliding(self.frames.blocks(video), spec, video_id=video, device=self.device).windows

    def once(self) -> Iterator[Windows]:
        """One pass in the order of a seed, batches as `next` gives them, the incomplete last one too; for validation.

        Frames are read on demand and not kept.
        """
        self._pool = FramePool(self.frames, self.ids, self.lengths, self.spec.config, keep=0)
        order = torch.randperm(len(self.rows), generator=self.generator)
        for start in range(0, len(order), self.batch):
            yield self._batch(self.rows[order[start : start + self.batch].numpy()], {})

    def state_dict(self) -> dict[str, Any]:
        """The generator, the order and the position in it."""
        return {"generator": self.generator.get_state(), "order": self.order.clone(), "at": self.at}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of batches."""
        self.generator.set_state(state["generator"])
        self.order, self.at = state["order"], int(state["at"])

    def _crops(self, count: int) -> NDArray[np.int64]:
        """(count, 3): top, left, flipped."""
        if self.spec.config.augment == "none":
            return np.zeros((count, 3), np.int64)
        (h, w), (full_h, full_w) = self.spec.config.hw, before_crop(self.spec.config)
        bounds = (full_h - h + 1, full_w - w + 1, 2)
        drawn = [torch.randint(bound, (count,), generator=self.generator) for bound in bounds]
        return torch.stack(drawn, dim=1).numpy()

    def _partners(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same videos at t +- k; the side that the video has, the nearest frame where it has neither."""
        assert self.spec.partner is not None
        least, most = self.spec.partner
        k = torch.randint(least, most + 1, (len(rows),), generator=self.generator).numpy()
        sign = torch.randint(2, (len(rows),), generator=self.generator).numpy() * 2 - 1
        n = np.asarray(self.lengths)[rows[:, 0]]
        at = rows[:, 1] + sign * k
        at = np.where((at < 0) | (at >= n), rows[:, 1] - sign * k, at)
        return np.stack([rows[:, 0], np.clip(at, 0, n - 1)], axis=1)

    def _gather(self, rows: NDArray[np.int64], crops: NDArray[np.int64]) -> Tensor:
        """(B, L, C, h, w) float32 in [-1, 1]."""
        h, w = self.spec.config.hw
        parts = []
        for (video, frame), (top, left, flip) in zip(rows, crops, strict=True):
            at = window_indices(
                np.array([frame]), self.lengths[video], offsets=self.spec.offsets, border=self.spec.border
            )[0]
            window = self.pool.get(int(video), at)[:, :, top : top + h, left : left + w]
            parts.append(window.flip(-1) if flip else window)
        return to_input(torch.stack(parts).to(self.device))


class FramePool:
    """Frames of several videos, resized: in memory where all fit `keep` bytes, read on demand otherwise."""

    def __init__(
        self,
        frames: StoredFrames,
        ids: Sequence[str],
        lengths: Sequence[int],
        config: WindowConfig,
        *,
        keep: int = CACHE_BYTES,
    ) -> None:
        self.frames, self.ids, self.config = frames, tuple(ids), config
        self.size = before_crop(config)
        total = sum(lengths) * config.channels * self.size[0] * self.size[1]
        self.kept = [self._whole(video) for video in self.ids] if total <= keep else None

    def get(self, video: int, at: NDArray[np.int64]) -> Tensor:
        """The frames `at` of a video, (m, C, h, w) uint8."""
        if self.kept is not None:
            return self.kept[video][torch.from_numpy(at)]
        unique, back = np.unique(at, return_inverse=True)
        read = np.concatenate([self.frames.read(self.ids[video], int(i), int(i) + 1) for i in unique])
        return resize(read, self.config, self.size)[torch.from_numpy(back)]

    def _whole(self, video_id: str) -> Tensor:
        return torch.cat([resize(block, self.config, self.size) for block in self.frames.blocks(video_id)])


def before_crop(config: WindowConfig) -> tuple[int, int]:
    """(height, width) of a training frame before its random crop."""
    if config.augment == "none":
        return config.hw
    h, w = config.hw
    return round(h * (1 + config.margin)), round(w * (1 + config.margin))


class _Stream:
    """Frames come in at one end, batches of windows go out at the other."""

    def __init__(self, spec: WindowSpec, video_id: str, device: torch.device) -> None:
        self.spec, self.video_id, self.device = spec, video_id, device
        self.received, self.next_target = 0, 0
        self.held: list[Tensor] = []  # frames from `first` on
        self.first = 0

    def windows(self, blocks: Iterable[NDArray[np.uint8]]) -> Iterator[Windows]:
        config = self.spec.config
        reach = max(0, *self.spec.offsets)
        span = reach - min(self.spec.offsets) + 1
        least = span if self.spec.border == "shift" else 0  # the first windows are moved forward
        for block in blocks:
            self.held.extend(resize(block, config, config.hw))
            self.received += len(block)
            if self.received >= least:
                yield from self._emit(self.received - reach, whole=config.score_batch)
        yield from self._emit(self.received, whole=1)

    def _emit(self, until: int, *, whole: int) -> Iterator[Windows]:
        """Batches of the targets below `until`; of `whole` windows at least."""
        config = self.spec.config
        while len(targets := self._targets(until, config.score_batch)) >= whole:
            yield self._make(targets)
            self.next_target = int(targets[-1]) + config.score_stride
            self._forget()

    def _targets(self, until: int, most: int) -> NDArray[np.int64]:
        return np.arange(self.next_target, until, self.spec.config.score_stride, dtype=np.int64)[:most]

    def _make(self, targets: NDArray[np.int64]) -> Windows:
        at = window_indices(targets, self.received, offsets=self.spec.offsets, border=self.spec.border)
        unique, back = np.unique(at, return_inverse=True)
        frames = to_input(torch.stack([self.held[i - self.first] for i in unique]).to(self.device))
        x = frames[torch.from_numpy(back.reshape(at.shape)).to(self.device)]  # (T, L, C, h, w)
        return Windows(x, torch.from_numpy(targets), (self.video_id,) * len(targets))

    def _forget(self) -> None:
        """Drop the frames that no later window reaches: a shifted one reaches a whole window back."""
        back = (
            max(self.spec.offsets) - min(self.spec.offsets) if self.spec.border == "shift" else -min(self.spec.offsets)
        )
        keep = min(self.next_target, self.received) - max(0, back)
        drop = max(0, min(keep - self.first, len(self.held)))
        del self.held[:drop]
        self.first += drop


def _rows(lengths: Sequence[int], spec: WindowSpec) -> NDArray[np.int64]:
    parts = [training_targets(n, spec) for n in lengths]
    return np.concatenate([np.stack([np.full(len(t), v), t], axis=1) for v, t in enumerate(parts)])


def _frame_key(config: WindowConfig) -> tuple[Any, ...]:
    return before_crop(config), config.colour
