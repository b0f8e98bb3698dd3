"""Stage: videos -> features (and frames) in the cache. One decode feeds every encoder; what is done is skipped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines import artifacts
from pipelines.encoders._base import Precision
from pipelines.errors import PartialFailure, Stopped, UsageError
from pipelines.extraction.engine import Engine, Stream, decode_workers, encode_threads, torch_threads
from pipelines.extraction.forecast import Forecast, forecast
from pipelines.extraction.jobs import ClipBatch, DecodeJob, Partial, PoolEvent, VideoDone, VideoFailed, VideoRestarted
from pipelines.extraction.plan import (
    MISSING,
    Crops,
    Extractable,
    ExtractionPlan,
    FramesMode,
    Redo,
    Sampling,
    StreamPlan,
    WeightsMode,
    choose_encoders,
    plan,
)
from pipelines.extraction.pool import DecodePool
from pipelines.extraction.sinks import FrameSinks, write_indexes
from pipelines.extraction.stop import StopRequest, stop_on_signals
from pipelines.extraction.writer import Target, Ticket, Writer
from pipelines.progress import Progress, Silent
from pipelines.records import Video
from pipelines.store.features import FeatureStore
from pipelines.store.frames import FramesStore
from pipelines.store.maintenance import clean_staging, record_rate


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """What to extract and how.

    `encoders` as typed (`A+B` and `A,B` alike); `layers` are the cache roots, the first one is written; `options` are
    `--set` assignments for the encoders; `videos` restricts to these ids, `limit` to the first so many;
    `workers` decoder processes and `device` are chosen when None / "auto"; `lazy` frames store an index only;
    `weights="random"` runs networks with seeded random weights, in artefacts of their own.
    """

    dataset: Extractable
    layers: tuple[Path, ...]
    encoders: tuple[str, ...]
    crops: Crops = "center"
    sampling: Sampling = field(default_factory=Sampling)
    precision: Precision = "float32"
    options: tuple[str, ...] = ()
    redo: Redo = "none"
    partial: Partial = "fail"
    videos: tuple[str, ...] | None = None
    limit: int | None = None
    workers: int | None = None
    device: str = "auto"
    frames: FramesMode = "store"
    weights: WeightsMode = "published"
    stall_s: float = 60.0
    memory_mb: int = 3072


@dataclass(frozen=True, slots=True)
class ArtifactResult:
    """What a run did for one artefact; `failed` maps a video to its reason, `failed_before` were not tried again.

    `folder` is where this run writes, and `stores` all folders that hold its videos, in the order they are read.
    """

    encoder: str
    kind: str
    id: str
    folder: Path
    stores: tuple[Path, ...]
    n_videos: int
    done_before: int
    done: tuple[str, ...]
    failed: Mapping[str, str]
    failed_before: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ExtractResult:
    """The outcome of a run. `frames_per_s` counts native frames of the videos that this run decoded."""

    dataset: str
    artifacts: tuple[ArtifactResult, ...]
    n_frames: int
    seconds: float

    @property
    def frames_per_s(self) -> float | None:
        return self.n_frames / self.seconds if self.n_frames and self.seconds else None

    @property
    def failures(self) -> dict[str, str]:
        """Every failed video of this or an earlier run with its reason."""
        found: dict[str, str] = {}
        for artifact in self.artifacts:
            found |= {**artifact.failed_before, **artifact.failed}
        return found

    def raise_for_failures(self) -> None:
        """Raise PartialFailure (exit 3) when videos are missing from an artefact."""
        failures = self.failures
        if failures:
            lines = [f"{video}: {reason}" for video, reason in sorted(failures.items())]
            shown = lines[:20] + ([f"and {len(lines) - 20} more"] if len(lines) > 20 else [])
            raise PartialFailure(
                f"{len(lines)} of {max(a.n_videos for a in self.artifacts)} videos failed:\n  " + "\n  ".join(shown),
                hint=f"the others are done; `vad extract {self.dataset} --redo failed` tries these again",
            )


def make_plan(request: ExtractRequest) -> ExtractionPlan:
    """What `run` would do for this request; reads the cache and the source files' sizes, writes nothing."""
    return plan(
        request.dataset,
        choices=choose_encoders(request.encoders, request.options, frames=request.frames, weights=request.weights),
        layers=request.layers,
        sampling=request.sampling,
        crops=request.crops,
        precision=request.precision,
        redo=request.redo,
        only=request.videos,
        limit=request.limit,
    )


