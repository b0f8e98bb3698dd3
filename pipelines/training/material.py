"""What a run is trained on and scored with, by the method's KIND: joined features as bags, or frames as windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipelines.errors import UsageError
from pipelines.methods._base import DataConfig, Fit, Method, Phase, Shape
from pipelines.methods._frames import FrameMethod, WindowSpec
from pipelines.records import Bag, Scores, Video, VideoFacts
from pipelines.scoring.infer import make_bag, score_frames, score_joined, score_tubes
from pipelines.store.features import FeatureStore
from pipelines.store.frames import FramesStore
from pipelines.store.regions import CaptionsStore
from pipelines.training.bags import Bags, BatchSource, Ragged, abnormal, load_ragged, multi_hot
from pipelines.training.checkpoint import FRAMES, TUBES, put_weights
from pipelines.training.inputs import Inputs, JoinedFeatures
from pipelines.training.tubes import StoredTubes, TubeMaterial
from pipelines.training.windows import StoredFrames, WindowBatches, sliding

Streams = Sequence[Sequence[FeatureStore]]


class Stored(Protocol):
    """Stored videos that a method reads: joined features, or frames."""

    @property
    def dim(self) -> int: ...
    @property
    def streams(self) -> Mapping[str, slice]: ...
    @property
    def crops(self) -> tuple[str, ...]: ...
    @property
    def clip_len(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def stacks(self) -> tuple[tuple[FeatureStore, ...], ...]: ...
    def videos(self) -> set[str]: ...
    def facts(self, video_id: str) -> VideoFacts: ...


class Material(Protocol):
    """One run's data on its device."""

    @property
    def inputs(self) -> nn.Module:
        """What is learnt about the data before the method sees it; saved with the weights."""

    def start(self, videos: Sequence[Video], state: Mapping[str, Any] | None, where: Path) -> None:
        """Learn the normalisation from the training videos, or take a stopped run's."""

    def every(self, videos: Sequence[Video]) -> Iterator[Any]:
        """Full-length training data, for closed-form methods."""

    def sources(
        self,
        phases: Sequence[Phase | Fit],
        videos: Sequence[Video],
        *,
        seed: int,
        pseudo: Mapping[str, NDArray[np.float32]],
    ) -> list[BatchSource]:
        """A batch source for each phase."""

    def held(self, phase: Phase, videos: Sequence[Video]) -> Iterable[Any]:
        """Held-out videos as the phase's `validate` takes them."""

    def facts(self, video_id: str) -> VideoFacts:
        """What is stored beside a video."""

    def __call__(self, method: Method, video_id: str) -> Scores:
        """Scores of a stored video with the weights that the method has right now."""


def stored(kind: str, streams: Streams, *, crops: Sequence[str] | None = None) -> Stored:
    """The stored videos of a KIND of method.

    Raises:
        UsageError: several artefacts of frames, or features that do not fit together.
    """
    if kind == TUBES:
        return StoredTubes(streams)
    if kind != FRAMES:
        return JoinedFeatures(streams, crops=crops)
    if len(streams) != 1:
        raise UsageError("frames cannot be joined", hint="--features ID of one frames artefact")
    return StoredFrames([FramesStore(store.folder) for store in streams[0]])


def material(
    kind: str,
    streams: Streams,
    shape: Shape,
    data: Any,
    *,
    device: str,
    captions: Sequence[CaptionsStore] = (),
    unseen: Sequence[Video] = (),
) -> Material:
    """The data of a run of a KIND of method; `data` is the method's data configuration.

    `captions` of regions and `unseen` normal videos are what tubes take besides.
    """
    found = stored(kind, streams, crops=shape.crops)
    if isinstance(found, StoredTubes):
        return TubeMaterial(
            found, data, shape.classes, captions=captions, held=unseen, score=score_tubes, device=device
        )
    if isinstance(found, StoredFrames):
        return FrameMaterial(found, shape, device=device)
    assert isinstance(found, JoinedFeatures)
    return FeatureMaterial(found, Inputs(shape.dim, shape.streams, data), shape, device=device)


