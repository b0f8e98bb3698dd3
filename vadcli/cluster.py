"""The options of batch jobs, written once for the verbs that take them, and what the verbs do with them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from vadcli.console import Console

if TYPE_CHECKING:
    from pipelines.cluster.jobs import JobStatus, Plan
    from pipelines.cluster.slurm import Resources

PANEL = "Batch jobs and clusters"


def _option(name: str, metavar: str | None, help: str, **more: Any) -> Any:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel=PANEL, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """What a user said about where and in how many parts a command runs."""

    executor: Annotated[Literal["local", "slurm"], _option("--executor", None, "Here, or as Slurm jobs.")] = "local"
    workers: Annotated[
        int | None,
        _option("--workers", "N", "local: processes at once, one a GPU; as many as GPUs unless given.", min=1),
    ] = None
    num_shards: Annotated[
        int | None, _option("--num-shards", "N", "Any other scheduler: this is one of N equal tasks.", min=1)
    ] = None
    shard_id: Annotated[
        int | None, _option("--shard-id", "I", "0 to N-1; from the array's variable unless given.", min=0)
    ] = None
    shards: Annotated[
        int | None, _option("--shards", "N", "slurm: tasks of the array; 4 for each that runs at once.", min=1)
    ] = None
    array_parallelism: Annotated[int | None, _option("--array-parallelism", "N", "slurm: tasks at once.", min=1)] = None
    partition: Annotated[str | None, _option("--partition", "NAME", "slurm: partition.")] = None
    gres: Annotated[str | None, _option("--gres", "gpu:1", "slurm: what each task needs.")] = None
    cpus_per_task: Annotated[int | None, _option("--cpus-per-task", "N", "slurm: cores.", min=1)] = None
    mem: Annotated[str | None, _option("--mem", "16G", "slurm: memory of a task.")] = None
    timeout: Annotated[
        str | None,
        _option("--timeout", "4h", "slurm: limit of a task, which is requeued and goes on; 4h or the partition's."),
    ] = None
    account: Annotated[str | None, _option("--account", "NAME", "slurm: who pays.")] = None
    qos: Annotated[str | None, _option("--qos", "NAME", "slurm: quality of service.")] = None
    constraint: Annotated[str | None, _option("--constraint", "X", "slurm: node features.")] = None
    setup: Annotated[
        list[str] | None, _option("--setup", "LINE", "slurm: a line of the batch script (module load ...); repeat it.")
    ] = None
    sbatch: Annotated[list[str] | None, _option("--sbatch", "KEY=VALUE", "slurm: any sbatch option; repeat it.")] = None
    srun_arg: Annotated[
        list[str] | None, _option("--srun-arg", "ARG", "slurm: e.g. --srun-arg=--cpu-bind=none; repeat it.")
    ] = None
    after: Annotated[list[str] | None, _option("--after", "JOBID", "slurm: only when this job succeeded.")] = None
    wait: Annotated[bool, _option("--wait", None, "slurm: stay until the jobs are over.")] = False
    max_failed: Annotated[
        int, _option("--max-failed", "N", "Videos that may fail without stopping what follows.", min=0)
    ] = 0

    def resources(self) -> Resources:
        """The Slurm side of it.

        Raises:
            UsageError: a time limit or a key=value that is none.
        """
        from pipelines.cluster.plan import minutes
        from pipelines.cluster.slurm import Resources
        from pipelines.errors import UsageError

        pairs = [text.lstrip("-").partition("=") for text in self.sbatch or ()]
        wrong = [key for key, sign, _ in pairs if not key or (not sign and "-" not in key and not key.isalpha())]
        if wrong:
            raise UsageError(f"--sbatch {wrong[0]!r} is not key=value", hint="--sbatch reservation=course")
        return Resources(
            partition=self.partition,
            gres=self.gres,
            cpus_per_task=self.cpus_per_task,
            mem=self.mem,
            timeout_min=minutes(self.timeout) if self.timeout else None,
            array_parallelism=self.array_parallelism or 256,
            account=self.account,
            qos=self.qos,
            constraint=self.constraint,
            setup=tuple(self.setup or ()),
            sbatch={key: value for key, _, value in pairs},
            srun_args=tuple(self.srun_arg or ()),
            after=tuple(self.after or ()),
        )

    def index(self) -> tuple[int, int] | None:
        """(shard, of how many) where this process is one of several, None where it does everything.

        Raises:
            UsageError: --shard-id alone, no array variable, or together with another executor.
        """
        from pipelines.cluster.plan import shard_index
        from pipelines.errors import UsageError

        if self.num_shards is None:
            if self.shard_id is not None:
                raise UsageError("--shard-id needs --num-shards", hint=f"--num-shards 8 --shard-id {self.shard_id}")
            return None
        if self.executor != "local" or (self.workers or 1) > 1:
            raise UsageError("--num-shards makes this process one task; leave out --executor and --workers")
        return shard_index(self.num_shards, self.shard_id), self.num_shards

    def processes(self, device: str) -> int:
        """How many processes `--executor local` starts: --workers, else one a GPU where no device is named."""
        from pipelines.cluster.local import visible_gpus

        gpus = len(visible_gpus()) if device in ("auto", "cuda") else 1
        return self.workers or max(1, gpus)

    def with_step(self, own: Mapping[str, str]) -> ClusterOptions:
        """These options with a recipe step's own in place."""
        typed = {key.replace("-", "_"): value for key, value in own.items()}
        numbers = {"cpus_per_task", "array_parallelism", "shards"}
        changes: dict[str, Any] = {key: int(value) if key in numbers else value for key, value in typed.items()}
        return replace(self, **changes)

    def words(self) -> list[str]:
        """The Slurm options again as words, for a command that submits in this one's name."""
        found: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or field.name in OWN:
                continue
            option = "--" + field.name.replace("_", "-")
            found += [f"{option}={one}" for one in (value if isinstance(value, list) else [value])]
        return found


