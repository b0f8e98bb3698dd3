"""Frames as an artefact: decoded frames go to the frames store in the order they come, or an index of images does."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VerificationError
from pipelines.extraction.engine import Stream
from pipelines.extraction.jobs import VideoDone
from pipelines.extraction.plan import StreamPlan
from pipelines.extraction.writer import Ticket, Writer, disk_errors
from pipelines.records import Video, VideoFacts
from pipelines.store.frames import FramesStore, FramesWriter
from pipelines.video.decode import DecodeError, source_fingerprint
from pipelines.video.sources import list_images

Key = tuple[int, int]  # target, id() of the ticket: a restarted video has another ticket


class FrameSinks:
    """The open frame writers of a run; a context manager that deletes what was not finished."""

    def __init__(self, streams: Mapping[int, Stream], writer: Writer) -> None:
        self._streams = streams
        self._writer = writer
        self._open: dict[Key, FramesWriter] = {}

    def __enter__(self) -> FrameSinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._open.values():
            writer.discard()
        self._open.clear()

    def take(self, ticket: Ticket, clips: NDArray[np.uint8]) -> None:
        """The next frames of a video, (n, 1, H, W, 3) uint8."""
        for index in self._targets(ticket):
            store = cast(FramesStore, self._writer.targets[index].store)
            frames = self._streams[index].cut(clips, (0,))[:, 0, 0].cpu().numpy()  # (n, h, w, 3)
            with disk_errors(store):
                if (index, id(ticket)) not in self._open:
                    self._open[index, id(ticket)] = FramesWriter(store, ticket.video.id)
                self._open[index, id(ticket)].append(frames)

    def finish(self, ticket: Ticket, done: VideoDone) -> None:
        """The video is complete: publish its frames."""
        for index in self._targets(ticket):
            target = self._writer.targets[index]
            writer = self._open.pop((index, id(ticket)))
            problem = None
            if writer.n_frames == done.n_clips:
                with disk_errors(target.store):
                    writer.commit(self._writer.facts(index, ticket, done), replace=target.redo)
            else:
                problem = f"{writer.n_frames} frames came, {done.n_clips} decoded"
                writer.discard()
            self._writer.settle(ticket, index, problem, decoder=done.decoder)

    def drop(self, ticket: Ticket) -> None:
        """Forget what came of a video."""
        for index in self._targets(ticket):
            writer = self._open.pop((index, id(ticket)), None)
            if writer is not None:
                writer.discard()

    def _targets(self, ticket: Ticket) -> list[int]:
        return [index for index in ticket.targets if index in self._streams]


def write_indexes(writer: Writer, streams: Mapping[int, StreamPlan]) -> None:
    """Store an index for every frame folder of these lazy artefacts; a video file is a failure that says so."""
    for index, stream in streams.items():
        for video in stream.todo:
            ticket = writer.begin(video, [index])
            try:
                _write_index(writer, index, video)
                problem = None
            except (VerificationError, DecodeError) as error:
                problem = error.message
            writer.settle(ticket, index, problem)


def _write_index(writer: Writer, index: int, video: Video) -> None:
    from PIL import Image

    target = writer.targets[index]
    store = cast(FramesStore, target.store)
    if not video.path.is_dir():
        raise VerificationError(f"{video.path} is no folder of images: store the frames without --lazy")
    images = list_images(video.path)
    try:
        with Image.open(images[0]) as first:
            width, height = first.size
    except OSError as error:
        raise VerificationError(f"cannot read the image {images[0]}: {error}") from error
    size = _resized((height, width), target.recipe.preprocess.resize)
    facts = VideoFacts(
        n_frames=len(images),
        fps=None,
        width=width,
        height=height,
        stride=1,
        clip_len=1,
        crops=("center",),
        decoder="images",
        source=source_fingerprint(video.path),
        extra=dict(writer.source_facts(video.id)),
    )
    with disk_errors(store):
        if video.id in target.redo:
            store.discard(video.id)
        store.write_index(video.id, images, facts, size=size)


def _resized(size: tuple[int, int], resize: int | tuple[int, int] | None) -> tuple[int, int]:
    if isinstance(resize, int):
        short = min(size)
        return round(size[0] * resize / short), round(size[1] * resize / short)
    return resize or size