def run(
    request: ExtractRequest, *, progress: Progress | None = None, planned: ExtractionPlan | None = None
) -> ExtractResult:
    """Extract what is missing and return what was done; failed videos are in the result, not raised.

    Raises:
        Stopped: SIGTERM came; finished videos are in the cache.
        VadError: the disk is full or cannot be written, weights are missing or wrong, memory ran out.
    """
    sink = progress or Silent()
    planned = planned or make_plan(request)
    work = [stream for stream in planned.streams if stream.todo or stream.missing]
    started, reasons, n_frames = time.monotonic(), dict[str, dict[str, str]](), 0
    if work:
        job = _Run(request, planned, work, sink)
        try:
            job.everything()
        finally:
            sink.finish()
        reasons, n_frames = job.reasons, job.n_frames
    seconds = time.monotonic() - started
    return ExtractResult(
        planned.dataset, tuple(_result(stream, planned, reasons) for stream in planned.streams), n_frames, seconds
    )


def predict_cost(request: ExtractRequest, planned: ExtractionPlan, *, budget_s: float = 15.0) -> Forecast:
    """What `run` would cost, from extracting parts of some videos for about `budget_s` seconds into a folder that is
    deleted again; 0 measures nothing.

    Raises:
        MissingArtifactError, VerificationError: weights are missing or wrong.
    """
    choices = [stream.choice for stream in planned.streams]

    def measure(videos: Sequence[Video], cache: Path) -> tuple[int, float]:
        sample = plan(
            _Listed(planned.dataset, tuple(videos)),
            choices=choices,
            layers=(cache,),
            sampling=request.sampling,
            crops=request.crops,
            precision=request.precision,
        )
        result = run(replace(request, layers=(cache,)), planned=sample)
        shutil.rmtree(cache, ignore_errors=True)
        return result.n_frames, result.seconds

    return forecast(planned, measure, budget_s=budget_s)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A dataset that is nothing but a list."""

    name: str
    videos: tuple[Video, ...]

    def all_videos(self) -> list[Video]:
        return list(self.videos)


def prepare(planned: ExtractionPlan) -> None:
    """What one process does before several extract: fetch and check the weights, make each artefact's folder once.

    Raises:
        MissingArtifactError: weights that are neither here nor can be fetched.
        VerificationError: weights that are damaged.
    """
    from pipelines.encoders import _weights

    work = [stream for stream in planned.streams if stream.todo or stream.missing]
    for stream in work:
        encoder = stream.choice.encoder
        if stream.todo and encoder.weights is not None and stream.choice.weights == "published":
            _weights.checked(_weights.require(encoder.weights, encoder.name), encoder.weights, encoder.name)
    for stream in work:
        _target(stream)


class _Run:
    """One run: the stores, the loaded encoders, and the loop over the decoders' events."""

    def __init__(
        self, request: ExtractRequest, planned: ExtractionPlan, work: Sequence[StreamPlan], progress: Progress
    ) -> None:
        self.request, self.planned, self.progress = request, planned, progress
        self.device = pick_device(request.device)
        self.streams = [_load(stream, self.device) for stream in work]  # before anything is written
        self.targets = [_target(stream) for stream in work]
        for stream, target in zip(work, self.targets, strict=True):
            _warn_of_edits(stream, target, progress)
        self.work = work
        self.writer = Writer(self.targets, planned.stats)
        self.reasons: dict[str, dict[str, str]] = {target.name: {} for target in self.targets}
        self.wanted = [frozenset(video.id for video in stream.todo) for stream in work]
        self.n_frames = 0
        self.n_finished = 0

    def everything(self) -> None:
        """All groups of artefacts that share their clips, one decode each."""
        started = time.monotonic()
        self.progress.start(len(self._todo(range(len(self.work)))), f"extracting {self.planned.dataset}")
        threads = encode_threads(self.device)
        with stop_on_signals() as stop, torch_threads(1 if self.device == "cpu" and threads > 1 else threads):
            self._record_missing()
            for sampling, group in self._groups().items():
                self._group(sampling, group, stop, threads)
        seconds = time.monotonic() - started
        for target in self.targets:
            record_rate(target.store, frames_per_s=self.n_frames / seconds, device=self.device)

    def _group(self, sampling: Sampling, group: Sequence[int], stop: StopRequest, threads: int) -> None:
        lazy = [index for index in group if self.work[index].choice.options.get("lazy")]
        write_indexes(self.writer, {index: self.work[index] for index in lazy})
        self._report()
        rest = [index for index in group if index not in lazy]
        chosen = {index: self.streams[index] for index in rest}
        features = {index: stream for index, stream in chosen.items() if stream.encoder.kind == "features"}
        frames = {index: stream for index, stream in chosen.items() if stream.encoder.kind == "frames"}
        sinks = FrameSinks(frames, self.writer)
        workers = self.request.workers or decode_workers(self.device)
        tickets: dict[str, Ticket] = {}
        with Engine(features, self.writer, threads=threads) as engine, sinks:
            try:
                with self._pool(workers) as pool:
                    for event in pool.run(self._jobs(sampling, rest, tickets)):
                        stop.check()
                        self._handle(event, tickets, engine, sinks)
                        self._report()
            except Stopped as stopped:
                engine.flush()  # what is decoded to the end is kept
                self._report()
                raise Stopped(
                    f"{stopped.message} ({self.n_finished} of {len(self.planned.todo)} videos of this run)",
                    hint=stopped.hint,
                ) from stopped
            engine.flush()
            self._report()

    def _pool(self, workers: int) -> DecodePool:
        return DecodePool(workers, stall_s=self.request.stall_s, memory_mb=self.request.memory_mb)

    def _handle(self, event: PoolEvent, tickets: dict[str, Ticket], engine: Engine, sinks: FrameSinks) -> None:
        ticket = tickets[event.video_id]
        if isinstance(event, ClipBatch):
            positions = self._positions(ticket.targets)
            sinks.take(ticket, event.clips)
            if any(index in engine for index in ticket.targets):
                engine.submit(ticket, event.first_clip, event.clips, positions)
        elif isinstance(event, VideoDone):
            self.writer.decoded(tickets.pop(event.video_id), event)
            sinks.finish(ticket, event)
        elif isinstance(event, VideoFailed):
            sinks.drop(ticket)
            self.writer.fail(tickets.pop(event.video_id), event.reason, decoder=event.decoder)
        elif isinstance(event, VideoRestarted):
            sinks.drop(ticket)
            tickets[event.video_id] = self.writer.begin(ticket.video, ticket.targets)
            self.progress.note(
                f"{event.video_id}: {event.decoder} failed ({event.reason}); the next decoder starts over"
            )

    def _jobs(self, sampling: Sampling, group: Sequence[int], tickets: dict[str, Ticket]) -> Iterator[DecodeJob]:
        """Jobs, largest files first (the last ones to finish are then short); another process's work is skipped."""
        stats = self.planned.stats
        for video in sorted(self._todo(group), key=lambda video: -stats[video.id].size):
            wanted = [index for index in group if video.id in self.wanted[index]]
            ticket = self.writer.begin(video, wanted)
            for index in wanted:
                if video.id in self.targets[index].store and video.id not in self.targets[index].redo:
                    self.writer.settle(ticket, index, None)
            left = tuple(index for index in wanted if index in ticket.open)
            if left:
                tickets[video.id] = self.writer.begin(video, left)
                yield DecodeJob(
                    video_id=video.id,
                    path=video.path,
                    clip_len=sampling.clip_len,
                    stride=sampling.stride,
                    positions=self._positions(left),
                    last_clip=sampling.last_clip,
                    fps=sampling.fps,
                    partial=self.request.partial,
                )

    def _positions(self, targets: Sequence[int]) -> tuple[int, ...]:
        return tuple(sorted({position for index in targets for position in self.streams[index].positions}))

    def _todo(self, group: Sequence[int]) -> list[Video]:
        wanted = {video.id: video for index in group for video in self.work[index].todo}
        return list(wanted.values())

    def _groups(self) -> dict[Sampling, list[int]]:
        groups: dict[Sampling, list[int]] = {}
        for index, stream in enumerate(self.work):
            if stream.todo:
                groups.setdefault(stream.sampling, []).append(index)
        return groups

    def _record_missing(self) -> None:
        for index, stream in enumerate(self.work):
            for video in stream.missing:
                self.writer.fail(self.writer.begin(video, [index]), f"{MISSING}: {video.path}")
        self._report(counted=False)

    def _report(self, *, counted: bool = True) -> None:
        while not self.writer.finished.empty():
            over = self.writer.finished.get()
            for name, reason in over.reasons.items():
                self.reasons[name][over.video_id] = reason
                self.progress.note(f"failed: {over.video_id}: {reason}")
            self.n_frames += over.n_frames
            if counted:
                self.n_finished += 1
                self.progress.advance()


