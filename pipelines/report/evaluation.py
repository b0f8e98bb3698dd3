"""An evaluation on disk: metrics.json, tables per video and class, detections, scores and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import artifacts
from pipelines.errors import UsageError
from pipelines.recipe import fingerprint, suggest
from pipelines.report import plots
from pipelines.report.plots import Curve
from pipelines.report.seeds import DRAWS
from pipelines.scoring.expand import crop_used
from pipelines.scoring.protocol import MEAN
from pipelines.store import runs, segments
from pipelines.store import scores as files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.data.manifest import Dataset
    from pipelines.scoring.block import EvalBlock
    from pipelines.scoring.gather import Coverage, Gathered
    from pipelines.scoring.protocol import Protocol
    from pipelines.scoring.sources import Provided

SCORES, PER_VIDEO, PER_CLASS, PLOTS = "scores.npz", "per_video.csv", "per_class.csv", "plots"
CURVES, RANKING = "curves.png", "roc_pr.png"


@dataclass(frozen=True)
class Evaluated:
    """Everything that one evaluation found, before it is written.

    `recipe` is what the id hashes; `model` says where the scores come from; `fps` stands in `gathered.videos`' order.
    """

    dataset: Dataset
    split: str
    part: str
    id: str
    recipe: Mapping[str, Any]
    protocol: Protocol
    coverage: Coverage
    model: Mapping[str, Any]
    provided: Provided
    gathered: Gathered
    block: EvalBlock
    command: str

    @property
    def fps(self) -> list[float | None]:
        return [self.provided.fps.get(video.id) for video in self.gathered.videos]

    @cached_property
    def warnings(self) -> list[str]:
        """Sentences that a user must see, in the order of importance."""
        told = list(self.provided.warnings) + _total_warnings(self) + list(self.block.warnings)
        lost = sum(truth.lost for truth in self.gathered.truths)
        if lost:
            told.append(f"{lost} events begin past the end of the scores and are lost")
        if self.coverage.missing:
            told.insert(0, f"{len(self.coverage.missing)} videos have no scores and were left out")
        if self.model.get("selection") == "best-on-test":
            told.insert(0, "the weights were chosen on the test set: these numbers compare with nothing else")
        if not self.dataset.temporal(self.protocol.gt):
            told.append(f"the truth of {self.dataset.name} is one label a video: frame metrics say nothing of when")
        return told


def compose(done: Evaluated) -> dict[str, Any]:
    """metrics.json (design section 3, evaluation.md section 12), JSON-ready; fractions of 1."""
    counts = done.block.counts
    return {
        "schema": 1,
        "dataset": done.dataset.name,
        "split": done.split,
        "part": done.part,
        "videos": len(done.gathered.videos),
        "frames": int(sum(len(labels) for labels in done.block.labels)),
        "metrics": done.block.metrics,
        "floors": done.block.floors,
        "identity": _identity(done),
        "ground_truth": _ground_truth(done),
        "scores": {
            **done.provided.facts,
            "classes": done.gathered.classes or (done.provided.classes and list(done.provided.classes)),
            "expand": done.protocol.expand or done.provided.expand,
            "tail": done.protocol.tail,
            "crop_rule": _crop_rule(done),
            "nan_replaced": done.gathered.nan_replaced,
            "tied_share": counts.get("tied_share"),
        },
        "recipe": {**done.block.recipe, "selection": done.model.get("selection")},
        "model": dict(done.model),
        "counts": counts,
        "breakdown": done.block.breakdown,
        "warnings": done.warnings,
    }


def write(folder: Path, done: Evaluated) -> dict[str, Any]:
    """Write all but the pictures into the new folder `folder`; returns metrics.json. artifact.json is the caller's."""
    import numpy as np

    folder.mkdir(parents=True)
    metrics: dict[str, Any] = _plain(compose(done))
    (folder / runs.METRICS_FILE).write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    files.write(folder / SCORES, done.provided.scores.values())
    np.savez_compressed(folder / DRAWS, **done.block.draws)  # type: ignore[arg-type]  # keys are metric names
    _rows(folder / PER_VIDEO, _with_length_source(done))
    _rows(folder / PER_CLASS, done.block.per_class)
    if done.block.detections:
        segments.write_segments(folder, done.block.detections, done.block.video_ids, done.block.classes, done.fps)
    return metrics


