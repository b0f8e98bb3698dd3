"""`vad extract`: videos -> features, once per dataset."""

from __future__ import annotations

from dataclasses import asdict as asdict_of
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vadcli.cluster import ClusterOptions, argv_of, clustered, lost_lines, places, show_script, submit, wait_for
from vadcli.console import Console
from vadcli.options import (
    CacheDirOption,
    DatasetArgument,
    DeviceOption,
    DryRunOption,
    EncoderOption,
    JsonOption,
    ManifestOption,
    SetOption,
)

if TYPE_CHECKING:
    from pipelines.cluster.jobs import JobStatus, Plan
    from pipelines.data.manifest import Dataset, Manifest
    from pipelines.extract import ExtractRequest, ExtractResult
    from pipelines.extraction.forecast import Forecast
    from pipelines.extraction.plan import ExtractionPlan, StreamPlan

SAMPLING = "Clips and crops"
CAPTIONS = "Captions as a text stream"
REDO = ("none", "failed", "all")
BOXES = "Boxes, and features of what is in them"


@clustered
def extract(
    ctx: typer.Context,
    dataset: DatasetArgument,
    encoder: EncoderOption = None,
    crops: Annotated[
        str | None,
        typer.Option(
            "--crops", metavar="center|five|ten", help="The dataset's unless given.", rich_help_panel=SAMPLING
        ),
    ] = None,
    clip_len: Annotated[
        int | None, typer.Option("--clip-len", metavar="FRAMES", help="Frames of a clip.", rich_help_panel=SAMPLING)
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option("--stride", metavar="FRAMES", help="From clip to clip; --clip-len.", rich_help_panel=SAMPLING),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps", metavar="N", help="Resample to this rate; native unless given.", rich_help_panel=SAMPLING
        ),
    ] = None,
    last_clip: Annotated[
        str,
        typer.Option("--last-clip", metavar="drop|repeat|pad", help="The frames left over.", rich_help_panel=SAMPLING),
    ] = "drop",
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="N|HxW", help="For the encoder `frames`.", rich_help_panel=SAMPLING),
    ] = None,
    lazy: Annotated[
        bool, typer.Option("--lazy", help="For `frames` of image folders: an index only.", rich_help_panel=SAMPLING)
    ] = False,
    precision: Annotated[str, typer.Option("--precision", metavar="float32|bf16", help="Part of the id.")] = "float32",
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Seeded random weights, for timing and tests; an artefact of its own."),
    ] = False,
    settings: SetOption = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions",
            metavar="FILE",
            help="csv or jsonl of video, caption, and clip | start,end (s) | start_frames,end_frames.",
            rich_help_panel=CAPTIONS,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--text",
            metavar="ENCODER",
            help="clip:..., minilm, seeded; of boxes: effnet, clip:..., geometry.",
            rich_help_panel=CAPTIONS,
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="ID|ENCODER",
            help="Features whose clips the captions follow; the last unless given.",
            rich_help_panel=CAPTIONS,
        ),
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            "--boxes",
            metavar="PROPOSERS|FILE",
            help="yolox-nano, motion, grid, several as A+B, or a csv: makes the boxes; with --encoder features, with --text captions of each box.",
            rich_help_panel=BOXES,
        ),
    ] = None,
    boxes_weights: Annotated[
        Path | None,
        typer.Option("--boxes-weights", metavar="ONNX", help="The detector's network.", rich_help_panel=BOXES),
    ] = None,
    redo: Annotated[
        str, typer.Option("--redo", metavar="failed|all", help="Try recorded failures again, or do everything again.")
    ] = "none",
    partial: Annotated[
        str, typer.Option("--partial", metavar="fail|keep", help="keep: accept videos of which less than 98 % decodes.")
    ] = "fail",
    videos: Annotated[
        Path | None, typer.Option("--videos", metavar="LIST", help="Only the ids in this text file, one a line.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N videos.")] = None,
    decoders: Annotated[
        int | None, typer.Option("--decoders", metavar="N", min=1, help="Decoder processes; one a core unless given.")
    ] = None,
    expect: Annotated[
        str | None, typer.Option("--expect", metavar="ID,ID", help="Stop unless exactly these features would be made.")
    ] = None,
    device: DeviceOption = "auto",
    stall: Annotated[
        float, typer.Option("--stall", metavar="SECONDS", min=1, help="A decoder without progress is killed after.")
    ] = 60.0,
    memory_mb: Annotated[int, typer.Option("--memory", metavar="MB", min=256, help="Cap of one decoder.")] = 3072,
    sample: Annotated[
        float, typer.Option("--sample", metavar="SECONDS", min=0, help="With --dry-run: measure for so long; 0: not.")
    ] = 15.0,
    cache_dir: CacheDirOption = None,
    manifest: ManifestOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    *,
    cluster: ClusterOptions,
) -> None:
    """Extract features of a dataset; the same command again does only what is missing.

    Several encoders read one decode, and each makes an artefact of its own. Exit 3 when some videos failed (listed, and not tried
    again without --redo failed), 75 when stopped by a signal.
    """
    from dataclasses import asdict, replace

    from pipelines import extract as stage
    from pipelines.artifacts import resolve_roots
    from pipelines.cluster.extraction import expect as check_ids
    from pipelines.data.manifest import load
    from pipelines.errors import UsageError
    from pipelines.extraction.plan import Sampling

    console = Console.of(ctx, json=as_json)
    listed = load(manifest)
    chosen = _dataset(listed, dataset)
    roots = resolve_roots(cache_dir=cache_dir, manifest_cache_dir=listed.cache_dir)
    if cluster.executor == "slurm" and (captions is not None or boxes is not None):
        raise UsageError(
            "--captions and --boxes are one task: --executor slurm does not divide them",
            hint="a recipe with this step: vad run RECIPE --executor slurm",
        )
    if captions is not None:
        _captions(console, chosen, captions, roots.features, like, text, mode="plan" if dry_run else "write")
        return
    if boxes is not None:
        from vadcli.commands import _boxes

        asked = _boxes.Asked(
            chosen, boxes, boxes_weights, encoder, like, clip_len, precision, tuple(settings or ()), text
        )
        _boxes.extract(console, asked, roots.features, redo=_word("--redo", redo, REDO), device=device, dry_run=dry_run)
        return
    if boxes_weights is not None:
        raise UsageError("--boxes-weights belongs to --boxes", hint="--boxes yolox-nano --boxes-weights FILE")
    if text is not None or like is not None:
        raise UsageError("--text and --like belong to --captions FILE", hint=f"vad extract {dataset} --captions FILE")
    length = chosen.clip_len if clip_len is None else clip_len
    step = stride if stride is not None else chosen.stride if clip_len is None else clip_len
    request = stage.ExtractRequest(
        dataset=chosen,
        layers=roots.features,
        encoders=(encoder or chosen.encoder,),
        crops=_word("--crops", crops or chosen.crops, ("center", "five", "ten")),
        sampling=Sampling(length, step, fps, _word("--last-clip", last_clip, ("drop", "repeat", "pad"))),
        precision=_word("--precision", precision, ("float32", "bf16")),
        options=(*(settings or ()), *_size(size, encoder or chosen.encoder)),
        redo=_word("--redo", redo, REDO),
        partial=_word("--partial", partial, ("fail", "keep")),
        videos=_ids(videos) if videos else None,
        limit=limit,
        workers=decoders,
        device=device,
        frames="lazy" if lazy else "store",
        weights="random" if random_weights else "published",
        stall_s=stall,
        memory_mb=memory_mb,
    )
    planned = stage.make_plan(request)
    part = cluster.index()
    if part is not None:
        request = replace(request, videos=_own_part(planned, *part), limit=None)
        if not request.videos:
            console.text(f"shard {part[0]} of {part[1]}: no videos")
            return
        planned = stage.make_plan(request)
    if expect is not None:
        check_ids(planned, expect.split(","))
    for stream in planned.streams if crops not in (None, "center") else ():
        if stream.choice.encoder.preprocess.crop_px is None:
            console.warn(f"{stream.recipe.encoder} sees whole frames: it has the centre crop only, not {crops}")
    if random_weights:
        console.warn("random weights: these features mean nothing and stand in artefacts of their own")
    if cluster.executor == "slurm" or (part is None and cluster.processes(device) > 1 and len(planned.todo) > 1):
        argv = argv_of(
            ctx, drop=("videos", "limit", "expect", "precision", "cache_dir", "manifest", "dry_run", "as_json")
        )
        job = _Job(console, request, planned, cluster, [*argv, *places(roots.features, listed.path)], roots.runs)
        if dry_run:
            _show_job(job)
            return
        _show_plan(console.note, planned)
        if cluster.executor == "slurm":
            _on_slurm(job)
            return
        _in_processes(job)
        planned = stage.make_plan(replace(request, redo="none"))
    if dry_run:
        console.progress.note(f"extracting parts of a few videos for {sample:g} s; --sample 0 leaves it out")
        cost = stage.predict_cost(request, planned, budget_s=sample) if planned.todo else None
        console.json({**_plan_json(planned), "forecast": asdict(cost) if cost else None})
        _show_plan(console.text, planned)
        if cost:
            _show_forecast(console, cost)
        return
    _show_plan(console.note, planned)
    result = stage.run(request, progress=console.progress, planned=planned)
    _render(console, result)
    if part is None:
        result.raise_for_failures()
    elif result.failures:
        console.warn(f"{len(result.failures)} videos failed; `vad status {dataset} --finalise` decides what that means")


