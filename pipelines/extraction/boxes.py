"""Boxes of every frame as an artefact: proposers over stored frames, or a file of boxes that anybody brings.

    <cache>/boxes/<dataset>/<proposers>-<id8>/    artifact.json  boxes.zarr/<video id>/  failures/  .staging/

The id hashes the proposers with their settings and weights, and the frames they saw. Proposals are stored after the
detector's own suppression and before anything is merged: how they become regions is a setting of what reads them.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from pipelines import artifacts
from pipelines.data.manifest import Dataset
from pipelines.errors import MissingArtifactError, PartialFailure, Stopped, UsageError, VadError, VerificationError
from pipelines.extraction.stop import stop_on_signals
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint, parse_assignments, suggest
from pipelines.records import Failure, VideoFacts
from pipelines.regions._base import UNKNOWN, Proposals, Proposer, joined
from pipelines.regions.choose import propose, proposers
from pipelines.store.features import find_stores
from pipelines.store.frames import FramesStore
from pipelines.store.regions import BoxesStore, boxes_folder, find_frames
from pipelines.store.scores import match

REVISION = 1
BLOCK = 64  # frames in memory at once
COLUMNS = ("video", "frame", "x1", "y1", "x2", "y2", "score")
Redo = Literal["none", "failed", "all"]


class Source(Protocol):
    """Where a video's boxes come from; `recipe` is what decides them."""

    name: str
    recipe: list[dict[str, object]]
    classes: tuple[str, ...]

    def boxes(self, video_id: str, frames: FramesStore) -> Proposals: ...


@dataclass(frozen=True, slots=True)
class BoxesPlan:
    """What would be made: recipe, id, folder, and which videos of the stored frames are done, failed before, or to do."""

    dataset: str
    source: Source
    recipe: dict[str, Any]
    id: str
    folder: Path
    frames: tuple[FramesStore, ...]
    done: frozenset[str]
    failed: Mapping[str, str]
    todo: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BoxesResult:
    """What was made: counts of videos, boxes and frames without any, and why videos failed."""

    folder: Path
    id: str
    videos: int
    made: int
    boxes: int
    frames: int
    empty_frames: int
    failed: Mapping[str, str]

    def raise_for_failures(self, dataset: str, name: str) -> None:
        """Raise PartialFailure (exit 3) when videos are missing."""
        if self.failed:
            lines = [f"{video}: {reason}" for video, reason in sorted(self.failed.items())[:20]]
            raise PartialFailure(
                f"{len(self.failed)} of {self.videos} videos have no boxes:\n  " + "\n  ".join(lines),
                hint=f"the others are done; vad extract {dataset} --boxes {name} --redo failed",
            )


class Detected:
    """Boxes that proposers find in stored frames."""

    def __init__(self, found: Sequence[Proposer]) -> None:
        self.found = tuple(found)
        self.name = "+".join(proposer.name for proposer in found)
        self.recipe = [proposer.recipe for proposer in found]
        self.classes = next((proposer.classes for proposer in found if proposer.classes), ())

    def boxes(self, video_id: str, frames: FramesStore) -> Proposals:
        """Every frame's proposals; `BLOCK` frames are in memory at once, with a neighbour on either side."""
        count, parts = frames.frames_shape(video_id)[0], []
        for start in range(0, count, BLOCK):
            stop, first = min(count, start + BLOCK), max(0, start - 1)
            window = frames.read_frames(video_id, first, min(count, stop + 1))
            parts.append(propose(self.found, window, first=first, frames=range(start, stop)))
        return joined(parts)


