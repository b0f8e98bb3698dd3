"""What the decode pool takes and what it says: plain records, importable without torch and without a decoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.spans import LastClip

Partial = Literal["fail", "keep"]
MIN_COVERAGE = 0.98  # below this share of the expected frames a video is a failure, unless partial="keep"


@dataclass(frozen=True, slots=True)
class DecodeJob:
    """One video to cut into clips.

    `path` is a video file or a folder of images. `positions` are the 0-based frames of a clip that anybody wants,
    sorted; only they are transferred. With `fps` the clip arithmetic runs on frames resampled to that rate (nearest in
    time, ties to the earlier frame); None keeps native frames. `partial` says what becomes of a video of which less
    than 98 % decodes.

    Raises:
        UsageError: no positions, positions outside the clip or unsorted, a stride or a rate that is not positive.
    """

    video_id: str
    path: Path
    clip_len: int
    stride: int
    positions: tuple[int, ...]
    last_clip: LastClip = "drop"
    fps: float | None = None
    partial: Partial = "fail"

    def __post_init__(self) -> None:
        positions = self.positions
        if self.clip_len < 1 or self.stride < 1:
            raise UsageError(f"clip length {self.clip_len} and stride {self.stride} must be at least 1 frame")
        if not positions or list(positions) != sorted(set(positions)):
            raise UsageError(f"clip positions {positions} must be sorted, distinct and not empty")
        if positions[0] < 0 or positions[-1] >= self.clip_len:
            raise UsageError(f"clip positions {positions} must lie in a clip of {self.clip_len} frames")
        if self.fps is not None and not self.fps > 0:
            raise UsageError(f"fps {self.fps} must be above 0")

    def to_json(self) -> dict[str, Any]:
        """The job as JSON types."""
        return {**asdict(self), "path": str(self.path), "positions": [int(position) for position in self.positions]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DecodeJob:
        """The inverse of `to_json`."""
        return cls(**{**data, "path": Path(data["path"]), "positions": tuple(data["positions"])})


@dataclass(frozen=True, slots=True)
class ClipBatch:
    """Consecutive clips of one video, in order: clips (B, P, H, W, 3) uint8 RGB, the first being number `first_clip`.

    P = len(job.positions). The array may be a view of shared memory: it stays valid for as long as it (or any view of
    it) is alive, and its slot is reused afterwards. It is read-only; copy it to change it.
    """

    video_id: str
    first_clip: int
    clips: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoDone:
    """All clips of this video were emitted.

    `n_frames` decoded at native rate; `n_sampled` the frames that the clips were cut from (equal to `n_frames` unless
    job.fps); `expected_frames` the demuxer's packet count with edit lists taken into account; `fps` of the source (None
    where unknown: folders of images); `width`, `height` after rotation; `notes` what a reader should know (damaged
    packets, a header that lies, a change of resolution); `source` the fingerprint of the source file.
    """

    video_id: str
    n_frames: int
    n_sampled: int
    n_clips: int
    expected_frames: int
    fps: float | None
    width: int
    height: int
    duration_s: float | None
    decoder: str
    decoder_version: str
    source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VideoFailed:
    """No decoder of the policy could do this video; clips already emitted for it are to be discarded."""

    video_id: str
    reason: str
    decoder: str | None


@dataclass(frozen=True, slots=True)
class VideoRestarted:
    """`decoder` failed and the next one starts over; clips already emitted for this video are to be discarded."""

    video_id: str
    decoder: str
    reason: str


PoolEvent = ClipBatch | VideoDone | VideoFailed | VideoRestarted
