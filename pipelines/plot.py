"""The figure stage: an evaluation or a run -> figures for papers as PDF, SVG and PNG, all in one look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import artifacts
from pipelines.artifacts import Roots
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.progress import Progress, Silent
from pipelines.recipe import suggest
from pipelines.report.style import FORMATS, look, save_all
from pipelines.store import runs
from pipelines.store.runs import EvalRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.data.manifest import Dataset, Manifest
    from pipelines.records import Event, Scores
    from pipelines.report.inner import Separation, Stage
    from pipelines.report.plots import Curve
    from pipelines.scoring.prepare import Prepared

FOLDER = "vad_figures"
DEFAULT_METRICS = ("auc", "ap", "map-iou abnormal-only")
DEFAULT_VIDEOS = 2  # of heat maps: the abnormal ones that the run ranks best


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotRequest:
    """Whose figures, where and in which formats.

    `run` is a run, a group or an evaluation; `out` the folder (`./vad_figures/<method>-<dataset>` unless given).
    """

    run: str = runs.LATEST
    out: Path | None = None
    formats: tuple[str, ...] = FORMATS
    dataset: str | None = None
    device: str = "auto"
    manifest: Path | None = None
    cache_dir: str | None = None
    runs_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn: the files, and the numbers that stand in them, as (columns, rows)."""

    paths: tuple[Path, ...]
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    notes: tuple[str, ...] = ()


def curves(request: PlotRequest, videos: Sequence[str] = (), *, columns: int = 3) -> Drawn:
    """Score curves of chosen videos in a grid, with one score axis; without names nine that are worth a look.

    Raises:
        UsageError: a video that was not evaluated.
        MissingArtifactError, VerificationError: as `scoring.compare.data_from`.
    """
    from pipelines.report import plots

    record = _records(request)[0]
    _, ready = _prepared(record, request)
    auc = {row["video"]: float(row["auc"]) if row["auc"] else None for row in _table(record, "per_video.csv")}
    ids, abnormal = ready.data.video_ids, ready.data.abnormal
    peak = {video: float(scores.max()) for video, scores in zip(ids, ready.data.scores, strict=True)}
    split = [[v for v, is_one in zip(ids, abnormal, strict=True) if is_one == kind] for kind in (True, False)]
    chosen = _known(videos, ids) if videos else plots.choose(auc, split[0], split[1], peak)
    lines = [_curve(ready, ids.index(video), auc.get(video)) for video in chosen]
    with look():
        made = plots.grid_figure(lines, columns=columns, title=_title(record))
        return Drawn(tuple(save_all(made, _folder(request, record), "curves", _formats(request))))


def classes(request: PlotRequest, columns: Sequence[str] = ()) -> Drawn:
    """Each class's numbers as bars, one panel a column of per_class.csv; the mean over the seeds of a group.

    Raises:
        UsageError: a column that is not there.
        MissingArtifactError: the evaluation has no number of a class.
    """
    from pipelines.report.bars import bars_figure, class_panels

    records = _of_one_setting(_records(request))
    tables = [_table(record, "per_class.csv") for record in records]
    known = (
        [name for name in tables[0][0] if name not in ("class", "events", "videos", "positives")] if tables[0] else []
    )
    panels = class_panels(tables, _known(columns, known))
    if not panels:
        raise MissingArtifactError(
            f"{records[0].folder} has no number of a class: its scores name no classes", hint="vad eval --metric all"
        )
    with look():
        made = bars_figure(panels, title=_title(records[0], seeds=len(records)))
        paths = save_all(made, _folder(request, records[0]), "classes", _formats(request))
    rows = [(bar.word, panel.metric, bar.value) for panel in panels for bar in panel.bars]
    return Drawn(tuple(paths), ("class", "metric", "value"), tuple(rows))


