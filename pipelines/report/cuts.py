"""Video files of a result, from one pass over the frames: the whole video drawn upon, and a clip of each event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.report.annotate import Overlay, annotate
from pipelines.video.write import VideoWriter

UNKNOWN_FPS = 25.0  # of videos without a frame rate (folders of images)
Frame = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Cut:
    """Frames [start, end) of a video and the file that they become."""

    start: int
    end: int
    path: Path


def write_cuts(frames: Iterable[Frame], cuts: Sequence[Cut], *, fps: float | None) -> None:
    """A file for each cut, which may overlap.

    Raises:
        VadError: as `video.write.write_video`.
    """
    for _ in _through_cuts(frames, cuts, fps):
        pass


def write_annotated(
    path: Path, frames: Iterable[Frame], overlay: Overlay, cuts: Sequence[Cut] = (), *, fps: float | None
) -> None:
    """The whole video as `annotate` draws it, and a file of the untouched frames for each cut.

    Raises:
        VadError: as `video.write.write_video`.
    """
    with VideoWriter(path, fps=fps or UNKNOWN_FPS) as writer:
        for frame in annotate(_through_cuts(frames, cuts, fps), overlay):
            writer.add(frame)


def _through_cuts(frames: Iterable[Frame], cuts: Sequence[Cut], fps: float | None) -> Iterator[Frame]:
    """The frames as they are; those inside a cut are written on the way."""
    waiting = sorted(cuts, key=lambda cut: cut.start)
    with ExitStack() as failed:
        running: list[tuple[Cut, VideoWriter]] = []
        for number, frame in enumerate(frames):
            while waiting and waiting[0].start <= number:
                cut = waiting.pop(0)
                cut.path.parent.mkdir(parents=True, exist_ok=True)
                writer = VideoWriter(cut.path, fps=fps or UNKNOWN_FPS)
                failed.callback(writer.abort)
                running.append((cut, writer))
            for _, writer in running:
                writer.add(frame)
            for _, writer in [one for one in running if one[0].end <= number + 1]:
                writer.close()
            running = [one for one in running if one[0].end > number + 1]
            yield frame
        for _, writer in running:
            writer.close()
