"""Slurm through submitit: submit arrays of `vad` commands, ask the queue, wait. Accounting is never asked for.

Each task is an argv of `vad`, run as a process of its own below submitit's, which turns the warning before a time limit
into a requeue. What was done is never taken from Slurm: the store says it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.cluster import jobs
from pipelines.cluster.plan import minutes
from pipelines.errors import MissingArtifactError, UsageError, VadError

KEPT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER"})  # where the cluster is, not which allocation this is
DEFAULT_MIN = 240
MAX_TIMEOUTS = 1000  # every time limit is a pause, not a failure; submitit gives up after three unless told
COMMAND = (sys.executable, "-m", "vadcli")
STOP_S = 60.0  # what a task gets to drop its video or save its state
POLL_S = (2.0, 30.0)
OFFLINE = {"HF_HUB_OFFLINE": "1"}  # weights were checked before submitting; a compute node has no internet
NEVER = (  # reasons of pending jobs that do not pass by waiting
    "DependencyNeverSatisfied",
    "launch failed requeued held",
    "BadConstraints",
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "PartitionConfig",
    "InvalidAccount",
    "InvalidQOS",
    "JobHeldAdmin",
)
PACKAGE_HINT = "pip install -c constraints.txt -e '.[slurm]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What each task asks for. `timeout_min` in minutes, `mem` as Slurm writes it, `setup` lines of the batch script,
    `sbatch` further options without dashes, `after` jobs that must succeed first."""

    partition: str | None = None
    gres: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    timeout_min: int | None = None
    array_parallelism: int = 256
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    sbatch: Mapping[str, str] = field(default_factory=dict)
    srun_args: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def warning_s(self) -> int:
        """How long before the limit Slurm warns. The warning is inexact by up to a minute: a tenth of the limit, from
        half a minute to ten."""
        return max(30, min(600, (self.timeout_min or DEFAULT_MIN) * 6))


class VadTask:
    """What one task of a submission does: its argv of `vad`, as a process. submitit pickles it by name.

    Args:
        folder: the submission's folder.
        index: which task of its plan.
    """

    def __init__(self, folder: str, index: int) -> None:
        self.folder, self.index = folder, index
        self.process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "index": self.index, "process": None}

    def __call__(self) -> int:
        """Run to the end; recorded failures (exit 3) are no failure of the task.

        Raises:
            VadError: the command failed, or it was stopped and this task is requeued.
        """
        folder = Path(self.folder)
        argv = jobs.read(folder).tasks[self.index].argv
        _say(f"task {self.index}: vad {' '.join(argv)}")
        self.process = subprocess.Popen([*COMMAND, *argv], stdin=subprocess.DEVNULL, env=OFFLINE | os.environ)
        while (code := self.process.poll()) is None:
            time.sleep(0.2)
        if code in (0, 3):
            jobs.mark_done(folder, self.index, code)
            return code
        if code in (75, -signal.SIGTERM, -signal.SIGUSR2):
            requeue_if_running()
        raise VadError(f"task {self.index} of {folder}: vad left with {code}")

    def checkpoint(self) -> Any:
        """What submitit calls at the warning before the time limit: stop the command, then go on in a new allocation."""
        from submitit.core.utils import DelayedSubmission

        if self.process is not None and self.process.returncode is None:
            _end(self.process.pid)
        return DelayedSubmission(VadTask(self.folder, self.index))


def _end(pid: int) -> None:
    """SIGTERM, and SIGKILL where that does not help in time.

    Runs in a signal handler, maybe inside `Popen.poll`, whose lock a `Popen.wait` would wait for until its timeout:
    the process is watched without reaping it.
    """
    deadline = time.monotonic() + STOP_S
    try:
        os.kill(pid, signal.SIGTERM)
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
    except (ProcessLookupError, ChildProcessError):
        return


def requeue_if_running() -> None:
    """Requeue this job where nobody else does: a preempted job that ends inside its grace time counts as finished.

    A cancelled job is left alone, and so is one that Slurm is already requeueing: neither is `RUNNING`.
    """
    job = own_job()
    if job is None:
        return
    state = _run(["squeue", "-h", "-j", job, "-o", "%T"]).stdout.strip()
    if state == "RUNNING":
        _say(f"requeue {job}")
        _run(["scontrol", "requeue", job])
        time.sleep(STOP_S)  # until Slurm ends this process


