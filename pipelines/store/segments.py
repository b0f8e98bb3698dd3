"""Detections on disk: ActivityNet json and csv, written by evaluations and read from anybody."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.ids import normalise_id
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.metrics._base import Detections
from pipelines.recipe import suggest

COLUMNS = ("video", "label", "start", "end", "score")


def read_segments(
    path: Path, video_ids: Sequence[str], classes: Sequence[str], fps: Sequence[float | None] = ()
) -> Detections:
    """Ready detections from csv (video, label, start, end, score; frames) or ActivityNet json (seconds, or frames where it says so).

    Args:
        path: the file.
        video_ids: the evaluated videos; detections of other videos are an error.
        classes: the dataset's class names.
        fps: per video, to turn seconds into frames.

    Raises:
        MissingArtifactError: there is no such file.
        VerificationError: an unknown video or class, an empty or reversed interval, text for a number, no frame rate.
    """
    if not path.is_file():
        raise MissingArtifactError(f"there are no segments at {path}")
    rows = _csv_rows(path) if path.suffix == ".csv" else _json_rows(path, video_ids, fps)
    if not rows:
        return Detections.join([])
    known = {video: index for index, video in enumerate(video_ids)}
    spelled = {normalise_id(video): index for video, index in known.items()}
    columns: list[list[float]] = [[], [], [], [], []]
    for place, video, label, start, end, score in rows:
        index = known.get(video, spelled.get(normalise_id(video)))
        if index is None:
            raise VerificationError(f"{path}, {place}: no evaluated video {video!r}{suggest(video, list(video_ids))}")
        if label not in classes:
            raise VerificationError(f"{path}, {place}: {label!r} is no class{suggest(label, list(classes))}")
        if not (np.isfinite([start, end, score]).all() and 0 <= start < end):
            raise VerificationError(f"{path}, {place}: [{start}, {end}) with score {score} of {video!r} is no interval")
        for column, value in zip(columns, (index, list(classes).index(label), start, end, score), strict=True):
            column.append(value)
    video_column, label_column = (np.asarray(column, dtype=np.int64) for column in columns[:2])
    return Detections(video_column, label_column, *(np.asarray(column, dtype=np.float64) for column in columns[2:]))


def write_segments(
    folder: Path,
    detections: Mapping[str, Detections],
    video_ids: Sequence[str],
    classes: Sequence[str],
    fps: Sequence[float | None],
) -> None:
    """Write detections.csv (every protocol, frames) and detections.json (ActivityNet; seconds where every rate is known).

    The json holds the protocol `activitynet`, else the last one that there is.
    """
    with (folder / "detections.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["protocol", *COLUMNS])
        for protocol, rows in detections.items():
            for video, label, start, end, score in _items(rows):
                writer.writerow([protocol, video_ids[video], classes[label], f"{start:g}", f"{end:g}", repr(score)])
    chosen = "activitynet" if "activitynet" in detections else list(detections)[-1]
    rates = [rate or 0.0 for rate in fps] or [0.0] * len(video_ids)
    seconds = all(rates)
    results: dict[str, list[dict[str, Any]]] = {video: [] for video in video_ids}
    for video, label, start, end, score in _items(detections[chosen]):
        scale = 1.0 / rates[video] if seconds else 1.0
        results[video_ids[video]].append(
            {"label": classes[label], "segment": [start * scale, end * scale], "score": score}
        )
    document = {
        "version": "VERSION 1.3",
        "unit": "seconds" if seconds else "frames",
        "protocol": chosen,
        "results": results,
        "external_data": {},
    }
    (folder / "detections.json").write_text(json.dumps(document) + "\n", encoding="utf-8")


def _items(rows: Detections) -> list[tuple[int, int, float, float, float]]:
    columns = (rows.video, rows.label, rows.start, rows.end, rows.score)
    return list(zip(*(column.tolist() for column in columns), strict=True))


Row = tuple[str, str, str, float, float, float]


def _csv_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise VerificationError(f"{path}: columns {reader.fieldnames} lack {lacking}", hint=", ".join(COLUMNS))
        found = list(reader)
    protocols = {row["protocol"] for row in found} if found and "protocol" in found[0] else set()
    if len(protocols) > 1:
        raise UsageError(f"{path} holds detections of {sorted(protocols)}", hint="keep the rows of one protocol")
    rows: list[Row] = []
    for line, row in enumerate(found, 2):
        try:
            numbers = float(row["start"]), float(row["end"]), float(row["score"])
        except (TypeError, ValueError) as error:
            raise VerificationError(f"{path}, line {line}: {error}") from error
        rows.append((f"line {line}", row["video"], row["label"], *numbers))
    return rows


def _json_rows(path: Path, video_ids: Sequence[str], fps: Sequence[float | None]) -> list[Row]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        results, unit = document["results"], document.get("unit", "seconds")
        rate_of = {video: fps[i] if fps else None for i, video in enumerate(video_ids)}
        rows: list[Row] = []
        for video, items in results.items():
            rate = 1.0 if unit == "frames" else rate_of.get(video)
            if items and video in rate_of and not rate:
                raise VerificationError(
                    f"{path}: the frame rate of {video!r} is unknown", hint='csv with frames, or "unit": "frames"'
                )
            for index, item in enumerate(items):
                start, end = (float(value) * (rate or 1.0) for value in item["segment"])
                rows.append((f"{video}[{index}]", video, str(item["label"]), start, end, float(item["score"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationError(
            f"cannot read {path}: {type(error).__name__}: {error}",
            hint='{"results": {video: [{"label", "segment", "score"}]}}',
        ) from error
    return rows