def ablation(request: PlotRequest, metrics: Sequence[str] = DEFAULT_METRICS) -> Drawn:
    """The settings of a sweep as bars above the floor, whiskers over seeds (or the interval of one seed).

    Raises:
        UsageError: the run is no sweep.
        MissingArtifactError: a setting is not evaluated, or none has the metrics.
    """
    from pipelines.report.bars import bars_figure, setting_panels
    from pipelines.report.seeds import summarise_settings

    records = _records(request)
    summary = summarise_settings([r.metrics for r in records], [r.folder for r in records])
    if "settings" not in summary:
        raise UsageError(
            f"{request.run!r} is one setting, not a sweep", hint="vad train ... --set key=a,b,c, then vad eval"
        )
    settings = {artifacts.video_id_of(name): one for name, one in summary["settings"].items()}
    panels = setting_panels(settings, metrics)
    if not panels:
        held = ", ".join(records[0].metrics["metrics"])
        raise MissingArtifactError(
            f"no setting has {', '.join(metrics)}; evaluated are {held}",
            hint=f"vad eval --run {request.run} --metric all",
        )
    with look():
        made = bars_figure(panels, title=_title(records[0], what="sweep"))
        paths = save_all(made, _folder(request, records[0]), "ablation", _formats(request))
    rows = [(bar.word, panel.metric, bar.value, len(bar.seeds) or 1) for panel in panels for bar in panel.bars]
    return Drawn(tuple(paths), ("setting", "metric", "value", "seeds"), tuple(rows))


def stages(request: PlotRequest, names: Sequence[str] = (), *, progress: Progress = Silent()) -> Drawn:
    """PCA and t-SNE of a method's inner stages by class, each with its silhouette and nearest-neighbour purity.

    Without names: the input and the last stages, maps left out.

    Raises:
        UsageError: a stage that the method does not have, or scores that were brought.
    """
    from pipelines.report.inner import MAX_STAGES, ROWS, sample, separation, stages_figure

    record = _of_run(_records(request)[0])
    dataset, ready = _prepared(record, request)
    found = _stages(request, record, dataset, ready, progress)
    if not found:
        raise UsageError(f"{record.metrics['model'].get('method')} has no inner stages of clips to draw")
    usual = [name for name in found if not name.startswith("map_") and found[name].x.shape[1] > 1]
    chosen = _known(names, list(found)) if names else [*usual[:1], *usual[1:][-(MAX_STAGES - 1) :]]
    shown = [sample(found[name], dataset.normal) for name in chosen]
    with look():
        made = stages_figure(shown, dataset.classes, title=_title(record))
        paths = save_all(made, _folder(request, record), "stages", _formats(request))
    rows = tuple(_numbers(one, separation(one)) for one in shown)
    left = [name for name in found if name not in chosen]
    notes = (
        "purity: share of clips whose nearest neighbour from another video has their class; chance: of a random one",
        *([f"at most {ROWS} clips a stage, abnormal ones first"] if any(len(s.x) == ROWS for s in shown) else []),
        *([f"not drawn: {', '.join(left)} (--stages)"] if left else []),
    )
    return Drawn(tuple(paths), ("stage", "clips", "width", "silhouette", "purity", "chance"), rows, notes)


def maps(request: PlotRequest, videos: Sequence[str] = (), *, progress: Progress = Silent()) -> Drawn:
    """Heat maps of chosen videos: maps over time (stages `map_*`) and maps of the picture (`Scores.maps`).

    Raises:
        UsageError: a video that was not evaluated, or a method without maps.
    """
    record = _of_run(_records(request)[0])
    dataset, ready = _prepared(record, request)
    chosen = _known(videos, ready.data.video_ids) if videos else _best(record, ready)
    folder, paths = _folder(request, record), []
    for scores, inner in _inner(request, record, dataset, chosen, progress):
        with look():
            for name, made in _maps_of(scores, inner, record, dataset, ready):
                paths += save_all(
                    made, folder, artifacts.folder_name(f"maps-{scores.video_id}-{name}"), _formats(request)
                )
    if not paths:
        raise UsageError(
            f"{record.metrics['model'].get('method')} gives no maps",
            hint="methods with stages `map_*` (afr, fine-vad) or score maps have some",
        )
    return Drawn(tuple(paths))


