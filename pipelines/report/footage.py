"""The videos beside their curves: relative links, what was moved or replaced since extraction, small previews."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VadError
from pipelines.progress import Progress
from pipelines.store.features import FeatureStore, find_stores

if TYPE_CHECKING:
    from pipelines.records import Video
    from pipelines.store.runs import EvalRecord

MOVED, REPLACED, FRAMES = "moved", "replaced", "frames"
PREVIEW_WIDTH = 192
PREVIEW_FRAMES = 6000  # of all previews together, about 8 MB; long footage is shown at a lower rate
PREVIEW_FPS = 8.0
PREVIEW_CRF = 33
NOMINAL_FPS = 25.0  # of a preview of frames whose rate nobody knows


@dataclass(frozen=True, slots=True)
class Footage:
    """Where one video is: `href` relative to the page, or why there is none (`state`); `path` as the dataset says."""

    path: Path
    href: str | None = None
    state: str | None = None
    preview: str | None = None
    clock: float | None = None

    def as_json(self) -> dict[str, Any]:
        """What the page reads; `clock` is the preview's frames per second of the scores' frames."""
        found = {"path": str(self.path), "href": self.href, "state": self.state, "clock": self.clock}
        return {key: value for key, value in found.items() if value is not None}


def locate(videos: Mapping[str, Video], ids: Sequence[str], page: Path, sizes: Mapping[str, int]) -> dict[str, Footage]:
    """Each video's file as seen from the page's folder; a file of another size than was extracted is `replaced`."""
    found = {}
    for video in ids:
        path = videos[video].path
        if path.is_dir():
            found[video] = Footage(path, state=FRAMES)
        elif not path.is_file():
            found[video] = Footage(path, state=MOVED)
        else:
            state = REPLACED if video in sizes and path.stat().st_size != sizes[video] else None
            found[video] = Footage(path, href=link(path, page.parent), state=state)
    return found


def link(path: Path, folder: Path) -> str:
    """`path` as a URL relative to `folder`, percent-encoded; a file URL where no relative path exists (another drive)."""
    try:
        return quote(os.path.relpath(path.absolute(), folder.absolute()).replace(os.sep, "/"), safe="/")
    except ValueError:
        return path.absolute().as_uri()


def extracted_sizes(record: EvalRecord, layers: Sequence[Path], dataset: str) -> dict[str, int]:
    """Bytes of each source file when its features were extracted, where the features still are; {} for brought scores."""
    wanted = {need.get("id") for need in record.metrics["model"].get("features") or ()}
    stores = [store for store in find_stores(layers, dataset) if store.artifact.id in wanted]
    return {video: size for store in stores for video in store.videos() if (size := _size(store, video)) is not None}


def embed(
    footage: Mapping[str, Footage], frames: Mapping[str, int], fps: Mapping[str, float | None], progress: Progress
) -> tuple[dict[str, Footage], dict[str, str]]:
    """The footage with small previews of every video that can be read, and why the others have none.

    A preview lasts as long as its video at up to PREVIEW_FPS, fewer where PREVIEW_FRAMES do not suffice for all.
    """
    there = [video for video, one in footage.items() if one.state != MOVED]
    seconds = sum(frames[video] / (fps[video] or NOMINAL_FPS) for video in there)
    rate = min(PREVIEW_FPS, PREVIEW_FRAMES / max(seconds, 1e-9))
    found, failed = dict(footage), {}
    progress.start(len(there), f"previews at {rate:.2g} frames a second")
    for video in there:
        one, clock = footage[video], fps[video] or NOMINAL_FPS
        try:
            data = base64.b64encode(preview(one.path, clock, rate)).decode("ascii")
            found[video] = Footage(one.path, one.href, one.state, data, clock)
        except VadError as error:
            failed[video] = error.message
        progress.advance()
    progress.finish()
    return found, failed


def preview(path: Path, fps: float, rate: float) -> bytes:
    """A small H.264 mp4 of the video or folder of frames at `path`, PREVIEW_WIDTH wide, `rate` frames a second.

    Raises:
        VadError: it does not decode, or this FFmpeg cannot write.
    """
    from pipelines.video.write import write_video

    step = max(1.0, fps / rate)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "preview.mp4"
        write_video(out, _small(path, step), fps=fps / step, codecs=("libx264",), crf=PREVIEW_CRF)
        return out.read_bytes()


def frames_at(path: Path, numbers: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """RGB frames (H, W, 3) of a video or a folder of frames by number; {} where it is gone or does not decode."""
    from pipelines.video.decode import decoders_for, open_reader

    wanted, found = set(numbers), {}
    try:
        with open_reader(path, decoders_for(path, "pyav")[0]) as reader:
            for index, frame in enumerate(reader):
                if index in wanted:
                    found[index] = np.empty((reader.height, reader.width, 3), np.uint8)
                    frame.write(found[index])
                if index >= max(wanted):
                    break
    except VadError:
        return {}
    return found


def _small(path: Path, step: float) -> Iterator[NDArray[np.uint8]]:
    """Every `step`-th frame, scaled to even sides."""
    from PIL import Image

    from pipelines.video.decode import decoders_for, open_reader

    wanted, index = 0.0, 0
    with open_reader(path, decoders_for(path, "pyav")[0]) as reader:
        for frame in reader:
            if index >= wanted:
                full = np.empty((reader.height, reader.width, 3), np.uint8)
                frame.write(full)
                size = (PREVIEW_WIDTH, max(2, round(PREVIEW_WIDTH * full.shape[0] / full.shape[1] / 2) * 2))
                yield np.asarray(Image.fromarray(full).resize(size, Image.Resampling.BILINEAR))
                wanted += step
            index += 1


def _size(store: FeatureStore, video: str) -> int | None:
    """The size with which a file's fingerprint begins; None for a folder of frames."""
    try:
        word = (store.facts(video).source or "").partition("-")[0]
    except VadError:
        return None
    return int(word) if word.isdigit() else None
