"""The prediction stage: somebody's own videos -> scores, events in seconds and a picture; no dataset entry needed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.progress import Progress, Silent
from pipelines.records import Event, Scores

if TYPE_CHECKING:
    from pipelines.extraction.adhoc import Encoded, Wanted
    from pipelines.training.checkpoint import LoadedRun

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"]
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"])
FLOOR = "motion-scalar"
QUANTILE = "0.99"
FLOOR_SMOOTH_S = 0.5  # sigma of the Gaussian where no run says how its threshold was learnt [ours]
ROBUST_SIGMAS = 3.0  # median + 3 robust deviations of the video itself, where nothing was learnt [ours]
MERGE_S = 1.0  # alarms closer than this are one event
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What to score and how.

    Attributes:
        source: a video file, a folder of images, or a folder with videos (and folders of images) below it.
        run: as in `vad eval --run`; None takes the latest run, or `motion-scalar` where there is none.
        out: where the results go; `./vad_predictions/<name>` unless given.
        threshold: a level of the smoothed score in place of the run's own.
        smooth: as in `vad eval --smooth`, in place of what the run's threshold was learnt with.
        partial: "keep" accepts a video of which less than 98 % decodes.
    """

    source: Path
    run: str | None = None
    out: Path | None = None
    threshold: float | None = None
    smooth: str | None = None
    device: str = "cpu"
    workers: int | None = None
    partial: Literal["fail", "keep"] = "fail"
    runs_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One stretch of a video above the threshold; times in seconds where the frame rate is known."""

    start_frames: int
    end_frames: int
    start_s: float | None
    end_s: float | None
    peak: float
    label: str | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was said of one video and where it was written."""

    video: str
    path: Path
    n_frames: int
    fps: float | None
    peak: float
    peak_s: float | None
    threshold: float
    threshold_source: str
    smooth: str
    events: tuple[Found, ...]
    files: dict[str, Path]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PredictResult:
    """Everything one command predicted; `failures` maps a video to its reason."""

    out: Path
    scorer: str
    predictions: tuple[Prediction, ...]
    failures: dict[str, str]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A run, or the floor: the streams it needs, its scores of one video, and its threshold where it learnt one."""

    name: str
    wanted: tuple[Wanted, ...]
    score: Callable[[Encoded], Scores]
    classes: tuple[str, ...] = ()
    threshold: float | None = None
    threshold_source: str = ""
    smooth: str | None = None
    expand: Literal["repeat", "linear", "bins32"] = "repeat"
    facts: dict[str, Any] = field(default_factory=dict)


def run(request: PredictRequest, *, progress: Progress = Silent()) -> PredictResult:
    """Score every video of the source and write csv, json and a curve for each, and a summary.

    Raises:
        UsageError: nothing to score there, or a run whose encoder is not the installed one.
        MissingArtifactError: the named run, or weights, are missing.
    """
    from pipelines.extraction.adhoc import Encoded, encode

    videos = find_videos(request.source)
    scorer = load_scorer(request, progress=progress)
    out = request.out or Path("vad_predictions") / artifacts.folder_name(_name_of(request.source))
    out.mkdir(parents=True, exist_ok=True)
    predictions: list[Prediction] = []
    failures: dict[str, str] = {}
    progress.start(len(videos), "predicting")
    for item in encode(
        list(videos.items()), scorer.wanted, device=request.device, workers=request.workers, partial=request.partial
    ):
        if isinstance(item, Encoded):
            predictions.append(_predict(item, videos[item.video_id], scorer, request, out))
            for note in item.notes:
                progress.note(f"{item.video_id}: {note}")
        else:
            failures[item.video_id] = item.reason
            progress.note(f"failed: {item.video_id}: {item.reason}")
        progress.advance()
    progress.finish()
    order = {video_id: number for number, video_id in enumerate(videos)}
    predictions.sort(key=lambda prediction: order[prediction.video])
    result = PredictResult(out, scorer.name, tuple(predictions), failures)
    artifacts.write_text(out / "summary.csv", _summary(result))
    return result


def find_videos(source: Path) -> dict[str, Path]:
    """Videos of a file or folder by id: the path below the folder without its suffix, with it where two would agree.

    Raises:
        UsageError: nothing there, or nothing that looks like a video.
    """
    if not source.exists():
        raise UsageError(f"there is no file or folder {source}", hint="vad predict VIDEO|FOLDER")
    if source.is_file() or _holds_images(source):
        return {_name_of(source): source}
    files = [path for path in sorted(source.rglob("*")) if not _is_hidden(path, source)]
    chosen = [
        p for p in files if (p.is_dir() and _holds_images(p)) or (p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    ]
    if not chosen:
        raise UsageError(
            f"{source} holds no videos (looked for {' '.join(sorted(VIDEO_SUFFIXES))} and folders of images)",
            hint="name a file to try it whatever its ending",
        )
    stems = [path.relative_to(source).with_suffix("").as_posix() for path in chosen]
    return {
        stem if stems.count(stem) == 1 else path.relative_to(source).as_posix(): path
        for stem, path in zip(stems, chosen, strict=True)
    }


def load_scorer(request: PredictRequest, *, progress: Progress = Silent()) -> Scorer:
    """The run that is meant, or the floor where none was named and none exists.

    Raises:
        MissingArtifactError: a run was named and is not there.
        UsageError: its encoder is not the installed one.
    """
    from pipelines.store import runs

    root = artifacts.resolve_roots(runs_dir=request.runs_dir).runs
    if request.run != FLOOR:
        try:
            group = runs.resolve(request.run or runs.LATEST, root)
        except MissingArtifactError:
            if request.run is not None:
                raise
            progress.note(f"no run in {root}: scoring with {FLOOR} (how much moves); `vad train` makes a run")
        else:
            if len(group.runs) > 1:
                progress.note(f"{group.folder} has {len(group.runs)} runs: scoring with {group.runs[0].name}")
            return _of_run(group.runs[0], request.device)
    return _floor(request.device)


def _of_run(folder: Path, device: str) -> Scorer:
    from pipelines.extraction.adhoc import wanted_of
    from pipelines.extraction.plan import FeaturesRecipe
    from pipelines.scoring.infer import score_features
    from pipelines.training.checkpoint import load_run

    loaded = load_run(folder, device=device)
    wanted = tuple(wanted_of(need.stream, FeaturesRecipe.model_validate(need.recipe)) for need in loaded.features)
    recorded = loaded.artifact.recorded
    smooth, levels = next(iter(recorded.get("thresholds_smoothed", {}).items()), ("none", loaded.thresholds))
    quantile = levels.get(QUANTILE)
    return Scorer(
        name=f"{loaded.method_name} ({folder})",
        wanted=wanted,
        score=lambda one: score_features(loaded, one.arrays, one.facts, video_id=one.video_id, device=device),
        classes=loaded.classes,
        threshold=quantile,
        threshold_source=f"99 % of the {recorded.get('thresholds_from', 'frame scores of normal videos')}",
        smooth=smooth,
        expand=loaded.method.expand,
        facts=_facts_of(loaded),
    )


def _facts_of(loaded: LoadedRun) -> dict[str, Any]:
    features = {need.encoder: need.id for need in loaded.features}
    return {"run": loaded.artifact.id, "method": loaded.method_name, "dataset": loaded.dataset, "features": features}


def _floor(device: str) -> Scorer:
    from pipelines import catalog
    from pipelines.extraction.adhoc import Wanted
    from pipelines.extraction.plan import Sampling, choose_encoders, make_recipe
    from pipelines.methods._base import Resources, Shape
    from pipelines.scoring.infer import score_joined
    from pipelines.training.inputs import Inputs

    (choice,) = choose_encoders(["motion"])
    recipe = make_recipe(choice, sampling=Sampling(clip_len=8, stride=8), crops=("center",))
    dim = choice.encoder.dim
    shape = Shape(dim, {"motion": slice(0, dim)}, ("normal", "abnormal"), ("center",), recipe.clip_len, recipe.stride)
    module = catalog.load("methods", FLOOR)
    config = module.Config()
    method = module.build(config, shape, Resources()).to(device).eval()
    inputs = Inputs(dim, shape.streams, config.data.model_copy(update={"normalise": "none", "standardise": False}))

    def score(one: Encoded) -> Scores:
        values = one.arrays["motion"]
        return score_joined(method, inputs, shape, values, one.facts, one.facts.crops, one.video_id, device=device)

    return Scorer(FLOOR, (Wanted("motion", choice, recipe),), score, facts={"method": FLOOR})


def _predict(one: Encoded, path: Path, scorer: Scorer, request: PredictRequest, out: Path) -> Prediction:
    from pipelines.scoring.expand import expand
    from pipelines.scoring.smooth import parse_smooth, smooth

    frames = expand(scorer.score(one), how=scorer.expand)
    fps = one.facts.fps
    how = request.smooth or scorer.smooth or f"gaussian:{FLOOR_SMOOTH_S * (fps or 25):g}"
    scores = smooth(frames.scores, parse_smooth(how))
    threshold, source = _threshold(scores, scorer, request.threshold)
    found = _events(scores, threshold, fps, _labels(frames.classes, scorer.classes))
    peak = int(scores.argmax())
    name = artifacts.folder_name(one.video_id)
    files = {kind: out / f"{name}.{kind}" for kind in ("csv", "json", "png")}
    prediction = Prediction(
        video=one.video_id,
        path=path,
        n_frames=frames.n_frames,
        fps=fps,
        peak=float(scores[peak]),
        peak_s=peak / fps if fps else None,
        threshold=threshold,
        threshold_source=source,
        smooth=how,
        events=found,
        files=files,
        notes=one.notes,
    )
    artifacts.write_text(files["csv"], _frames_csv(frames.scores, scores, threshold, fps))
    artifacts.write_text(files["json"], _json(prediction, scorer))
    _draw(prediction, scores, scorer)
    return prediction


def _threshold(scores: Floats, scorer: Scorer, given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, "given"
    if scorer.threshold is not None:
        return scorer.threshold, scorer.threshold_source
    middle = float(np.median(scores))
    spread = 1.4826 * float(np.median(np.abs(scores - middle)))
    return middle + ROBUST_SIGMAS * spread, "the video's own median + 3 robust deviations (nothing was learnt)"


def _events(
    scores: Floats, threshold: float, fps: float | None, labels: Callable[[int, int], str | None]
) -> tuple[Found, ...]:
    """Runs strictly above the threshold; a constant score, which lies on its own median, has none."""
    from pipelines.metrics.operating import alarm_runs

    runs = alarm_runs(scores > threshold, MERGE_S * fps if fps else 0.0)
    return tuple(
        Found(
            start_frames=int(start),
            end_frames=int(end),
            start_s=start / fps if fps else None,
            end_s=end / fps if fps else None,
            peak=float(scores[start:end].max()),
            label=labels(int(start), int(end)),
        )
        for start, end in runs
    )


def _labels(classes: NDArray[np.float32] | None, names: Sequence[str]) -> Callable[[int, int], str | None]:
    """The likeliest class other than normal in a stretch of frames; None for methods without class scores."""
    if classes is None or classes.shape[1] != len(names) or len(names) < 3:
        return lambda start, end: None
    return lambda start, end: names[1 + int(classes[start:end, 1:].mean(axis=0).argmax())]


def _draw(prediction: Prediction, scores: Floats, scorer: Scorer) -> None:
    from pipelines.report.plots import Curve, curve

    found = tuple(Event(one.start_frames, one.end_frames, one.label or "") for one in prediction.events)
    line = Curve(
        prediction.video,
        scores,
        events=None,
        found=found,
        threshold=prediction.threshold,
        fps=prediction.fps,
        note=scorer.facts.get("method", ""),
    )
    curve(prediction.files["png"], line)


def _json(prediction: Prediction, scorer: Scorer) -> str:
    body = asdict(prediction) | {"path": str(prediction.path), "scorer": scorer.facts}
    body["files"] = {kind: path.name for kind, path in prediction.files.items()}
    return json.dumps({"schema": 1} | body, indent=2, ensure_ascii=False) + "\n"


def _frames_csv(raw: Floats, smoothed: Floats, threshold: float, fps: float | None) -> str:
    rows = (
        (frame, f"{frame / fps:.3f}" if fps else "", f"{a:.6g}", f"{b:.6g}", int(b > threshold))
        for frame, (a, b) in enumerate(zip(raw, smoothed, strict=True))
    )
    return _csv(("frame", "time_s", "raw", "score", "alarm"), rows)


def _summary(result: PredictResult) -> str:
    rows: list[Sequence[object]] = [
        (one.video, "ok", one.n_frames, _seconds(one.n_frames / one.fps if one.fps else None), f"{one.peak:.6g}",
         _seconds(one.peak_s), len(one.events), _seconds(one.events[0].start_s if one.events else None), "")
        for one in result.predictions
    ]  # fmt: skip
    rows += [(video, "failed", "", "", "", "", "", "", reason) for video, reason in result.failures.items()]
    return _csv(
        ("video", "status", "frames", "duration_s", "peak", "peak_s", "events", "first_event_s", "reason"), rows
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _csv(header: Sequence[str], rows: object) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)  # type: ignore[arg-type]
    return buffer.getvalue()


def _holds_images(folder: Path) -> bool:
    return (
        folder.is_dir()
        and any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
        and not any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.iterdir())
    )


def _is_hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _name_of(source: Path) -> str:
    full = source.absolute()
    return full.stem if full.is_file() else full.name
