"""`vad metrics`: list and show what `vad eval --metric` takes."""

from __future__ import annotations

from typing import Annotated

import typer

from vadcli.console import Console
from vadcli.options import JsonOption, complete_metric

app = typer.Typer(help="Metrics: list and show.")

WHAT = {
    "auc": "ROC-AUC of all frames pooled; ties count one half",
    "ap": "average precision of all frames pooled, by steps; primary for XD-Violence",
    "ap-trapezoid": "the same by trapezoids, as RTFM and others print it; higher on tied scores",
    "ano-auc": "pooled ROC-AUC over abnormal videos alone: the localisation number",
    "ano-ap": "pooled average precision over abnormal videos alone",
    "auc-minmax": "pooled ROC-AUC after scaling each video to [0, 1]",
    "macro-auc": "mean of each video's own ROC-AUC; videos of one label are left out and named",
    "macro-auc-pad": "the literature's macro: min-max, then one 0 and one 1 added to each video",
    "macro-auc-pad-missing": "one normal label added to videos without any (compatibility)",
    "class-auc": "one class against the rest on frames, mean over anomaly classes",
    "class-ap": "average precision of one class against the rest, mean over anomaly classes",
    "video-auc": "ROC-AUC of whole videos by their largest score",
    "video-ap": "average precision of whole videos",
    "video-acc": "accuracy of whole videos at a threshold learnt elsewhere",
    "map-iou": "mAP of detected intervals at IoU 0.1 to 0.5 under vadclip, abnormal-only, activitynet",
    "proposal-recall": "share of events that the best 1, 5, 10, 50 proposals hit at IoU 0.5",
    "operating": "false alarms per hour, hits, delay, events, calibration at a threshold",
    "pixel-auc": "ROC-AUC of all pixels pooled, where masks and maps exist",
    "rbdc": "region-based detection criterion",
    "tbdc": "track-based detection criterion",
}


@app.command("ls")
def ls(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Every metric name, by family; read without importing anything heavy."""
    from pipelines import catalog

    console = Console.of(ctx, json=as_json)
    rows = [
        (name, entry.name, WHAT.get(name, entry.summary))
        for entry in catalog.entries("metrics").values()
        for name in _names(entry)
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
    explained = WHAT.get(metric, families[metric].summary)
    console.text(f"{metric}: {definition}\n{explained}\n\n{inspect.getdoc(module) or ''}")
    console.json({"metric": metric, "definition": definition, "family": families[metric].name, "explained": explained})


def _names(entry: object) -> list[str]:
    facts = getattr(entry, "facts", {})
    listed = facts.get("METRICS")
    return [str(name) for name in listed] if isinstance(listed, (list, tuple)) else [str(getattr(entry, "name", ""))]
