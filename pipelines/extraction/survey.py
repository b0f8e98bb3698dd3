"""A first look at videos for a forecast: their length by header, and short parts of some. Run in a child that can be killed.

python -c "from pipelines.extraction.survey import main; main()"   paths as JSON on stdin, JSON lines on stdout
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

PART_FRAMES = 240
BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pipelines.extraction.survey import main; main()"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the look at a video found: frames and rate by its header or None, and the part that was cut, or None."""

    frames: int | None
    fps: float | None
    part: Path | None


def survey(paths: Sequence[tuple[str, Path, bool]], folder: Path, *, timeout_s: float) -> dict[str, Seen]:
    """Look at (id, path, whether to cut a part) in order, for at most `timeout_s`; videos not reached are left out.

    Parts go to `folder`: packets copied from the middle of a long video, the file itself where it is short.
    """
    asked = json.dumps({"folder": str(folder), "videos": [(id, str(path), cut) for id, path, cut in paths]})
    try:
        done = subprocess.run(
            [sys.executable, "-c", BOOTSTRAP, json.dumps(sys.path)],
            input=asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
        text = done.stdout
    except subprocess.TimeoutExpired as late:
        text = late.stdout.decode() if isinstance(late.stdout, bytes) else (late.stdout or "")
    return dict(_read(text))


def _read(text: str) -> Iterator[tuple[str, Seen]]:
    for line in text.splitlines():
        try:
            told = json.loads(line)
        except ValueError:  # cut off by the time limit
            continue
        yield told["id"], Seen(told["frames"], told["fps"], Path(told["part"]) if told["part"] else None)


def main() -> None:
    """The child."""
    asked = json.loads(sys.stdin.read())
    for index, (id, path, cut) in enumerate(asked["videos"]):
        frames = fps = part = None
        try:
            frames, fps, part = _look(Path(path), Path(asked["folder"]) / str(index), cut=cut)
        except Exception:  # noqa: BLE001  a file that cannot be read costs the forecast nothing but itself
            pass
        sys.stdout.write(
            json.dumps({"id": id, "frames": frames, "fps": fps, "part": str(part) if part else None}) + "\n"
        )
        sys.stdout.flush()


def _look(path: Path, target: Path, *, cut: bool) -> tuple[int | None, float | None, Path | None]:
    if path.is_dir():
        return _look_at_images(path, target, cut=cut)
    from pipelines.video.probe import open_container

    with open_container(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        frames = int(stream.frames) or round((container.duration or 0) / 1e6 * rate) or None
        if not cut:
            return frames, rate or None, None
        if frames is None or frames <= 1.5 * PART_FRAMES:
            return frames, rate or None, path
        return frames, rate or None, _cut(container, stream, target.with_suffix(path.suffix))


def _cut(container: Any, stream: Any, target: Path) -> Path:
    """PART_FRAMES packets from the key frame before the middle, copied into a file of the same format."""
    import av

    container.seek(int((container.duration or 0) // 2))
    with av.open(str(target), "w") as out:
        copy = out.add_stream_from_template(stream)
        first = None
        for packet in islice(container.demux(stream), PART_FRAMES):
            if packet.dts is None:
                break
            first = packet.dts if first is None else first
            packet.dts, packet.pts = packet.dts - first, (packet.pts or packet.dts) - first
            packet.stream = copy
            out.mux(packet)
    return target


def _look_at_images(folder: Path, target: Path, *, cut: bool) -> tuple[int, None, Path | None]:
    from pipelines.video.sources import list_images

    files = list_images(folder)
    if not cut or len(files) <= 1.5 * PART_FRAMES:
        return len(files), None, folder if cut else None
    target.mkdir()
    start = (len(files) - PART_FRAMES) // 2
    for file in files[start : start + PART_FRAMES]:
        (target / file.name).symlink_to(file.resolve())
    return len(files), None, target