def draw(folder: Path, done: Evaluated) -> None:
    """The grid of chosen videos, and ROC beside precision over recall where both labels are there."""
    import numpy as np

    block = done.block
    auc = {str(row["video"]): row.get("auc") for row in block.per_video}
    abnormal = [truth.video_id for truth in done.gathered.truths if truth.is_abnormal]
    normal = [truth.video_id for truth in done.gathered.truths if not truth.is_abnormal]
    peak = {video: float(s.max(initial=0.0)) for video, s in zip(block.video_ids, block.processed, strict=True)}
    chosen = plots.choose(auc, abnormal, normal, peak)
    title = " / ".join([done.dataset.name, done.split, done.part, _model_word(done.model)])
    plots.grid(folder / CURVES, [_curve(done, video) for video in chosen], title=title)
    labels, scores = np.concatenate(block.labels), np.concatenate(block.processed)
    if labels.any() and not labels.all():
        plots.roc_pr(
            folder / RANKING,
            roc=[plots.RocCurve(*plots.roc_points(labels, scores), _legend("AUC", block.metrics, "auc"))],
            pr=[plots.RocCurve(*plots.pr_points(labels, scores), _legend("AP", block.metrics, "ap"))],
            positive_share=float(labels.mean()),
            title=title,
        )


def draw_curves(folder: Path, done: Evaluated, videos: Sequence[str]) -> list[Path]:
    """One PNG a video for the named ones (`all` means each); returns their paths.

    Raises:
        UsageError: a video that was not evaluated.
    """
    known = done.block.video_ids
    wanted = known if "all" in videos else tuple(videos)
    for video in wanted:
        if video not in known:
            raise UsageError(
                f"no evaluated video {video!r}{suggest(video, known)}", hint="--curves VIDEO or --curves all"
            )
    paths = []
    for video in wanted:
        path = folder / f"{artifacts.folder_name(video)}.png"
        plots.curve(path, _curve(done, video))
        paths.append(path)
    return paths


def _curve(done: Evaluated, video: str) -> Curve:
    index = done.block.video_ids.index(video)
    row = next((row for row in done.block.per_video if row["video"] == video), {})
    truth = done.gathered.truths[index]
    auc = row.get("auc")
    note = f"AUC {100 * auc:.1f}" if isinstance(auc, float) else ("all abnormal" if truth.is_abnormal else "normal")
    return Curve(
        video_id=video,
        scores=done.block.processed[index],
        events=truth.events,
        threshold=done.block.recipe.get("threshold"),
        fps=done.fps[index],
        note=note,
    )


def _identity(done: Evaluated) -> dict[str, Any]:
    ids = [video.id for video in done.gathered.videos]
    return {
        "tool": artifacts.versions(),
        "commit": _commit(),
        "created": artifacts.utc_now(),
        "command": done.command,
        "eval": done.id,
        "dataset": done.dataset.name,
        "split": done.split,
        "part": done.part,
        "video_list_sha256": fingerprint(sorted(ids)),
        "subset": done.recipe.get("videos") is not None,
    }


def _crop_rule(done: Evaluated) -> str | list[str]:
    """What was done with the crops: one rule, or each that some video needed."""
    rule = done.protocol.crops or MEAN
    used = {str(crop_used(rule, record.crops)) for record in done.provided.scores.values()}
    return next(iter(used)) if len(used) == 1 else sorted(used)


