"""Features of videos that stand in no dataset: decoded and encoded by the recipes of a run, kept in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.extraction.engine import Stream, decode_workers
from pipelines.extraction.jobs import ClipBatch, DecodeJob, Partial, VideoDone, VideoFailed, VideoRestarted
from pipelines.extraction.plan import EncoderChoice, FeaturesRecipe, Sampling, choose_encoders, make_recipe
from pipelines.extraction.writer import facts_of, unusable
from pipelines.records import VideoFacts
from pipelines.video.decode import DecodeError

Parts = dict[str, list[NDArray[np.float16]]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One stream to make: its name in the run, its built encoder and the recipe that it follows."""

    name: str
    choice: EncoderChoice
    recipe: FeaturesRecipe


@dataclass(frozen=True, slots=True)
class Encoded:
    """One video's features by stream, (T, K, D) float16, and what is known of the video."""

    video_id: str
    arrays: Mapping[str, NDArray[np.float16]]
    facts: VideoFacts
    notes: tuple[str, ...]


def wanted_of(name: str, recipe: FeaturesRecipe) -> Wanted:
    """A stream of a run, rebuilt from its recipe.

    Raises:
        UsageError: the encoder that is installed would give other vectors (revision, weights, preprocessing).
    """
    if recipe.encoder.partition(":")[0] in ("import", "captions"):
        raise UsageError(
            f"the run reads {recipe.encoder}, which no encoder here can make of a video",
            hint="`vad eval` scores stored features",
        )
    options = [f"{key}={json.dumps(value)}" for key, value in recipe.options.items()]
    (choice,) = choose_encoders([recipe.encoder], options)
    sampling = Sampling(recipe.clip_len, recipe.stride, recipe.fps, recipe.last_clip)
    ours = make_recipe(choice, sampling=sampling, crops=recipe.crops, precision=recipe.precision)
    theirs = recipe.model_dump(mode="json")
    differing = [
        f"{key}: {value!r} here, {theirs[key]!r} then"
        for key, value in ours.model_dump(mode="json").items()
        if value != theirs[key]
    ]
    if differing:
        raise UsageError(
            f"the encoder {recipe.encoder} is not the one that the run was trained with: " + "; ".join(differing),
            hint="extract and train again with this version, or install the version of the run",
        )
    return Wanted(name, choice, recipe)


def encode(
    videos: Sequence[tuple[str, Path]],
    wanted: Sequence[Wanted],
    *,
    device: str,
    workers: int | None = None,
    partial: Partial = "fail",
) -> Iterator[Encoded | VideoFailed]:
    """Each video's features, or why there are none, in the order in which they are finished.

    All streams read one decode. Videos decode in `workers` killable processes while the vectors are computed here.

    Raises:
        UsageError: streams that cut videos into different clips.
        MissingArtifactError, VerificationError: an encoder's weights.
    """
    from pipelines.extraction.pool import DecodePool

    streams = {one.name: load_stream(one, device) for one in wanted}
    first = same_clips(wanted)
    positions = tuple(sorted({p for stream in streams.values() for p in stream.positions}))
    jobs = [_job(video_id, path, first, positions, partial) for video_id, path in videos]
    parts: dict[str, Parts] = {}
    count = min(workers or decode_workers(device), len(jobs)) or 1
    with DecodePool(count) as pool:
        for event in pool.run(jobs):
            match event:
                case ClipBatch():
                    _collect(parts.setdefault(event.video_id, {}), streams, event, positions)
                case VideoRestarted():
                    parts.pop(event.video_id, None)
                case VideoFailed():
                    parts.pop(event.video_id, None)
                    yield event
                case VideoDone():
                    yield _finish(event, parts.pop(event.video_id, {}), wanted)


def frames(path: Path, decoder: str) -> Iterator[NDArray[np.uint8]]:
    """Every frame of a video in order, (H, W, 3) uint8 RGB, read by `decoder` in a killable process.

    Raises:
        DecodeError: it cannot be read, or not to its end.
    """
    from pipelines.extraction.pool import DecodePool

    job = DecodeJob(video_id=path.name, path=path, clip_len=1, stride=1, positions=(0,), partial="keep")
    with DecodePool(1, policy=decoder) as pool:
        for event in pool.run([job]):
            if isinstance(event, VideoFailed):
                raise DecodeError(event.reason)
            if isinstance(event, ClipBatch):
                for clip in event.clips:
                    yield np.array(clip[0])  # a copy: the batch's memory is used again


def load_stream(one: Wanted, device: str) -> Stream:
    """Its encoder, loaded.

    Raises:
        MissingArtifactError, VerificationError: the encoder's weights.
    """
    encoder = one.choice.encoder
    encoder.load(device, one.recipe.precision)
    return Stream(encoder, one.recipe.crops, encoder.positions(one.recipe.clip_len), device)


def same_clips(wanted: Sequence[Wanted]) -> FeaturesRecipe:
    """A recipe that says how all of them cut a video into clips.

    Raises:
        UsageError: they do not agree.
    """
    cuts = {(w.recipe.clip_len, w.recipe.stride, w.recipe.fps, w.recipe.last_clip) for w in wanted}
    if len(cuts) != 1:
        raise UsageError(f"the streams cut a video into different clips: {sorted(map(str, cuts))}")
    return wanted[0].recipe


def _job(video_id: str, path: Path, recipe: FeaturesRecipe, positions: tuple[int, ...], partial: Partial) -> DecodeJob:
    return DecodeJob(
        video_id=video_id,
        path=path,
        clip_len=recipe.clip_len,
        stride=recipe.stride,
        positions=positions,
        last_clip=recipe.last_clip,
        fps=recipe.fps,
        partial=partial,
    )


def _collect(parts: Parts, streams: Mapping[str, Stream], event: ClipBatch, positions: tuple[int, ...]) -> None:
    for name, stream in streams.items():
        for start in range(0, len(event.clips), stream.batch):
            crops = stream.cut(event.clips[start : start + stream.batch], positions)
            parts.setdefault(name, []).append(stream.encode(crops))


def _finish(done: VideoDone, parts: Parts, wanted: Sequence[Wanted]) -> Encoded | VideoFailed:
    if not done.n_clips or len(parts) != len(wanted):
        return VideoFailed(done.video_id, f"no clips in {done.n_frames} decoded frames", done.decoder)
    arrays = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    for name, values in arrays.items():
        if (problem := unusable(values, done.n_clips)) is not None:
            return VideoFailed(done.video_id, f"{name}: {problem}", done.decoder)
    return Encoded(done.video_id, arrays, facts_of(done, wanted[0].recipe), done.notes)
