"""`vad doctor`: is everything here that the work needs?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vadcli.console import Console
from vadcli.options import JsonOption, RunsDirOption


def doctor(
    ctx: typer.Context,
    cache_dir: Annotated[
        Path | None, typer.Option("--cache-dir", metavar="DIR", help="Probe this folder's file system too.")
    ] = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check versions, devices, decoders, weights, package paths and free space; with --cache-dir its file system.

    Exit 5 when something that the work needs fails; a warning is not a failure.
    """
    from pipelines import doctor as stage
    from pipelines.errors import VerificationError

    console = Console.of(ctx, json=as_json)
    report = stage.run(stage.Request(cache_dir=cache_dir, runs_dir=runs_dir), progress=console.progress)
    console.json({"ok": not report.failed, "checks": [asdict(check) for check in report.checks]})
    console.table("", ("", "check", "finding"), [(c.status, f"{c.group}: {c.name}", c.detail) for c in report.checks])
    for check in report.checks:
        if check.hint:
            console.warn(f"{check.group}: {check.name}: {check.hint}")
    if report.failed:
        names = ", ".join(f"{check.group}: {check.name}" for check in report.failed)
        raise VerificationError(f"{len(report.failed)} of {len(report.checks)} checks failed: {names}")
    console.text(f"\n{len(report.checks)} checks, nothing failed. Next: vad demo")
