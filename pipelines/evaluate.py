"""The evaluation stage: a run, or scores that anybody brings, against the truth; numbers that say how they were made."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines import artifacts
from pipelines.artifacts import Roots
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint, suggest
from pipelines.records import Video
from pipelines.scoring.protocol import Protocol
from pipelines.store import runs
from pipelines.store.runs import EvalRecord

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset, Manifest
    from pipelines.metrics._base import Detections
    from pipelines.report.evaluation import Evaluated
    from pipelines.scoring.block import EvalData
    from pipelines.scoring.gather import Coverage
    from pipelines.scoring.sources import ScoreSource
    from pipelines.scoring.thresholds import Chosen
    from pipelines.store.scores import ScoreFile

ALL = "all"
NAMED = 5  # videos that a warning names
FLOOR_WORDS = "within its interval of the floor"
REVISION = 2  # raised when the same scores and truth give another number
Part = Literal["train", "val", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """What to evaluate and how.

    Either `run` (latest, an id, a folder, a method's name; a group means each of its seeds) or `scores` (referee mode).

    Attributes:
        dataset, split, part: the run's own and "test" unless given; another dataset is a test across datasets.
        metrics: names as on the command line, or ("all",).
        protocol: how scores become numbers.
        videos: a list of ids, one a line: evaluate only these.
        class_map: csv or YAML, run class -> dataset class, for class metrics across datasets; without it a method whose
            classes are text scores the dataset's own class words (zero-shot).
        segments: ready detections (csv or ActivityNet json) in place of proposals.
        boxes: scored boxes (csv) for `rbdc` and `tbdc`.
        clip_frames, offset, rows: how rows of `scores` lie on frames; `order`, `lengths` cut a flat npy.
        annotations: csv of intervals or ActivityNet json in place of a dataset: the videos are those of `scores`, `lengths`
            (video, frames[, fps]) says how long they are; without it they are as long as their rows.
        missing: "allow" evaluates the videos that have scores and reports the others.
        plots: the pictures of chosen videos, ROC and precision-recall; `curves`: videos to draw one by one, or ("all",).
        against: a run, an evaluation or a score file for the paired bootstrap.
        again: "new" computes again what exists, beside it.
        command: the command line, for the record.
        shard: (i, n) evaluates every n-th run of the group alone.
    """

    run: str | None = "latest"
    scores: Path | None = None
    dataset: str | None = None
    split: str | None = None
    part: Part = "test"
    metrics: tuple[str, ...] = (ALL,)
    protocol: Protocol = field(default_factory=Protocol)
    videos: Path | None = None
    class_map: Path | None = None
    segments: Path | None = None
    boxes: Path | None = None
    clip_frames: int | None = None
    offset: int = 0
    rows: Literal["frames", "clips"] | None = None
    order: Path | None = None
    lengths: Path | None = None
    annotations: Path | None = None
    missing: Literal["error", "allow"] = "error"
    plots: Literal["draw", "leave out"] = "draw"
    curves: tuple[str, ...] = ()
    against: str | None = None
    device: str = "auto"
    again: Literal["reuse", "new"] = "reuse"
    manifest: Path | None = None
    cache_dir: str | None = None
    runs_dir: Path | None = None
    command: str = ""
    shard: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class EvalDone:
    """One evaluation: its folder, its metrics.json, and whether it was there already."""

    folder: Path
    metrics: dict[str, Any]
    state: Literal["new", "up to date"]


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What `run` gives: one evaluation a seed; the mean and deviation over seeds; the comparison with `against`."""

    evals: tuple[EvalDone, ...]
    summary: dict[str, Any]
    comparison: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """One evaluation before it is made: what it is of, its recipe and id, and the equal one that exists."""

    source: ScoreSource
    dataset: Dataset
    split: str
    videos: tuple[Video, ...]
    coverage: Coverage
    protocol: Protocol
    recipe: dict[str, Any]
    id: str
    folder: Path
    existing: EvalRecord | None


def run(request: EvalRequest, *, progress: Progress = Silent()) -> EvalResult:
    """Evaluate and keep the result beside the run, or below `<runs>/referee` for scores that were brought.

    Raises:
        UsageError: unknown names, or a metric asked for by name that the data cannot answer (exit 2).
        MissingArtifactError: no run, no scores, no features, no annotations (exit 4).
        VerificationError: coverage, length or NaN (exit 5); the video is named.
    """
    from pipelines.report import seeds

    own, count = request.shard or (0, 1)
    items = plan(request)[own::count]
    other = _other(request, items[0].dataset, progress) if request.against else None
    done = tuple(_evaluate(item, request, progress) for item in items)
    summary = seeds.summarise_settings([item.metrics for item in done], [item.folder for item in done])
    return EvalResult(done, summary, _comparison(done, other, request, progress) if other else None)


def plan(request: EvalRequest) -> list[Planned]:
    """What `run` would do: one item a seed, without computing anything.

    Raises:
        UsageError, MissingArtifactError, VerificationError: as `run`.
    """
    check_names(request)
    manifest, roots = places(request)
    if request.scores is not None:
        return [_planned_scores(request, request.scores, manifest, roots)]
    group = runs.resolve(request.run or runs.LATEST, roots.runs)
    return [_planned_run(folder, request, manifest, roots) for folder in group.runs]


def places(request: EvalRequest) -> tuple[Manifest, Roots]:
    """The manifest and the two roots that the request means."""
    from pipelines.data.manifest import load

    manifest = load(request.manifest)
    roots = artifacts.resolve_roots(
        cache_dir=request.cache_dir, runs_dir=request.runs_dir, manifest_cache_dir=manifest.cache_dir
    )
    return manifest, roots


def check_names(request: EvalRequest) -> None:
    """Every wrong word is told before anything is read."""
    from pipelines.scoring.block import metric_names

    known = (ALL, *metric_names())
    wrong = [name for name in request.metrics if name not in known]
    if wrong or not request.metrics:
        raise UsageError(
            f"unknown metric {', '.join(wrong)!r}{suggest(wrong[0] if wrong else '', known)}", hint="vad metrics ls"
        )
    request.protocol.options()


def _planned_run(folder: Path, request: EvalRequest, manifest: Manifest, roots: Roots) -> Planned:
    from pipelines.scoring.sources import RunSource

    artifact = artifacts.read(folder)
    trained_on = str(artifact.recipe["dataset"])
    dataset = manifest.dataset(request.dataset or trained_on)
    own_split = str(artifact.recipe["split"]) if dataset.name == trained_on else dataset.default_split
    foreign = artifact.recipe.get("text") and list(dataset.classes) != artifact.recipe.get("classes")
    words: Literal["run", "dataset"] = "dataset" if foreign and request.class_map is None else "run"
    again = request.again == "reuse"
    source = RunSource(folder, artifact, dataset, roots, request.device, reuse=again, words=words)
    hint = f"`vad extract {dataset.name}` finishes them; --allow-missing evaluates the others"
    return _planned(source, dataset, request.split or own_split, request, dataset.name, hint)


def _planned_scores(request: EvalRequest, path: Path, manifest: Manifest, roots: Roots) -> Planned:
    from pipelines.scoring.sources import FileSource
    from pipelines.store import scores as files

    if request.annotations is not None:
        dataset, file, notes = _loose(request, path, request.annotations)
    elif request.dataset is None:
        raise UsageError(
            "--scores needs --dataset: whose videos are these?",
            hint="vad data ls; or --annotations FILE, a csv of intervals",
        )
    else:
        dataset, notes = manifest.dataset(request.dataset), ()
        file = files.read(path, order=request.order, lengths=request.lengths, classes=dataset.classes)
    split = request.split or dataset.default_split
    layout = files.Layout.of(clip_frames=request.clip_frames, offset=request.offset, rows=request.rows)
    others = _elsewhere(dataset, split, request.part)
    source = FileSource(file, layout, dataset, roots, others, request.annotations, notes)
    hint = "--allow-missing evaluates the videos that have scores and reports the others"
    return _planned(source, dataset, split, request, path.stem, hint)


def _loose(request: EvalRequest, path: Path, annotations: Path) -> tuple[Dataset, ScoreFile, tuple[str, ...]]:
    """A dataset of the annotation file and the scores' own videos, the scores, and what must be said of it."""
    from pipelines.data.from_annotations import classes_of, from_annotations, unnamed
    from pipelines.store import score_readers
    from pipelines.store import scores as files

    if request.dataset is not None:
        raise UsageError("--annotations makes a dataset of its own", hint="leave --dataset out")
    flat = request.lengths if path.suffix == ".npy" else None
    file = files.read(path, order=request.order, lengths=flat, classes=classes_of(annotations))
    known = request.lengths if flat is None else None
    dataset = from_annotations(
        annotations,
        file.rows,
        lengths=score_readers.read_lengths(known) if known else None,
        rates=score_readers.read_rates(known) if known else None,
    )
    silent = unnamed(annotations, file.rows)
    some = ", ".join(silent[:NAMED]) + (", ..." if len(silent) > NAMED else "")
    notes = (f"{len(silent)} videos are not named in {annotations.name} and count as normal: {some}",) if silent else ()
    return dataset, file, notes


def _planned(source: ScoreSource, dataset: Dataset, split: str, request: EvalRequest, stem: str, hint: str) -> Planned:
    videos = _chosen(dataset.videos(split, request.part), request.videos, dataset)
    if not videos:
        raise MissingArtifactError(
            f"{dataset.name} has no {request.part} videos in split {split!r}", hint="vad data show"
        )
    protocol = request.protocol.resolved(dataset.name, dataset.truths)
    coverage = source.coverage(videos)
    asked = replace(coverage, extra=()) if request.videos else coverage  # a subset has extra scores by intention
    asked.check(missing=request.missing, total=len(videos), hint=hint)
    recipe = {
        "revision": REVISION,
        **source.identity,
        "dataset": dataset.name,
        "split": split,
        "part": request.part,
        "videos": sorted(video.id for video in videos) if request.videos else None,
        "missing": sorted(coverage.missing),
        "labels": dataset.fingerprint(split, request.part),
        "truth": dataset.truth_fingerprint(split, protocol.gt, request.part),
        "classes": list(dataset.classes),
        "protocol": asdict(protocol),
        "class_map": _hash(request.class_map),
        "order": _hash(request.order),
        "lengths": _hash(request.lengths),
        "segments": _hash(request.segments),
        "boxes": _hash(request.boxes),
    }
    named = recipe | {"metrics": sorted(set(request.metrics))}
    id = fingerprint(named)
    part = "" if request.part == "test" else f"-{request.part}"
    folder = source.parent / artifacts.folder_name(f"{stem[:60]}-{split}{part}-{id[:8]}")
    existing = _existing(source.parent, fingerprint(recipe), request.metrics) if request.again == "reuse" else None
    if folder.exists() and existing is None:
        folder = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:6]}")
    return Planned(source, dataset, split, tuple(videos), coverage, protocol, named, id, folder, existing)


