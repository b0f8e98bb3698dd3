"""`vad eval`: a run, or scores that anybody brings, against the truth."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vadcli.cluster import ClusterOptions, argv_of, clustered, command_plan, in_parts, places
from vadcli.console import Console
from vadcli.options import (
    CacheDirOption,
    DatasetOption,
    DeviceOption,
    DryRunOption,
    JsonOption,
    ManifestOption,
    NewOption,
    RunOption,
    RunsDirOption,
    SplitOption,
    complete_metric,
)

if TYPE_CHECKING:
    from pipelines.evaluate import EvalRequest, EvalResult

SCORES, PROTOCOL, OUTPUT = "Brought scores (referee)", "Protocol", "Output"

Metric = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="A,B|all",
        help="auc, ap, ano-auc, map-iou, ... (vad metrics ls).",
        autocompletion=complete_metric,
    ),
]
Part = Annotated[Literal["train", "val", "test"], typer.Option("--part", help="Which part of the split.")]
Scores = Annotated[
    Path | None,
    typer.Option("--scores", metavar="FILE", help="npz, csv, parquet, h5 or a folder of npy.", rich_help_panel=SCORES),
]
ClipFrames = Annotated[
    int | None,
    typer.Option("--clip-frames", metavar="N", help="Rows are clips of N frames.", rich_help_panel=SCORES),
]
Offset = Annotated[int, typer.Option("--offset", metavar="N", help="Frame of the first row.", rich_help_panel=SCORES)]
Rows = Annotated[
    Literal["frames", "clips"] | None,
    typer.Option(
        "--rows",
        help="frames with --clip-frames 16: scores repeated 16 times.",
        rich_help_panel=SCORES,
    ),
]
Order = Annotated[
    Path | None,
    typer.Option("--order", metavar="LIST", help="Video ids of a flat npy, one a line.", rich_help_panel=SCORES),
]
Lengths = Annotated[
    Path | None,
    typer.Option(
        "--lengths",
        metavar="FILE",
        help="csv of video, rows of a flat npy; with --annotations: video, frames[, fps].",
        rich_help_panel=SCORES,
    ),
]
AnnotationsFile = Annotated[
    Path | None,
    typer.Option(
        "--annotations",
        metavar="FILE",
        help="Instead of --dataset: csv of intervals or ActivityNet json.",
        rich_help_panel=SCORES,
    ),
]
Segments = Annotated[
    Path | None,
    typer.Option(
        "--segments", metavar="FILE", help="Ready detections: csv or ActivityNet json.", rich_help_panel=SCORES
    ),
]
BoxesFile = Annotated[
    Path | None,
    typer.Option(
        "--boxes",
        metavar="FILE",
        help="Boxes for rbdc, tbdc: csv of video, frame, x1, y1, x2, y2, score.",
        rich_help_panel=SCORES,
    ),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Evaluate the videos that have scores; name the others.")
]
Videos = Annotated[Path | None, typer.Option("--videos", metavar="LIST", help="Only these videos, one id a line.")]
ClassMap = Annotated[
    Path | None,
    typer.Option("--class-map", metavar="FILE", help="Run class -> dataset class, for another dataset."),
]
Gt = Annotated[
    str | None, typer.Option("--gt", metavar="NAME", help="A named truth (vad data show).", rich_help_panel=PROTOCOL)
]
Smooth = Annotated[
    str,
    typer.Option(
        "--smooth", metavar="KIND:WIDTH[:EDGE]", help="gaussian:3, mean:7, median:17.", rich_help_panel=PROTOCOL
    ),
]
Minmax = Annotated[
    bool, typer.Option("--minmax", help="Scale each video's scores to [0, 1].", rich_help_panel=PROTOCOL)
]
Compat = Annotated[
    str | None,
    typer.Option("--compat", metavar="PRESET", help="vadclip, rtfm, pel4vad, ...", rich_help_panel=PROTOCOL),
]
Expand = Annotated[
    Literal["repeat", "linear", "bins32"] | None,
    typer.Option(
        "--expand", help="From clips to frames; as the method declares unless given.", rich_help_panel=PROTOCOL
    ),
]
Tail = Annotated[
    Literal["hold", "truncate"],
    typer.Option("--tail", help="Frames after the last clip.", rich_help_panel=PROTOCOL),
]
Crops = Annotated[
    str | None,
    typer.Option("--crops", metavar="mean|NAME", help="Mean over crops (default), or one.", rich_help_panel=PROTOCOL),
]
DropFirst = Annotated[
    int, typer.Option("--drop-first", metavar="N", help="Frames left out at each start.", rich_help_panel=PROTOCOL)
]
DropLast = Annotated[
    int, typer.Option("--drop-last", metavar="N", help="Frames left out at each end.", rich_help_panel=PROTOCOL)
]
Nan = Annotated[
    Literal["error", "zero", "hold"],
    typer.Option("--nan", help="What a score that is no number becomes.", rich_help_panel=PROTOCOL),
]
Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        metavar="A,B",
        help="vadclip, abnormal-only, activitynet; shown: the first two.",
        rich_help_panel=PROTOCOL,
    ),
]
Tiou = Annotated[
    str, typer.Option("--tiou", metavar="A,B|anet", help="IoU thresholds of map-iou.", rich_help_panel=PROTOCOL)
]
DetectionVideos = Annotated[
    Literal["abnormal", "all"],
    typer.Option("--detection-videos", help="Videos of the protocol activitynet.", rich_help_panel=PROTOCOL),
]
VideoScore = Annotated[
    Literal["max", "topk"], typer.Option("--video-score", help="A video's score.", rich_help_panel=PROTOCOL)
]
MapResize = Annotated[
    Literal["nearest", "bilinear"],
    typer.Option("--map-resize", help="Score maps to the masks' size.", rich_help_panel=PROTOCOL),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        metavar="A,B",
        help="Break down by duration, area, class, camera, video-length; duration:1:10 cuts there.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against", metavar="RUN|EVAL|FILE", help="Paired bootstrap against another evaluation or score file."
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", metavar="X", help="Operating point.", rich_help_panel=PROTOCOL),
]
ThresholdPolicy = Annotated[
    str | None,
    typer.Option(
        "--threshold-policy",
        metavar="POLICY",
        help="Learnt on normal videos: quantile:0.99, max-normal, target-fa-per-hour:1.",
        rich_help_panel=PROTOCOL,
    ),
]
NoCi = Annotated[bool, typer.Option("--no-ci", help="No intervals.", rich_help_panel=PROTOCOL)]
NoFloors = Annotated[bool, typer.Option("--no-floors", help="No floors.", rich_help_panel=PROTOCOL)]
Rounds = Annotated[
    int, typer.Option("--rounds", metavar="N", min=0, help="Bootstrap rounds.", rich_help_panel=PROTOCOL)
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the bootstrap.", rich_help_panel=PROTOCOL)]
Curves = Annotated[
    list[str] | None,
    typer.Option("--curves", metavar="VIDEO|all", help="Draw these videos one by one too.", rich_help_panel=OUTPUT),
]

NoPlots = Annotated[bool, typer.Option("--no-plots", help="No pictures.", rich_help_panel=OUTPUT)]


@clustered
def eval_(
    ctx: typer.Context,
    run: RunOption = "latest",
    scores: Scores = None,
    dataset: DatasetOption = None,
    split: SplitOption = None,
    part: Part = "test",
    metric: Metric = None,
    videos: Videos = None,
    allow_missing: AllowMissing = False,
    class_map: ClassMap = None,
    by: By = None,
    against: Against = None,
    clip_frames: ClipFrames = None,
    offset: Offset = 0,
    rows: Rows = None,
    order: Order = None,
    lengths: Lengths = None,
    annotations: AnnotationsFile = None,
    segments: Segments = None,
    boxes: BoxesFile = None,
    gt: Gt = None,
    expand: Expand = None,
    crops: Crops = None,
    tail: Tail = "hold",
    smooth: Smooth = "none",
    minmax: Minmax = False,
    drop_first: DropFirst = 0,
    drop_last: DropLast = 0,
    compat: Compat = None,
    nan: Nan = "error",
    protocol: Protocols = None,
    tiou: Tiou = "0.1,0.2,0.3,0.4,0.5",
    detection_videos: DetectionVideos = "abnormal",
    video_score: VideoScore = "max",
    map_resize: MapResize = "bilinear",
    threshold: Threshold = None,
    threshold_policy: ThresholdPolicy = None,
    no_floors: NoFloors = False,
    no_ci: NoCi = False,
    rounds: Rounds = 1000,
    seed: Seed = 0,
    curves: Curves = None,
    no_plots: NoPlots = False,
    new: NewOption = False,
    device: DeviceOption = "auto",
    manifest: ManifestOption = None,
    cache_dir: CacheDirOption = None,
    runs_dir: RunsDirOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    *,
    cluster: ClusterOptions,
) -> None:
    """Score a run on its test videos (or bring scores) and measure them; the result stands beside the run.

    vad eval                                        the last run, every metric that fits
    vad eval --run mil-rank --metric auc,map-iou    another run, named metrics
    vad eval --scores mine.npz --dataset ucf-crime  anybody's scores, no model needed
    """
    from dataclasses import replace

    from pipelines.evaluate import EvalRequest, plan
    from pipelines.evaluate import places as roots_of
    from pipelines.evaluate import run as evaluate
    from pipelines.scoring.protocol import Protocol

    console = Console.of(ctx, json=as_json)
    how = Protocol(
        gt=gt,
        expand=expand,
        crops=crops,
        tail=tail,
        smooth=smooth,
        normalise="minmax" if minmax else "none",
        drop_first=drop_first,
        drop_last=drop_last,
        compat=compat,
        nan=nan,
        protocols=words(protocol) or Protocol().protocols,
        tious=_tious(tiou),
        detection_videos=detection_videos,
        video_score=video_score,
        map_resize=map_resize,
        by=words(by),
        threshold=threshold,
        threshold_policy=threshold_policy,
        floors="none" if no_floors else "all",
        rounds=0 if no_ci else rounds,
        seed=seed,
    )
    request = EvalRequest(
        run=None if scores else run,
        scores=scores,
        dataset=dataset,
        split=split,
        part=part,
        metrics=words(metric) or ("all",),
        protocol=how,
        videos=videos,
        class_map=class_map,
        segments=segments,
        boxes=boxes,
        annotations=annotations,
        clip_frames=clip_frames,
        offset=offset,
        rows=rows,
        order=order,
        lengths=lengths,
        missing="allow" if allow_missing else "error",
        plots="leave out" if no_plots else "draw",
        curves=words(curves),
        against=against,
        device=device,
        again="new" if new else "reuse",
        manifest=manifest,
        cache_dir=cache_dir,
        runs_dir=runs_dir,
        command=shlex.join(["vad", *sys.argv[1:]]),
        shard=cluster.index(),
    )
    if request.shard is not None and request.shard[0] >= len(plan(request)):
        console.text(f"shard {request.shard[0]} of {request.shard[1]}: no runs")
        return
    if request.shard is None and (cluster.executor == "slurm" or cluster.processes(device) > 1):
        items = plan(request)
        _, roots = roots_of(request)
        argv = argv_of(ctx, drop=("cache_dir", "runs_dir", "manifest", "dry_run", "as_json"))
        argv += places(roots.features, manifest and manifest.absolute(), roots.runs)
        parts = command_plan("eval", items[0].dataset.name, argv, min(cluster.shards or len(items), len(items)))
        left = new or any(item.existing is None for item in items)
        mode: Literal["plan", "run"] = "plan" if dry_run else "run"
        if left and in_parts(console, cluster, parts, roots.runs, device=device, mode=mode) == "over":
            return
        request = request if dry_run else replace(request, again="reuse")
    if dry_run:
        _show_plan(console, plan(request))
        return
    _show(console, request, evaluate(request, progress=console.progress))


def words(given: list[str] | None) -> tuple[str, ...]:
    """`["a,b", "c"]` as ("a", "b", "c"), each once."""
    return tuple(dict.fromkeys(word.strip() for text in given or () for word in text.split(",") if word.strip()))


def _tious(text: str) -> tuple[float, ...]:
    from pipelines.errors import UsageError

    if text == "anet":
        return tuple(round(0.5 + 0.05 * index, 2) for index in range(10))
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < value <= 1 for value in found):
        raise UsageError(f"--tiou {text!r} is no list of numbers in (0, 1]", hint="0.1,0.2,0.3,0.4,0.5 or anet")
    return found


def _show_plan(console: Console, items: list[Any]) -> None:
    rows = [
        {
            "id": item.id,
            "folder": item.existing.folder if item.existing else item.folder,
            "state": "up to date" if item.existing else "to do",
            "videos": len(item.videos) - len(item.coverage.missing),
            "recipe": item.recipe,
        }
        for item in items
    ]
    console.table(
        "", ("state", "id", "videos", "folder"), [(r["state"], r["id"][:8], r["videos"], r["folder"]) for r in rows]
    )
    console.json({"dry_run": True, "evals": rows})


def _show(console: Console, request: EvalRequest, result: EvalResult) -> None:
    one = len(result.evals) == 1
    evals = [{"folder": item.folder, "state": item.state} | ({} if one else item.metrics) for item in result.evals]
    extra = {"comparison": result.comparison} if result.comparison else {}
    console.json(result.summary | {"evals": evals} | extra)
    protocols = request.protocol.protocols
    shown = [name for name in protocols if name in ("vadclip", "abnormal-only")] or protocols
    if "settings" in result.summary:
        _show_settings(console, result.summary["settings"], shown)
    else:
        show_metrics(console, result.summary, _subject(result), shown)
    if not one:
        _show_seeds(console, result, shown)
    for kind, groups in (result.summary.get("breakdown") or {}).items():
        _show_breakdown(console, kind, groups, shown)
    if result.comparison:
        show_comparison(console, result.comparison)
    for item in result.evals:
        console.text(f"{item.state}: {item.folder}")


def show_metrics(console: Console, metrics: dict[str, Any], subject: str, protocols: Any) -> None:
    """The table of one evaluation with its protocol above it and its notes below."""
    from pipelines.report.table import metric_table, protocol_words, totals_words

    table = metric_table(metrics, protocols=protocols)
    console.text(
        f"{subject} on {metrics['dataset']} / {metrics['split']} / {metrics['part']}: "
        f"{metrics['videos']} videos, {metrics['frames']:,} frames"
    )
    console.text(f"protocol: {protocol_words(metrics)}")
    for line in totals_words(metrics):
        console.text(f"totals: {line}")
    console.table("", table.columns, table.rows)
    for note in table.notes:
        console.text(note)


def show_comparison(console: Console, comparison: dict[str, Any]) -> None:
    """A paired bootstrap as a table in points."""
    rows = [
        (
            row["metric"],
            f"{100 * row['first']:.2f}",
            f"{100 * row['second']:.2f}",
            f"{100 * row['difference']:+.2f}",
            f"[{100 * row['ci'][0]:+.2f}, {100 * row['ci'][1]:+.2f}]" if row["ci"] else "-",
            f"{100 * row['share_above_0']:.1f} %" if row["share_above_0"] is not None else "-",
        )
        for row in comparison["metrics"]
    ]
    pairs = comparison.get("pairs") or [comparison]
    names = [", ".join(dict.fromkeys(str(pair[side]) for pair in pairs)) for side in ("first", "second")]
    seeds = f", mean over {len(pairs)} seeds" if len(pairs) > 1 else ""
    title = f"A: {names[0]}\nB: {names[1]}\n{comparison['videos']} videos, resampled together{seeds}"
    console.table(title, ("metric", "A", "B", "A - B", "95 % interval", "share above 0"), rows)


def _subject(result: EvalResult) -> str:
    """Who was evaluated, in words."""
    model = result.evals[0].metrics["model"]
    if not model.get("method"):
        return Path(str(model.get("scores_file"))).name
    seeds = f"{len(result.evals)} seeds" if len(result.evals) > 1 else f"seed {model.get('seed')}"
    return f"{model['method']} ({seeds}, selection {model.get('selection')})"


def _show_seeds(console: Console, result: EvalResult, protocols: Any) -> None:
    from pipelines.report.table import numbers, points

    listed = [{n.name: n.value for n in numbers(item.metrics, protocols=protocols)} for item in result.evals]
    names = [name for name, value in listed[0].items() if value is not None]
    rows = [
        (str(item.metrics["model"].get("seed")), *(points(values.get(name)) for name in names))
        for item, values in zip(result.evals, listed, strict=True)
    ]
    console.table("each seed", ("seed", *names), rows)


def _show_settings(console: Console, settings: dict[str, Any], protocols: Any) -> None:
    from pipelines.report.table import numbers, points

    listed = {name: {n.name: n for n in numbers(one, protocols=protocols)} for name, one in settings.items()}
    names = [name for name, n in next(iter(listed.values())).items() if n.value is not None]
    rows = [
        (
            setting,
            *(
                points(n.value) + (f" ± {points(n.sd)}" if n.sd is not None else "")
                for n in map(values.get, names)
                if n
            ),
        )
        for setting, values in listed.items()
    ]
    console.table("each setting (mean ± deviation over seeds)", ("setting", *names), rows)


def _show_breakdown(console: Console, kind: str, groups: Any, protocols: Any) -> None:
    from pipelines.report.table import points

    if "reason" in groups:
        console.text(f"by {kind}: {groups['reason']}")
        return
    cells = {name: _group_cells(group["metrics"], protocols) for name, group in groups.items()}
    names = [
        n for n in dict.fromkeys(n for one in cells.values() for n in one) if any(c.get(n) for c in cells.values())
    ]
    rows = [
        (
            f"{name} ({group['description']})",
            group["videos"],
            group["events"],
            *(points(cells[name].get(metric)) for metric in names),
        )
        for name, group in groups.items()
    ]
    console.table(f"by {kind}", (kind, "videos", "events", *names), rows)


def _group_cells(metrics: dict[str, Any], protocols: Any) -> dict[str, float | None]:
    """The fractions of one group by column; detection has a column a protocol, operating figures have none."""
    cells: dict[str, float | None] = {}
    for name, entry in metrics.items():
        if name == "map-iou":
            cells |= {f"{name} {protocol}": _value(entry.get(protocol)) for protocol in protocols}
        elif name != "operating":
            cells[name] = _value(entry)
    return cells


def _value(entry: Any) -> float | None:
    found = entry.get("value") if isinstance(entry, dict) else entry
    return float(found) if isinstance(found, int | float) else None
