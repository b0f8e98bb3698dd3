"""`vad status`: what is done, failed and missing, and how far batch jobs are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.cluster import lost_lines
from vadcli.console import Console
from vadcli.options import CacheDirOption, JsonOption, ManifestOption, RunsDirOption, complete_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from pipelines.cluster.jobs import JobStatus
    from pipelines.data.manifest import Manifest
    from pipelines.store.listing import DatasetStatus

SHOWN_JOBS = 5  # of those that are over


def status(
    ctx: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATASET|JOB]",
            help="A dataset, or a job by id or folder; all with features unless given.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    finalise: Annotated[
        bool, typer.Option("--finalise", help="Check the store and fail (exit 1) where more than --max-failed lack.")
    ] = False,
    max_failed: Annotated[int, typer.Option("--max-failed", metavar="N", min=0, help="Videos that may lack.")] = 0,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count done, failed and missing videos from folder listings alone, and say how far submitted jobs are.

    Light enough for a login node, also while jobs write. A lost task is one that the scheduler no longer has and that
    left videos undone; its log is named.
    """
    from pipelines.artifacts import resolve_roots
    from pipelines.cluster import jobs
    from pipelines.errors import UsageError

    console = Console.of(ctx, json=as_json)
    folder = jobs.find(resolve_roots(runs_dir=runs_dir).runs, what) if what else None
    if folder is not None:
        found = _look(folder)
        console.json(_job_json(found) | {"dry_run": False})
        _show_job(console, found)
        if finalise:
            _finalise_job(console, found, max_failed)
        return
    from pipelines.data.manifest import load

    if finalise and what is None:
        raise UsageError("--finalise of what?", hint="vad status DATASET --finalise, or a job's id")
    listed = load(manifest)
    roots = resolve_roots(cache_dir=cache_dir, runs_dir=runs_dir, manifest_cache_dir=listed.cache_dir)
    names = [what] if what else _extracted(roots.features)
    counts = {name: _counts(listed, name, roots.features) for name in names}
    states = [_look(folder) for folder in jobs.folders(roots.runs, what)]
    running = [one for one in states if one.live is not False and one.ids]
    over = [one for one in states if one.live is False and one.ids][-SHOWN_JOBS:]
    console.json(
        {
            "cache": list(roots.features),
            "datasets": {n: [_plain(s) for s in c] for n, c in counts.items()},
            "jobs": [_job_json(one) for one in (*over, *running)],
        }
    )
    rows = [
        (name, s.row.encoder, s.row.artifact.id8, s.done, s.failed, s.missing, s.stray or None)
        for name, found in counts.items()
        for s in found
    ]
    if rows:
        console.table("", ("dataset", "encoder", "id", "done", "failed", "missing", "not listed"), rows)
    else:
        console.text(f"no features of {what or 'any dataset'} in {roots.cache}")
        console.note(f"next: vad extract {what or 'DATASET'}")
    for one in (*(job for job in over if job.lost), *running):
        console.text()
        _show_job(console, one)
    if finalise:
        _finalise_dataset(str(what), counts[str(what)], max_failed)


def _look(folder: Path) -> JobStatus:
    from pipelines.cluster import jobs, slurm

    return jobs.status(folder, slurm.queue_of(folder))


def _show_job(console: Console, found: JobStatus) -> None:
    plan = found.plan
    words = [f"{found.done} done", f"{len(found.failed)} failed", f"{len(found.missing)} missing"]
    words += [f"{len(plan.refused)} refused"] if plan.refused else []
    console.text(f"job {found.ids[0] if found.ids else '-'} ({plan.name}): {', '.join(words)}")
    states = [task.state for task in found.tasks]
    console.text("tasks: " + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    if found.rate:
        left = f", about {_clock(found.eta_s)} left" if found.eta_s and found.live else ""
        console.text(f"{found.rate * 60:.1f} videos a minute{left}")
    for line in lost_lines(found):
        console.text(f"lost {line}")
    for video, reason in sorted(found.failed.items())[:10]:
        console.text(f"failed {video}: {reason}")
    console.text(f"{found.folder}")


def _finalise_job(console: Console, found: JobStatus, max_failed: int) -> None:
    """The check behind an array: fails only above the limit, so that recorded failures do not break a chain.

    Raises:
        VadError: more videos lack than may; or a task without videos did not come to its end.
    """
    from pipelines import artifacts
    from pipelines.errors import VadError

    lacking = {**found.failed, **dict.fromkeys(found.missing, "not done"), **found.plan.refused}
    undone = [task for task in found.tasks if not task.total and task.state != "done"]
    verdict = {
        "done": found.done,
        "lacking": lacking,
        "undone_tasks": [t.index for t in undone],
        "max_failed": max_failed,
    }
    artifacts.write_text(found.folder / "finalised.json", json.dumps(verdict, indent=1) + "\n")
    if len(lacking) > max_failed or undone:
        lines = [*lost_lines(found), *(f"{video}: {reason}" for video, reason in sorted(lacking.items())[:20])]
        raise VadError(
            f"{len(lacking)} videos lack, {max_failed} may:\n  " + "\n  ".join(lines),
            hint="the same command submits only what is missing; --max-failed N lets it pass",
        )
    console.note(f"{len(lacking)} videos lack, {max_failed} may: fine")


def _finalise_dataset(name: str, counts: list[DatasetStatus], max_failed: int) -> None:
    from pipelines.errors import MissingArtifactError, VadError

    if not counts:
        raise MissingArtifactError(f"there are no features of {name}", hint=f"vad extract {name}")
    bad = [s for s in counts if s.failed + s.missing > max_failed]
    if bad:
        lines = [f"{s.row.encoder} ({s.row.artifact.id8}): {s.failed} failed, {s.missing} missing" for s in bad]
        raise VadError(
            f"more than {max_failed} videos of {name} lack:\n  " + "\n  ".join(lines),
            hint=f"vad extract {name} does what is missing; --max-failed N lets it pass",
        )


def _job_json(found: JobStatus) -> dict[str, Any]:
    return {
        "folder": found.folder,
        "name": found.plan.name,
        "ids": found.ids,
        "live": found.live,
        "done": found.done,
        "failed": found.failed,
        "missing": found.missing,
        "refused": found.plan.refused,
        "videos_per_s": found.rate,
        "eta_s": found.eta_s,
        "tasks": [
            {"index": t.index, "state": t.state, "done": t.done, "total": t.total, "log": t.log} for t in found.tasks
        ],
        "lost": [{"index": t.index, "log": t.log} for t in found.lost],
    }


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _counts(listed: Manifest, name: str, layers: tuple[Path, ...]) -> list[DatasetStatus]:
    from pipelines.errors import VadError
    from pipelines.store import listing

    if name in listed.names():
        return listing.status(layers, name, [video.id for video in listed.dataset(name).all_videos()])
    found = listing.status(layers, name, [])
    if not found:
        listed.dataset(name)  # raises, with the nearest name
        raise VadError(f"no dataset {name!r}")
    return found


def _extracted(layers: tuple[Path, ...]) -> list[str]:
    from pipelines.artifacts import video_id_of

    folders = [root / kind for root in layers for kind in ("features", "frames")]
    found = {
        video_id_of(path.name) for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()
    }
    return sorted(found)


def _plain(status: DatasetStatus) -> dict[str, Any]:
    return {
        "encoder": status.row.encoder,
        "kind": status.row.artifact.kind,
        "id": status.row.artifact.id,
        "folder": status.row.folder,
        "done": status.done,
        "failed": status.failed,
        "missing": status.missing,
        "not_listed": status.stray,
        "missing_ids": list(status.missing_ids),
    }