class FeatureMaterial:
    """Joined features as bags."""

    def __init__(self, features: JoinedFeatures, inputs: Inputs, shape: Shape, *, device: str) -> None:
        self.features, self.inputs, self.shape, self.device = features, inputs, shape, device

    def start(self, videos: Sequence[Video], state: Mapping[str, Any] | None, where: Path) -> None:
        if state is not None:
            put_weights(self.inputs, state["inputs"], where=where)
        elif self.inputs.standardise:
            self.inputs.fit_to(self.features.read(video.id) for video in videos)
        self.inputs.to(self.device)

    def every(self, videos: Sequence[Video]) -> Iterator[Bag]:
        """Full-length bags with their labels, one video each."""
        labels, bad = multi_hot(videos, self.shape.classes), abnormal(videos, self.shape.classes)
        for index, video in enumerate(videos):
            values, facts = self.features.read(video.id), self.features.facts(video.id)
            bag = make_bag(values, facts, self.features.crops, video.id, self.shape, self.inputs, device=self.device)
            at = slice(index, index + 1)
            yield replace(bag, y=bad[at].float().to(self.device), classes=labels[at].to(self.device))

    def sources(
        self,
        phases: Sequence[Phase | Fit],
        videos: Sequence[Video],
        *,
        seed: int,
        pseudo: Mapping[str, NDArray[np.float32]],
    ) -> list[BatchSource]:
        """Phases with one length policy share their array."""
        read: dict[tuple[Any, ...], Ragged] = {}
        found: list[BatchSource] = []
        ids = [video.id for video in videos]
        for index, phase in enumerate(phases):
            if isinstance(phase, Fit):
                found.append(Whole(self, videos))
                continue
            data: DataConfig = phase.data
            key = (data.length, data.size, data.normalise == "l2-clips")
            if key not in read:
                read[key] = load_ragged(
                    self.features, ids, data, inputs=self.inputs, device=self.device, track=pseudo or None
                )
            found.append(
                Bags(
                    read[key],
                    videos,
                    data,
                    classes=self.shape.classes,
                    crops=self.features.crops,
                    inputs=self.inputs,
                    seed=seed * 1009 + index,
                    device=self.device,
                )
            )
        return found

    def held(self, phase: Phase, videos: Sequence[Video]) -> Iterator[Bag]:
        return self.every(videos)

    def facts(self, video_id: str) -> VideoFacts:
        return self.features.facts(video_id)

    def __call__(self, method: Method, video_id: str) -> Scores:
        values, facts, crops = self.features.read(video_id), self.features.facts(video_id), self.features.crops
        return score_joined(method, self.inputs, self.shape, values, facts, crops, video_id, device=self.device)


class FrameMaterial:
    """Frames as windows. Nothing is learnt about them before the method, so `inputs` is empty."""

    def __init__(self, frames: StoredFrames, shape: Shape, *, device: str) -> None:
        self.frames, self.shape, self.device = frames, shape, device
        self.inputs = nn.Module()

    def start(self, videos: Sequence[Video], state: Mapping[str, Any] | None, where: Path) -> None:
        """Nothing to learn."""

    def every(self, videos: Sequence[Video]) -> Iterator[Any]:
        """Frame methods name their closed-form steps as a Fit, which knows its windows."""
        raise UsageError("a method that reads frames has no `fit`", hint="a Fit among its phases")

    def sources(
        self,
        phases: Sequence[Phase | Fit],
        videos: Sequence[Video],
        *,
        seed: int,
        pseudo: Mapping[str, NDArray[np.float32]],
    ) -> list[BatchSource]:
        """Phases whose frames have one size share them."""
        found: list[WindowBatches] = []
        for index, phase in enumerate(phases):
            source = WindowBatches(self.frames, videos, phase.data, seed=seed * 1009 + index, device=self.device)
            for other in found:
                source.share(other)
            found.append(source)
        return list(found)

    def held(self, phase: Phase, videos: Sequence[Video]) -> Iterator[Any]:
        """Their windows as training has them, without augmentation."""
        spec: WindowSpec = phase.data
        plain = replace(spec, config=spec.config.model_copy(update={"augment": "none"}))
        return WindowBatches(self.frames, videos, plain, seed=0, device=self.device).once()

    def facts(self, video_id: str) -> VideoFacts:
        return self.frames.facts(video_id)

    def __call__(self, method: Method, video_id: str) -> Scores:
        assert isinstance(method, FrameMethod)
        video = sliding(self.frames.blocks(video_id), method.spec, video_id=video_id, device=self.device)
        return score_frames(method, video)


class Whole:
    """The source of a closed-form step on features: every video at full length, nothing to resume."""

    epoch_steps = 0

    def __init__(self, material: FeatureMaterial, videos: Sequence[Video]) -> None:
        self.material, self.videos = material, videos

    def next(self, *, step: int, steps: int) -> Any:
        raise AssertionError("a closed-form step draws no batches")

    def every(self) -> Iterator[Bag]:
        return self.material.every(self.videos)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""
