"""`vad predict`: curve, events and picture of somebody's own videos."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vadcli.console import Console
from vadcli.options import DeviceOption, JsonOption, RunsDirOption, WorkersOption

if TYPE_CHECKING:
    from pipelines.predict import Prediction, PredictResult


def predict(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="VIDEO|FOLDER", help="A video, a folder of images, or a folder of videos.")
    ],
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID|latest", help="Which run scores; motion-scalar where there is none."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Results; ./vad_predictions/<name> unless given.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="X", help="Events lie above this score; the run's 99 % unless given."),
    ] = None,
    low: Annotated[
        float | None,
        typer.Option("--low", metavar="X", help="An event goes on above this lower score; the threshold unless given."),
    ] = None,
    min_s: Annotated[float, typer.Option("--min-s", metavar="S", help="A shorter event is none.")] = 0.0,
    cooldown_s: Annotated[
        float, typer.Option("--cooldown-s", metavar="S", help="After an event none begins for so long.")
    ] = 0.0,
    video: Annotated[
        bool, typer.Option("--video", help="Also the video itself with score, class and heat map drawn on it (mp4).")
    ] = False,
    clips: Annotated[
        Path | None, typer.Option("--clips", metavar="DIR", help="A clip of each event, a second before and after.")
    ] = None,
    smooth: Annotated[
        str | None, typer.Option("--smooth", metavar="KIND:WIDTH", help="For example gaussian:12 (frames) or none.")
    ] = None,
    partial: Annotated[
        str, typer.Option("--partial", metavar="fail|keep", help="keep: accept videos of which less than 98 % decodes.")
    ] = "fail",
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score your own videos: a curve, the events in seconds, csv and json for each.

    No dataset and no training needed: without a run the score is how much moves. Exit 3 when a video could not be read; the others
    are done.
    """
    from pipelines import predict as stage
    from pipelines.errors import PartialFailure, UsageError

    if partial not in ("fail", "keep"):
        raise UsageError(f"--partial {partial!r}: fail or keep")
    console = Console.of(ctx, json=as_json)
    request = stage.PredictRequest(
        source=source,
        run=run,
        out=out,
        threshold=threshold,
        low=low,
        min_s=min_s,
        cooldown_s=cooldown_s,
        video=video,
        clips=clips,
        smooth=smooth,
        device=_device(device),
        workers=workers,
        partial="keep" if partial == "keep" else "fail",
        runs_dir=runs_dir,
    )
    result = stage.run(request, progress=console.progress)
    _render(console, result)
    if result.failures:
        lines = "".join(f"\n  {video}: {reason}" for video, reason in result.failures.items())
        raise PartialFailure(
            f"{len(result.failures)} of {len(result.failures) + len(result.predictions)} videos failed:{lines}",
            hint="--partial keep accepts videos that break off" if _broken_off(result) else "",
        )


def _render(console: Console, result: PredictResult) -> None:
    console.json(
        {
            "out": result.out,
            "scorer": result.scorer,
            "videos": [asdict(one) for one in result.predictions],
            "failures": result.failures,
        }
    )
    rows = [_row(one) for one in result.predictions]
    if rows:
        title = f"scored with {result.scorer}"
        console.table(title, ("video", "seconds", "peak", "peak at", "threshold", "events (seconds)"), rows)
        console.text(f"\nthreshold: {result.predictions[0].threshold_source}")
        console.text(f"curves, frame scores and events: {result.out}")
        clips = [event.clip for one in result.predictions for event in one.events if event.clip]
        if clips:
            console.text(f"clips of the events: {len(clips)} in {clips[0].parent}")


def _row(one: Prediction) -> tuple[object, ...]:
    spans = [f"{e.start_s:.1f}-{e.end_s:.1f}" if e.start_s is not None and e.end_s is not None else
             f"frames {e.start_frames}-{e.end_frames}" for e in one.events]  # fmt: skip
    shown = ", ".join(spans[:4]) + (f" and {len(spans) - 4} more" if len(spans) > 4 else "")
    length = f"{one.n_frames / one.fps:.1f}" if one.fps else None
    at = f"{one.peak_s:.1f}" if one.peak_s is not None else None
    return one.video, length, one.peak, at, one.threshold, shown or "none"


def _broken_off(result: PredictResult) -> bool:
    return any(" of " in reason for reason in result.failures.values())


def _device(text: str) -> str:
    import torch

    if text != "auto":
        return text
    return "cuda" if torch.cuda.is_available() else "cpu"
