"""`vad metrics`: list and show what `vad eval --metric` takes."""

from __future__ import annotations

from typing import Annotated

import typer

from vadcli.console import Console
from vadcli.options import JsonOption, complete_metric

app = typer.Typer(help="Metrics: list and show.")


@app.command("ls")
def ls(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Every metric name, by family; read without importing anything heavy."""
    from pipelines import catalog

    console = Console.of(ctx, json=as_json)
    rows = [
        (name, entry.name, entry.summary) for entry in catalog.entries("metrics").values() for name in _names(entry)
    ]
    console.table("", ("metric", "family", "what"), rows)
    console.json({"metrics": [{"metric": name, "family": family, "summary": what} for name, family, what in rows]})


@app.command("show")
def show(
    ctx: typer.Context,
    metric: Annotated[str, typer.Argument(metavar="METRIC", autocompletion=complete_metric)],
    as_json: JsonOption = False,
) -> None:
    """One metric: its definition's name and how it is counted."""
    import inspect

    from pipelines import catalog
    from pipelines.errors import UsageError
    from pipelines.recipe import suggest

    console = Console.of(ctx, json=as_json)
    families = {name: entry for entry in catalog.entries("metrics").values() for name in _names(entry)}
    if metric not in families:
        raise UsageError(f"unknown metric {metric!r}{suggest(metric, list(families))}", hint="vad metrics ls")
    module = catalog.load("metrics", families[metric].name)
    definition = getattr(module, "DEFINITIONS", {}).get(metric, metric)
    explained = getattr(module, "EXPLAINED", {}).get(metric, families[metric].summary)
    console.text(f"{metric}: {definition}\n{explained}\n\n{inspect.getdoc(module) or ''}")
    console.json({"metric": metric, "definition": definition, "family": families[metric].name, "explained": explained})


def _names(entry: object) -> list[str]:
    facts = getattr(entry, "facts", {})
    listed = facts.get("METRICS")
    return [str(name) for name in listed] if isinstance(listed, (list, tuple)) else [str(getattr(entry, "name", ""))]
