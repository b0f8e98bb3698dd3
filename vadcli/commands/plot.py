"""`vad plot`: figures for papers, all in one look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vadcli.console import Console
from vadcli.options import CacheDirOption, DatasetOption, DeviceOption, JsonOption, ManifestOption, RunsDirOption

if TYPE_CHECKING:
    from pipelines.plot import Drawn, PlotRequest

app = typer.Typer(help="Figures for papers, as PDF, SVG and PNG in one look.")

Run = Annotated[str, typer.Option("--run", metavar="ID|latest", help="A run, a group or an evaluation.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="./vad_figures/<method>-<dataset> unless given.")
]
Format = Annotated[str, typer.Option("--format", metavar="A,B", help="pdf, svg, png.")]
Videos = Annotated[str, typer.Option("--videos", metavar="A,B", help="Which videos; some worth a look unless given.")]


@app.command("curves")
def curves(
    ctx: typer.Context,
    run: Run = "latest",
    videos: Videos = "",
    columns: Annotated[int, typer.Option("--columns", metavar="N", min=1, help="Curves beside each other.")] = 3,
    out: Out = None,
    form: Format = "pdf,svg,png",
    dataset: DatasetOption = None,
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score curves of chosen videos in a grid, the true intervals shaded."""
    from pipelines import plot

    request = _request(run, out, form, dataset, manifest, cache_dir, runs_dir)
    _show(Console.of(ctx, json=as_json), plot.curves(request, _words(videos), columns=columns))


@app.command("classes")
def classes(
    ctx: typer.Context,
    run: Run = "latest",
    metric: Annotated[str, typer.Option("--metric", metavar="A,B", help="Columns of per_class.csv; all of them.")] = "",
    out: Out = None,
    form: Format = "pdf,svg,png",
    dataset: DatasetOption = None,
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Each class's numbers as bars; a group's mean with each seed as a dot."""
    from pipelines import plot

    request = _request(run, out, form, dataset, manifest, cache_dir, runs_dir)
    _show(Console.of(ctx, json=as_json), plot.classes(request, _words(metric)))


@app.command("ablation")
def ablation(
    ctx: typer.Context,
    run: Run = "latest",
    metric: Annotated[
        str, typer.Option("--metric", metavar="A,B", help="One panel each; `map-iou PROTOCOL` for detection.")
    ] = "auc,ap,map-iou abnormal-only",
    out: Out = None,
    form: Format = "pdf,svg,png",
    dataset: DatasetOption = None,
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """The settings of a sweep (vad train --set key=a,b,c) as bars above what knows nothing of the video."""
    from pipelines import plot

    request = _request(run, out, form, dataset, manifest, cache_dir, runs_dir)
    _show(Console.of(ctx, json=as_json), plot.ablation(request, _words(metric)))


@app.command("stages")
def stages(
    ctx: typer.Context,
    run: Run = "latest",
    names: Annotated[str, typer.Option("--stages", metavar="A,B", help="Which stages; input and the last ones.")] = "",
    out: Out = None,
    form: Format = "pdf,svg,png",
    device: DeviceOption = "auto",
    dataset: DatasetOption = None,
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """PCA and t-SNE of a method's inner stages by class, with silhouette and nearest-neighbour purity."""
    from pipelines import plot

    console = Console.of(ctx, json=as_json)
    request = _request(run, out, form, dataset, manifest, cache_dir, runs_dir, device)
    _show(console, plot.stages(request, _words(names), progress=console.progress))


@app.command("maps")
def maps(
    ctx: typer.Context,
    run: Run = "latest",
    videos: Videos = "",
    out: Out = None,
    form: Format = "pdf,svg,png",
    device: DeviceOption = "auto",
    dataset: DatasetOption = None,
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Heat maps: levels or classes over time, before and after attention; score maps over the pictures."""
    from pipelines import plot

    console = Console.of(ctx, json=as_json)
    request = _request(run, out, form, dataset, manifest, cache_dir, runs_dir, device)
    _show(console, plot.maps(request, _words(videos), progress=console.progress))


def _request(
    run: str,
    out: Path | None,
    form: str,
    dataset: str | None,
    manifest: Path | None,
    cache_dir: str | None,
    runs_dir: Path | None,
    device: str = "auto",
) -> PlotRequest:
    from pipelines.plot import PlotRequest

    return PlotRequest(
        run=run,
        out=out,
        formats=_words(form),
        dataset=dataset,
        device=device,
        manifest=manifest,
        cache_dir=cache_dir,
        runs_dir=runs_dir,
    )


def _show(console: Console, drawn: Drawn) -> None:
    rows: list[dict[str, Any]] = [dict(zip(drawn.columns, row, strict=True)) for row in drawn.rows]
    console.json({"paths": drawn.paths, "rows": rows, "notes": drawn.notes})
    if drawn.rows:
        console.table("", drawn.columns, drawn.rows)
    for note in drawn.notes:
        console.text(note)
    for path in drawn.paths:
        console.text(str(path))


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