def _maps_of(
    scores: Scores, inner: Mapping[str, NDArray[np.float32]], record: EvalRecord, dataset: Dataset, ready: Prepared
) -> Iterator[tuple[str, Any]]:
    """(name, figure) of a video's maps: those over time in one, each map of the picture in its own."""
    from pipelines.report import heat
    from pipelines.report.footage import frames_at

    place = ready.data.video_ids.index(scores.video_id)
    fps, line = ready.data.fps[place] if ready.data.fps else None, scores.clips.mean(axis=0)
    over_time = heat.time_maps(inner, len(scores.spans))
    title = f"{scores.video_id} · {_title(record)}"
    if over_time:
        one = heat.TimeMaps(
            scores.video_id, over_time, scores.spans, line, _events(ready, place), fps, tuple(dataset.classes)
        )
        yield "time", heat.time_figure(one, title=title)
    if any(len(values) == len(scores.spans) for values in scores.maps.values()):
        recipe = record.artifact.recipe
        paths = {video.id: video.path for video in dataset.videos(recipe["split"], recipe["part"])}
        for name, values in scores.maps.items():
            space = heat.SpaceMaps(scores.video_id, name, values, scores.spans, line, fps)
            yield name, heat.space_figure(space, partial(frames_at, paths[scores.video_id]), title=f"{title} · {name}")


def _stages(
    request: PlotRequest, record: EvalRecord, dataset: Dataset, ready: Prepared, progress: Progress
) -> dict[str, Stage]:
    """Every stage over all evaluated videos."""
    import numpy as np

    from pipelines.report.inner import Stage, row_labels

    parts: dict[str, list[tuple[NDArray[np.float32], NDArray[np.str_], int]]] = {}
    for scores, inner in _inner(request, record, dataset, ready.data.video_ids, progress):
        place = ready.data.video_ids.index(scores.video_id)
        for name, value in inner.items():
            if len(value) > len(scores.spans):  # rows that are regions, not clips, have no one place in time
                continue
            labels = row_labels(_events(ready, place), scores.spans, len(value), dataset.classes)
            parts.setdefault(name, []).append((value, labels, place))
    return {
        name: Stage(
            name,
            np.concatenate([x for x, _, _ in rows]),
            np.concatenate([labels for _, labels, _ in rows]),
            np.concatenate([np.full(len(x), place) for x, _, place in rows]),
        )
        for name, rows in parts.items()
    }


def _inner(
    request: PlotRequest, record: EvalRecord, dataset: Dataset, ids: Sequence[str], progress: Progress
) -> Iterator[tuple[Scores, dict[str, NDArray[np.float32]]]]:
    """Scores and stages of videos by the run; a run that reads no stored features has scores (and their maps) alone."""
    from pipelines.scoring.infer import inner_store
    from pipelines.scoring.sources import RunSource, pick_device
    from pipelines.training.checkpoint import load_run

    folder, (_, roots) = record.folder.parent.parent, _places(request)
    source = RunSource(folder, artifacts.read(folder), dataset, roots, request.device, reuse=False)
    if not source.artifact.recorded.get("features"):
        recipe = record.artifact.recipe
        wanted = [video for video in dataset.videos(recipe["split"], recipe["part"]) if video.id in ids]
        for scores in source.read(wanted, progress).scores.values():
            yield scores, {}
        return
    places, device = source.places(), pick_device(request.device)
    run = load_run(folder, device=device)
    by_stores: dict[tuple[Path, ...], list[str]] = {}
    for video in ids:
        by_stores.setdefault(tuple(store.folder for store in places[video]), []).append(video)
    for some in by_stores.values():
        yield from inner_store(run, places[some[0]], some, device=device, progress=progress)