class Given:
    """Boxes of a csv file: video, frame, x1, y1, x2, y2, score and, where there is one, class.

    0-based frames, pixels of the stored frames. A video without a row has no boxes.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        from pipelines.data.ids import normalise_id, own_id

        self.name = path.stem
        rows = _rows(path)
        ids = [video.id for video in dataset.all_videos()]
        spell = normalise_id if dataset.entry.ids == "published" else own_id
        pairs, unknown = match(dict.fromkeys(row["video"] for row in rows), ids, spell)
        if unknown:
            told = ", ".join(f"{name!r}{suggest(name, ids)}" for name in unknown[:8])
            raise UsageError(
                f"{path}: {len(unknown)} videos of the boxes are not in {dataset.name}: {told}",
                hint=f"vad data show {dataset.name}",
            )
        self.classes = tuple(sorted({row["class"] for row in rows if row.get("class")}))
        ids_as_known = {written: known for known, written in pairs.items()}
        self.path, self.found = path, _grouped(path, rows, ids_as_known, self.classes)
        content = [[v, p.frame.tolist(), p.box.tolist(), p.score.tolist()] for v, p in sorted(self.found.items())]
        self.recipe: list[dict[str, object]] = [{"file": fingerprint(content)}]

    def boxes(self, video_id: str, frames: FramesStore) -> Proposals:
        """The file's boxes of the video.

        Raises:
            VerificationError: a box in a frame that the video does not have.
        """
        found = self.found.get(video_id, joined([]))
        count = frames.frames_shape(video_id)[0]
        if len(found) and (int(found.frame[-1]) >= count or int(found.frame[0]) < 0):
            raise VerificationError(
                f"{self.path}: a box in frame {int(found.frame[-1])} of {video_id!r}, which has {count}"
            )
        return found


def plan(
    dataset: Dataset,
    text: str,
    *,
    layers: Sequence[Path],
    weights: Path | None = None,
    settings: Sequence[str] = (),
    like: str | None = None,
    redo: Redo = "none",
) -> BoxesPlan:
    """Open the proposers or the file and compare with what the cache holds; writes nothing.

    Args:
        text: proposers (`yolox-nano+motion`), or a csv file.
        weights: the detector's ONNX file.
        settings: `--set` assignments (`yolox.min_score=0.5`).
        like: the frames artefact; the newest unless given.

    Raises:
        UsageError, MissingArtifactError, VerificationError: see `proposers`, `find_frames` and `Given`.
    """
    frames = find_frames(layers, dataset.name, like)
    if text.endswith(".csv"):
        source: Source = Given(_existing(Path(text)), dataset)
    else:
        source = Detected(proposers(text, weights=weights, options=parse_assignments(settings)))
    recipe = {
        "encoder": source.name,
        "revision": REVISION,
        "proposers": source.recipe,
        "frames": frames[0].artifact.id,
    }
    id = fingerprint(recipe)
    stores = [BoxesStore(s.folder) for s in find_stores(layers, dataset.name, kind="boxes") if s.artifact.id == id]
    have = frozenset[str]().union(*(store.videos() for store in stores)) if redo != "all" else frozenset[str]()
    failed = {v: f.reason for s in stores for v, f in s.failures().items()} if redo == "none" else {}
    stored = frozenset[str]().union(*(store.videos() for store in frames))
    listed = [video.id for video in dataset.all_videos()]
    lost = [video for video in listed if video not in stored]
    notes = [f"{len(lost)} videos have no stored frames and get no boxes: {', '.join(lost[:5])}"] if lost else []
    todo = tuple(v for v in listed if v in stored and v not in have and v not in failed)
    folder = boxes_folder(layers[0], dataset.name, source.name, id)
    return BoxesPlan(dataset.name, source, recipe, id, folder, tuple(frames), have, failed, todo, tuple(notes))


def run(planned: BoxesPlan, *, redo: Redo = "none", progress: Progress | None = None) -> BoxesResult:
    """Make what is missing, a video at a time; a video that fails is recorded and the others go on.

    Raises:
        Stopped: SIGTERM came; finished videos are kept.
    """
    sink = progress or Silent()
    for note in planned.notes:
        sink.warn(note)
    recorded = {"classes": list(planned.source.classes), "frames": planned.recipe["frames"]}
    artifact = artifacts.make(
        "boxes", planned.id, planned.recipe, recorded=recorded, inputs={"frames": str(planned.recipe["frames"])}
    )
    store = BoxesStore.create(planned.folder, artifact)
    sink.start(len(planned.todo), f"boxes of {planned.dataset} ({planned.source.name})")
    failed = dict(planned.failed)
    with stop_on_signals() as stop:
        for video in planned.todo:
            stop.check()
            if reason := _one(planned, store, video, replace_old=redo == "all"):
                failed[video] = reason
                sink.note(f"failed: {video}: {reason}")
            sink.advance()
    sink.finish()
    return _result(planned, store, failed)


def _one(planned: BoxesPlan, store: BoxesStore, video: str, *, replace_old: bool) -> str | None:
    """Make one video's boxes; the reason where it fails."""
    frames = next(candidate for candidate in planned.frames if video in candidate)
    try:
        found, facts = planned.source.boxes(video, frames), frames.facts(video)
    except Stopped:
        raise  # of the run, not of the video
    except VadError as error:
        store.record_failure(Failure(video, error.message.splitlines()[0], artifacts.utc_now()))
        return error.message
    staged = store.stage_boxes(video, found, replace(facts, extra=_kept(facts)))
    if replace_old:
        store.swap(video, staged)
    else:
        store.publish(video, staged)
    return None


def _kept(facts: VideoFacts) -> dict[str, Any]:
    """What is stored beside frames and says nothing of boxes stays there."""
    return {key: value for key, value in facts.extra.items() if key not in ("images", "folder")}


def _result(planned: BoxesPlan, store: BoxesStore, failed: Mapping[str, str]) -> BoxesResult:
    boxes = frames = empty = 0
    for video in planned.todo:
        if video in store:
            found, count = store.read_boxes(video), store.facts(video).n_frames
            boxes, frames, empty = boxes + len(found), frames + count, empty + count - len(np.unique(found.frame))
    videos = len(planned.done) + len(planned.todo) + len(planned.failed)
    made = sum(video in store for video in planned.todo)
    return BoxesResult(planned.folder, planned.id, videos, made, boxes, frames, empty, failed)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MissingArtifactError(f"there are no boxes at {path}", hint="csv of " + ", ".join(COLUMNS) + " and class")
    return path


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle, skipinitialspace=True)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise UsageError(f"{path}: columns {reader.fieldnames} lack {lacking}", hint=", ".join(COLUMNS))
        return list(reader)


def _grouped(
    path: Path, rows: Sequence[Mapping[str, str]], pairs: Mapping[str, str], classes: Sequence[str]
) -> dict[str, Proposals]:
    """Each video's boxes in frame order.

    Raises:
        UsageError: a value that is no number, or corners the wrong way round; the line is named.
    """
    parts: dict[str, list[Proposals]] = {}
    for line, row in enumerate(rows, 2):
        try:
            frame, *box, score = (float(row[name]) for name in COLUMNS[1:])
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}, line {line}: {error}") from error
        if not np.isfinite([frame, *box, score]).all() or frame != int(frame) or box[2] <= box[0] or box[3] <= box[1]:
            raise UsageError(f"{path}, line {line}: no box: {[frame, *box, score]}", hint="x1 < x2, y1 < y2, in pixels")
        label = classes.index(row["class"]) if row.get("class") else UNKNOWN
        one = Proposals(
            np.array([frame], np.int64),
            np.array([box], np.float32),
            np.array([score], np.float32),
            np.array([label], np.int64),
        )
        parts.setdefault(pairs[row["video"]], []).append(one)
    return {video: joined(found) for video, found in parts.items()}