def pick_device(name: str) -> str:
    """`auto` -> "cuda" where there is one, else "cpu"; another name as it is.

    Raises:
        UsageError: a CUDA device that is not there.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch {torch.__version__} sees no CUDA device", hint="vad doctor")
    return name


def _load(stream: StreamPlan, device: str) -> Stream:
    encoder = stream.choice.encoder
    if stream.todo and not stream.choice.options.get("lazy"):
        stream.choice.load(device, stream.recipe.precision)
    return Stream(encoder, stream.recipe.crops, encoder.positions(stream.recipe.clip_len), device)


def _target(stream: StreamPlan) -> Target:
    artifact = artifacts.make(
        stream.kind,
        stream.id,
        stream.recipe.model_dump(mode="json"),
        recorded={
            "typed": stream.choice.name,
            "dim": stream.choice.encoder.dim,
            "plugin_sha256": stream.choice.source_hash,
        },
    )
    kind = FramesStore if stream.kind == "frames" else FeatureStore
    store = kind.create(stream.folder, artifact)
    clean_staging(store)
    redo = frozenset(video.id for video in stream.todo if video.id in store)
    return Target(stream.choice.encoder.name, store, stream.recipe, redo=redo, outdated=stream.replaced)


def _warn_of_edits(stream: StreamPlan, target: Target, progress: Progress) -> None:
    before, now = target.store.artifact.recorded.get("plugin_sha256"), stream.choice.source_hash
    if before != now:
        progress.warn(
            f"{stream.choice.name} changed since {target.store.folder.name} was begun, and its revision did not: "
            "old and new videos may differ (raise `revision` when numbers change)"
        )


def _result(stream: StreamPlan, planned: ExtractionPlan, reasons: Mapping[str, Mapping[str, str]]) -> ArtifactResult:
    failed = reasons.get(stream.choice.encoder.name, {})
    own = (stream.folder,) if stream.folder.exists() else ()
    others = tuple(store.folder for store in stream.stores if store.folder != stream.folder)
    return ArtifactResult(
        encoder=stream.choice.encoder.name,
        kind=stream.kind,
        id=stream.id,
        folder=stream.folder if own or not others else others[0],
        stores=own + others,
        n_videos=len(planned.videos),
        done_before=len(stream.done),
        done=tuple(video.id for video in stream.todo if video.id not in failed),
        failed=dict(failed),
        failed_before={id: failure.reason for id, failure in stream.failed.items()},
    )
