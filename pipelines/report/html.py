"""`vad report`: one self-contained HTML page of an evaluation; numbers, curves, every test video, lineage.

The page carries lossless scores and computes events, false alarms and hits for any threshold by the definitions of
`pipelines.metrics.operating`. It asks nothing of a network: a content security policy forbids it, and lets no script
run but the page's own, whatever stands in a name.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.progress import Progress, Silent
from pipelines.report.footage import MOVED, REPLACED, Footage, embed, extracted_sizes, locate
from pipelines.store import runs
from pipelines.store.runs import EvalRecord

if TYPE_CHECKING:
    from pipelines.artifacts import Roots
    from pipelines.data.manifest import Dataset, Manifest
    from pipelines.scoring.prepare import Prepared

PAGE = Path(__file__).parent / "page"
NAME = "report.html"
ORACLE, FLOOR_WORDS = "video-oracle", "within its interval of the floor"
BIG = 15_000_000  # bytes from which a user is told


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """Which evaluation becomes a page.

    `run` is a run, a group or an evaluation; `out` the file (`report.html` beside the evaluation unless given);
    `videos` "embed" puts a small preview of each video into the page, "link" a relative link.
    """

    run: str = runs.LATEST
    out: Path | None = None
    dataset: str | None = None
    videos: Literal["link", "embed"] = "link"
    manifest: Path | None = None
    cache_dir: str | None = None
    runs_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """What would be shown: `shown` of `members` (the seeds of one setting under one protocol), and `others` left out."""

    shown: EvalRecord
    members: tuple[EvalRecord, ...]
    others: int
    out: Path


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The page: where it is, its size, and the videos that were moved or replaced or have no preview (with the reason)."""

    path: Path
    bytes: int
    evaluation: Path
    videos: int
    members: int
    moved: tuple[str, ...]
    replaced: tuple[str, ...]
    no_preview: Mapping[str, str]


def plan(request: ReportRequest) -> Planned:
    """Which evaluation is shown, without reading its scores.

    Raises:
        MissingArtifactError: no run, or no evaluation of it (exit 4; the hint has the command).
        UsageError: several runs match; they are listed.
    """
    from pipelines.scoring.compare import differences

    records = runs.resolve_eval(request.run, _places(request)[1].runs, dataset=request.dataset)
    shown = records[0]
    setting = shown.folder.parent.parent.parent
    members = [
        record
        for record in records
        if record.folder.parent.parent.parent == setting
        and not differences(shown.artifact.recipe, record.artifact.recipe)
    ]
    if not (shown.folder / "scores.npz").is_file():
        raise MissingArtifactError(
            f"{shown.folder} has no scores.npz", hint=f"vad eval --new --run {shown.folder.parent.parent}"
        )
    out = (request.out or shown.folder / NAME).expanduser()
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder", hint=f"--out {out / NAME}")
    return Planned(shown, tuple(members), len(records) - len(members), out)


def run(request: ReportRequest, *, progress: Progress = Silent()) -> ReportResult:
    """Write the page.

    Raises:
        MissingArtifactError, UsageError: as `plan`; the scores or the annotations are gone.
        VerificationError: the annotations changed since the evaluation.
    """
    from pipelines.scoring.compare import prepared_from

    planned = plan(request)
    manifest, roots = _places(request)
    dataset, ready = prepared_from(planned.shown, manifest)
    footage, failed = _footage(request, planned, dataset, ready, roots, progress)
    text = render(planned, dataset, ready, footage)
    planned.out.parent.mkdir(parents=True, exist_ok=True)
    artifacts.write_text(planned.out, text)
    size = planned.out.stat().st_size
    if size > BIG:
        progress.warn(f"{planned.out} has {size / 1e6:.0f} MB: scores of every frame, or previews, take most of it")
    return ReportResult(
        path=planned.out,
        bytes=size,
        evaluation=planned.shown.folder,
        videos=len(ready.data),
        members=len(planned.members),
        moved=tuple(video for video, one in footage.items() if one.state == MOVED),
        replaced=tuple(video for video, one in footage.items() if one.state == REPLACED),
        no_preview=failed,
    )


