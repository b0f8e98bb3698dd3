"""`vad demo`: the whole job on videos that it draws itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import DeviceOption, JsonOption, SeedOption, SetOption, complete_method

if TYPE_CHECKING:
    from pipelines.chain import DemoResult

SHOWN = ("auc", "ap", "ano-auc", "video-auc")
PROTOCOL = "abnormal-only"  # of map-iou: normal videos and their false alarms are what the AUC speaks of


def demo(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Everything goes into this folder.")] = Path(
        "vad-demo"
    ),
    videos: Annotated[int, typer.Option("--videos", metavar="N", help="How many videos to draw (20 or more).")] = 60,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="Which method to train.", autocompletion=complete_method)
    ] = "fine-vad",
    seed: SeedOption = 0,
    sets: SetOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw small videos with known anomalies, then extract, train and evaluate: no download, no data set.

    The same command again finds everything done. The numbers are real: nothing but video labels is learnt from.
    """
    from pipelines import chain

    console = Console.of(ctx, json=as_json)
    request = chain.DemoRequest(out=out, videos=videos, seed=seed, method=method, device=device, sets=tuple(sets or ()))
    result = chain.demo(request, progress=console.progress)
    _render(console, result, method)


def _render(console: Console, result: DemoResult, method: str) -> None:
    metrics: dict[str, Any] = result.metrics["metrics"]
    console.json(
        {
            "folder": result.folder,
            "run": result.run,
            "evaluation": result.evaluation,
            "metrics": metrics,
            "breakdown": result.metrics["breakdown"],
            "floor": result.floor["metrics"],
            "pictures": result.pictures,
            "seconds": result.seconds,
        }
    )
    title = f"{result.dataset}: {result.metrics['videos']} test videos, {result.metrics['frames']} frames"
    console.table(title, ("", method, "95 % interval", "motion alone", "chance"), _rows(result))
    console.table("each class", ("", "auc", "motion alone", "map-iou", "chance"), _class_rows(result))
    took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    console.text(f"\ntook {sum(result.seconds.values()):.0f} s: {took}")
    for picture in result.pictures[:3]:
        console.text(f"look at  {picture}")
    console.text("\nnext, in that folder (it has its own manifest, cache and runs):")
    console.text(f"  cd {result.folder}")
    for command, what in NEXT:
        console.text(f"  {command:<42}{what}")


NEXT = (
    ("vad train --method mil-rank", "another method on the same features"),
    ("vad eval --metric map-iou", "its intervals, under three protocols"),
    ("vad predict videos/test-17-smoke.mp4", "one video: curve and events in seconds"),
    ("vad data init /path/to/your/videos", "the same for your own footage"),
)


def _rows(result: DemoResult) -> list[tuple[object, ...]]:
    """All videos: how frames rank, how videos rank, and whether the named intervals are found."""
    metrics, floors = result.metrics["metrics"], result.floor["metrics"]
    rows = [_row(name, metrics[name], floors.get(name, {})) for name in SHOWN]
    return [*rows, _row(f"map-iou ({PROTOCOL})", _detection(metrics), {})]


def _class_rows(result: DemoResult) -> list[tuple[object, ...]]:
    """Each class: its frames against everything normal, and its intervals."""
    ours, floors = (found["breakdown"].get("class", {}) for found in (result.metrics, result.floor))
    found = _detection(result.metrics["metrics"])
    chance = ((found.get("floor") or {}).get("per_class") or {}) if found else {}
    return [
        (
            name,
            group["metrics"]["auc"].get("value"),
            floors.get(name, {}).get("metrics", {}).get("auc", {}).get("value"),
            found.get("per_class", {}).get(name, {}).get("avg"),
            chance.get(name),
        )
        for name, group in ours.items()
    ]


def _detection(metrics: dict[str, Any]) -> dict[str, Any]:
    """The entry of map-iou under PROTOCOL with its average as `value`; {} where the method has no class scores."""
    entry: dict[str, Any] = metrics.get("map-iou", {}).get(PROTOCOL) or {}
    return entry | {"value": entry["avg"]} if entry else {}


def _row(name: str, entry: dict[str, Any], floor: dict[str, Any]) -> tuple[object, ...]:
    interval = f"{entry['ci'][0]:.3f} - {entry['ci'][1]:.3f}" if entry.get("ci") else None
    return name, entry.get("value"), interval, floor.get("value"), (entry.get("floor") or {}).get("random")
