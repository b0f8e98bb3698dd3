"""What a method's input is made of: joined streams of stored features, and their normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.methods._base import DataConfig
from pipelines.records import VideoFacts
from pipelines.store.features import FeatureStore
from pipelines.store.layouts import WHOLE

Stream = FeatureStore | Sequence[FeatureStore]


class JoinedFeatures:
    """One or several features artefacts read as one: `A+B` is joined per clip along D, in the order written.

    A stream that belongs to no crop (the crop "all": sound) goes with every crop of the others, and may be a clip
    longer or shorter than they are: the joined video ends with the shorter [code] Roc-Ng/XDVioDet.

    Args:
        streams: artefacts of the same clips (clip_len, stride, frame rate and last-clip rule agree). A stream may be
            several stores of one recipe (cache layers): a video is read from the first that has it.
        crops: the crop names to read; those that all streams have, in the first one's order, unless given.

    Raises:
        UsageError: the artefacts speak of different clips, or share no crop, or lack one that is asked for.
    """

    def __init__(self, streams: Sequence[Stream], *, crops: Sequence[str] | None = None) -> None:
        self.stacks = tuple((s,) if isinstance(s, FeatureStore) else tuple(s) for s in streams)
        self._check_clips()
        have = [set.intersection(*(set(store.crops) for store in stack)) for stack in self.stacks]
        self._whole = tuple(names == {WHOLE} for names in have)
        first = next((index for index, whole in enumerate(self._whole) if not whole), 0)
        cut = [names for names, whole in zip(have, self._whole, strict=True) if not whole] or have
        shared = tuple(c for c in self._first(first).crops if all(c in names for names in cut))
        self.crops = tuple(crops) if crops is not None else shared
        lacking = [c for c in self.crops if c not in shared]
        if not self.crops or lacking:
            told = ", ".join(f"{name} has {'/'.join(sorted(h))}" for name, h in zip(self.names, have, strict=True))
            raise UsageError(f"crops {'/'.join(lacking) or '(none shared)'} are not in all features: {told}")
        self._widths: tuple[int, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Encoder name of each stream."""
        return tuple(str(stack[0].artifact.recipe["encoder"]) for stack in self.stacks)

    @property
    def clip_len(self) -> int:
        """Frames of a clip."""
        return int(self._first(0).artifact.recipe["clip_len"])

    @property
    def stride(self) -> int:
        """Frames from one clip's start to the next one's."""
        return int(self._first(0).artifact.recipe["stride"])

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stream, from one video of each."""
        if self._widths is None:
            self._widths = tuple(_any_width(stack) for stack in self.stacks)
        return self._widths

    @property
    def dim(self) -> int:
        """Width of the joined vector."""
        return sum(self.widths)

    @property
    def streams(self) -> dict[str, slice]:
        """Name -> slice of D; a second stream of one encoder is named `<encoder>#2`."""
        ends = np.cumsum(self.widths)
        names = stream_names(self.names)
        return {n: slice(int(e) - w, int(e)) for n, e, w in zip(names, ends, self.widths, strict=True)}

    @property
    def left_out(self) -> dict[str, tuple[str, ...]]:
        """Crops that a stream has and another lacks, by stream: they are not read."""
        found = {
            name: tuple(crop for crop in stack[0].crops if crop not in self.crops)
            for name, stack, whole in zip(stream_names(self.names), self.stacks, self._whole, strict=True)
            if not whole
        }
        return {name: crops for name, crops in found.items() if crops}

    def videos(self) -> set[str]:
        """Ids that every stream has."""
        return set.intersection(*(set[str]().union(*(s.videos() for s in stack)) for stack in self.stacks))

    def facts(self, video_id: str) -> VideoFacts:
        """The first stream's facts of a video."""
        return _holder(self.stacks[0], video_id).facts(video_id)

    def length(self, video_id: str) -> int:
        """T of a video, without reading values."""
        if not any(self._whole):
            return _holder(self.stacks[0], video_id).shape(video_id)[0]
        return min(_holder(stack, video_id).shape(video_id)[0] for stack in self.stacks)

    def read(self, video_id: str) -> NDArray[np.float16]:
        """(T, K, D) float16 of one video.

        Raises:
            VerificationError: NaN or infinite values, another width, or streams of different length; names the video.
        """
        parts = [self._stream(index, video_id) for index in range(len(self.stacks))]
        lengths = [len(part) for part in parts]
        if any(self._whole) and max(lengths) - min(lengths) <= 1:
            parts = [part[: min(lengths)] for part in parts]
        elif len(set(lengths)) > 1:
            told = ", ".join(f"{name} has {n} clips" for name, n in zip(self.names, lengths, strict=True))
            raise VerificationError(
                f"video {video_id!r}: joined features differ in length: {told}",
                hint="vad extract DATASET --encoder A,B makes both from one decode",
            )
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def _stream(self, index: int, video_id: str) -> NDArray[np.float16]:
        store = _holder(self.stacks[index], video_id)
        values, width = store.read(video_id), self.widths[index]
        if values.shape[2] != width:
            raise VerificationError(
                f"video {video_id!r}: width {values.shape[2]} in {store.folder.name}, other videos have {width}"
            )
        crops = store.facts(video_id).crops
        if self._whole[index]:
            values = np.repeat(values, len(self.crops), axis=1)
        elif crops != self.crops:
            values = values[:, [_crop_index(crops, name, video_id) for name in self.crops]]
        if not np.isfinite(values).all():
            clip = int(np.argwhere(~np.isfinite(values).all(axis=(1, 2)))[0, 0])
            raise VerificationError(
                f"video {video_id!r}: NaN or infinite features at clip {clip} in {store.folder}",
                hint="vad cache verify",
            )
        return values

    def _first(self, index: int) -> FeatureStore:
        return self.stacks[index][0]

    def _check_clips(self) -> None:
        if not self.stacks or not all(self.stacks):
            raise UsageError("no features were named")
        first = self._first(0)
        for stack in self.stacks[1:]:
            for key in ("clip_len", "stride", "fps", "last_clip", "regions"):
                ours, theirs = first.artifact.recipe.get(key), stack[0].artifact.recipe.get(key)
                if ours != theirs:
                    raise UsageError(
                        f"features cannot be joined: {key} is {ours} in {first.folder.name} "
                        f"and {theirs} in {stack[0].folder.name}",
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
        self.l2_segments = data.normalise == "l2-segments"
        self.standardise = data.standardise
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def unit(self, x: Tensor) -> Tensor:
        """Every stream's vector at length 1 (zeros stay zeros); the last axis is D."""
        parts = [nn.functional.normalize(x[..., where], dim=-1, eps=1e-6) for where in self.streams.values()]
        return torch.cat(parts, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Clips as they are stored: x (..., D) float32 -> the same shape."""
        return self._scale(self.unit(x) if self.l2 else x)

    def segments(self, x: Tensor) -> Tensor:
        """Segments after the length policy (`l2-clips` was applied before it): x (..., D) -> the same shape."""
        return self._scale(self.unit(x) if self.l2_segments else x)

    def _scale(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std if self.standardise else x

    def fit_to(self, videos: Iterable[NDArray[np.float16]]) -> None:
        """Take mean and deviation per dimension over every vector of videos (T, K, D), in float64; a constant gets 1."""
        total, square, count = torch.zeros_like(self.mean).double(), torch.zeros_like(self.mean).double(), 0
        for values in videos:
            x = torch.from_numpy(values.astype(np.float32)).flatten(0, 1)
            x = (self.unit(x) if self.l2 else x).double()
            total += x.sum(0)
            square += (x * x).sum(0)
            count += len(x)
        mean = total / max(1, count)
        std = (square / max(1, count) - mean * mean).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-4, std, torch.ones_like(std)))


def stream_names(encoders: Sequence[str]) -> tuple[str, ...]:
    """Encoder names made unique: the second `motion` is `motion#2`."""
    return tuple(
        name if name not in encoders[:at] else f"{name}#{1 + encoders[:at].count(name)}"
        for at, name in enumerate(encoders)
    )


def _holder(stack: Sequence[FeatureStore], video_id: str) -> FeatureStore:
    return next((store for store in stack if video_id in store), stack[0])


def _crop_index(crops: Sequence[str], name: str, video_id: str) -> int:
    if name not in crops:
        raise VerificationError(f"video {video_id!r}: no crop {name!r}, it has {'/'.join(crops)}")
    return list(crops).index(name)


def _any_width(stack: Sequence[FeatureStore]) -> int:
    for store in stack:
        if videos := store.videos():
            return store.shape(min(videos))[2]
    raise MissingArtifactError(f"{stack[0].folder} holds no videos yet", hint="vad extract DATASET, then vad status")