def _commit() -> str | None:
    """The git commit of a checkout, read without running git; None for an installed package."""
    git = Path(__file__).parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        if (git / ref).is_file():
            return (git / ref).read_text(encoding="utf-8").strip()
        packed = (git / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {ref}")), None)
    except OSError:
        return None


def _ground_truth(done: Evaluated) -> dict[str, Any]:
    truths = done.gathered.truths
    return {
        "version": f"{done.dataset.name}:{done.protocol.gt or done.dataset.default_truth}",
        "fingerprint": done.recipe["truth"],
        "length_source": dict(done.provided.length_source),
        "videos": len(truths),
        "abnormal": sum(truth.is_abnormal for truth in truths),
        "normal": sum(not truth.is_abnormal for truth in truths),
        "frames": sum(truth.n_frames for truth in truths),
        "positives": int(sum(int(truth.labels.sum()) for truth in truths)),
        "events": sum(len(truth.events) for truth in truths),
        "clamped_events": sum(truth.clamped for truth in truths),
        "lost_events": sum(truth.lost for truth in truths),
        "missing": list(done.coverage.missing),
        "extra": list(done.coverage.extra),
        "annotations": done.model.get("annotations"),
        "known_totals": _totals(done),
        "evaluated_totals": _evaluated_totals(done),
    }


def _totals(done: Evaluated) -> dict[str, Any]:
    """Our totals beside the known ones, a difference explained by its name; {} where none are known."""
    labels = [truth.labels for truth in done.gathered.truths]
    return _compared(done, labels)


def _evaluated_totals(done: Evaluated) -> dict[str, Any]:
    """The same of the frames that were measured, where a rule of lengths made them others than the videos'."""
    truths = done.gathered.truths
    if sum(len(labels) for labels in done.block.labels) == sum(truth.n_frames for truth in truths):
        return {}
    found = _compared(done, done.block.labels)
    return {**found, "message": f"evaluated: {found['message']}"} if found else {}


def _compared(done: Evaluated, labels: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    from pipelines.data.totals import compare

    found = compare(
        done.dataset.name,
        split=done.split,
        part=done.part,
        truth=str(done.protocol.gt or done.dataset.default_truth),
        videos=len(labels),
        frames=sum(len(line) for line in labels),
        positives=int(sum(int(line.sum()) for line in labels)),
    )
    return {} if found is None else found.as_json()


def _total_warnings(done: Evaluated) -> list[str]:
    """Where totals differ from the known ones, in words; a subset differs by intention."""
    if done.recipe.get("videos") is not None or done.coverage.missing:
        return []
    totals = _totals(done)
    return [str(totals["message"])] if totals and not totals["agrees"] else []


def _with_length_source(done: Evaluated) -> list[dict[str, Any]]:
    """The rows per video with what only the dataset knows: classes, camera, frame rate."""
    by_id = {video.id: video for video in done.gathered.videos}
    rows = []
    for row in done.block.per_video:
        video = by_id[str(row["video"])]
        rows.append({**row, "camera": video.camera, "fps": done.provided.fps.get(video.id)})
    return rows


def _rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A csv of dicts; lists are joined by `|`, None is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(column)) for column in columns])


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return "|".join(str(item) for item in value)
    if isinstance(value, Mapping):
        return json.dumps(_plain(value))
    return "" if value is None else value


def _legend(word: str, metrics: Mapping[str, Any], name: str) -> str:
    value = metrics.get(name, {}).get("value")
    return f"scores ({word} {100 * value:.1f})" if isinstance(value, float) else "scores"


def _model_word(model: Mapping[str, Any]) -> str:
    if model.get("method"):
        return f"{model['method']} seed {model.get('seed', 0)}"
    return Path(str(model.get("scores_file", "scores"))).name


def _plain(value: Any) -> Any:
    """JSON's own types: numpy scalars as numbers, tuples as lists, NaN and infinity as null."""
    import math

    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