OWN = ("executor", "workers", "num_shards", "shard_id", "wait", "max_failed")  # of the command that was typed
NAMES = tuple(field.name for field in fields(ClusterOptions))
_HINTS = get_type_hints(ClusterOptions, include_extras=True)


def clustered(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of batch jobs: they reach it as one `cluster: ClusterOptions`."""
    hints = {key: value for key, value in get_type_hints(command, include_extras=True).items() if key != "cluster"}
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "cluster"
    ]
    added = [
        inspect.Parameter(
            field.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=field.default, annotation=_HINTS[field.name]
        )
        for field in fields(ClusterOptions)
    ]

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        cluster = ClusterOptions(**{name: given.pop(name) for name in NAMES})
        command(**given, cluster=cluster)

    wrapper.__annotations__ = hints | {name: _HINTS[name] for name in NAMES}
    wrapper.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    return wrapper


def argv_of(ctx: typer.Context, *, drop: tuple[str, ...] = ()) -> list[str]:
    """The words after `vad` that give this command again, without the parameters in `drop` and those of batch jobs."""
    words = ctx.command_path.split()[1:]
    for parameter in ctx.command.params:
        name = str(parameter.name)
        given = str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")
        value = ctx.params.get(name)
        if not given or name in drop or name in NAMES or value is None:
            continue
        options = getattr(parameter, "opts", [])
        if not options[0].startswith("-"):
            words += [str(one) for one in (value if isinstance(value, list | tuple) else [value])]
        elif isinstance(value, bool):
            words.append(options[0] if value else parameter.secondary_opts[0])
        else:
            for one in value if isinstance(value, list | tuple) else [value]:
                words += [options[0], str(one)]
    return words


def places(layers: tuple[Path, ...], manifest: Path | None, runs: Path | None = None) -> list[str]:
    """The places as options with absolute paths, for a command that another process runs."""
    import os

    found = ["--cache-dir", os.pathsep.join(map(str, layers))] if layers else []
    found += ["--manifest", str(manifest)] if manifest else []
    return found + (["--runs-dir", str(runs)] if runs else [])


@dataclass(frozen=True, slots=True)
class Submitted:
    """Where a submission is kept, its array job, and the job that checks the store when that is over."""

    folder: Path
    job: str
    check: str | None

    @property
    def last(self) -> str:
        """The job that what follows waits for."""
        return self.check or self.job


def submit(console: Console, runs: Path, plan: Plan, options: ClusterOptions) -> Submitted:
    """Write the plan, submit its tasks as one array, and behind an extraction the check of the store."""
    from pipelines.cluster import jobs, slurm

    resources = options.resources()
    folder = jobs.write(runs, plan)
    with jobs.dropped_on_error(folder):
        job = slurm.submit(folder, resources, tasks=len(plan.tasks), name=f"vad-{plan.name}")
    jobs.submitted(folder, [job])
    check = None
    if plan.outputs:
        argv = ["status", str(folder), "--finalise", "--max-failed", str(options.max_failed)]
        check = slurm.submit_command(argv, folder, resources, name="finalise", after_any=[job])
        jobs.submitted(folder, [job, check])
    console.note(f"submitted {job}: {len(plan.tasks)} tasks" + (f", then the check {check}" if check else ""))
    console.note(f"plan: {folder / jobs.PLAN}\nlogs: {folder / jobs.LOGS}\nlook: vad status {job}")
    return Submitted(folder, job, check)


def wait_for(console: Console, submitted: Submitted) -> JobStatus:
    """Stay until Slurm has nothing left of the submission, with a bar of the videos that the store holds."""
    from pipelines.cluster import jobs, slurm

    plan = jobs.read(submitted.folder)
    total = sum(len(task.videos) for task in plan.tasks)
    unit = "videos" if total else "tasks"
    console.progress.start(total or len(plan.tasks), f"waiting for job {submitted.job}", unit)
    seen = 0

    def each() -> None:
        nonlocal seen
        now = len(jobs.finished(plan)) + len(jobs.failures(plan)) if total else _tasks_done(submitted.folder, plan)
        console.progress.advance(now - seen)
        seen = now

    try:
        slurm.wait(jobs.ids_of(submitted.folder), each=each)
    finally:
        console.progress.finish()
    return jobs.status(submitted.folder, {})


def _tasks_done(folder: Path, plan: Plan) -> int:
    from pipelines.cluster import jobs

    return sum(jobs.is_done(folder, index) for index in range(len(plan.tasks)))


def show_script(console: Console, plan: Plan, options: ClusterOptions, runs: Path, facts: Mapping[str, Any]) -> None:
    """The batch script and the plan, as an answer; nothing is written."""
    from pipelines.cluster import jobs, slurm

    text = slurm.script(
        options.resources(), tasks=len(plan.tasks), name=f"vad-{plan.name}", folder=runs / jobs.JOBS / "JOB"
    )
    tasks = [
        {"argv": t.argv, "videos": t.videos, "frames": round(t.n_frames), "seconds": t.seconds} for t in plan.tasks
    ]
    console.json({"dry_run": True, **facts, "script": text, "tasks": tasks, "refused": plan.refused})
    console.text(text)
    rows = [
        (
            index,
            len(task.videos) or None,
            round(task.n_frames) or None,
            None if task.seconds is None else f"{task.seconds / 60:.0f} min",
        )
        for index, task in enumerate(plan.tasks)
    ]
    console.table("", ("task", "videos", "frames", "expected"), rows)
    console.text(f"each task: vad {' '.join(plan.tasks[0].argv)}" + (" --videos LIST" if plan.outputs else ""))


def lost_lines(status: JobStatus, most: int = 10) -> list[str]:
    """One line for each task that ended without finishing, with its log."""
    lines = [
        f"task {task.index}: {task.done} of {task.total} videos, {task.log or 'no log'}" if task.total
        else f"task {task.index}: {task.log or 'no log'}"
        for task in status.lost
    ]  # fmt: skip
    return lines[:most] + ([f"and {len(lines) - most} more"] if len(lines) > most else [])


def command_plan(name: str, dataset: str | None, argv: list[str], count: int) -> Plan:
    """A plan of `count` tasks that are shards of one command; a single task is the command itself."""
    from pipelines.cluster.jobs import Plan, Task

    def words(index: int) -> tuple[str, ...]:
        return (*argv, "--num-shards", str(count), "--shard-id", str(index)) if count > 1 else tuple(argv)

    return Plan(name=name, dataset=dataset, tasks=tuple(Task(words(index)) for index in range(count)))


def in_parts(
    console: Console, options: ClusterOptions, plan: Plan, runs: Path, *, device: str, mode: Literal["plan", "run"]
) -> Literal["finish here", "over"]:
    """Run a plan's tasks as Slurm jobs or as processes here; whether the caller finishes and answers in this process.

    Raises:
        VadError: tasks that ended without finishing; their logs are named.
    """
    from pipelines.errors import VadError

    if options.executor == "slurm" and mode == "plan":
        show_script(console, plan, options, runs, {})
        return "over"
    if options.executor == "local":
        if mode == "run" and len(plan.tasks) > 1:
            _processes(console, options.processes(device), plan, runs)
        return "finish here"
    submitted = submit(console, runs, plan, options)
    if not options.wait:
        facts = {"submitted": submitted.job, "tasks": len(plan.tasks), "job_folder": submitted.folder}
        console.json(facts)
        console.text(submitted.job)
        return "over"
    status = wait_for(console, submitted)
    if status.lost:
        raise VadError(
            f"{len(status.lost)} of {len(plan.tasks)} tasks did not finish:\n  " + "\n  ".join(lost_lines(status)),
            hint="the same command goes on from there",
        )
    return "finish here"


def _processes(console: Console, count: int, plan: Plan, runs: Path) -> None:
    from pipelines.cluster import jobs, local
    from pipelines.errors import VadError

    folder = jobs.write(runs, plan)
    logs = folder / jobs.LOGS
    names = {f"{index:04d}": task.argv for index, task in enumerate(plan.tasks)}
    console.note(f"{len(names)} tasks, {count} at once, logs: {logs}")
    outcomes = local.run(
        [local.Task(name) for name in names],
        lambda name: local.Launch(names[name], log=logs / f"{name}.log"),
        workers=count,
    )
    bad = [f"task {name}: exit {o.code}, {logs / name}.log" for name, o in outcomes.items() if o.state != "done"]
    if bad:
        raise VadError(f"{len(bad)} of {len(names)} tasks failed:\n  " + "\n  ".join(bad))