def own_job() -> str | None:
    """Id of the job that this process runs in (`12_3` in an array), None outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def submit(folder: Path, resources: Resources, *, tasks: int, name: str) -> str:
    """Submit one job (an array where there are several tasks) for a submission folder and return its id.

    Raises:
        UsageError: Slurm refuses the options; its own words are in the message.
        MissingArtifactError: no submitit, or no Slurm on this machine.
    """
    with clean_environment():
        executor = _executor(folder, resources, tasks=tasks, name=name)
        try:
            with executor.batch():
                found = [executor.submit(VadTask(str(folder), index)) for index in range(tasks)]
        except VadError:
            raise
        except Exception as error:
            said = str(error).strip().splitlines()
            raise UsageError(
                f"sbatch refused the job: {said[-1] if said else type(error).__name__}",
                hint="--dry-run prints the batch script; sinfo lists partitions and limits",
            ) from error
    return str(found[0].job_id).partition("_")[0]


def submit_command(
    argv: Sequence[str], folder: Path, resources: Resources, *, name: str, after_any: Sequence[str] = ()
) -> str:
    """Submit one plain `vad` command that needs no requeue (a check, a table), after other jobs however they ended.

    It runs without submitit, so that it starts in a moment; its log is `logs/<name>.log`.
    """
    import shlex

    log = folder / jobs.LOGS / f"{name}.log"
    options = {
        "job-name": f"vad-{name}",
        "output": str(log),
        "open-mode": "append",
        "time": "30",
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "dependency": f"afterany:{':'.join(after_any)}" if after_any else None,
        "kill-on-invalid-dep": "yes",
        "requeue": "",
    }
    lines = [
        f"#SBATCH --{key}" + (f"={shlex.quote(value)}" if value else "")
        for key, value in options.items()
        if value is not None
    ]
    text = "\n".join(["#!/bin/bash", *lines, *resources.setup, shlex.join([*COMMAND, *argv])]) + "\n"
    script = folder / jobs.LOGS / f"{name}.sh"
    script.write_text(text, encoding="utf-8")
    with clean_environment():
        done = _run(["sbatch", "--parsable", str(script)])
    if done.returncode:
        raise UsageError(f"sbatch refused {script}: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]


def script(resources: Resources, *, tasks: int, name: str, folder: Path) -> str:
    """The batch script that `submit` would hand to sbatch; nothing is written or submitted."""
    with clean_environment():
        executor = _executor(folder, resources, tasks=tasks, name=name)
        if tasks > 1:
            executor.parameters["map_count"] = tasks
        return str(executor._make_submission_file_text(executor._submitit_command_str, "dry-run"))


def queue(id: str) -> dict[int, str] | None:
    """State by task index of what Slurm still has of a job; {} when it has nothing, None when it could not be asked."""
    found = queue_reasons(id)
    return None if found is None else {index: state for index, (state, _) in found.items()}


def queue_reasons(id: str) -> dict[int, tuple[str, str]] | None:
    """(state, reason) by task index of a job; index 0 where it is no array."""
    if shutil.which("squeue") is None:
        return None
    done = _run(["squeue", "-h", "-r", "-j", id, "-o", "%K|%T|%r"])
    if done.returncode:
        return {} if "invalid job id" in done.stderr.lower() else None
    found = {}
    for line in done.stdout.splitlines():
        index, state, reason = [*line.strip().split("|", 2), "", ""][:3]
        found[int(index) if index.isdigit() else 0] = (state, reason)
    return found


def queue_of(folder: Path) -> dict[int, str] | None:
    """State by task of what Slurm still has of a submission."""
    ids = jobs.ids_of(folder)
    return queue(ids[0]) if ids else {}


def wait(
    ids: Sequence[str],
    *,
    each: Callable[[], None] = lambda: None,
    poll_s: tuple[float, float] = POLL_S,
    patience: int = 20,
) -> None:
    """Return once Slurm has none of the jobs any more, however they ended: done, failed, cancelled, forgotten.

    Asks the queue at growing intervals, and twice in a row before it believes that nothing is left.

    Raises:
        VadError: what is left can never start, or the queue did not answer `patience` times in a row.
    """
    pause, empty, silent = poll_s[0], 0, 0
    while True:
        states = [queue_reasons(id) for id in ids]
        if any(state is None for state in states):
            silent += 1
            if silent >= patience:
                raise VadError("squeue does not answer", hint="the jobs go on; `vad status` shows what is done")
        else:
            silent = 0
            left = [reason for state in states if state for _, reason in state.values()]
            _refuse_stuck(left, ids)
            empty = 0 if left else empty + 1
        each()
        if empty == 2:
            return
        time.sleep(poll_s[0] if empty else pause)
        pause = min(poll_s[1], pause * 1.3)


def _refuse_stuck(reasons: Sequence[str], ids: Sequence[str]) -> None:
    """Raise where everything left waits for ever, itself or for a job that does."""
    never = [reason for reason in reasons if any(word in reason for word in NEVER)]
    if never and all(reason in never or reason == "Dependency" for reason in reasons):
        raise VadError(
            f"{len(reasons)} tasks of job {', '.join(ids)} cannot start: {', '.join(dict.fromkeys(never))}",
            hint=f"scancel {' '.join(ids)}; then the same command with options that fit (sinfo shows limits)",
        )


def partition_limit(partition: str | None) -> tuple[str, int] | None:
    """(name, minutes) of the longest job that a partition, or the default one, takes; None where that is not known."""
    if shutil.which("sinfo") is None:
        return None
    done = _run(["sinfo", "-h", "-o", "%P|%l", *(("-p", partition) if partition else ())])
    for line in done.stdout.splitlines():
        name, _, limit = line.strip().partition("|")
        if partition or name.endswith("*"):
            try:
                return name.rstrip("*"), minutes(limit)
            except UsageError:
                return None  # infinite
    return None


def fitted(resources: Resources) -> Resources:
    """The resources with a time limit: the one asked for, else four hours or what the partition takes.

    Raises:
        UsageError: a longer limit than the partition takes: such a job would wait for ever.
    """
    limit = partition_limit(resources.partition)
    if resources.timeout_min is None:
        return replace(resources, timeout_min=min(DEFAULT_MIN, limit[1]) if limit else DEFAULT_MIN)
    if limit and resources.timeout_min > limit[1]:
        raise UsageError(
            f"--timeout of {resources.timeout_min} minutes: the partition {limit[0]} takes {limit[1]} at most",
            hint=f"--timeout {limit[1]}m: a task that reaches it is requeued and goes on",
        )
    return resources


def cancel(ids: Iterable[str]) -> None:
    """Cancel jobs; unknown ids are no error."""
    listed = list(ids)
    if listed:
        _run(["scancel", *listed])


@contextmanager
def clean_environment() -> Iterator[None]:
    """Within the block no SLURM_*, SBATCH_* or SRUN_* variable of an enclosing allocation is set.

    sbatch reads them as options, and jobs inherit them: a job submitted from inside an allocation would ask for that
    allocation's shape. SLURM_CONF stays.
    """
    prefixes = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SUBMITIT_")
    taken = {key: value for key, value in os.environ.items() if key.startswith(prefixes) and key not in KEPT}
    for key in taken:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(taken)


def _executor(folder: Path, resources: Resources, *, tasks: int, name: str) -> Any:
    resources = fitted(resources)
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise MissingArtifactError(
            "there is no Slurm on this machine (sbatch, srun)", hint="run it on a login node, or --executor local"
        )
    try:
        import submitit
    except ImportError as error:
        raise MissingArtifactError("--executor slurm needs submitit", hint=PACKAGE_HINT) from error
    logs = folder / jobs.LOGS
    executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=MAX_TIMEOUTS)
    more: dict[str, Any] = {"requeue": True, "kill-on-invalid-dep": "yes"}
    if resources.mem:
        more["mem"] = resources.mem
    if resources.after:
        more["dependency"] = f"afterok:{':'.join(resources.after)}"
    executor.update_parameters(
        **_given(
            job_name=name,
            partition=resources.partition,
            gres=resources.gres,
            cpus_per_task=resources.cpus_per_task,
            account=resources.account,
            qos=resources.qos,
            constraint=resources.constraint,
            time=resources.timeout_min,
            array_parallelism=min(resources.array_parallelism, tasks),
            setup=list(resources.setup) or None,
            srun_args=list(resources.srun_args) or None,
            signal_delay_s=resources.warning_s,
            additional_parameters=more | dict(resources.sbatch),
        )
    )
    return executor


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(list(command), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(command), 1, "", str(error))


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
