"""The frozen records that travel between the parts. Letters: B videos, K crops, T clips, S segments, D width, Y classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

NORMAL = (
    "normal"  # what annotation readers call a video without an anomaly; a dataset's class 0 may be spelled otherwise
)


@dataclass(frozen=True, slots=True)
class Event:
    """One labelled interval of a video: frames [start_frames, end_frames), 0-based."""

    start_frames: int
    end_frames: int
    label: str


@dataclass(frozen=True, slots=True)
class Video:
    """One entry of a dataset's split.

    `path` is a file or a folder of frames and need not exist. `classes` are names of the dataset's class list
    (several for multi-label; the normal class alone for a normal video). `segments` is None where no temporal truth
    is known (training videos of weakly supervised sets) and () for a normal video. `n_frames` is a published
    length, where a list has one; the decoded length is stored with the features.
    """

    id: str
    path: Path
    split: str  # the part of the named split it stands in: "train" | "val" | "test"
    classes: tuple[str, ...]
    segments: tuple[Event, ...] | None = None
    group: str | None = None
    camera: str | None = None
    n_frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class VideoTruth:
    """The truth of one video, built from annotations and its real length.

    `labels` (N,) bool is the union of the events; `events` keeps each class's intervals (for detection metrics).
    `clamped` counts events cut at the video's end, `lost` those that begin past a truncated one.
    """

    video_id: str
    labels: NDArray[np.bool_]
    events: tuple[Event, ...]
    classes: tuple[str, ...]
    clamped: int = 0
    lost: int = 0

    @property
    def n_frames(self) -> int:
        return len(self.labels)

    @property
    def is_abnormal(self) -> bool:
        return bool(self.events)


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What is stored beside a video's features, as attributes of its array.

    `stride` and `clip_len` in frames; `crops` are names ("center", "tl", ..., "center_m"); `source` is the
    fingerprint of the source file (size and a hash of its first, middle and last MiB); `expected_frames` is the
    demuxer's packet count; `decoder` is the one that decoded this video.
    """

    n_frames: int
    fps: float | None
    width: int | None
    height: int | None
    stride: int
    clip_len: int
    crops: tuple[str, ...]
    duration_s: float | None = None
    decoder: str | None = None
    decoder_version: str | None = None
    expected_frames: int | None = None
    source: str | None = None
    last_clip: str = "drop"
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bag:
    """A batch of videos as a method sees them, on one device.

    x (B, K, S, D) float32; mask (B, S) bool, True where valid; lengths (B,) int64; y (B,) float32 in {0, 1};
    classes (B, Y) float32 multi-hot with class 0 normal; `streams` maps a stream's name to its slice of D.
    K is 1 where crops are samples of their own.
    """

    x: Tensor
    mask: Tensor
    lengths: Tensor
    y: Tensor
    classes: Tensor
    video_ids: tuple[str, ...]
    crops: tuple[str, ...]
    streams: dict[str, slice]
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Windows:
    """A batch of windows of frames, on one device: what methods of KIND "frames" read.

    x (B, L, C, h, w) float32 in [-1, 1], L the frames of a window in order; `frames` (B,) int64, the frame of its video
    that each window speaks for; `extras` as in a Bag ("step", "steps", and "partner" of the same shape as x where a
    phase asks for a second moment of each window's video).
    """

    x: Tensor
    frames: Tensor
    video_ids: tuple[str, ...]
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowedVideo:
    """One video as windows in the order of time, for scoring; they are made while they are read, once.

    `n_frames()` is known when `windows` is exhausted (a video that is being decoded has no length before).
    """

    video_id: str
    windows: Iterator[Windows]
    n_frames: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a method says of one video, before scoring expands it to frames.

    clips (K, T) float32, higher is more abnormal; classes (K, T, Y) float32 probabilities with normal first, or
    None; spans (T, 2) int64, the frames that each clip speaks for; `levels` are coarser score lines (K, T_l) with
    `level_spans`, for methods that score a pyramid; `maps` holds spatial maps of the whole
    picture by name, each (T, h, w); pixel metrics read `score`.
    """

    video_id: str
    clips: NDArray[np.float32]
    spans: NDArray[np.int64]
    n_frames: int
    stride: int
    crops: tuple[str, ...] = ("center",)
    classes: NDArray[np.float32] | None = None
    levels: tuple[NDArray[np.float32], ...] = ()
    level_spans: tuple[NDArray[np.int64], ...] = ()
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """One video that could not be done: what happened, in one line, and when (ISO 8601 UTC)."""

    video_id: str
    reason: str
    when: str
    decoder: str | None = None
