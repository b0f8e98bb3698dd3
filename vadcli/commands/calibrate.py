"""`vad calibrate`: each camera's threshold from footage in which nothing happens."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from vadcli.console import Console
from vadcli.options import PLACES, DeviceOption, JsonOption, RunsDirOption


def calibrate(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="FOOTAGE|cameras.yaml|URL",
            help="A video or folder, cameras with `normal` footage, or a live source (with --duration-s).",
        ),
    ],
    target: Annotated[
        float, typer.Option("--target-fa-per-hour", metavar="R", help="False alarms an hour that are accepted.")
    ],
    camera: Annotated[
        str | None, typer.Option("--camera", metavar="NAME", help="Which camera it is footage of; camera.")
    ] = None,
    cameras: Annotated[
        Path | None, typer.Option("--cameras", metavar="cameras.yaml", help="Where its rate and masks stand.")
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", metavar="N", help="As `vad watch --fps`.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID|latest", help="Which run scores; as `vad watch --run`.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The folder of vad watch; ./vad_watch.", rich_help_panel=PLACES),
    ] = None,
    smooth: Annotated[str | None, typer.Option("--smooth", metavar="KIND:WIDTH", help="As `vad watch`.")] = None,
    min_s: Annotated[float, typer.Option("--min-s", metavar="S", help="A shorter event is none.")] = 0.0,
    cooldown_s: Annotated[
        float, typer.Option("--cooldown-s", metavar="S", help="After an event none begins for so long.")
    ] = 0.0,
    duration_s: Annotated[
        float | None, typer.Option("--duration-s", metavar="S", help="How long a live source is listened to.")
    ] = None,
    device: DeviceOption = "auto",
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn above which score each camera alarms, from hours in which nothing happens.

    The footage is scored exactly as `vad watch` scores the camera; the threshold is the one at which as much new footage is expected
    to alarm R times an hour. Do not use footage that the run was trained on.
    """
    from pipelines import calibrate as stage
    from pipelines.extract import pick_device
    from pipelines.live.cameras import choose_footage
    from pipelines.watch import OUT

    console = Console.of(ctx, json=as_json)
    chosen, footage = choose_footage(source, camera=camera, cameras=cameras, fps=fps)
    request = stage.CalibrateRequest(
        cameras=chosen,
        footage=footage,
        target_fa_per_hour=target,
        out=out or OUT,
        run=run,
        smooth=smooth,
        min_s=min_s,
        cooldown_s=cooldown_s,
        duration_s=duration_s,
        device=pick_device(device),
        runs_dir=runs_dir,
    )
    result = stage.run(request, progress=console.progress)
    console.json(
        {"path": result.path, "cameras": {n: asdict(c) for n, c in result.cameras.items()}, "failures": result.failures}
    )
    rows = [(n, c.hours, c.threshold, c.low, c.events) for n, c in result.cameras.items()]
    console.table(f"for {target:g} false alarms an hour", ("camera", "hours", "threshold", "low", "alarms there"), rows)
    console.text(f"\nvad watch reads {result.path}")
    if result.failures:
        from pipelines.errors import PartialFailure

        raise PartialFailure("some footage could not be read:\n  " + "\n  ".join(result.failures))
