"""`vad report`: one self-contained HTML page of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vadcli.console import Console
from vadcli.options import CacheDirOption, DatasetOption, DryRunOption, JsonOption, ManifestOption, RunsDirOption


def report(
    ctx: typer.Context,
    run: Annotated[
        str, typer.Option("--run", metavar="ID|latest", help="A run, a group of seeds or an evaluation.")
    ] = "latest",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="report.html beside the evaluation unless given.")
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="A small preview of each video in the page, for sending it away.")
    ] = False,
    dataset: DatasetOption = None,
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """The newest evaluation of a run as one HTML file: numbers, curves, every test video, a threshold to move, lineage.

    Nothing is loaded from a network, and the videos stay where they are (relative links) unless --embed.
    """
    from pipelines.report import html

    console = Console.of(ctx, json=as_json)
    request = html.ReportRequest(
        run=run,
        out=out,
        dataset=dataset,
        videos="embed" if embed else "link",
        manifest=manifest,
        cache_dir=cache_dir,
        runs_dir=runs_dir,
    )
    if dry_run:
        planned = html.plan(request)
        console.json({"dry_run": True, "evaluation": planned.shown.folder, "out": planned.out})
        console.text(f"would show {planned.shown.folder}\nwould write {planned.out}")
        return
    done = html.run(request, progress=console.progress)
    for word, found in (("moved since extraction", done.moved), ("of another size than at extraction", done.replaced)):
        if found:
            console.warn(
                f"{len(found)} of {done.videos} videos {word}: {', '.join(found[:5])}{', ...' * (len(found) > 5)}"
            )
    for video, reason in done.no_preview.items():
        console.warn(f"no preview of {video}: {reason}")
    console.json(
        {
            "path": done.path,
            "bytes": done.bytes,
            "evaluation": done.evaluation,
            "videos": done.videos,
            "seeds": done.members,
            "moved": done.moved,
            "replaced": done.replaced,
            "no_preview": done.no_preview,
        }
    )
    console.text(f"{done.path}  ({done.bytes / 1e6:.1f} MB, {done.videos} videos)")
