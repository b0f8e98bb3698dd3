"""A recipe as a chain of Slurm jobs: each waits for the success of those it needs, and is cancelled when they fail.

An extraction becomes the array that `vad extract --executor slurm` submits, and the check behind it is what the next
step waits for. Every other step is a job that runs `vad run RECIPE --step NAME`, one task for each run it trains.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines import artifacts
from pipelines.cluster import jobs, slurm
from pipelines.cluster.local import COMMAND
from pipelines.cluster.recipes import Recipe, Step
from pipelines.errors import PartialFailure, UsageError, VadError

SETTLED = {"train": ("runs", "up to date"), "eval": ("evals", "up to date")}  # where a --dry-run answer says it


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRequest:
    """A recipe to submit.

    `runs` is the runs folder, `state` the folder of the recipe's answers; `words(step)` are the command line's batch
    options for a step and `resources(step)` the same as Slurm takes them; `tasks(step)` says of how many tasks a step
    consists; `places` are the three roots as options; `environment` is what planning commands get.
    """

    recipe: Recipe
    runs: Path
    state: Path
    words: Callable[[Step], Sequence[str]]
    resources: Callable[[Step], slurm.Resources]
    tasks: Callable[[Step], int]
    changes: Sequence[str] = ()
    only: Sequence[str] = ()
    places: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    max_failed: int = 0


@dataclass(frozen=True, slots=True)
class StepJob:
    """A step's submission: its folder and jobs, the last of which others wait for; all None where it is done already."""

    name: str
    folder: Path | None
    job: str | None
    last: str | None


def submit(request: ChainRequest, *, told: Callable[[str], None] = lambda message: None) -> list[StepJob]:
    """Submit every step that is not done, in order; when one cannot be submitted, those of this call are cancelled.

    Raises:
        UsageError, MissingArtifactError: a step's command or options are refused.
    """
    for name in request.only:
        request.recipe.step(name)
    steps = [step for step in request.recipe.steps if not request.only or step.name in request.only]
    kept = _keep_recipe(request)
    done: dict[str, StepJob] = {}
    try:
        for step in steps:
            done[step.name] = _submit_step(request, step, done, kept)
            job = done[step.name]
            told(f"[{step.name}] " + (f"job {job.job}: {job.folder}" if job.job else "up to date"))
    except BaseException:
        slurm.cancel(id for job in done.values() if job.folder for id in jobs.ids_of(job.folder))
        raise
    return list(done.values())


def verdicts(steps: Sequence[StepJob]) -> dict[str, jobs.JobStatus]:
    """How each submitted step ended, once Slurm has none of them any more."""
    return {step.name: jobs.status(step.folder, {}) for step in steps if step.folder is not None}


def raise_for_failures(found: Mapping[str, jobs.JobStatus], lines: Callable[[jobs.JobStatus], list[str]]) -> None:
    """Raise where steps did not end well.

    Raises:
        VadError: tasks that were lost, or never ran because what they need failed (exit 1).
        PartialFailure: everything ran, with failed videos (exit 3).
    """
    lost = {name: status for name, status in found.items() if status.lost or status.missing}
    if lost:
        told = [f"{name}: {line}" for name, status in lost.items() for line in (lines(status) or ["not done"])]
        raise VadError(
            f"{len(lost)} of {len(found)} steps did not finish:\n  " + "\n  ".join(told),
            hint="the same command submits only what is missing",
        )
    failed = {
        video: why for status in found.values() for video, why in (*status.failed.items(), *status.plan.refused.items())
    }
    if failed:
        shown = [f"{video}: {reason}" for video, reason in sorted(failed.items())][:20]
        raise PartialFailure(f"{len(failed)} videos failed:\n  " + "\n  ".join(shown), hint="the other videos are done")


