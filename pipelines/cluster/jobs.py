"""A submission on disk: what each task runs, where its log is, and how far it is. Reading it needs no torch and no numpy.

<runs>/jobs/<utc time>-<name>-<id6>/
    plan.json           the tasks; the job array indexes them
    shards/0007.txt     video ids of a task, which `vad extract --videos` reads
    submitted.json      ids of the submitted jobs
    logs/               stdout and stderr of every task, and the batch script
    done/7              written by task 7 as its last act: its exit code
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.store import listing

JOBS = "jobs"
PLAN, SUBMITTED, LOGS, DONE, SHARDS = "plan.json", "submitted.json", "logs", "done", "shards"
SCHEMA = 1
RECENT_S = 600.0


@dataclass(frozen=True, slots=True)
class Task:
    """One task: the words after `vad`, its videos (empty where it is no extraction), frames and expected seconds."""

    argv: tuple[str, ...]
    videos: tuple[str, ...] = ()
    n_frames: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """An artefact that the tasks write: where, its kind and its id."""

    encoder: str
    kind: str
    id: str
    folder: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What was submitted. `lengths` are frames by video, `refused` videos that no task tries, with the reason;
    `again` are videos that the store holds and that are written anew."""

    name: str
    dataset: str | None
    tasks: tuple[Task, ...]
    outputs: tuple[Output, ...] = ()
    lengths: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    again: tuple[str, ...] = ()
    precision: str | None = None
    created: str = ""
    created_s: float = 0.0
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class TaskState:
    """`state` is the scheduler's word, or "done" or "lost"; `done` of `total` videos; the folder's log of the task."""

    index: int
    state: str
    done: int
    total: int
    log: Path | None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How far a submission is. `rate` is videos a second over the last ten minutes, `eta_s` by frames; None when unknown.

    `failed` maps videos to recorded reasons; `missing` are neither done nor failed; `live` says that the scheduler
    still has a task (None: it could not be asked).
    """

    folder: Path
    plan: Plan
    ids: tuple[str, ...]
    done: int
    failed: Mapping[str, str]
    missing: tuple[str, ...]
    tasks: tuple[TaskState, ...]
    rate: float | None
    eta_s: float | None
    live: bool | None

    @property
    def lost(self) -> tuple[TaskState, ...]:
        """Tasks that are over without being done: killed, cancelled, crashed."""
        return tuple(task for task in self.tasks if task.state == "lost")


def write(runs: Path, plan: Plan) -> Path:
    """Write a new submission folder and return it; lists of videos go into files that the tasks' commands name."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = runs / JOBS / f"{stamp}-{artifacts.folder_name(plan.name)}-{uuid.uuid4().hex[:6]}"
    for name in (SHARDS, LOGS, DONE):
        (folder / name).mkdir(parents=True)
    tasks = tuple(_with_list(folder, index, task) for index, task in enumerate(plan.tasks))
    data = asdict(plan) | {
        "tasks": [asdict(task) for task in tasks],
        "created": artifacts.utc_now(),
        "created_s": time.time(),
    }
    artifacts.write_text(folder / PLAN, json.dumps(data, indent=1) + "\n")
    return folder


def read(folder: Path) -> Plan:
    """The plan of a submission folder.

    Raises:
        MissingArtifactError: there is none.
        VerificationError: it cannot be read.
    """
    try:
        data = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        tasks = tuple(Task(**{**t, "argv": tuple(t["argv"]), "videos": tuple(t["videos"])}) for t in data.pop("tasks"))
        outputs = tuple(Output(**output) for output in data.pop("outputs"))
        return Plan(**{**data, "tasks": tasks, "outputs": outputs, "again": tuple(data["again"])})
    except FileNotFoundError as error:
        raise MissingArtifactError(f"{folder} holds no {PLAN}", hint="vad status") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"cannot read {folder / PLAN}: {error}") from error


@contextmanager
def dropped_on_error(folder: Path) -> Iterator[None]:
    """Within the block an error removes the folder: what was never submitted is no submission."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def submitted(folder: Path, ids: Sequence[str], *, script: str | None = None) -> None:
    """Keep the ids of the jobs: the tasks' own first, then those that follow it."""
    artifacts.write_text(folder / SUBMITTED, json.dumps({"ids": list(ids), "script": script}) + "\n")


