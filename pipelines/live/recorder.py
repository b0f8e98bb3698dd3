"""The last seconds of a camera in memory, and clips and snapshots made of them when something happens."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VadError
from pipelines.video.write import VideoWriter

WIDEST_PX = 640  # of what is kept and written
LONGEST_S = 60.0  # of one clip
# fragments: what was written of a clip plays even if this process is killed
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
JPEG_QUALITY = 85


@dataclass(slots=True)
class _Clip:
    writer: VideoWriter
    until: int


class Recorder:
    """Keeps the frames of the last `keep_s` seconds and writes those that are asked for.

    Frames are PyAV's, kept as they were decoded (in planes, half of RGB) and brought to at most 640 pixels in width.
    What masks hide stays hidden in what is written.
    """

    def __init__(self, *, fps: float, keep_s: float, hidden: NDArray[np.bool_] | None) -> None:
        self._fps, self._hidden_full = fps, hidden
        self._frames: deque[tuple[int, Any]] = deque(maxlen=max(2, round(fps * keep_s)))
        self._clips: dict[str, _Clip] = {}
        self._size: tuple[int, int] | None = None
        self._hidden: NDArray[np.bool_] | None = None

    def add(self, number: int, frame: Any) -> list[str]:
        """The next frame; ids of the clips that ended with it."""
        if self._size is None:
            width = min(WIDEST_PX, frame.width) // 2 * 2
            self._size = (width, max(2, round(frame.height * width / frame.width / 2) * 2))
            self._hidden = _scaled(self._hidden_full, self._size)
        if frame.width > WIDEST_PX:
            frame = frame.reformat(*self._size, format="yuv420p", interpolation="FAST_BILINEAR")
        self._frames.append((number, frame))
        over = [id for id, clip in self._clips.items() if number >= clip.until]
        for clip in self._clips.values():
            clip.writer.add(self._rgb(frame))
        return [id for id in over if self._close(id)]

    def start(self, id: str, path: Path, first: int) -> None:
        """Begin a clip with frame `first`, or the oldest that is still here."""
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = VideoWriter(path, fps=self._fps, options=FRAGMENTS)
        until = (self._frames[-1][0] if self._frames else 0) + round(self._fps * LONGEST_S)
        self._clips[id] = _Clip(writer, until)
        for number, frame in self._frames:
            if number >= first:
                writer.add(self._rgb(frame))

    def stop(self, id: str, until: int) -> bool:
        """End a clip with frame `until`; whether it is over already."""
        clip = self._clips.get(id)
        if clip is None:
            return True
        clip.until = min(clip.until, until)
        return bool(self._frames) and self._frames[-1][0] >= clip.until and self._close(id)

    def snapshot(self, path: Path, number: int) -> bool:
        """Write the kept frame nearest to `number` as a JPEG; False where none is kept."""
        from PIL import Image

        if not self._frames:
            return False
        frame = min(self._frames, key=lambda kept: abs(kept[0] - number))[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".part-{path.name}")
        Image.fromarray(self._rgb(frame)).save(part, format="JPEG", quality=JPEG_QUALITY)
        part.replace(path)
        return True

    def close(self) -> list[str]:
        """Finish every clip with what there is; their ids."""
        return [id for id in list(self._clips) if self._close(id)]

    def _close(self, id: str) -> bool:
        clip = self._clips.pop(id)
        try:
            clip.writer.close()
        except VadError:
            clip.writer.abort()
            return False
        return True

    def _rgb(self, frame: Any) -> NDArray[np.uint8]:
        assert self._size is not None
        rgb: NDArray[np.uint8] = frame.to_ndarray(width=self._size[0], height=self._size[1], format="rgb24")
        if self._hidden is not None:
            rgb[self._hidden] = 0
        return rgb


def hidden_by(masks: Any, width: int, height: int) -> NDArray[np.bool_] | None:
    """(H, W) bool, True inside any of the polygons (points in fractions of width and height); None without polygons."""
    from PIL import Image, ImageDraw

    if not masks:
        return None
    image = Image.new("1", (width, height))
    pen = ImageDraw.Draw(image)
    for polygon in masks:
        pen.polygon([(x * width, y * height) for x, y in polygon], fill=1)
    return np.array(image, dtype=np.bool_)


def _scaled(hidden: NDArray[np.bool_] | None, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    from PIL import Image

    if hidden is None:
        return None
    return np.array(Image.fromarray(hidden).resize(size), dtype=np.bool_)