def _submit_step(request: ChainRequest, step: Step, done: Mapping[str, StepJob], kept: Path) -> StepJob:
    needed = [done[name] for name in step.needs if name in done]
    after = tuple(dict.fromkeys(job.last for job in needed if job.last))
    answer = request.state / "steps" / f"{step.name}.json"
    if step.argv[0] == "extract" and not step.references and not {"--captions", "--boxes"} & set(step.argv):
        return _submit_extraction(request, step, after, answer)
    if not after and _is_settled(request, step, answer):
        return StepJob(step.name, None, None, None)
    resources = request.resources(step)
    resources = replace(resources, after=(*resources.after, *after))
    answer.unlink(missing_ok=True)
    argv = ["run", str(kept), *(word for change in request.changes for word in ("--with", change)), "--step", step.name]
    argv += [*request.places, "--max-failed", str(request.max_failed)]
    count = request.tasks(step)
    own = [["--num-shards", str(count), "--shard-id", str(index)] if count > 1 else [] for index in range(count)]
    plan = jobs.Plan(f"{request.recipe.name}-{step.name}", None, tuple(jobs.Task((*argv, *words)) for words in own))
    folder = jobs.write(request.runs, plan)
    with jobs.dropped_on_error(folder):
        job = slurm.submit(folder, resources, tasks=count, name=f"vad-{plan.name}")
    jobs.submitted(folder, [job])
    return StepJob(step.name, folder, job, job)


def _submit_extraction(request: ChainRequest, step: Step, after: Sequence[str], answer: Path) -> StepJob:
    words = [*step.filled({}), "--executor", "slurm", *request.words(step), "--max-failed", str(request.max_failed)]
    words += [word for id in after for word in ("--after", id)]
    told = _ask(words, request)
    artifacts.write_text(answer, json.dumps(told, indent=1) + "\n")
    if told.get("submitted") is None:
        failures = {**(told.get("failures") or {}), **(told.get("refused") or {})}
        if len(failures) > request.max_failed:
            raise PartialFailure(
                f"{step.name}: {len(failures)} videos failed before: {', '.join(sorted(failures)[:5])}",
                hint=f"--max-failed {len(failures)} goes on without them",
            )
        return StepJob(step.name, None, None, None)
    return StepJob(step.name, Path(told["job_folder"]), told["submitted"], told["check"])


def _is_settled(request: ChainRequest, step: Step, answer: Path) -> bool:
    """Whether a step whose needs are done has nothing to do: its own dry run says so, or, where it has none, it ran."""
    if step.argv[0] not in SETTLED:
        return answer.is_file()
    if step.references and not all(
        (answer.parent / f"{one.partition('.')[0]}.json").is_file() for one in step.references
    ):
        return False
    found = {one.partition(".")[0]: _read(answer.parent / f"{one.partition('.')[0]}.json") for one in step.references}
    try:
        told = _ask([*step.filled(found), "--dry-run"], request)
    except VadError:
        return False  # what it lacks is told by the job itself
    key, word = SETTLED[step.argv[0]]
    settled = bool(told.get(key)) and all(one.get("state") == word for one in told[key])
    if settled and not answer.is_file():
        artifacts.write_text(answer, json.dumps(told, indent=1) + "\n")
    return settled


def _ask(words: Sequence[str], request: ChainRequest) -> dict[str, Any]:
    """The --json answer of a `vad` command.

    Raises:
        UsageError: the command left with an error; its own message has been shown.
    """
    extra = [] if "--json" in words else ["--json"]
    done = subprocess.run(
        [*COMMAND, "--quiet", *words, *extra],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **(request.environment or {})},
    )
    try:
        data = json.loads(done.stdout)
    except ValueError:
        data = None
    if done.returncode or not isinstance(data, dict):
        message = done.stderr.strip().removeprefix("error: ") or f"exit {done.returncode}"
        raise VadError(f"vad {' '.join(words)}\n{message}", exit_code=done.returncode or 1)
    return data


def _keep_recipe(request: ChainRequest) -> Path:
    """A copy of the recipe that jobs read, so that editing the file changes no job that waits."""
    (request.state / "steps").mkdir(parents=True, exist_ok=True)
    kept = request.state / request.recipe.path.name
    if kept != request.recipe.path:
        shutil.copyfile(request.recipe.path, kept)
    return kept


def _read(path: Path) -> dict[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        raise UsageError(f"{path} is no answer of a step", hint="remove it and run the step again")
    return data
