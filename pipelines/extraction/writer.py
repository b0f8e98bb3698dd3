"""From encoded clips to committed videos: assembles every video's vectors and publishes them through the store."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.errors import VadError
from pipelines.extraction.jobs import VideoDone
from pipelines.extraction.plan import FeaturesRecipe
from pipelines.extraction.sources import SourceStat
from pipelines.records import Failure, Video, VideoFacts
from pipelines.store.features import FeatureStore

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(slots=True)
class Ticket:
    """One attempt at one video: the parts that arrived so far, by target. A retry gets a new ticket."""

    video: Video
    targets: tuple[int, ...]
    parts: dict[int, dict[int, NDArray[np.float16]]] = field(default_factory=dict)
    done: VideoDone | None = None
    open: set[int] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the vectors of one artefact go.

    `redo` are videos to write again although the store may hold them; of these, `outdated` belong to another source
    file than the one that is there now, so that what is stored goes even when the new file fails.
    """

    name: str
    store: FeatureStore
    recipe: FeaturesRecipe
    redo: frozenset[str]
    outdated: frozenset[str]


@dataclass(frozen=True, slots=True)
class Finished:
    """A video that this run is through with: its decoded length, and `reasons` by artefact name where it failed."""

    video_id: str
    n_frames: int
    reasons: Mapping[str, str]


class Writer:
    """Collects vectors from the encoding threads and commits a video as soon as its last clip is there.

    Commits run in the thread that delivers the last clip. `finished` is the queue of videos that are over. An error
    of the file system is raised as a VadError: a full disk is no property of a video.
    """

    def __init__(self, targets: Sequence[Target], stats: Mapping[str, SourceStat]) -> None:
        self.targets = targets
        self.finished: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        self._stats = stats
        self._lock = threading.Lock()

    def begin(self, video: Video, targets: Iterable[int]) -> Ticket:
        """A ticket for an attempt at `video`, for the artefacts (indices of `targets`) that want it."""
        chosen = tuple(targets)
        return Ticket(video, chosen, {index: {} for index in chosen}, open=set(chosen))

    def deliver(self, ticket: Ticket, target: int, first_clip: int, vectors: NDArray[np.float16]) -> None:
        """Take (b, K, D) float16 vectors of consecutive clips; commits when they were the last ones missing."""
        with self._lock:
            ticket.parts[target][first_clip] = vectors
        self._commit_complete(ticket)

    def decoded(self, ticket: Ticket, done: VideoDone) -> None:
        """The decoder is through with the video; commits where all vectors are there."""
        with self._lock:
            ticket.done = done
        self._commit_complete(ticket)

    def fail(self, ticket: Ticket, reason: str, *, decoder: str | None = None) -> None:
        """Record that the video could not be done, in every artefact that wanted it."""
        for index in ticket.targets:
            self.settle(ticket, index, reason, decoder=decoder)

    def settle(self, ticket: Ticket, target: int, reason: str | None, *, decoder: str | None = None) -> None:
        """One artefact is through with the video: committed (`reason` None) or failed."""
        place = self.targets[target]
        if reason is not None:
            with disk_errors(place.store):
                if ticket.video.id in place.outdated:
                    place.store.discard(ticket.video.id)
                place.store.record_failure(Failure(ticket.video.id, reason, artifacts.utc_now(), decoder))
        with self._lock:
            if reason is not None:
                ticket.reasons[place.name] = reason
            ticket.open.discard(target)
            over = not ticket.open
        if over:
            n_frames = ticket.done.n_frames if ticket.done else 0
            self.finished.put(Finished(ticket.video.id, n_frames, dict(ticket.reasons)))

    def facts(self, target: int, ticket: Ticket, done: VideoDone) -> VideoFacts:
        """What is stored beside one video's features."""
        return facts_of(done, self.targets[target].recipe, self.source_facts(ticket.video.id))

    def source_facts(self, video_id: str) -> dict[str, int]:
        """Size and time of the source file, by which a later run sees that it was replaced."""
        stat = self._stats.get(video_id)
        return stat.facts() if stat else {}

    def _commit_complete(self, ticket: Ticket) -> None:
        for index, vectors, done in self._take_complete(ticket):
            problem = unusable(vectors, done.n_clips)
            if problem is None:
                self._commit(index, ticket.video.id, vectors, self.facts(index, ticket, done))
            self.settle(ticket, index, problem, decoder=done.decoder)

    def _take_complete(self, ticket: Ticket) -> list[tuple[int, NDArray[np.float16], VideoDone]]:
        with self._lock:
            done = ticket.done
            if done is None:
                return []
            ready = [i for i, parts in ticket.parts.items() if sum(map(len, parts.values())) >= done.n_clips]
            taken = [(index, ticket.parts.pop(index)) for index in ready]
        return [(index, np.concatenate([parts[key] for key in sorted(parts)]), done) for index, parts in taken]

    def _commit(self, target: int, video_id: str, vectors: NDArray[np.float16], facts: VideoFacts) -> None:
        place = self.targets[target]
        with disk_errors(place.store):
            if video_id in place.redo:
                place.store.replace(video_id, vectors, facts)
            else:
                place.store.write(video_id, vectors, facts)


def unusable(vectors: NDArray[np.float16], n_clips: int) -> str | None:
    """Why (T, K, D) float16 vectors may not be stored, or None: a wrong number of clips, NaN or infinity."""
    if len(vectors) != n_clips:
        return f"{len(vectors)} clips were encoded, {n_clips} decoded"
    bad = ~np.isfinite(vectors).all(axis=(1, 2))
    if bad.any():
        return f"the encoder gave NaN or values beyond float16 in {int(bad.sum())} of {n_clips} clips (first: {int(bad.argmax())})"
    return None


@contextmanager
def disk_errors(store: FeatureStore) -> Iterator[None]:
    """Turn an error of the file system into one that stops the run: it is no property of a video."""
    try:
        yield
    except OSError as error:
        full = error.errno in FULL_DISK
        closed = "; in a group's cache everybody needs umask 002 and setgid folders" if error.errno in CLOSED else ""
        raise VadError(
            f"{'the disk is full' if full else 'cannot write'}: {store.folder}: {error.strerror or error}",
            hint="finished videos are kept; make room or change --cache-dir, then the same command does the rest"
            if full
            else f"finished videos are kept{closed}; `vad doctor --cache-dir DIR` probes a cache folder",
        ) from error


def facts_of(done: VideoDone, recipe: FeaturesRecipe, extra: Mapping[str, Any] | None = None) -> VideoFacts:
    """What stands beside the features of a decoded video: its length, and how clips map to native frames.

    Features resampled by `recipe.fps` carry the rate and the number of sampled frames, by which scores find their frames.
    """
    more = dict(extra or {})
    if recipe.fps is not None:
        more |= {"sampled_fps": recipe.fps, "n_sampled": done.n_sampled}
    if done.notes:
        more["notes"] = list(done.notes)
    return VideoFacts(
        n_frames=done.n_frames,
        fps=done.fps,
        width=done.width,
        height=done.height,
        stride=recipe.stride,
        clip_len=recipe.clip_len,
        crops=recipe.crops,
        duration_s=done.duration_s,
        decoder=done.decoder,
        decoder_version=done.decoder_version,
        expected_frames=done.expected_frames,
        source=done.source,
        last_clip=recipe.last_clip,
        extra=more,
    )