def ids_of(folder: Path) -> tuple[str, ...]:
    """Ids of the submitted jobs; empty where nothing was submitted."""
    try:
        return tuple(str(id) for id in json.loads((folder / SUBMITTED).read_text(encoding="utf-8"))["ids"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def folders(runs: Path, dataset: str | None = None) -> list[Path]:
    """Submission folders, oldest first; of one dataset where it is given."""
    found = [path.parent for path in sorted((runs / JOBS).glob(f"*/{PLAN}"))]
    return [folder for folder in found if dataset is None or read(folder).dataset == dataset]


def find(runs: Path, text: str) -> Path | None:
    """The submission folder that `text` means: a path, a folder's name, or a job's id; None where it means none."""
    path = Path(text).expanduser()
    if (path / PLAN).is_file():
        return path.absolute()
    named = runs / JOBS / text
    if "/" not in text and (named / PLAN).is_file():
        return named
    if text.isdigit():
        return next((folder for folder in reversed(folders(runs)) if text in ids_of(folder)), None)
    return None


def log_of(folder: Path, index: int) -> Path | None:
    """The newest log of a task, its stderr; None before it began."""
    ids = ids_of(folder)
    first = ids[0] if ids else ""
    names = (f"{first}_{index}_0_log.err", f"{first}_0_log.err" if index == 0 else "", f"{index:04d}.log")
    return next((folder / LOGS / name for name in names if name and (folder / LOGS / name).is_file()), None)


def status(folder: Path, queue: Mapping[int, str] | None) -> JobStatus:
    """How far a submission is, from folder listings and what the scheduler's queue says of its tasks.

    Args:
        queue: the state of each task that the scheduler still has; None when it could not be asked.
    """
    plan = read(folder)
    done = finished(plan)
    failed = failures(plan)
    every = [video for task in plan.tasks for video in task.videos]
    left = [video for video in every if video not in done and video not in failed]
    tasks = tuple(_task(folder, index, task, queue, done, failed) for index, task in enumerate(plan.tasks))
    rate, eta = _pace(plan, done, left)
    return JobStatus(
        folder=folder,
        plan=plan,
        ids=ids_of(folder),
        done=sum(video in done for video in every),
        failed=failed,
        missing=tuple(left),
        tasks=tasks,
        rate=rate,
        eta_s=eta if left else 0.0,
        live=None if queue is None else bool(queue),
    )


def finished(plan: Plan) -> dict[str, float]:
    """Videos of the plan that every output holds, with the time at which the last of them was committed."""
    found: dict[str, float] = {}
    wanted = {video for task in plan.tasks for video in task.videos}
    for number, output in enumerate(plan.outputs):
        group = Path(output.folder) / listing.GROUPS[output.kind]
        times = {video: _committed(group, video) for video in listing.stored_ids(group) & wanted}
        for video in plan.again:
            if times.get(video, plan.created_s) < plan.created_s - 1:  # the old array is still there
                times.pop(video)
        found = times if number == 0 else {v: max(t, found[v]) for v, t in times.items() if v in found}
    return found


def failures(plan: Plan) -> dict[str, str]:
    """Videos of the plan that failed since it was made and that no try has finished, with the reason."""
    done = finished(plan)
    wanted = {video for task in plan.tasks for video in task.videos}
    found: dict[str, str] = {}
    for output in plan.outputs:
        for line in listing.failure_lines(Path(output.folder)):
            video = line["video_id"]
            if video in wanted and video not in done and str(line.get("when", "")) >= plan.created:
                found[video] = str(line.get("reason"))
    return found


def in_queue(runs: Path, output_ids: Iterable[str], queue_of: Any) -> dict[str, str]:
    """Videos that a task which the scheduler still has will do, by job id; `queue_of(id)` gives the tasks' states."""
    wanted, found = set(output_ids), dict[str, str]()
    for folder in folders(runs):
        plan, ids = read(folder), ids_of(folder)
        if not ids or not wanted & {output.id for output in plan.outputs}:
            continue
        for index in queue_of(ids[0]) or {}:
            if index < len(plan.tasks):
                found |= dict.fromkeys(plan.tasks[index].videos, ids[0])
    return found


def is_done(folder: Path, index: int) -> bool:
    """Whether a task came to its end."""
    return (folder / DONE / str(index)).is_file()


def mark_done(folder: Path, index: int, code: int) -> None:
    """What a task writes as its last act."""
    artifacts.write_text(folder / DONE / str(index), f"{code}\n")


def _with_list(folder: Path, index: int, task: Task) -> Task:
    if not task.videos:
        return task
    listed = folder / SHARDS / f"{index:04d}.txt"
    if any("\n" in video for video in task.videos):
        raise UsageError(f"task {index}: a video id with a line break cannot be listed", hint="vad data check")
    artifacts.write_text(listed, "\n".join(task.videos) + "\n")
    return Task((*task.argv, "--videos", str(listed)), task.videos, task.n_frames, task.seconds)


def _committed(group: Path, video: str) -> float:
    try:
        return (group / artifacts.folder_name(video)).stat().st_mtime
    except OSError:
        return time.time()


def _task(
    folder: Path,
    index: int,
    task: Task,
    queue: Mapping[int, str] | None,
    done: Mapping[str, float],
    failed: Mapping[str, str],
) -> TaskState:
    over = sum(video in done or video in failed for video in task.videos)
    complete = over == len(task.videos) if task.videos else is_done(folder, index)
    if queue is not None and index in queue:
        state = queue[index].lower()
    else:
        state = "done" if complete else "unknown" if queue is None else "lost"
    return TaskState(index, state, over, len(task.videos), log_of(folder, index))


def _pace(plan: Plan, done: Mapping[str, float], left: Sequence[str]) -> tuple[float | None, float | None]:
    """(videos a second over the last ten minutes of work, seconds that the rest takes at that pace by frames)."""
    newer = [(when, video) for video, when in done.items() if when >= plan.created_s - 1]
    if not newer:
        return None, None
    now = max(time.time(), max(newer)[0])
    begin = max(now - RECENT_S, plan.created_s)
    recent = [video for when, video in newer if when >= begin]
    if not recent:
        return None, None
    span = max(now - begin, 1e-3)
    frames = sum(plan.lengths.get(video, 0.0) for video in recent)
    rest = sum(plan.lengths.get(video, 0.0) for video in left)
    return len(recent) / span, rest / (frames / span) if frames else None
