"""Region detections on disk: a csv of scored boxes that anybody brings."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import MissingArtifactError, VerificationError
from pipelines.metrics._base import Boxes
from pipelines.store.scores import match

COLUMNS = ("video", "frame", "x1", "y1", "x2", "y2", "score")


def read_boxes(
    path: Path, video_ids: Sequence[str], n_frames: Sequence[int], *, normalise: Callable[[str], str]
) -> Boxes:
    """Boxes from csv (video, frame, x1, y1, x2, y2, score): 0-based frames, inclusive pixels of the masks' picture.

    Args:
        path: the file.
        video_ids: the evaluated videos; boxes of other videos are an error.
        n_frames: of each video; a box beyond them is an error.
        normalise: how differently spelled ids are compared.

    Raises:
        MissingArtifactError: there is no such file.
        VerificationError: a missing column, text for a number, an unknown video, a frame that is not there, a box whose
            corners are the wrong way round; the line is named.
    """
    if not path.is_file():
        raise MissingArtifactError(f"there are no boxes at {path}", hint="--boxes FILE: csv of " + ", ".join(COLUMNS))
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle, skipinitialspace=True)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise VerificationError(f"{path}: columns {reader.fieldnames} lack {lacking}", hint=", ".join(COLUMNS))
        rows = list(reader)
    pairs, unknown = match(dict.fromkeys(row["video"] for row in rows), video_ids, normalise)
    if unknown:
        raise VerificationError(f"{path}: boxes of videos that are not evaluated: {', '.join(unknown[:20])}")
    places = {pairs[video]: index for index, video in enumerate(video_ids) if video in pairs}
    table = np.array([_numbers(path, line, row) for line, row in enumerate(rows, 2)], dtype=np.float64).reshape(-1, 6)
    video = np.array([places[row["video"]] for row in rows], dtype=np.int64)
    _check(path, table, np.asarray(n_frames, dtype=np.int64)[video])
    return Boxes(video, table[:, 0].astype(np.int64), table[:, 1:5], table[:, 5])


def _numbers(path: Path, line: int, row: dict[str, str]) -> list[float]:
    try:
        return [float(row[name]) for name in COLUMNS[1:]]
    except (TypeError, ValueError) as error:
        raise VerificationError(f"{path}, line {line}: {error}") from error


def _check(path: Path, table: NDArray[np.float64], n_frames: NDArray[np.int64]) -> None:
    frame = table[:, 0]
    wrong = {
        "a value that is no number": ~np.isfinite(table).all(axis=1),
        "a frame that the video does not have": (frame < 0) | (frame >= n_frames) | (frame != np.floor(frame)),
        "corners the wrong way round": (table[:, 3] < table[:, 1]) | (table[:, 4] < table[:, 2]),
    }
    for what, bad in wrong.items():
        if bad.any():
            raise VerificationError(f"{path}, line {int(np.argmax(bad)) + 2}: {what}: {table[np.argmax(bad)].tolist()}")
