"""The one clip <-> frame arithmetic. Pure; intervals are 0-based and half-open, in frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VerificationError

if TYPE_CHECKING:
    from pipelines.records import VideoFacts

LastClip = Literal["drop", "repeat", "pad"]
Tail = Literal["hold", "truncate"]


def n_clips(n_frames: int, *, clip_len: int, stride: int, last_clip: LastClip = "drop") -> int:
    """Number of clips of a video with `n_frames` frames; at least 1 when there is a frame.

    `drop` counts whole clips only (a video shorter than one clip still gives one);
    `repeat` and `pad` add a clip for frames that no whole clip covers, if that clip begins inside the video (with
    stride > clip_len the last frames may lie in a gap between clips).
    """
    if n_frames <= 0:
        return 0
    whole = max(0, (n_frames - clip_len) // stride + 1)
    uncovered = whole == 0 or (whole - 1) * stride + clip_len < n_frames
    if last_clip != "drop" and uncovered and whole * stride < n_frames:
        whole += 1
    return max(1, whole)


def clip_spans(n_frames: int, *, clip_len: int, stride: int, last_clip: LastClip = "drop") -> NDArray[np.int64]:
    """Frame interval of every clip, (T, 2) int64 half-open, cut at the video's end."""
    count = n_clips(n_frames, clip_len=clip_len, stride=stride, last_clip=last_clip)
    starts = np.arange(count, dtype=np.int64) * stride
    return np.stack([starts, np.minimum(starts + clip_len, n_frames)], axis=1)


def clip_frame_indices(n_frames: int, *, clip_len: int, stride: int, last_clip: LastClip = "drop") -> NDArray[np.int64]:
    """Frame index of every position of every clip, (T, clip_len) int64.

    Positions past the video's end repeat the last frame (`drop`, `repeat`) or wrap to the video's start (`pad`,
    the loop padding of public extractors).
    """
    count = n_clips(n_frames, clip_len=clip_len, stride=stride, last_clip=last_clip)
    index = np.arange(count, dtype=np.int64)[:, None] * stride + np.arange(clip_len, dtype=np.int64)
    return index % n_frames if last_clip == "pad" else np.minimum(index, max(0, n_frames - 1))


def stored_spans(facts: VideoFacts, count: int) -> NDArray[np.int64]:
    """Native frames that each of `count` stored clips speaks for, (count, 2) int64 half-open, cut at the video's end.

    The count comes from the array and is never derived from the frame count: imported features may disagree with it
    by a clip, and a clip past the end speaks for the last frame. A row of region features speaks for its frame. Clips of a resampled video (`--fps`) are mapped
    back to native frames.
    """
    n_sampled, regions = n_sampled_of(facts), region_frames(facts)
    if regions is None:
        starts = np.minimum(np.arange(count, dtype=np.int64) * facts.stride, max(0, n_sampled - 1))
        spans = np.stack([starts, np.minimum(starts + facts.clip_len, n_sampled)], axis=1)
    else:
        spans = np.stack([regions, regions + 1], axis=1)
    if n_sampled == facts.n_frames:
        return spans
    native = np.rint(spans * (facts.n_frames / n_sampled)).astype(np.int64)
    native[:, 0] = np.minimum(native[:, 0], facts.n_frames - 1)
    native[:, 1] = np.maximum(native[:, 1], native[:, 0] + 1)
    return native


def native_stride(facts: VideoFacts) -> int:
    """Native frames from one stored clip's start to the next one's, rounded up."""
    return -(-facts.stride * facts.n_frames // n_sampled_of(facts))


def region_frames(facts: VideoFacts) -> NDArray[np.int64] | None:
    """The (sampled) frame of every row of region features, (M,) int64 in order; None for features of clips."""
    regions = facts.extra.get("regions")
    if regions is None:
        return None
    counts = np.asarray(regions["per_frame"], dtype=np.int64)
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def n_sampled_of(facts: VideoFacts) -> int:
    """Frames that the clips were cut from: the resampled ones under `--fps`, else all."""
    return int(facts.extra.get("n_sampled", facts.n_frames))


def n_covered(spans: NDArray[np.int64], n_frames: int, *, tail: Tail, stride: int, video: str = "") -> int:
    """Number of frames that scores on `spans` speak for: all of them (`hold`) or up to the last clip (`truncate`).

    Raises:
        VerificationError: when the uncovered tail is a stride or longer (the features belong to another length).
    """
    end = int(spans[-1, 1]) if len(spans) else 0
    if not len(spans) or end > n_frames or n_frames - end >= max(stride, 1):
        raise VerificationError(
            f"video {video!r}: clips end at frame {end} but the video has {n_frames} frames "
            f"(a difference of at most {max(stride - 1, 0)} is a normal tail)",
            hint="the features and the truth disagree about the video's length: `vad cache verify` and `vad data check`",
        )
    return n_frames if tail == "hold" else end