@dataclass(frozen=True, slots=True)
class _Job:
    """An extraction that several processes do: what is asked, what is planned, and the words of each task."""

    console: Console
    request: ExtractRequest
    planned: ExtractionPlan
    cluster: ClusterOptions
    argv: list[str]
    runs: Path

    def plan(self) -> Plan:
        """The tasks; on Slurm without the videos that a submission of ours still has in the queue.

        Raises:
            UsageError: --redo all, which a requeued task would begin again and again.
        """
        from pipelines.cluster import jobs, slurm
        from pipelines.cluster.extraction import job_plan
        from pipelines.errors import UsageError

        if self.request.redo == "all":
            raise UsageError(
                "--redo all does not go with several tasks: one that is repeated would begin again",
                hint="`vad cache rm ID`, then extract as usual",
            )
        if self.cluster.executor == "local":
            count = self.cluster.processes(self.request.device)
            return job_plan(self.planned, self.argv, layers=self.request.layers, shards=count)
        ids = [stream.id for stream in self.planned.streams]
        queued = jobs.in_queue(self.runs, ids, slurm.queue)
        if queued:
            self.console.note(
                f"{len(queued)} videos are in the queue already (job {', '.join(sorted(set(queued.values())))})"
            )
        return job_plan(
            self.planned,
            self.argv,
            layers=self.request.layers,
            shards=self.cluster.shards,
            at_once=self.cluster.array_parallelism,
            limit_s=60.0 * (slurm.fitted(self.cluster.resources()).timeout_min or 0),
            queued=queued,
        )


