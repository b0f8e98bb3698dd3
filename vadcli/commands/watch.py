"""`vad watch`: live detection on files that grow, devices and streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import PLACES, DeviceOption, DryRunOption, JsonOption, RunsDirOption

if TYPE_CHECKING:
    from pipelines.watch import WatchRequest

ALARM, TELL, SEE = "When is it an alarm", "Who is told", "What is watched"


def watch(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE|cameras.yaml",
            help="A file that may still grow, /dev/video0, an rtsp, http, tcp, ... URL, or a list of cameras.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What one source is called; camera.", rich_help_panel=SEE),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", metavar="N", help="Frames a second that are looked at.", rich_help_panel=SEE),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID|latest", help="Which run scores; motion-scalar where there is none."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Events, queue, thresholds; ./vad_watch.", rich_help_panel=PLACES),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", metavar="X", help="In place of the calibrated or the run's own.", rich_help_panel=ALARM
        ),
    ] = None,
    low: Annotated[
        float | None,
        typer.Option("--low", metavar="X", help="An event goes on above this lower score.", rich_help_panel=ALARM),
    ] = None,
    min_s: Annotated[
        float, typer.Option("--min-s", metavar="S", help="A shorter event is none.", rich_help_panel=ALARM)
    ] = 0.0,
    cooldown_s: Annotated[
        float,
        typer.Option(
            "--cooldown-s", metavar="S", help="After an event none begins for so long.", rich_help_panel=ALARM
        ),
    ] = 0.0,
    smooth: Annotated[
        str | None,
        typer.Option("--smooth", metavar="KIND:WIDTH", help="Frames; none is fastest.", rich_help_panel=ALARM),
    ] = None,
    on_event: Annotated[
        str | None,
        typer.Option(
            "--on-event",
            metavar="PROGRAM",
            help="Run with each event as JSON on its standard input; words, no shell.",
            rich_help_panel=TELL,
        ),
    ] = None,
    post: Annotated[
        str | None,
        typer.Option(
            "--post",
            metavar="URL",
            envvar="VAD_POST",
            show_envvar=False,
            help="Post events with snapshot and clip; VAD_POST.",
            rich_help_panel=TELL,
        ),
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option("--duration-s", metavar="S", help="Stop after so long.", rich_help_panel=SEE)
    ] = None,
    idle_s: Annotated[
        float,
        typer.Option("--idle-s", metavar="S", help="A file not written to for so long is over.", rich_help_panel=SEE),
    ] = 10.0,
    device: DeviceOption = "auto",
    runs_dir: RunsDirOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Watch cameras and tell when something begins and when it is over.

    A line for each beginning and each end; with --json one JSON object a line, as kept in events.jsonl. A slow machine drops clips
    and says so. Ctrl-C and SIGTERM close open events and keep the queue of --post.
    """
    import shlex

    from pipelines import watch as stage
    from pipelines.extract import pick_device
    from pipelines.live import cameras

    console = Console.of(ctx, json=as_json)
    chosen = cameras.choose(source, name=name, fps=fps)
    request = stage.WatchRequest(
        cameras=chosen,
        run=run,
        out=out or stage.OUT,
        threshold=threshold,
        low=low,
        min_s=min_s,
        cooldown_s=cooldown_s,
        smooth=smooth,
        on_event=tuple(shlex.split(on_event)) if on_event else (),
        post=post,
        idle_s=idle_s,
        duration_s=duration_s,
        device=pick_device(device),
        runs_dir=runs_dir,
    )
    if dry_run:
        _plan(console, request, stage.plan(request, progress=console.progress))
        return
    result = stage.run(request, progress=console.progress, tell=lambda event: _tell(console, event))
    count = sum(result.events.values())
    console.note(f"{count} event{'s' * (count != 1)} of {len(result.events)} cameras in {result.out}")
    if result.queued:
        console.warn(f"{result.queued} events wait in {result.out / 'queue'}; the next start sends them")
    result.raise_for_failures()


def _tell(console: Console, event: dict[str, Any]) -> None:
    console.line(event)
    at = event["end"] or event["start"]
    score = f"  score {event['peak']:.4g} above {event['threshold']:.4g}" if event["threshold"] is not None else ""
    what = event["class"] or event["kind"]
    length = f" after {event['duration_s']:.1f} s" if event["duration_s"] is not None else ""
    words = f"{what} begins" if event["type"] == "begin" else f"{what} is over{length}"
    reason = f"  ({event['reason']})" if event["reason"] and event["type"] == "begin" else ""
    late = f"  {event['latency_s']:.1f} s late" if event["latency_s"] is not None else ""
    console.text(f"{at}  {event['camera']}  {words}{score}{reason}{late}")


def _plan(console: Console, request: WatchRequest, rows: list[dict[str, Any]]) -> None:
    console.json({"out": request.out, "cameras": rows})
    columns = ("camera", "source", "frames/s", "masks", "threshold", "from", "delay s", "recipe")
    console.table("would watch", columns, [tuple(row.values()) for row in rows])
