"""`vad runs`: list, show and compare runs; a table of ours beside the papers' numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vadcli.console import Console, out
from vadcli.options import (
    CacheDirOption,
    DatasetOption,
    DeviceOption,
    FeaturesOption,
    JsonOption,
    ManifestOption,
    NewOption,
    RunsDirOption,
    SetOption,
    SplitOption,
    complete_dataset,
    complete_method,
)

app = typer.Typer(help="List, show and compare runs; a table beside the papers' numbers.")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="latest, a folder, an id or a method's name.")]


@app.command("ls")
def ls(ctx: typer.Context, runs_dir: RunsDirOption = None, as_json: JsonOption = False) -> None:
    """Every run: method, dataset, features, seeds, selection, evaluations."""
    from pipelines.artifacts import resolve_roots
    from pipelines.store import runs

    root = resolve_roots(runs_dir=runs_dir).runs
    console = Console.of(ctx, json=as_json)
    listed = [runs.facts(group, root) for group in runs.find_groups(root)]
    rows = [
        (
            ("* " if f.latest else "  ") + f.group.folder.relative_to(root).as_posix(),
            f.split,
            "+".join(f.features),
            ",".join(map(str, f.seeds)),
            f.selection,
            " ".join(f"{name}:{count}" for name, count in f.evals.items()) or "-",
            f.created,
        )
        for f in listed
    ]
    console.table("", ("run (* latest)", "split", "features", "seeds", "selection", "evaluations", "created"), rows)
    console.json({"runs": [_as_json(f, root) for f in listed]})
    if not rows:
        console.text(f"no runs in {root}: vad train DATASET makes one")


@app.command("show")
def show(
    ctx: typer.Context, run: RunArgument = "latest", runs_dir: RunsDirOption = None, as_json: JsonOption = False
) -> None:
    """One run: its recipe, its lineage and the numbers of its evaluations."""
    from pipelines import artifacts
    from pipelines.artifacts import resolve_roots
    from pipelines.store import runs

    root = resolve_roots(runs_dir=runs_dir).runs
    console = Console.of(ctx, json=as_json)
    group = runs.resolve(run, root)
    found = [(folder, artifacts.read(folder), runs.evals(folder)) for folder in group.runs]
    console.json(
        {
            "folder": group.folder,
            "runs": [
                {
                    "folder": folder,
                    "id": artifact.id,
                    "recipe": artifact.recipe,
                    "inputs": artifact.inputs,
                    "recorded": artifact.recorded,
                    "evals": [
                        {"folder": e.folder, "id": e.artifact.id, "metrics": e.metrics["metrics"]} for e in evals
                    ],
                }
                for folder, artifact, evals in found
            ],
        }
    )
    facts = runs.facts(group, root)
    console.text(f"{facts.method} on {facts.dataset} / {facts.split}: {group.folder}")
    console.text(f"features: {'+'.join(facts.features)}; selection: {facts.selection}; seeds: {facts.seeds}")
    for role, id in found[0][1].inputs.items():
        console.text(f"made from {role}: {id[:8]}")
    for folder, _, evals in found:
        _show_evals(console, folder, evals)


@app.command("compare")
def compare(
    ctx: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="A run or an evaluation.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    dataset: DatasetOption = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Bootstrap rounds.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the bootstrap.")] = 0,
    manifest: ManifestOption = None,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Paired bootstrap over videos: the same resamples for both, the interval of the difference A - B."""
    from pipelines.artifacts import resolve_roots
    from pipelines.data.manifest import load
    from pipelines.scoring import compare as comparing
    from pipelines.store import runs
    from vadcli.commands.eval import show_comparison

    root = resolve_roots(runs_dir=runs_dir).runs
    console = Console.of(ctx, json=as_json)
    one, other = (runs.resolve_eval(text, root, dataset=dataset) for text in (first, second))
    result = comparing.compare(one, other, load(manifest), rounds=rounds, seed=seed)
    console.json(result)
    show_comparison(console, result)


