"""The prediction stage: somebody's own videos -> scores, events, pictures, clips; no dataset entry needed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.errors import UsageError, VadError
from pipelines.progress import Progress, Silent
from pipelines.records import Event, Scores
from pipelines.scoring.events import AlarmRule, Span, find_events
from pipelines.scoring.scorer import Scorer, load_scorer

if TYPE_CHECKING:
    from pipelines.extraction.adhoc import Encoded
    from pipelines.report.annotate import Overlay

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp"]
)
IMAGE_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"])
ROBUST_SIGMAS = 3.0  # median + 3 robust deviations of the video itself, where nothing was learnt [ours]
CLIP_MARGIN_S = 1.0  # of a cut clip, before and after its event [ours]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What to score and how.

    Attributes:
        source: a video file, a folder of images, or a folder with videos (and folders of images) below it.
        run: as in `vad eval --run`; None takes the latest run, or `motion-scalar` where there is none.
        out: where the results go; `./vad_predictions/<name>` unless given.
        threshold: a level of the smoothed score in place of the run's own.
        low, min_s, cooldown_s: the rest of the alarm rule (`scoring.events.AlarmRule`).
        smooth: as in `vad eval --smooth`, in place of what the run's threshold was learnt with.
        video: also write the video with the score, the class and the method's heat map drawn on it.
        clips: a folder for a clip of each event, with a second before and after; none unless given.
        partial: "keep" accepts a video of which less than 98 % decodes.
    """

    source: Path
    run: str | None = None
    out: Path | None = None
    threshold: float | None = None
    low: float | None = None
    min_s: float = 0.0
    cooldown_s: float = 0.0
    smooth: str | None = None
    video: bool = False
    clips: Path | None = None
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
    clip: Path | None = None


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


def run(request: PredictRequest, *, progress: Progress = Silent()) -> PredictResult:
    """Score every video of the source and write csv, json and a curve for each, and a summary and the events of all.

    Raises:
        UsageError: nothing to score there, or a run whose encoder is not the installed one.
        MissingArtifactError: the named run, or weights, are missing.
    """
    from pipelines.extraction.adhoc import Encoded, encode

    videos = find_videos(request.source)
    scorer = load_scorer(request.run, device=request.device, runs_dir=request.runs_dir, progress=progress)
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
            for note in predictions[-1].notes:
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
    artifacts.write_text(out / "events.csv", _all_events(result))
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


def _predict(one: Encoded, path: Path, scorer: Scorer, request: PredictRequest, out: Path) -> Prediction:
    from pipelines.scoring.expand import expand
    from pipelines.scoring.smooth import parse_smooth, smooth

    raw = scorer.score(one)
    frames = expand(raw, how=scorer.expand)
    fps = one.facts.fps
    how = request.smooth or scorer.filter(fps)
    scores = smooth(frames.scores, parse_smooth(how))
    threshold, source = _threshold(scores, scorer, request.threshold)
    rule = AlarmRule(on=threshold, low=request.low, min_s=request.min_s, cooldown_s=request.cooldown_s)
    spans = find_events(scores, rule, fps)
    found = _events(spans, fps, _labels(frames.classes, scorer.classes))
    peak = int(scores.argmax())
    name = artifacts.folder_name(one.video_id)
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
        files={kind: out / f"{name}.{kind}" for kind in ("csv", "json", "png")},
        notes=one.notes,
    )
    if request.video or (request.clips and found):
        prediction = _with_footage(prediction, one, _overlay(prediction, scores, spans, raw), request, out)
    artifacts.write_text(prediction.files["csv"], _frames_csv(frames.scores, scores, spans, fps))
    artifacts.write_text(prediction.files["json"], _json(prediction, scorer))
    _draw(prediction, scores, scorer)
    return prediction