def _records(request: PlotRequest) -> list[EvalRecord]:
    return runs.resolve_eval(request.run, _places(request)[1].runs, dataset=request.dataset)


def _of_run(record: EvalRecord) -> EvalRecord:
    if not record.metrics["model"].get("run"):
        raise UsageError("scores that were brought have no inner stages", hint="--run RUN, a trained run")
    return record


def _of_one_setting(records: Sequence[EvalRecord]) -> list[EvalRecord]:
    setting = records[0].folder.parent.parent.parent
    return [record for record in records if record.folder.parent.parent.parent == setting]


def _places(request: PlotRequest) -> tuple[Manifest, Roots]:
    from pipelines.data.manifest import load

    manifest = load(request.manifest)
    roots = artifacts.resolve_roots(
        cache_dir=request.cache_dir, runs_dir=request.runs_dir, manifest_cache_dir=manifest.cache_dir
    )
    return manifest, roots


def _prepared(record: EvalRecord, request: PlotRequest) -> tuple[Dataset, Prepared]:
    from pipelines.scoring.compare import prepared_from

    return prepared_from(record, _places(request)[0])


def _events(ready: Prepared, place: int) -> list[Event]:
    """The true events on the video's own frames."""
    from pipelines.records import Event

    first = ready.process.drop_first
    return [Event(e.start_frames + first, e.end_frames + first, e.label) for e in ready.data.events[place]]


def _best(record: EvalRecord, ready: Prepared) -> list[str]:
    """Abnormal videos that the run ranks best, else the first ones."""
    rows = [row for row in _table(record, "per_video.csv") if row["auc"]]
    ranked = [row["video"] for row in sorted(rows, key=lambda row: -float(row["auc"]))]
    return (ranked or list(ready.data.video_ids))[:DEFAULT_VIDEOS]


def _curve(ready: Prepared, index: int, auc: float | None) -> Curve:
    from pipelines.report.plots import Curve

    data, options = ready.data, ready.options
    theta = options.threshold if options.thresholds_by_video is None else float(options.thresholds_by_video[index])
    word = "all abnormal" if data.abnormal[index] else "normal"
    return Curve(
        video_id=data.video_ids[index],
        scores=data.scores[index],
        events=data.events[index],
        threshold=theta,
        fps=data.fps[index] if data.fps else None,
        note=word if auc is None else f"AUC {100 * auc:.1f}",
    )


def _numbers(stage: Stage, found: Separation) -> tuple[Any, ...]:
    return stage.name, len(stage.x), stage.x.shape[1], found.silhouette, found.purity, found.chance


def _table(record: EvalRecord, name: str) -> list[dict[str, str]]:
    import csv

    try:
        with (record.folder / name).open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except FileNotFoundError as error:
        raise MissingArtifactError(f"{record.folder} has no {name}", hint="vad eval --new") from error


def _known(words: Sequence[str], known: Sequence[str]) -> list[str]:
    for word in words:
        if word not in known:
            raise UsageError(
                f"there is no {word!r}{suggest(word, list(known))}", hint="known: " + ", ".join(known[:20])
            )
    return list(words)


def _formats(request: PlotRequest) -> tuple[str, ...]:
    return tuple(_known(request.formats, FORMATS))


def _folder(request: PlotRequest, record: EvalRecord) -> Path:
    name = artifacts.folder_name(f"{_who(record)}-{record.metrics['dataset']}")
    return (request.out or Path(FOLDER) / name).expanduser()


def _who(record: EvalRecord) -> str:
    model = record.metrics["model"]
    return str(model.get("method") or Path(str(model.get("scores_file", "scores"))).stem)


def _title(record: EvalRecord, *, seeds: int = 1, what: str = "") -> str:
    metrics = record.metrics
    last = what or (f"mean of {seeds} seeds" if seeds > 1 else f"seed {metrics['model'].get('seed', '–')}")
    return " / ".join([_who(record), metrics["dataset"], metrics["split"], metrics["part"], last])