@app.command("table")
def table(
    ctx: typer.Context,
    which: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs or evaluations; every run without.")
    ] = None,
    dataset: DatasetOption = None,
    split: SplitOption = None,
    metric: Annotated[
        str, typer.Option("--metric", metavar="A,B", help="Columns; map-iou:PROTOCOL for detection.")
    ] = "auc,ap,ano-auc,map-iou:vadclip,map-iou:abnormal-only",
    form: Annotated[
        Literal["text", "csv", "markdown", "latex"], typer.Option("--format", help="How it is written.")
    ] = "text",
    papers: Annotated[bool, typer.Option("--papers/--no-papers", help="The papers' numbers below ours.")] = True,
    split_protocols: Annotated[
        bool, typer.Option("--split-protocols", help="Columns of their own for each protocol, instead of refusing.")
    ] = False,
    runs_dir: RunsDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ours beside the papers' numbers, with protocol, selection, seeds and features; mean over seeds.

    Rows of different protocols never share a column; a number whose weights were chosen on the test set is marked.
    """
    from pipelines.artifacts import resolve_roots
    from pipelines.report.results import results
    from pipelines.report.table import render

    console = Console.of(ctx, json=as_json)
    built = results(
        which or [],
        resolve_roots(runs_dir=runs_dir).runs,
        dataset=dataset,
        split=split,
        columns=[word.strip() for word in metric.split(",") if word.strip()],
        papers="show" if papers else "leave out",
        protocols="split" if split_protocols else "refuse",
    )
    console.json({"columns": built.columns, "rows": built.rows, "notes": built.notes})
    if form != "text" and not as_json:
        out(render(built, form))
        return
    console.table(built.title, built.columns, built.rows)
    for note in built.notes:
        console.text(note)


@app.command("import")
def import_(
    ctx: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A published .pkl, .pth or .safetensors.")],
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="Whose weights.", autocompletion=complete_method)
    ],
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="NAME", help="What they are for.", autocompletion=complete_dataset)
    ],
    features: FeaturesOption = None,
    split: SplitOption = None,
    preset: Annotated[str | None, typer.Option("--preset", metavar="NAME", help="The dataset's unless given.")] = None,
    assignments: SetOption = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="ENCODER", help="Text encoder of class words: clip:vit-b-16, ...")
    ] = None,
    device: DeviceOption = "cpu",
    new: NewOption = False,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    manifest: ManifestOption = None,
    as_json: JsonOption = False,
) -> None:
    """Published weights as a run that eval and predict take. Keys are mapped strictly; every difference is listed.

    Nothing in the file is executed. The run is marked `published`: such weights were mostly chosen on test videos.
    """
    from dataclasses import asdict

    from pipelines.training import importing

    console = Console.of(ctx, json=as_json)
    request = importing.ImportRequest(
        method=method,
        checkpoint=checkpoint,
        dataset=dataset,
        features=features,
        split=split,
        preset=preset,
        sets=tuple(assignments or ()),
        text=text,
        device=device,
        new=new,
        cache_dir=cache_dir,
        runs_dir=runs_dir,
        manifest=manifest,
    )
    result = importing.run(request, progress=console.progress)
    for note in result.notes:
        console.note(note)
    console.json(asdict(result))
    console.text(f"{result.status}: {result.tensors} tensors of {checkpoint} (sha256 {result.sha256[:12]})")
    console.text(f"{result.folder}\nNext: vad eval")


def _as_json(facts: Any, root: Path) -> dict[str, Any]:
    return {
        "folder": facts.group.folder,
        "runs": facts.group.runs,
        "method": facts.method,
        "dataset": facts.dataset,
        "split": facts.split,
        "seeds": facts.seeds,
        "selection": facts.selection,
        "features": facts.features,
        "created": facts.created,
        "latest": facts.latest,
        "evals": facts.evals,
    }


def _show_evals(console: Console, folder: Path, evals: list[Any]) -> None:
    from pipelines.report.table import numbers, points, protocol_words

    console.text("")
    console.text(folder.name + ("" if evals else f": no evaluation yet (vad eval --run {folder})"))
    for record in evals:
        listed = [n for n in numbers(record.metrics) if n.value is not None]
        console.text(f"  {record.folder.name}: {protocol_words(record.metrics)}")
        console.text("    " + "  ".join(f"{n.name} {points(n.value)}" for n in listed))