def _own_part(planned: ExtractionPlan, index: int, count: int) -> tuple[str, ...]:
    from pipelines.cluster.plan import by_size

    sizes = {v.id: planned.stats[v.id].size if v.id in planned.stats else 0 for v in planned.videos}
    return by_size(sizes, num_shards=count, index=index)


def _show_job(job: _Job) -> None:
    plan = job.plan()
    _say_refused(job.console, plan)
    if not plan.tasks:
        job.console.json(_plan_json(job.planned) | {"tasks": [], "refused": plan.refused})
        job.console.text("nothing to submit")
    elif job.cluster.executor == "slurm":
        show_script(job.console, plan, job.cluster, job.runs, _plan_json(job.planned))
    else:
        job.console.json(_plan_json(job.planned) | {"processes": [task.argv for task in plan.tasks]})
        for task in plan.tasks:
            job.console.text(f"{len(task.videos)} videos: vad {' '.join(task.argv)} --videos LIST")


def _in_processes(job: _Job) -> None:
    """Shards as processes on this machine, one GPU each where there are several; what one loses, the caller does."""
    from pipelines import extract as stage
    from pipelines.cluster import jobs, local
    from pipelines.extraction.engine import available_cpus

    stage.prepare(job.planned)
    plan = job.plan()
    count = job.cluster.processes(job.request.device)
    folder = jobs.write(job.runs, plan)
    own = () if "--decoders" in job.argv else ("--decoders", str(max(1, available_cpus() // count)))
    tasks = {f"{index:04d}": task for index, task in enumerate(jobs.read(folder).tasks)}
    job.console.note(f"{len(tasks)} processes, logs: {folder / jobs.LOGS}")
    outcomes = local.run(
        [local.Task(name) for name in tasks],
        lambda name: local.Launch((*tasks[name].argv, *own, "--workers", "1"), log=folder / jobs.LOGS / f"{name}.log"),
        workers=count,
        accept=lambda name, code: code in (0, 3),
    )
    for name, outcome in outcomes.items():
        if outcome.state != "done":
            job.console.warn(f"process {name} left with {outcome.code}: {folder / jobs.LOGS / name}.log")


def _on_slurm(job: _Job) -> None:
    """Submit what is missing; with --wait stay, and answer as an extraction here would."""
    from pipelines import extract as stage

    console = job.console
    plan = job.plan()
    _say_refused(console, plan)
    facts: dict[str, Any] = {"dataset": job.planned.dataset, "artifacts": [asdict_of(o) for o in plan.outputs]}
    if not plan.tasks:
        console.json(facts | {"submitted": None, "refused": plan.refused, "failures": _failed_before(job.planned)})
        console.text("nothing to submit")
        return
    stage.prepare(job.planned)
    submitted = submit(console, job.runs, plan, job.cluster)
    facts |= {"submitted": submitted.job, "check": submitted.check, "job_folder": submitted.folder}
    if not job.cluster.wait:
        console.json(facts | {"tasks": len(plan.tasks), "refused": plan.refused})
        console.text(submitted.job)
        return
    _answer(console, wait_for(console, submitted), facts)


def _answer(console: Console, status: JobStatus, facts: dict[str, Any]) -> None:
    """What the store holds after a submission is over.

    Raises:
        VadError: videos that nobody did (exit 1). PartialFailure: recorded failures (exit 3).
    """
    from pipelines.errors import PartialFailure, VadError

    told = dict(status.failed) | dict(status.plan.refused)
    console.json(facts | {"done": status.done, "failures": told, "missing": status.missing, "lost": lost_lines(status)})
    console.text(f"{status.done} done, {len(status.failed)} failed, {len(status.missing)} missing")
    if status.missing:
        raise VadError(
            f"{len(status.missing)} videos were not done:\n  " + "\n  ".join(lost_lines(status) or status.missing[:10]),
            hint="the same command submits only these",
        )
    if told:
        lines = [f"{video}: {reason}" for video, reason in sorted(told.items())][:20]
        raise PartialFailure(
            f"{len(told)} videos failed:\n  " + "\n  ".join(lines),
            hint=f"the others are done; `vad extract {status.plan.dataset} --redo failed` tries these again",
        )


def _say_refused(console: Console, plan: Plan) -> None:
    for video, reason in sorted(plan.refused.items()):
        console.warn(f"{video} is left out: {reason}; a longer --timeout takes it")


def _failed_before(planned: ExtractionPlan) -> dict[str, str]:
    return {id: failure.reason for stream in planned.streams for id, failure in stream.failed.items()}


def _captions(
    console: Console,
    dataset: Dataset,
    source: Path,
    layers: tuple[Path, ...],
    like: str | None,
    text: str | None,
    *,
    mode: Literal["plan", "write"],
) -> None:
    """Captions of clips as features: what would be made, or making it."""
    from dataclasses import asdict

    from pipelines.extraction import captions

    planned = captions.plan(dataset, source, layers=layers, like=like, encoder=text)
    facts = {"encoder": planned.recipe["encoder"], "id": planned.id, "folder": planned.folder}
    if mode == "plan":
        console.json({"dry_run": True, **facts, "videos": len(planned.captions), "notes": list(planned.notes)})
        console.text(
            f"{facts['encoder']} ({planned.id[:8]}): captions of {len(planned.captions)} videos\n{planned.folder}"
        )
        return
    result = captions.run(planned, progress=console.progress)
    console.json({**facts, **asdict(result)})
    if result.empty_clips:
        console.warn(
            f"{result.empty_clips} of {result.clips} clips have no caption and are zero vectors; "
            f"{len(result.silent)} of {result.videos} videos have none at all"
        )
    console.text(f"{facts['encoder']} ({result.id[:8]}): {result.made} of {result.videos} videos written")
    console.text(
        f"{result.folder}\nNext: vad train {dataset.name} --method refine-vad --features {_visual(planned)}+captions"
    )


def _visual(planned: Any) -> str:
    return str(planned.like.artifact.recipe["encoder"])


def _dataset(listed: Manifest, name: str) -> Dataset:
    from pipelines.errors import UsageError

    if name not in listed.names() and Path(name).expanduser().is_dir():
        raise UsageError(
            f"{name!r} is a folder, not a dataset",
            hint=f"`vad data init {name}` makes an entry for it, then: vad extract {Path(name).resolve().name}",
        )
    return listed.dataset(name)


def _word(option: str, value: str, known: tuple[str, ...]) -> Any:
    from pipelines.errors import UsageError
    from pipelines.recipe import suggest

    if value not in known:
        raise UsageError(f"{option} {value!r}{suggest(value, known)}: {', '.join(known)}")
    return value


def _ids(path: Path) -> tuple[str, ...]:
    from pipelines.errors import UsageError

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the list of videos {path}: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _size(text: str | None, encoders: str) -> list[str]:
    from pipelines.errors import UsageError
    from pipelines.extraction.plan import split_encoders

    if text is None:
        return []
    names = split_encoders([encoders])
    if "frames" not in names:
        raise UsageError("--size belongs to the encoder `frames`", hint="--encoder frames --size 256")
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts) or len(parts) > 2:
        raise UsageError(f"--size {text!r}: a short side (256) or height x width (240x320)")
    value = parts[0] if len(parts) == 1 else f"[{parts[0]}, {parts[1]}]"
    return [f"frames.size={value}"]


def _show_plan(say: Any, planned: ExtractionPlan) -> None:
    for stream in planned.streams:
        recipe = stream.recipe
        rate = f"{recipe.fps:g} fps" if recipe.fps else "native rate"
        say(
            f"{recipe.encoder} ({stream.id[:8]}): clips of {recipe.clip_len} every {recipe.stride} frames at {rate}, "
            f"crops {', '.join(recipe.crops)}, {recipe.precision}"
        )
        say(
            f"  {len(stream.done)} of {len(planned.videos)} videos done, {len(stream.failed)} failed before, "
            f"{len(stream.missing)} without a file, {len(stream.replaced)} replaced, {len(stream.todo)} to do"
            f"{_cost(stream)}"
        )
        say(f"  {stream.folder}")


def _show_forecast(console: Console, cost: Forecast) -> None:
    """Time, bytes and files of all that is to do, and what the time rests on."""
    bytes_ = sum(stream.n_bytes or 0 for stream in cost.streams)
    files = sum(stream.n_inodes or 0 for stream in cost.streams)
    unknown = "" if all(stream.n_bytes is not None for stream in cost.streams) else " and the stored frames"
    console.text(f"\n{cost.n_videos} videos, about {cost.n_frames} frames: {_bytes(bytes_)} in {files} inodes{unknown}")
    if cost.seconds is None:
        console.text(f"time not known: {cost.why}")
    else:
        console.text(
            f"about {_clock(cost.seconds)} on this machine, measured on {cost.sampled_videos} videos "
            f"({cost.sampled_frames} frames in {cost.sampled_s:.0f} s)"
        )


def _cost(stream: StreamPlan) -> str:
    from pipelines.extraction.plan import estimate

    cost = estimate(stream)
    if not cost.n_videos:
        return ""
    size = f"about {_bytes(cost.n_bytes)}" if cost.n_bytes is not None else "size not known yet"
    return f" ({size}{f', about {_clock(cost.seconds)} at the last rate' if cost.seconds else ''})"


def _render(console: Console, result: ExtractResult) -> None:
    from dataclasses import asdict

    rate = result.frames_per_s
    console.json({**asdict(result), "frames_per_s": rate, "failures": result.failures})
    rows = [
        (a.encoder, a.id[:8], a.done_before + len(a.done), len(a.done), len(a.failed) + len(a.failed_before), a.folder)
        for a in result.artifacts
    ]
    console.table("", ("encoder", "id", "done", "new", "failed", "folder"), rows)
    if rate:
        console.text(f"\n{result.n_frames} frames in {_clock(result.seconds)}, {rate:.0f} frames/s")
    elif not result.failures and not any(a.done for a in result.artifacts):
        console.text("\nup to date")


def _plan_json(planned: ExtractionPlan) -> dict[str, Any]:
    from dataclasses import asdict

    from pipelines.extraction.plan import estimate

    streams = [
        {
            "encoder": stream.recipe.encoder,
            "kind": stream.kind,
            "id": stream.id,
            "folder": stream.folder,
            "recipe": stream.recipe.model_dump(mode="json"),
            "done": len(stream.done),
            "failed": {id: failure.reason for id, failure in stream.failed.items()},
            "missing": [video.id for video in stream.missing],
            "replaced": sorted(stream.replaced),
            "todo": [video.id for video in stream.todo],
            "estimate": asdict(estimate(stream)),
        }
        for stream in planned.streams
    ]
    return {"dry_run": True, "dataset": planned.dataset, "videos": len(planned.videos), "artifacts": streams}


def _bytes(count: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count //= 1000
    return f"{count} {unit}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
