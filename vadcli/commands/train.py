"""`vad train`: features -> a run, or a group of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from vadcli.cluster import ClusterOptions, argv_of, clustered, command_plan, in_parts, places
from vadcli.console import Console
from vadcli.options import (
    CONFIG,
    CacheDirOption,
    ConfigOption,
    DeviceOption,
    DryRunOption,
    FeaturesOption,
    JsonOption,
    ManifestOption,
    MethodOption,
    NewOption,
    RunsDirOption,
    SeedOption,
    SetOption,
    ShowConfigOption,
    SplitOption,
    complete_dataset,
)

if TYPE_CHECKING:
    from pipelines.train import TrainPlan, TrainResult

SELECTIONS = ("last", "val", "best-on-test")
METRICS = ("video-auc", "frame-auc")
PRECISIONS = ("float32", "bf16")


@clustered
def train(
    ctx: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATASET]",
            help="A dataset's name; the one whose features were extracted last unless given.",
            autocompletion=complete_dataset,
        ),
    ] = None,
    method: MethodOption = "mil-rank",
    features: FeaturesOption = None,
    split: SplitOption = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Train N seeds as one group.")] = 1,
    seed: SeedOption = 0,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", metavar="NAME|none", help="Named settings (vad methods show M).", rich_help_panel=CONFIG
        ),
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    selection: Annotated[
        str,
        typer.Option("--selection", metavar="last|val|best-on-test", help="Which weights a run keeps."),
    ] = "last",
    select_every: Annotated[
        int, typer.Option("--select-every", metavar="STEPS", help="How often val or test videos are scored.")
    ] = 100,
    select_metric: Annotated[
        str, typer.Option("--select-metric", metavar="video-auc|frame-auc", help="What selection looks at.")
    ] = "video-auc",
    patience: Annotated[
        int, typer.Option("--patience", metavar="N", help="Stop after N checks without a better value; 0 never.")
    ] = 0,
    val_share: Annotated[
        float, typer.Option("--val-share", metavar="X", help="Share of the training groups held out for val.")
    ] = 0.1,
    normal_only: Annotated[
        bool,
        typer.Option("--normal-only", help="One-class methods: leave out training videos that hold anomalies."),
    ] = False,
    text: Annotated[
        str | None,
        typer.Option("--text", metavar="ENCODER", help="Text encoder of class prompts: clip:..., minilm, seeded."),
    ] = None,
    pseudo: Annotated[
        str | None,
        typer.Option(
            "--pseudo", metavar="RUN|clip", help="Pseudo labels: a run's scores, or CLIP features with class words."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", metavar="float32|bf16", help="Arithmetic of the training step.")
    ] = "float32",
    device: DeviceOption = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Insist on going on with a stopped run (the same command does it anyway).")
    ] = False,
    new: NewOption = False,
    save_every: Annotated[int, typer.Option("--save-every", metavar="STEPS", help="Steps between saved states.")] = 500,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    manifest: ManifestOption = None,
    show_config: ShowConfigOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    *,
    cluster: ClusterOptions,
) -> None:
    """Train a method on stored features. What is trained already is not trained again; a stopped run goes on.

    A value with commas is a sweep: --set optim.lr=1e-4,1e-3 (a list is written in brackets).
    """
    from pipelines import train as stage
    from pipelines.training.select import SelectionConfig

    console = Console.of(ctx, json=as_json)
    request = stage.TrainRequest(
        method=method,
        dataset=dataset,
        features=features,
        split=split,
        seeds=seeds,
        seed=seed,
        preset=preset,
        config=config,
        sets=tuple(assignments or ()),
        text=text,
        pseudo=pseudo,
        selection=SelectionConfig(
            mode=_one_of("--selection", selection, SELECTIONS),
            every=_positive("--select-every", select_every),
            patience=patience,
            metric=_one_of("--select-metric", select_metric, METRICS),
            share=_share(val_share),
        ),
        anomalies="leave out" if normal_only else "refuse",
        precision=_one_of("--precision", precision, PRECISIONS),
        device=device,
        resume=resume,
        new=new,
        save_every=_positive("--save-every", save_every),
        cache_dir=cache_dir,
        runs_dir=runs_dir,
        manifest=manifest,
        shard=cluster.index(),
    )
    count = stage.n_members(request)
    if (
        not show_config
        and request.shard is None
        and (cluster.executor == "slurm" or cluster.processes(device) > 1 < count)
    ):
        planned = stage.plan(request)
        left = planned.done.count(False)
        argv = argv_of(ctx, drop=("cache_dir", "runs_dir", "manifest", "dry_run", "as_json"))
        argv += places(planned.roots.features, manifest and manifest.absolute(), planned.roots.runs)
        parts = command_plan(f"train-{planned.method}", planned.dataset.name, argv, min(cluster.shards or count, count))
        mode: Literal["plan", "run"] = "plan" if dry_run else "run"
        if left and in_parts(console, cluster, parts, planned.roots.runs, device=device, mode=mode) == "over":
            return
    if show_config:
        _show_config(console, stage.plan(request))
    elif dry_run:
        _dry_run(console, stage.plan(request))
    else:
        _result(console, stage.run(request, progress=console.progress))


def _show_config(console: Console, plan: TrainPlan) -> None:
    from pipelines.training.group import flat

    values = flat(plan.configs[0].model_dump(mode="json"))
    console.json({"method": plan.method, "preset": plan.preset, "config": values, "origin": plan.origin})
    console.table("", ("key", "value", "from"), [(k, str(v), plan.origin.get(k, "default")) for k, v in values.items()])


def _dry_run(console: Console, plan: TrainPlan) -> None:
    states = [
        "up to date" if d else "goes on" if b else "would train" for d, b in zip(plan.done, plan.begun, strict=True)
    ]
    facts: dict[str, Any] = {
        "method": plan.method,
        "dataset": plan.dataset.name,
        "split": plan.split,
        "features": plan.choice.label,
        "preset": plan.preset,
        **({"pseudo labels": plan.pseudo.label} if plan.pseudo else {}),
        "selection": plan.request.selection.mode,
        "training videos": len(plan.train),
        "held-out normal videos": len(plan.unseen),
        "held-out videos": len(plan.held),
        **_budget(plan),
        "device": plan.device,
        "group": plan.group,
    }
    members = [
        {"folder": m.place, "id": m.id, "seed": m.seed, "state": s} for m, s in zip(plan.members, states, strict=True)
    ]
    console.json({"dry_run": True, **facts, "runs": members, "assumed": list(plan.assumed)})
    console.table("", ("", ""), [(key, str(value)) for key, value in facts.items()])
    console.table("", ("run", "id", "state"), [(m["folder"], str(m["id"])[:8], m["state"]) for m in members])
    for line in plan.assumed:
        console.note(line)


def _budget(plan: TrainPlan) -> dict[str, Any]:
    """Steps, or epochs of methods that read frames, over the members."""
    for name in ("steps", "epochs"):
        if all(hasattr(config, name) for config in plan.configs):
            return {name: ", ".join(dict.fromkeys(str(getattr(config, name)) for config in plan.configs))}
    return {}


def _result(console: Console, result: TrainResult) -> None:
    rows = [_row(outcome.folder.relative_to(result.group), outcome) for outcome in result.runs]
    console.json(
        {
            "group": result.group,
            "assumed": list(result.assumed),
            "runs": [
                {
                    "folder": o.folder,
                    "id": o.id,
                    "seed": o.seed,
                    "set": o.swept,
                    "status": o.status,
                    "steps": o.recorded.get("steps"),
                    "seconds": o.recorded.get("seconds"),
                    "selection": {k: o.recorded.get(f"selection_{k}") for k in ("metric", "value")}
                    | {"step": o.recorded.get("best_step")},
                    "thresholds": o.recorded.get("thresholds"),
                }
                for o in result.runs
            ],
        }
    )
    console.table("", ("run", "id", "status", "steps", "kept", "selected by", "value", "seconds"), rows)
    console.text(f"\n{result.group}\nNext: vad eval")


def _row(place: Path, outcome: Any) -> tuple[object, ...]:
    r = outcome.recorded
    value = r.get("selection_value")
    chosen = r.get("selection_metric", "last")
    mark = " (on test!)" if str(chosen).startswith("test_") else ""
    return (
        place,
        outcome.id[:8],
        outcome.status,
        r.get("steps"),
        r.get("best_step"),
        f"{chosen}{mark}",
        value,
        r.get("seconds"),
    )


def _one_of(option: str, value: str, known: tuple[str, ...]) -> Any:
    from pipelines.errors import UsageError
    from pipelines.recipe import suggest

    if value not in known:
        raise UsageError(f"{option} {value!r}{suggest(value, known)}: {', '.join(known)}")
    return cast(Any, value)


def _positive(option: str, value: int) -> int:
    from pipelines.errors import UsageError

    if value < 1:
        raise UsageError(f"{option} {value}: at least 1")
    return value


def _share(value: float) -> float:
    from pipelines.errors import UsageError

    if not 0 < value < 1:
        raise UsageError(f"--val-share {value}: between 0 and 1")
    return value
