"""Which task does which videos: measured lengths, shards of equal work with the longest first, what cannot be done in time."""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import UsageError

if TYPE_CHECKING:
    from pipelines.records import Video

SHARDS_PER_SLOT = 4  # as many shards per task at once balance as well as a work queue
DEFAULT_SLOTS = 8
PROBES_AT_ONCE = 16  # a file on a network disk is mostly waiting
START_S = 30.0  # what a task needs before its first video: interpreter, torch, weights
GUESS_FRAMES_PER_BYTE = 1 / 2000  # where no file of a list can be read; every weight is then a file size

# the variable that numbers a task, and the one that says where numbering begins (None: 0 or 1 both work)
SCHEDULERS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
    ("PBS_ARRAY_INDEX", None, None),
    ("PBS_ARRAYID", None, None),
    ("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_STEPSIZE"),
    ("LSB_JOBINDEX", None, "LSB_JOBINDEX_STEP"),
    ("AWS_BATCH_JOB_ARRAY_INDEX", None, None),
    ("JOB_COMPLETION_INDEX", None, None),
)


@dataclass(frozen=True, slots=True)
class Part:
    """What one task does: video ids, longest first, their frames together, seconds where a rate is known."""

    videos: tuple[str, ...]
    n_frames: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Division:
    """The parts, and the videos that no task can finish inside the limit, with the reason."""

    parts: tuple[Part, ...]
    refused: Mapping[str, str]


def balanced(costs: Mapping[str, float], count: int) -> list[tuple[str, ...]]:
    """`count` groups (or as many as there are videos) of nearly equal cost: the longest first, always to the emptiest.

    The same costs give the same groups, in whatever order they come. Longest-first is within 4/3 of the best division
    (Graham 1969).
    """
    groups: list[list[str]] = [[] for _ in range(max(1, min(count, len(costs))))]
    heap = [(0.0, index) for index in range(len(groups))]
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        load, index = heapq.heappop(heap)
        groups[index].append(name)
        heapq.heappush(heap, (load + costs[name], index))
    return [tuple(group) for group in groups]


def divide(
    lengths: Mapping[str, float],
    *,
    shards: int,
    frames_per_s: float | None = None,
    limit_s: float | None = None,
    missing: Sequence[str] = (),
) -> Division:
    """Parts of equal work; with a rate and a limit, a video that cannot finish alone inside the limit is refused.

    Args:
        lengths: frames of each video to do.
        shards: how many parts are wanted.
        frames_per_s: of the last extraction with this recipe, whole machine: one video is at best this fast, so a
            refused one cannot be done, while one that is let through may still not be.
        limit_s: the scheduler's time limit of a task.
        missing: listed videos without a file; the last part records them as failed.
    """
    refused = {}
    if frames_per_s and limit_s:
        for name, frames in lengths.items():
            needed = START_S + frames / frames_per_s
            if needed > limit_s:
                refused[name] = (
                    f"{frames:.0f} frames take {needed / 60:.0f} min at {frames_per_s:.0f} frames/s, "
                    f"the time limit is {limit_s / 60:.0f} min"
                )
    kept = {name: frames for name, frames in lengths.items() if name not in refused}
    groups = [group for group in balanced(kept, shards) if group]
    if missing:
        groups = [*groups[:-1], (*(groups[-1] if groups else ()), *missing)]
    parts = []
    for group in groups:
        frames = sum(kept.get(name, 0.0) for name in group)
        parts.append(Part(group, frames, START_S + frames / frames_per_s if frames_per_s else None))
    return Division(tuple(parts), refused)


def default_shards(n_videos: int, *, at_once: int | None = None) -> int:
    """Four shards for each task that runs at once (8 unless said), but never more than videos."""
    return max(1, min(n_videos, SHARDS_PER_SLOT * (at_once or DEFAULT_SLOTS)))