def render(planned: Planned, dataset: Dataset, ready: Prepared, footage: Mapping[str, Footage]) -> str:
    """The page's text; every name in it is escaped, and all data is JSON in which no tag can end."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from pipelines.report.confusion import confusion
    from pipelines.report.headline import class_rows, headlines, iou_rows
    from pipelines.report.lineage import again, lineage
    from pipelines.report.seeds import summarise
    from pipelines.report.table import numbers, points, protocol_words, totals_words

    shown = planned.shown
    metrics = shown.metrics
    summary = summarise([r.metrics for r in planned.members], [r.folder for r in planned.members])
    rows, unknown = headlines(summary, metrics["model"].get("method"), dataset.name)
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"points": points, "share": _share}
    return environment.get_template("page.html").render(
        title=_title(shown),
        metrics=metrics,
        summary=summary,
        rows=rows,
        undefined=_by_reason(unknown),
        oracle=", ".join(
            f"{row.name} {points(row.number.floors[ORACLE])}" for row in rows if ORACLE in row.number.floors
        ),
        warnings=[line for line in summary["warnings"] if FLOOR_WORDS not in line],  # the table shows floors
        seeds=_seeds(planned, numbers),
        shown_seed=metrics["model"].get("seed"),
        others=planned.others,
        protocol=protocol_words(metrics),
        totals=totals_words(metrics),
        iou=iou_rows(summary),
        classes=class_rows(_csv(shown.folder / "per_class.csv")),
        confusion=confusion(ready.data),
        lineage=lineage(shown, dataset),
        moved=[(video, one) for video, one in footage.items() if one.state == MOVED],
        replaced=[(video, one) for video, one in footage.items() if one.state == REPLACED],
        again=again(shown),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=embeddable(_payload(shown, summary, ready, footage)),
        previews=[(index, one.preview) for index, one in enumerate(footage.values()) if one.preview],
    )


def embeddable(value: Any) -> str:
    """JSON for a script element: no `<`, `>` or `&` survives, so that nothing in it ends the element or begins another.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _payload(
    shown: EvalRecord, summary: Mapping[str, Any], ready: Prepared, footage: Mapping[str, Footage]
) -> dict[str, Any]:
    from pipelines.metrics.operating import EVENT_TIOU, MERGE_S
    from pipelines.report.headline import iou_lines
    from pipelines.report.timelines import limits, timelines

    derived = isinstance(shown.metrics["scores"].get("classes"), str)
    rows = {row["video"]: row for row in _csv(shown.folder / "per_video.csv")}
    videos = timelines(ready, rows, derived=derived)
    for one in videos:
        one["footage"] = footage[one["id"]].as_json()
    return {
        "videos": videos,
        "classes": list(ready.data.classes),
        "limits": limits(ready),
        "threshold": ready.options.threshold,
        "threshold_source": ready.options.threshold_source,
        "merge_s": MERGE_S,
        "event_iou": EVENT_TIOU,
        "iou": iou_lines(summary),
        **_ranking(ready),
    }


def _ranking(ready: Prepared) -> dict[str, Any]:
    """Points of the pooled ROC and precision-recall curves; {} where one label is missing."""
    import numpy as np

    from pipelines.report.plots import pr_points, roc_points

    labels, scores = np.concatenate(ready.data.labels), np.concatenate(ready.data.scores)
    if not labels.any() or labels.all():
        return {"positive_share": float(labels.mean())}
    curves = {"roc": roc_points(labels, scores), "pr": pr_points(labels, scores)}
    found = {
        name: [np.round(axis[:: max(1, len(axis) // 800)], 5).tolist() for axis in xy] for name, xy in curves.items()
    }
    return {**found, "positive_share": float(labels.mean())}


def _places(request: ReportRequest) -> tuple[Manifest, Roots]:
    from pipelines.data.manifest import load

    manifest = load(request.manifest)
    roots = artifacts.resolve_roots(
        cache_dir=request.cache_dir, runs_dir=request.runs_dir, manifest_cache_dir=manifest.cache_dir
    )
    return manifest, roots


def _footage(
    request: ReportRequest, planned: Planned, dataset: Dataset, ready: Prepared, roots: Roots, progress: Progress
) -> tuple[dict[str, Footage], dict[str, str]]:
    recipe, ids = planned.shown.artifact.recipe, ready.data.video_ids
    videos = {video.id: video for video in dataset.videos(recipe["split"], recipe["part"])}
    found = locate(videos, ids, planned.out, extracted_sizes(planned.shown, roots.features, dataset.name))
    if request.videos == "link":
        return found, {}
    lengths = {video: len(scores) for video, scores in zip(ids, ready.data.scores, strict=True)}
    rates = dict(zip(ids, ready.data.fps or [None] * len(ids), strict=True))
    return embed(found, lengths, rates, progress)


def _seeds(planned: Planned, numbers: Any) -> list[tuple[Any, dict[str, float | None]]]:
    """(seed, its numbers by name) of every member; [] for one alone."""
    if len(planned.members) < 2:
        return []
    return [
        (record.metrics["model"].get("seed"), {one.name: one.value for one in numbers(record.metrics)})
        for record in planned.members
    ]


def _title(shown: EvalRecord) -> str:
    """The method, with its setting where it is one of a sweep; the file's name of scores that were brought."""
    model, setting = shown.metrics["model"], artifacts.video_id_of(shown.folder.parent.parent.parent.name)
    if not model.get("method"):
        return Path(str(model.get("scores_file", "scores"))).name
    return f"{model['method']} {setting}" if "=" in setting else str(model["method"])


def _by_reason(unknown: Mapping[str, str]) -> list[tuple[str, str]]:
    """(metrics, reason) of what could not be computed, each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, reason in unknown.items():
        reasons.setdefault(reason, []).append(name)
    return [(", ".join(names), reason) for reason, names in reasons.items()]


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f}" if total else ""


def _csv(path: Path) -> Sequence[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except FileNotFoundError:
        return []


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
