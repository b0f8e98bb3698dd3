"""Two evaluations on the same resamples: `vad runs compare A B` and `vad eval --against B`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.scoring.bootstrap import spread
from pipelines.scoring.gather import to_data
from pipelines.scoring.protocol import Protocol
from pipelines.scoring.sources import Provided
from pipelines.store import scores as files
from pipelines.store.runs import EvalRecord
from pipelines.store.scores import Layout

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset, Manifest
    from pipelines.scoring.block import EvalData
    from pipelines.scoring.prepare import Prepared

FREE = ("rounds", "seed", "floors", "by", "threshold", "threshold_policy")  # what two protocols may differ in


def compare(
    first: Sequence[EvalRecord],
    second: Sequence[EvalRecord],
    manifest: Manifest,
    *,
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The paired bootstrap over videos of A against B, seed by seed where both are groups of equal size.

    Returns `pairs`, one a seed (each `metrics`: both values, difference, interval, share of rounds above 0); `metrics` are
    of the means over seeds, all seeds on the same resamples.

    Raises:
        UsageError: other datasets, splits, truths or protocols; they are named. Groups of unequal size.
        VerificationError: the annotations changed since, or other videos.
    """
    if len(first) != len(second):
        raise UsageError(f"A has {len(first)} runs and B {len(second)}", hint="name one run of each, or equal groups")
    pairs = [_pair(one, other, manifest, rounds=rounds, seed=seed) for one, other in zip(first, second, strict=True)]
    joint = _joint([pair["metrics"] for pair in pairs])
    for row in [row for pair in pairs for row in pair["metrics"]]:
        del row["draws"]
    return {**pairs[0], "metrics": joint, "pairs": pairs, "rounds": rounds, "seed": seed}


def _joint(tables: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row a metric that every pair has: means over pairs, and the interval of the mean difference."""
    found = []
    for rows in [[row for table in tables for row in table if row["metric"] == one["metric"]] for one in tables[0]]:
        if len(rows) != len(tables):
            continue
        means = {key: sum(row[key] for row in rows) / len(rows) for key in ("first", "second", "difference")}
        draws = [np.array(row["draws"]) for row in rows if row["draws"] is not None]
        whole = len(draws) == len(rows) and len({len(values) for values in draws}) == 1
        mean = np.mean(draws, axis=0) if whole else None
        found.append({"metric": rows[0]["metric"], **means, **spread(mean)})
    return found


def data_from(record: EvalRecord, dataset: Dataset) -> EvalData:
    """Scores and truth of an evaluation, read back from its folder and the dataset's annotations.

    Raises:
        MissingArtifactError: its scores.npz is gone.
        VerificationError: labels or annotations are not those of the evaluation any more.
    """
    recipe = record.artifact.recipe
    protocol = replace(protocol_of(recipe), expand=record.metrics["scores"]["expand"])
    part = recipe["part"]
    if dataset.truth_fingerprint(recipe["split"], protocol.gt, part) != recipe["truth"]:
        raise VerificationError(
            f"the annotations of {dataset.name} changed since {record.folder} was made", hint="`vad eval` it again"
        )
    path = record.folder / "scores.npz"
    if not path.is_file():
        raise MissingArtifactError(f"{record.folder} has no scores.npz", hint="`vad eval --new` makes it again")
    rows = files.read(path).rows
    scores = {video: files.place(video, row, row.n_frames or 0, Layout()) for video, row in rows.items()}
    videos = [video for video in dataset.videos(recipe["split"], part) if video.id in scores]
    classes = record.metrics["scores"].get("classes") if recipe.get("class_map") is None else []
    if isinstance(classes, str):  # derived from the clip score, and again here
        classes = None
    provided = Provided(
        scores=scores,
        fps=_rates(record.folder),
        length_source={},
        classes=None if classes is None else tuple(classes),
        facts={},
    )
    return to_data(provided, videos, dataset, protocol=protocol)[0]


def prepared_from(record: EvalRecord, manifest: Manifest) -> tuple[Dataset, Prepared]:
    """The dataset of an evaluation, and its post-processed scores beside truth exactly as they were measured.

    Raises:
        MissingArtifactError, VerificationError: as `data_from`.
    """
    from pipelines.scoring.prepare import prepare

    dataset, recipe = dataset_of(record, manifest), record.metrics["recipe"]
    options = protocol_of(record.artifact.recipe).options(
        threshold=recipe.get("threshold"),
        threshold_source=recipe.get("threshold_source"),
        by_camera=recipe.get("thresholds_by_camera"),
    )
    return dataset, prepare(data_from(record, dataset), options)


def protocol_of(recipe: Mapping[str, Any]) -> Protocol:
    """The protocol that stands in an evaluation's recipe."""
    stored: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in recipe["protocol"].items()
    }
    return Protocol(**stored)


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """`key: A / B` for everything in which two evaluations' recipes must agree and do not."""
    told = [
        f"{key}: {first.get(key)} / {second.get(key)}"
        for key in ("dataset", "split", "part", "truth", "segments")
        if first.get(key) != second.get(key)
    ]
    ours, theirs = asdict(protocol_of(first)), asdict(protocol_of(second))
    keys = [key for key in ours if key not in FREE and ours[key] != theirs[key]]
    return told + [f"{key}: {ours[key]} / {theirs[key]}" for key in keys]