def _with_footage(
    prediction: Prediction, one: Encoded, overlay: Overlay, request: PredictRequest, out: Path
) -> Prediction:
    """Decode once more for the video that is drawn upon and for the clips; a failure is a note, the scores are kept."""
    from pipelines.extraction.adhoc import frames
    from pipelines.report.cuts import Cut, write_annotated, write_cuts

    events = [replace(event, clip=_clip_path(event, prediction, request.clips)) for event in prediction.events]
    margin = round(CLIP_MARGIN_S * (prediction.fps or 0))
    cuts = [
        Cut(max(0, e.start_frames - margin), min(prediction.n_frames, e.end_frames + margin), e.clip)
        for e in events if e.clip
    ]  # fmt: skip
    stream = frames(prediction.path, one.facts.decoder or "pyav")
    files = dict(prediction.files)
    try:
        if request.video:
            files["mp4"] = out / f"{artifacts.folder_name(prediction.video)}.mp4"
            write_annotated(files["mp4"], stream, overlay, cuts, fps=prediction.fps)
        else:
            write_cuts(stream, cuts, fps=prediction.fps)
    except VadError as error:
        return replace(prediction, notes=(*prediction.notes, f"no video was written: {error.message}"))
    return replace(prediction, files=files, events=tuple(events))


def _clip_path(event: Found, prediction: Prediction, folder: Path | None) -> Path | None:
    """`<video>-<where it begins>[-class].mp4`."""
    if folder is None:
        return None
    at = f"{event.start_s:07.2f}s" if event.start_s is not None else f"f{event.start_frames:06d}"
    label = f"-{artifacts.folder_name(event.label)}" if event.label else ""
    return folder / f"{artifacts.folder_name(prediction.video)}-{at}{label}.mp4"


def _overlay(prediction: Prediction, scores: Floats, spans: Sequence[Span], raw: Scores) -> Overlay:
    from pipelines.report.annotate import Overlay

    labels = [event.label or "" for event in prediction.events]
    maps = raw.maps.get("score")
    return Overlay(scores, prediction.threshold, prediction.fps, spans, labels, maps, raw.spans)


def _threshold(scores: Floats, scorer: Scorer, given: float | None) -> tuple[float, str]:
    if given is not None:
        return given, "given"
    if scorer.threshold is not None:
        return scorer.threshold, scorer.threshold_source
    middle = float(np.median(scores))
    spread = 1.4826 * float(np.median(np.abs(scores - middle)))
    return middle + ROBUST_SIGMAS * spread, "the video's own median + 3 robust deviations (nothing was learnt)"


def _events(spans: Sequence[Span], fps: float | None, labels: Callable[[int, int], str | None]) -> tuple[Found, ...]:
    return tuple(
        Found(
            start_frames=one.start,
            end_frames=one.end,
            start_s=one.start / fps if fps else None,
            end_s=one.end / fps if fps else None,
            peak=one.peak,
            label=labels(one.start, one.end),
        )
        for one in spans
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
    return json.dumps({"schema": 1} | body, indent=2, ensure_ascii=False, default=str) + "\n"


def _frames_csv(raw: Floats, smoothed: Floats, spans: Sequence[Span], fps: float | None) -> str:
    alarm = np.zeros(len(smoothed), dtype=np.int64)
    for span in spans:
        alarm[span.start : span.end] = 1
    rows = (
        (frame, f"{frame / fps:.3f}" if fps else "", f"{a:.6g}", f"{b:.6g}", c)
        for frame, (a, b, c) in enumerate(zip(raw, smoothed, alarm.tolist(), strict=True))
    )
    return _csv(("frame", "time_s", "raw", "score", "alarm"), rows)


def _all_events(result: PredictResult) -> str:
    rows = (
        (one.video, e.start_frames, e.end_frames, _seconds(e.start_s), _seconds(e.end_s), f"{e.peak:.6g}",
         e.label or "", e.clip or "")
        for one in result.predictions for e in one.events
    )  # fmt: skip
    return _csv(("video", "start_frame", "end_frame", "start_s", "end_s", "peak", "class", "clip"), rows)


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
