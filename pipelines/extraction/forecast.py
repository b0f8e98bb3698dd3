"""What an extraction will cost: seconds from a short measured sample, bytes and files from the videos' lengths."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.extraction.plan import ExtractionPlan, StreamPlan
from pipelines.extraction.survey import Seen, survey
from pipelines.records import Video
from pipelines.spans import n_clips
from pipelines.store.features import MAX_CHUNK_BYTES

MOST_LENGTHS = 400  # videos whose header is read; the others' lengths follow from their sizes
MOST_PARTS = 48
SURVEY_S = 20.0
METADATA_BYTES = 950  # of an array's zarr.json
FILES_OF_A_VIDEO, FILES_OF_A_CHUNK = 3, 3  # its folder, zarr.json and c/; then <chunk>/0/0

Measure = Callable[[Sequence[Video], Path], tuple[int, float]]


@dataclass(frozen=True, slots=True)
class StreamForecast:
    """One artefact's share: bytes and directory entries; None where the size of a frame is not known."""

    encoder: str
    n_bytes: int | None
    n_inodes: int | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """The cost of all that is to do.

    `seconds` is None where nothing could be measured (`why` says it); `sampled_videos`, `sampled_frames` and
    `sampled_s` are what it rests on; `n_frames` counts native frames.
    """

    n_videos: int
    n_frames: int
    seconds: float | None
    streams: tuple[StreamForecast, ...]
    sampled_videos: int = 0
    sampled_frames: int = 0
    sampled_s: float = 0.0
    why: str = ""


def forecast(planned: ExtractionPlan, measure: Measure, *, budget_s: float) -> Forecast:
    """Measure parts of videos spread over the sizes for about `budget_s` seconds, and count up the rest.

    Stored frames are not sampled: what they write is as large as the videos are long, and their time is that of the disk.

    Args:
        measure: extracts videos into a new cache and gives (frames, seconds).
        budget_s: starting and loading are not counted; a batch that was begun is finished.
    """
    todo = _spread(planned)
    with tempfile.TemporaryDirectory(prefix="vad-forecast-") as temporary:
        folder = Path(temporary)
        asked = [(video.id, video.path, k < MOST_PARTS) for k, video in enumerate(todo[:MOST_LENGTHS])]
        seen = survey(asked, folder, timeout_s=SURVEY_S)
        lengths = _lengths(todo, seen, planned)
        parts = [_part(video, seen[video.id]) for video in todo if video.id in seen and seen[video.id].part is not None]
        whole = all(stream.kind == "features" for stream in planned.streams)
        found = _measured(parts, measure, folder, budget_s) if parts and whole and budget_s > 0 else None
    n_frames = sum(lengths.values())
    streams = tuple(_stream(stream, lengths, _rate_of(seen)) for stream in planned.streams)
    if found is None:
        why = "none of the sampled videos could be extracted" if whole and budget_s > 0 else "nothing was sampled"
        return Forecast(len(todo), n_frames, None, streams, why=why)
    seconds = found.fixed_s + n_frames / found.frames_per_s
    return Forecast(len(todo), n_frames, seconds, streams, found.videos, found.frames, found.seconds)


@dataclass(slots=True)
class _Sample:
    fixed_s: float
    videos: int = 0
    frames: int = 0
    seconds: float = 0.0

    @property
    def frames_per_s(self) -> float:
        return self.frames / max(self.seconds, 1e-6)