def _existing(parent: Path, base: str, metrics: Sequence[str]) -> EvalRecord | None:
    """The newest evaluation of the same recipe that answers every asked metric."""
    for record in reversed(runs.records(parent)):
        asked = set(record.artifact.recipe["metrics"])
        held = asked | (set(record.metrics["metrics"]) if ALL in asked else set())
        if record.artifact.recorded.get("base") == base and set(metrics) <= held:
            return record
    return None


def _evaluate(item: Planned, request: EvalRequest, progress: Progress) -> EvalDone:
    from pipelines.report import evaluation

    if item.existing is not None and not request.curves:
        _refuse_undefined(item.existing.metrics, request.metrics)
        return EvalDone(item.existing.folder, _asked(item.existing.metrics, request.metrics), "up to date")
    evaluated = _compute(item, request, progress)
    for line in evaluated.warnings:
        if FLOOR_WORDS not in line:  # the table marks those
            progress.warn(line)
    if item.existing is not None:
        evaluation.draw_curves(item.existing.folder / evaluation.PLOTS, evaluated, request.curves)
        return EvalDone(item.existing.folder, _asked(item.existing.metrics, request.metrics), "up to date")
    staging = item.folder.with_name(f".{item.folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        metrics = evaluation.write(staging, evaluated)
        if request.plots == "draw":
            evaluation.draw(staging / evaluation.PLOTS, evaluated)
        evaluation.draw_curves(staging / evaluation.PLOTS, evaluated, request.curves)
        artifacts.write(staging, _artifact(item, metrics))
        artifacts.commit(staging, item.folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return EvalDone(item.folder, metrics, "new")


def _other(request: EvalRequest, dataset: Dataset, progress: Progress) -> list[EvalRecord]:
    """The evaluations to compare with; a score file is evaluated as the request says."""
    from pipelines.store.scores import SUFFIXES

    named, roots = str(request.against), places(request)[1]
    path = Path(named)
    if path.is_file() and path.suffix in SUFFIXES:
        bare = replace(request, against=None, scores=path, run=None, plots="leave out", curves=())
        whose = request.dataset if request.annotations else dataset.name
        return [runs.read_eval(item.folder) for item in run(replace(bare, dataset=whose), progress=progress).evals]
    return runs.resolve_eval(named, roots.runs, dataset=dataset.name)


def _comparison(
    done: Sequence[EvalDone], other: Sequence[EvalRecord], request: EvalRequest, progress: Progress
) -> dict[str, Any]:
    from pipelines.scoring.compare import compare

    manifest = places(request)[0]
    progress.start(None, "comparing on the same resamples", "metrics")
    ours = [runs.read_eval(item.folder) for item in done]
    found = compare(ours, other, manifest, rounds=request.protocol.rounds or 1000, seed=request.protocol.seed)
    progress.finish()
    return found


def _compute(item: Planned, request: EvalRequest, progress: Progress) -> Evaluated:
    from pipelines.report.evaluation import Evaluated
    from pipelines.scoring.block import evaluate_scores
    from pipelines.scoring.gather import to_data
    from pipelines.scoring.pixels import with_pixels

    provided = item.source.read(item.videos, progress)
    data, gathered = to_data(provided, item.videos, item.dataset, protocol=item.protocol, class_map=request.class_map)
    data = with_pixels(
        data,
        gathered,
        provided.scores,
        item.dataset,
        metrics=request.metrics,
        by=item.protocol.by,
        boxes=request.boxes,
    )
    if request.segments is not None:
        data = replace(data, segments=_segments(request.segments, data))
    chosen = _threshold(item, request, progress)
    options = item.protocol.options(threshold=chosen.value, threshold_source=chosen.source, by_camera=chosen.by_camera)
    progress.start(None, f"measuring {len(data.frames)} videos", "metrics")
    block = evaluate_scores(data, request.metrics, options)
    progress.advance(len(block.metrics))
    progress.finish()
    return Evaluated(
        dataset=item.dataset,
        split=item.split,
        part=request.part,
        id=item.id,
        recipe=item.recipe,
        protocol=item.protocol,
        coverage=item.coverage,
        model=item.source.model,
        provided=provided,
        gathered=gathered,
        block=block,
        command=request.command,
    )


def _chosen(videos: Sequence[Video], listed: Path | None, dataset: Dataset) -> list[Video]:
    """All of `videos`, or those that a list of ids names.

    Raises:
        UsageError: the list cannot be read, or names a video that is not among them.
    """
    if listed is None:
        return list(videos)
    from pipelines.data.ids import normalise_id, own_id
    from pipelines.store.scores import match

    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the list {listed}: {error}") from error
    wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    spell = normalise_id if dataset.entry.ids == "published" else own_id
    pairs, unknown = match(wanted, [video.id for video in videos], spell)
    if unknown or not pairs:
        raise UsageError(f"{listed}: no video of the split: {', '.join(unknown[:20]) or 'the list is empty'}")
    return [video for video in videos if video.id in pairs]


def _elsewhere(dataset: Dataset, split: str, part: Part) -> dict[str, Video]:
    """Videos of the split's other parts: their scores are no error, and normal ones teach a threshold."""
    parts: tuple[Part, ...] = ("train", "val", "test")
    found: dict[str, Video] = {}
    for other in parts:
        if other != part:
            try:
                found |= {video.id: video for video in dataset.videos(split, other)}
            except MissingArtifactError:  # a dataset may come with its test lists alone
                continue
    return found


def _threshold(item: Planned, request: EvalRequest, progress: Progress) -> Chosen:
    from pipelines.scoring import thresholds
    from pipelines.scoring.sources import RunSource

    elsewhere = _elsewhere(item.dataset, item.split, request.part).values()
    run = item.source.artifact.recorded if isinstance(item.source, RunSource) else {}
    unseen = set(run.get("unseen", ()))
    normal = {"held-out": [v for v in elsewhere if v.split == "train" and v.id in unseen]} | {
        part: [v for v in elsewhere if v.split == part and set(v.classes) == {item.dataset.normal}]
        for part in ("val", "train")
    }
    recorded, quantile = run.get("thresholds", {}), str(run.get("threshold_quantile", thresholds.RECORDED))
    source, name = item.source, item.dataset.name
    return thresholds.choose(source, normal, item.protocol, name, recorded, progress, quantile=quantile)


def _segments(path: Path, data: EvalData) -> Detections:
    from pipelines.store.segments import read_segments

    ids = [frames.video_id for frames in data.frames]
    return read_segments(path, ids, data.classes, data.fps)


def _hash(path: Path | None) -> str | None:
    from pipelines.store.scores import sha256

    if path is None:
        return None
    if not path.is_file():
        raise MissingArtifactError(f"there is no file {path}")
    return sha256(path)


def _asked(metrics: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The content of a metrics.json that may hold more, with the asked metrics alone."""
    if ALL in names:
        return metrics
    return metrics | {"metrics": {name: metrics["metrics"][name] for name in names if name in metrics["metrics"]}}


def _refuse_undefined(metrics: dict[str, Any], names: Sequence[str]) -> None:
    """What `--metric all` keeps as null is an error when it is asked for by name."""
    for name in names:
        value = metrics["metrics"].get(name, {})
        if "value" in value and value["value"] is None:
            raise UsageError(f"{name} cannot be computed: {value.get('reason')}", hint="--metric all leaves it out")


def _artifact(item: Planned, metrics: dict[str, Any]) -> artifacts.Artifact:
    recipe = {key: value for key, value in item.recipe.items() if key != "metrics"}
    inputs = {key: str(item.recipe[key]) for key in ("run", "scores") if key in item.recipe}
    return artifacts.make(
        runs.EVAL,
        item.id,
        item.recipe,
        inputs=inputs,
        recorded={"base": fingerprint(recipe)},
        counts={"videos": int(metrics["videos"]), "frames": int(metrics["frames"])},
    )