def measured_lengths(videos: Sequence[Video], sizes: Mapping[str, int]) -> dict[str, float]:
    """Frames of each video: a published length, else what the container says, else by its size like the others.

    Containers are opened, not read through: milliseconds a file.
    """
    known = {video.id: float(video.n_frames) for video in videos if video.n_frames}
    asked = [video for video in videos if video.id not in known]
    if asked:
        with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
            for video, frames in zip(asked, pool.map(lambda video: container_frames(video.path), asked), strict=True):
                if frames:
                    known[video.id] = frames
    read = sum(sizes.get(name, 0) for name in known)
    per_byte = sum(known.values()) / read if read else GUESS_FRAMES_PER_BYTE
    return {video.id: known.get(video.id, max(1.0, per_byte * sizes.get(video.id, 0))) for video in videos}


def container_frames(path: Path) -> float | None:
    """Frames of a video as its container says (rate x duration), or of a folder of images; None where it says nothing."""
    from pipelines.video.probe import open_container
    from pipelines.video.sources import DecodeError, list_images

    try:
        if path.is_dir():
            return float(len(list_images(path))) or None
        with open_container(path) as container:
            stream = container.streams.video[0]
            if container.duration and stream.average_rate:
                return float(container.duration / 1e6 * stream.average_rate)
            return float(stream.frames) or None
    except (DecodeError, OSError, ValueError):
        return None


def shard_index(num_shards: int, shard_id: int | None, environment: Mapping[str, str] | None = None) -> int:
    """Which shard this task is, in [0, num_shards): the given one, else what the scheduler's array variable says.

    Arrays that count from 0 and from 1 both work: N of N is shard 0.

    Raises:
        UsageError: none is given and no array variable is set, or the number does not fit.
    """
    if num_shards < 1:
        raise UsageError(f"--num-shards {num_shards}: at least 1")
    if shard_id is not None:
        if not 0 <= shard_id < num_shards:
            raise UsageError(f"--shard-id {shard_id}: 0 to {num_shards - 1} with --num-shards {num_shards}")
        return shard_id
    variables = os.environ if environment is None else environment
    for name, first, step in SCHEDULERS:
        text = variables.get(name, "")
        if not text.isdigit() or (
            name == "LSB_JOBINDEX" and text == "0"
        ):  # SGE says "undefined", LSF 0, outside arrays
            continue
        begin, stride = (_number(variables, key) for key in (first, step))
        index = (int(text) - (begin or 0)) // (stride or 1) if begin is not None else int(text)
        if not 0 <= index <= num_shards:
            raise UsageError(
                f"{name}={text} does not fit --num-shards {num_shards}", hint="--shard-id says it directly"
            )
        return index % num_shards
    raise UsageError(
        "--num-shards without --shard-id: no array variable is set here", hint=f"looked for {', '.join(n for n, _, _ in SCHEDULERS)}"
    )  # fmt: skip


def by_size(sizes: Mapping[str, int], *, num_shards: int, index: int) -> tuple[str, ...]:
    """Videos of one of `num_shards` parts that each task works out alone, from file sizes: the same in every task.

    All listed videos are divided, done or not, because tasks do not start at the same moment.
    """
    groups = balanced({name: float(size) for name, size in sizes.items()}, num_shards)
    return groups[index] if index < len(groups) else ()


def minutes(text: str) -> int:
    """A time limit as Slurm writes it (`MM`, `HH:MM:SS`, `D-HH`, `D-HH:MM`) or in words (`90m`, `4h`, `2d`), in minutes.

    Raises:
        UsageError: anything else, or less than a minute.
    """
    units = {"m": 1, "h": 60, "d": 1440}
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text):
        found = round(float(match[1]) * units[match[2]])
    elif match := re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text):
        days, a, b, c = (int(part) if part else None for part in match.groups())
        found = _clock(days, a or 0, b, c)
    else:
        found = 0
    if found < 1:
        raise UsageError(f"--timeout {text!r} is no time limit of a minute or more", hint="90, 90m, 4h, 1-12:00:00")
    return found


def _clock(days: int | None, a: int, b: int | None, c: int | None) -> int:
    if days is not None:
        return days * 1440 + a * 60 + (b or 0)
    if c is not None:
        return a * 60 + (b or 0) + (1 if c else 0)
    return a + (1 if b else 0) if b is not None else a  # MM:SS and MM


def _number(variables: Mapping[str, str], key: str | None) -> int | None:
    text = variables.get(key, "") if key else ""
    return int(text) if text.isdigit() else None