def _measured(parts: Sequence[Video], measure: Measure, folder: Path, budget_s: float) -> _Sample | None:
    """Batches of growing size until the time is used; what one video costs beyond its frames is taken off each.

    The first run loads the encoder and is not counted; the second of the same video is the cost of starting.
    """
    began = time.monotonic()
    for index, first in enumerate(parts[:4]):
        measure([first], folder / f"load-{index}")
        frames, seconds = measure([first], folder / f"start-{index}")
        if frames:
            break
    else:
        return None
    loading = time.monotonic() - began
    batches = [parts[start : 2 * start + 4] for start in _starts(len(parts))]
    found = _Sample(fixed_s=0.0)
    lines: list[tuple[int, float]] = [(frames, seconds)]
    for number, batch in enumerate(batches):
        frames, seconds = measure(batch, folder / f"batch-{number}")
        if frames:
            lines.append((frames, seconds))
            found.videos += len(batch)
            found.frames += frames
            found.seconds += seconds
        if time.monotonic() - began - loading > budget_s:
            break
    if not found.frames:
        found.videos, found.frames, found.seconds = 1, *lines[0]
        return found
    found.fixed_s = _fixed(lines)
    found.seconds -= found.fixed_s * (len(lines) - 1)
    return found


def _starts(count: int) -> list[int]:
    """0, 4, 12, 28, ...: batches of 4, 8, 16 videos."""
    starts = [0]
    while 2 * starts[-1] + 4 < count:
        starts.append(2 * starts[-1] + 4)
    return starts


def _fixed(lines: Sequence[tuple[int, float]]) -> float:
    """Seconds that a run takes for its start, from a small run and the larger ones after it: a line through both."""
    frames, seconds = lines[0]
    more = [sum(line[k] for line in lines[1:]) / (len(lines) - 1) for k in (0, 1)]
    if more[0] <= frames:
        return 0.0
    slope = (more[1] - seconds) / (more[0] - frames)
    return min(max(0.0, seconds - slope * frames), min(line[1] for line in lines) * 0.9)


# ---- lengths and sizes -------------------------------------------------------------------------------------------


def _spread(planned: ExtractionPlan) -> list[Video]:
    """Videos to do, so ordered that any first few of them are spread over the sizes (ranks by their mirrored bits)."""
    ranked = sorted(planned.todo, key=lambda video: (planned.stats[video.id].size, video.id))
    bits = max(1, (len(ranked) - 1).bit_length())
    order = sorted(range(len(ranked)), key=lambda rank: int(f"{rank:0{bits}b}"[::-1], 2))
    return [ranked[rank] for rank in order]


def _lengths(todo: Sequence[Video], seen: Mapping[str, Seen], planned: ExtractionPlan) -> dict[str, int]:
    """Frames of each video: published, by its header, or by its size at the rate of the others."""
    known = {v.id: n for v in todo if (n := v.n_frames or (seen[v.id].frames if v.id in seen else None))}
    size = sum(planned.stats[id].size for id in known)
    per_byte = sum(known.values()) / size if size else 0.0
    return {video.id: known.get(video.id) or round(planned.stats[video.id].size * per_byte) for video in todo}


def _part(video: Video, seen: Seen) -> Video:
    return Video(video.id, seen.part or video.path, "train", ())


def _rate_of(seen: Mapping[str, Seen]) -> float | None:
    """Mean frames per second by the headers."""
    rates = [one.fps for one in seen.values() if one.fps]
    return sum(rates) / len(rates) if rates else None


def _stream(stream: StreamPlan, lengths: Mapping[str, int], native_fps: float | None) -> StreamForecast:
    recipe, name = stream.recipe, stream.choice.encoder.name
    if stream.kind == "frames":
        return StreamForecast(name, None, None)
    clip_bytes = 2 * len(recipe.crops) * stream.choice.encoder.dim
    resampled = recipe.fps / native_fps if recipe.fps and native_fps else 1.0
    n_bytes = n_inodes = 0
    for video in stream.todo:
        length = round(lengths[video.id] * resampled)
        clips = n_clips(length, clip_len=recipe.clip_len, stride=recipe.stride, last_clip=recipe.last_clip)
        rows = max(1, min(clips, MAX_CHUNK_BYTES // clip_bytes))
        chunks = -(-clips // rows)
        n_bytes += chunks * rows * clip_bytes + METADATA_BYTES
        n_inodes += FILES_OF_A_VIDEO + FILES_OF_A_CHUNK * chunks
    return StreamForecast(name, n_bytes, n_inodes)
