"""`vad methods`: what can be trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from vadcli.console import Console
from vadcli.options import DeviceOption, EncoderOption, JsonOption, complete_method

app = typer.Typer(help="Methods: list and show.", no_args_is_help=True)


@app.command("ls")
def ls(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List every method with the features of its paper. Reads the files without importing them."""
    from pipelines import catalog

    console = Console.of(ctx, json=as_json)
    rows = [
        {
            "name": entry.name,
            "summary": entry.summary,
            "kind": entry.facts.get("KIND", "features"),
            "features": _words(entry.facts.get("DEFAULT_FEATURES")),
            "plugin": entry.plugin,
        }
        for entry in catalog.entries("methods").values()
    ]
    console.json({"methods": rows})
    listed = [
        (r["name"], r["kind"], ", ".join(map(str, _words(r["features"]))) or "the dataset's", r["summary"])
        for r in rows
    ]
    console.table("", ("method", "reads", "features it looks for", "what it is"), listed)


@app.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME|FILE.py", help="A method.", autocompletion=complete_method)],
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Show the values under this preset.")
    ] = None,
    complexity: Annotated[
        bool, typer.Option("--complexity", help="Count parameters and operations, and measure the rate here.")
    ] = False,
    encoder: EncoderOption = None,
    clips: Annotated[int, typer.Option("--clips", metavar="N", min=1, help="Clips of the video that is scored.")] = 256,
    classes: Annotated[int, typer.Option("--classes", metavar="N", min=2, help="Classes, normal included.")] = 14,
    precision: Annotated[
        Literal["float32", "bf16"], typer.Option("--precision", help="Arithmetic of the measurement.")
    ] = "float32",
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Show a method's configuration with every default, its presets and the paper's results.

    --encoder, --clips, --classes, --precision and --device say what --complexity measures.
    """
    from pipelines import catalog
    from pipelines.errors import UsageError
    from pipelines.methods._base import live_clips_of
    from pipelines.recipe import resolve, suggest
    from pipelines.training.group import flat

    console = Console.of(ctx, json=as_json)
    module = catalog.load("methods", name)
    presets: dict[str, Any] = getattr(module, "PRESETS", {})
    if preset is not None and preset not in presets:
        raise UsageError(f"{module.NAME} has no preset {preset!r}{suggest(preset, list(presets))}")
    config, origin = resolve(module.Config, [(f"preset {preset}", presets[preset])] if preset else [])
    values = flat(config.model_dump(mode="json"))
    results = [dict(row) for row in getattr(module, "RESULTS", ())]
    about = (module.__doc__ or "").strip()
    cost = _cost(module, config, encoder, clips, classes, device, precision) if complexity else None
    default = getattr(module, "DEFAULT_PRESET", None)
    live = live_clips_of(module)
    console.json(
        {
            "name": module.NAME,
            "about": about,
            "features": list(module.DEFAULT_FEATURES),
            "config": values,
            "origin": origin,
            "presets": presets,
            "default_preset": default,
            "live_clips": live,
            "results": results,
            "complexity": cost,
        }
    )
    console.text(f"{module.NAME}: {about}\n")
    console.table("", ("key", "value", "from"), [(k, str(v), origin.get(k, "default")) for k, v in values.items()])
    marks = [f"{p} (taken unless named)" if p == default else p for p in presets]
    seen = "each clip alone, a clip late" if live == 1 else f"the last {live or 'few dozen'} clips, a clip late"
    console.text(f"\nlive (vad watch): sees {seen}; smoothing comes on top")
    console.text(f"presets: {', '.join(marks) or 'none'}\n")
    if cost:
        console.table("cost of scoring one video", ("what", "value"), list(cost.items()))
        console.text()
    if results:
        rows = [
            (
                r["dataset"],
                r.get("features", ""),
                r["metric"],
                r.get("value", r.get("avg")),
                r.get("source", "the paper"),
            )
            for r in results
        ]
        console.table("published results (%)", ("dataset", "features", "metric", "value", "source"), rows)


def _cost(
    module: Any,
    config: Any,
    encoder: str | None,
    clips: int,
    classes: int,
    device: str,
    precision: Literal["float32", "bf16"],
) -> dict[str, Any]:
    from dataclasses import asdict

    from pipelines.scoring.complexity import measure

    found = measure(module, config, features=encoder, clips=clips, classes=classes, device=device, precision=precision)
    return asdict(found)


def _words(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, (list, tuple)) else []