def _pair(one: EvalRecord, other: EvalRecord, manifest: Manifest, *, rounds: int, seed: int) -> dict[str, Any]:
    from pipelines.scoring.block import compare_scores

    told = differences(one.artifact.recipe, other.artifact.recipe)
    if told:
        raise UsageError(
            f"the two evaluations do not compare:\n  A {one.folder}\n  B {other.folder}\n  " + "\n  ".join(told),
            hint="evaluate both under one protocol",
        )
    dataset = dataset_of(one, manifest)
    ours, theirs = data_from(one, dataset), data_from(other, dataset)
    held = [name for name in one.metrics["metrics"] if name in other.metrics["metrics"]]
    options = replace(protocol_of(one.artifact.recipe), rounds=rounds, seed=seed).options()
    found = compare_scores(ours, theirs, held, options)
    return {
        "first": str(one.folder),
        "second": str(other.folder),
        "dataset": dataset.name,
        "split": one.metrics["split"],
        "videos": len(ours.frames),
        "metrics": [row for name, entry in found.items() for row in _rows(name, entry)],
        "undefined": {
            name: entry["reason"] for name, entry in found.items() if "difference" not in entry and "reason" in entry
        },
    }


def dataset_of(record: EvalRecord, manifest: Manifest) -> Dataset:
    """The manifest's dataset, or the one made again of the annotation file that the evaluation names."""
    made_of = record.metrics["ground_truth"].get("annotations")
    if made_of is None:
        return manifest.dataset(str(record.metrics["dataset"]))
    from pipelines.data.from_annotations import from_annotations

    return from_annotations(Path(made_of), _rates(record.folder), rates=_rates(record.folder))


def _rows(name: str, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    if name == "map-iou" and "difference" not in entry:
        parts = [(f"{name} {key}", value) for key, value in entry.items() if isinstance(value, Mapping)]
        return [row for word, part in parts for row in _rows(word, part)]
    if "difference" not in entry:
        return []
    return [
        {
            "metric": name,
            "first": entry["values"][0],
            "second": entry["values"][1],
            "difference": entry["difference"],
            "ci": entry.get("ci"),
            "share_above_0": entry.get("share_above_0"),
            "draws": entry.get("draws"),
        }
    ]


def _rates(folder: Path) -> dict[str, float | None]:
    """Frame rates that the evaluation knew, from per_video.csv."""
    with (folder / "per_video.csv").open(encoding="utf-8", newline="") as handle:
        return {row["video"]: float(row["fps"]) if row.get("fps") else None for row in csv.DictReader(handle)}
