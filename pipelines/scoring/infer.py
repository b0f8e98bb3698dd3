"""A trained run scores videos: full length, all crops, eval mode, one video at a time (so batches change nothing)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.errors import UsageError, VerificationError
from pipelines.methods._base import Method, Shape
from pipelines.methods._frames import FrameMethod
from pipelines.methods._tubes import TubeConfig
from pipelines.progress import Progress, Silent
from pipelines.records import Bag, Scores, VideoFacts
from pipelines.spans import n_sampled_of, native_stride, region_frames, stored_spans
from pipelines.store.features import FeatureStore
from pipelines.store.frames import FramesStore
from pipelines.training.checkpoint import FRAMES, TUBES, LoadedRun, check_features
from pipelines.training.inputs import Inputs, JoinedFeatures, Stream
from pipelines.training.tubes import StoredTubes
from pipelines.training.windows import StoredFrames, sliding


def score_store(
    run: LoadedRun,
    stores: Sequence[Stream],
    video_ids: Sequence[str],
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[Scores]:
    """Scores of each video, in order, from stored features (one entry of `stores` a stream, in the run's order).

    Raises:
        UsageError: features of another recipe than the run's (at the first step).
        MissingArtifactError, VerificationError: a video that is missing or damaged; names it.
    """
    check_features(run, stores)
    scorers = {FRAMES: _frames_scorer, TUBES: _tubes_scorer}
    score = scorers.get(run.kind, _features_scorer)(run, stores, device)
    sink = progress or Silent()
    sink.start(len(video_ids), f"scoring with {run.method_name}")
    for video_id in video_ids:
        yield score(video_id)
        sink.advance()
    sink.finish()


def _features_scorer(run: LoadedRun, stores: Sequence[Stream], device: str) -> Callable[[str], Scores]:
    joined = JoinedFeatures(stores)
    joined = JoinedFeatures(stores, crops=_crops(run, joined.crops))

    def score(video_id: str) -> Scores:
        values, facts = joined.read(video_id), joined.facts(video_id)
        return score_joined(run.method, run.inputs, run.shape, values, facts, joined.crops, video_id, device=device)

    return score


def _frames_scorer(run: LoadedRun, stores: Sequence[Stream], device: str) -> Callable[[str], Scores]:
    (stack,) = stores
    frames = StoredFrames([FramesStore(s.folder) for s in ((stack,) if isinstance(stack, FeatureStore) else stack)])
    assert isinstance(run.method, FrameMethod)
    spec = run.method.spec

    def score(video_id: str) -> Scores:
        return score_frames(run.method, sliding(frames.blocks(video_id), spec, video_id=video_id, device=device))

    return score


def _tubes_scorer(run: LoadedRun, stores: Sequence[Stream], device: str) -> Callable[[str], Scores]:
    found = StoredTubes([(s,) if isinstance(s, FeatureStore) else tuple(s) for s in stores])
    return lambda video_id: score_tubes(run.method, found, video_id)


def inner_store(
    run: LoadedRun,
    stores: Sequence[Stream],
    video_ids: Sequence[str],
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Iterator[tuple[Scores, dict[str, NDArray[np.float32]]]]:
    """Scores and inner stages (`Method.stages`) of each video, in order, for pictures; runs on frames and tubes have none of clips.

    Raises:
        UsageError, MissingArtifactError, VerificationError: as `score_store`.
    """
    scored = score_store(run, stores, video_ids, device=device, progress=progress)
    if run.kind in (FRAMES, TUBES):
        yield from ((scores, {}) for scores in scored)
        return
    joined = JoinedFeatures(stores)
    joined = JoinedFeatures(stores, crops=_crops(run, joined.crops))
    for scores in scored:
        video_id = scores.video_id
        bag = make_bag(
            joined.read(video_id), joined.facts(video_id), joined.crops, video_id, run.shape, run.inputs, device=device
        )
        run.method.eval()
        with torch.no_grad():
            yield scores, run.method.stages(bag)


def score_features(
    run: LoadedRun,
    arrays: Mapping[str, NDArray[np.float16]],
    facts: VideoFacts,
    *,
    video_id: str,
    device: str = "cpu",
) -> Scores:
    """Scores of one video from arrays at hand: stream name -> (T, K, D) float16, crops as in `facts.crops`.

    Raises:
        UsageError: a stream that the run needs is not there.
        VerificationError: streams of different length, another width, NaN; names the video.
    """
    return score_joined(
        run.method, run.inputs, run.shape, join(run, arrays, video_id), facts, facts.crops, video_id, device=device
    )


def features_bag(
    run: LoadedRun,
    arrays: Mapping[str, NDArray[np.float16]],
    facts: VideoFacts,
    *,
    video_id: str,
    device: str = "cpu",
) -> Bag:
    """The one-video Bag that the run's method scores; for `Method.stages`."""
    return make_bag(join(run, arrays, video_id), facts, facts.crops, video_id, run.shape, run.inputs, device=device)


def score_joined(
    method: Method,
    inputs: Inputs,
    shape: Shape,
    values: NDArray[np.float16],
    facts: VideoFacts,
    crops: tuple[str, ...],
    video_id: str,
    *,
    device: str = "cpu",
) -> Scores:
    """Scores of values (T, K, D) by a method in eval mode, without gradients.

    Raises:
        VerificationError: the method gave scores of another length, or NaN; names the video.
    """
    scores = _scored(method, make_bag(values, facts, crops, video_id, shape, inputs, device=device))
    if scores.clips.shape != (len(crops), len(scores.spans)) and not scores.levels:
        raise VerificationError(
            f"video {video_id!r}: scores of shape {scores.clips.shape} on {len(scores.spans)} spans"
        )
    return _finite(scores)


def score_frames(method: Method, video: Any) -> Scores:
    """Scores of a video's windows or tubes by a method of KIND "frames" or "tubes", in eval mode, without gradients.

    Raises:
        VerificationError: NaN or infinite scores; names the video.
    """
    return _finite(_scored(method, video))


def score_tubes(method: Method, found: StoredTubes, video_id: str) -> Scores:
    """Scores of a stored video by a method of KIND "tubes", in eval mode, without gradients.

    Raises:
        VerificationError: NaN or infinite scores; names the video.
    """
    config: TubeConfig = method.config.data  # type: ignore[assignment]
    return score_frames(method, found.tubes(video_id, config, int(method.length)))  # type: ignore[arg-type]


def _scored(method: Method, video: Any) -> Scores:
    was_training = method.training
    method.eval()
    try:
        with torch.no_grad():
            return method.score(video)
    finally:
        method.train(was_training)


def _finite(scores: Scores) -> Scores:
    if not np.isfinite(scores.clips).all():
        raise VerificationError(f"video {scores.video_id!r}: the method gives NaN or infinite scores")
    return scores


def make_bag(
    values: NDArray[np.float16],
    facts: VideoFacts,
    crops: tuple[str, ...],
    video_id: str,
    shape: Shape,
    inputs: Inputs,
    *,
    device: str = "cpu",
) -> Bag:
    """The one-video bag of values (T, K, D): x (1, K, T, D) float32 on `device`; labels are zeros (unknown).

    Raises:
        VerificationError: a width or crop count that does not fit; names the video.
    """
    t, k, d = values.shape
    if d != shape.dim or k != len(crops):
        raise VerificationError(
            f"video {video_id!r}: features of {k} crops and width {d}, expected {len(crops)} and {shape.dim}"
        )
    x = torch.from_numpy(np.ascontiguousarray(values.transpose(1, 0, 2), dtype=np.float32)).to(device)  # (K, T, D)
    return Bag(
        x=inputs(x).unsqueeze(0),
        mask=torch.ones(1, t, dtype=torch.bool, device=device),
        lengths=torch.tensor([t], device=device),
        y=torch.zeros(1, device=device),
        classes=torch.zeros(1, len(shape.classes), device=device),
        video_ids=(video_id,),
        crops=tuple(crops),
        streams=dict(shape.streams),
        extras={
            "spans": spans_of(t, facts),
            "n_frames": facts.n_frames,
            "stride": native_stride(facts),
            "fps": facts.fps,
        }
        | _regions(facts),
    )


def _regions(facts: VideoFacts) -> dict[str, Any]:
    """For region features: the frame (M,) and box (M, 4) of each row, in the frames that they were cut from."""
    frame = region_frames(facts)
    if frame is None:
        return {}
    n_frames = n_sampled_of(facts)
    every = np.arange(n_frames, dtype=np.int64)
    boxes = np.asarray(facts.extra["regions"]["boxes"], dtype=np.float32).reshape(-1, 4) / 10.0
    size = tuple(facts.extra["regions"]["size"])
    spans = np.stack([every, every + 1], axis=1) if n_frames == facts.n_frames else _resampled(facts)
    return {"regions": {"frame": frame, "boxes": boxes, "n_frames": n_frames, "size": size, "spans": spans}}


def _resampled(facts: VideoFacts) -> NDArray[np.int64]:
    """The native frames of each sampled one, (N', 2)."""
    plain = {key: value for key, value in facts.extra.items() if key != "regions"}
    return stored_spans(replace(facts, stride=1, clip_len=1, extra=plain), n_sampled_of(facts))


def spans_of(t: int, facts: VideoFacts) -> NDArray[np.int64]:
    """Frames that each of t clips speaks for, (t, 2) int64 half-open; see `spans.stored_spans`."""
    return stored_spans(facts, t)


def join(run: LoadedRun, arrays: Mapping[str, NDArray[np.float16]], video_id: str) -> NDArray[np.float16]:
    """The run's streams joined along D in its own order, (T, K, D)."""
    missing = [need.stream for need in run.features if need.stream not in arrays]
    if missing:
        raise UsageError(f"the run needs the streams {', '.join(missing)}; given are {', '.join(arrays) or 'none'}")
    parts = [arrays[need.stream] for need in run.features]
    for need, part in zip(run.features, parts, strict=True):
        if part.ndim != 3 or part.shape[2] != need.dim or part.shape[:2] != parts[0].shape[:2]:
            raise VerificationError(
                f"video {video_id!r}: stream {need.stream} has shape {part.shape}, "
                f"expected ({parts[0].shape[0]}, {parts[0].shape[1]}, {need.dim})"
            )
        if not np.isfinite(part).all():
            raise VerificationError(f"video {video_id!r}: NaN or infinite features in the stream {need.stream}")
    return np.concatenate(parts, axis=2)


def _crops(run: LoadedRun, have: Sequence[str]) -> tuple[str, ...]:
    """The run's own crops for a method that reads them together; every shared crop otherwise."""
    if run.config.data.crops != "inside":
        return tuple(have)
    lacking = [name for name in run.shape.crops if name not in have]
    if lacking:
        raise UsageError(
            f"{run.method_name} was trained with {len(run.shape.crops)} crops inside a sample; "
            f"these features lack {', '.join(lacking)}",
            hint="extract this dataset with the crops of the run's features",
        )
    return run.shape.crops
