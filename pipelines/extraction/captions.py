"""Captions of clips as a text stream: (T, 1, D) vectors on the clips of stored visual features.

The result is a features artefact, so that `--features VISUAL+captions` joins both per clip (visual first, RefineVAD). A
file is csv with a header, or JSON lines; its fields are `video`, `caption`, and where: `clip` (0-based), or
`start`,`end` (or `start_s`,`end_s`) in seconds, or `start_frames`,`end_frames`, 0-based and half-open.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.data.manifest import Dataset
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.extraction import text as texts
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint, suggest
from pipelines.records import VideoFacts
from pipelines.scoring.infer import spans_of
from pipelines.store.features import FeatureStore, artifact_folder, find_stores
from pipelines.store.layouts import WHOLE
from pipelines.training.choose import choose_features

NAME = "captions"
REVISION = 1
BATCH = 1024  # texts that are encoded at once
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Caption:
    """One row: words, the line of the file, and a clip's number or an interval in seconds or frames."""

    video: str
    words: str
    line: int
    clip: int | None = None
    start: float = 0.0
    end: float = 0.0
    unit: str = "frames"

    def frames(self, spans: NDArray[np.int64], facts: VideoFacts) -> tuple[int, int]:
        """The half-open frame interval that it speaks for; spans (T, 2).

        Raises:
            UsageError: outside the video, or in seconds where the video's rate is unknown.
        """
        if self.clip is not None:
            if self.clip >= len(spans):
                raise UsageError(f"line {self.line}: clip {self.clip} of video {self.video!r}, which has {len(spans)}")
            return int(spans[self.clip, 0]), int(spans[self.clip, 1])
        if self.unit == "seconds" and not facts.fps:
            raise UsageError(
                f"line {self.line}: seconds, and the frame rate of video {self.video!r} is unknown",
                hint="give start_frames and end_frames",
            )
        rate = float(facts.fps or 1) if self.unit == "seconds" else 1.0
        first, last = math.floor(self.start * rate + 1e-6), math.ceil(self.end * rate - 1e-6)
        if first >= facts.n_frames:
            raise UsageError(
                f"line {self.line}: the caption begins at frame {first}, video {self.video!r} has {facts.n_frames}"
            )
        return first, max(first + 1, last)


@dataclass(frozen=True, slots=True)
class CaptionPlan:
    """What would be made: the artefact's recipe, id and folder, the clips it follows, and its captions by video."""

    recipe: dict[str, Any]
    id: str
    folder: Path
    like: FeatureStore
    captions: Mapping[str, tuple[Caption, ...]]
    encoder: str
    source: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """What was made: clips with and without words (zero vectors), videos of the reference without any caption."""

    folder: Path
    id: str
    videos: int
    made: int
    clips: int
    empty_clips: int
    silent: tuple[str, ...]


def plan(
    dataset: Dataset, source: Path, *, layers: Sequence[Path], like: str | None = None, encoder: str | None = None
) -> CaptionPlan:
    """Read the file, choose the clips and the text encoder; writes nothing and encodes nothing.

    Args:
        source: the caption file.
        layers: cache roots, the first is written.
        like: the features whose clips the captions follow; the last extracted ones unless given.
        encoder: `clip:<variant>`, `minilm` or `seeded`; CLIP's own for CLIP features, else minilm where it is installed.

    Raises:
        UsageError: the file cannot be read, or has wrong rows or unknown videos (all are named).
        MissingArtifactError: no features to follow, no weights.
    """
    captions = read(source)
    _known(captions, dataset)
    reference = _reference(dataset, layers, like)
    notes = [] if like else [f"clips as in {reference.artifact.recipe['encoder']} ({reference.artifact.id8})"]
    chosen = encoder or _default(str(reference.artifact.recipe["encoder"]))
    notes += [] if encoder else [f"text vectors: {chosen}"]
    recipe = _recipe(reference, captions, chosen)
    id = fingerprint(recipe)
    by_video: dict[str, list[Caption]] = {}
    for caption in captions:
        by_video.setdefault(caption.video, []).append(caption)
    have = reference.videos()
    if lost := [video for video in by_video if video not in have]:
        notes.append(f"captions of {len(lost)} videos without features are left out: {_shown(lost)}")
    folder = artifact_folder(layers[0], dataset.name, recipe, id=id)
    grouped = {video: tuple(rows) for video, rows in by_video.items() if video in have}
    return CaptionPlan(recipe, id, folder, reference, grouped, chosen, source, tuple(notes))


def run(planned: CaptionPlan, *, progress: Progress | None = None) -> CaptionResult:
    """Encode every different caption once and write each video's (T, 1, D) array; what is there is kept.

    A clip takes the mean of its captions, weighted by the frames they share, at length 1; without any it is zero.

    Raises:
        UsageError: a caption outside its video; the line is named.
    """
    sink = progress or Silent()
    for note in planned.notes:
        sink.note(note)
    weights = {video: _weights(planned, video) for video in sorted(planned.like.videos())}
    vectors = encode(planned.encoder, sorted({c.words for rows in planned.captions.values() for c in rows}))
    recorded = {"source": str(planned.source), "like": planned.like.artifact.id}
    artifact = artifacts.make("features", planned.id, planned.recipe, recorded=recorded)
    store = FeatureStore.create(planned.folder, artifact)
    present = store.videos()
    sink.start(len(weights), "writing captions")
    empty = 0
    for video, weight in weights.items():
        rows = planned.captions.get(video, ())
        values = _vectors(weight, rows, vectors)
        empty += int((~values.any(axis=1)).sum())
        if video not in present:
            facts = replace(planned.like.facts(video), crops=store.crops)
            store.write(video, values[:, None].astype(np.float16), facts)
        sink.advance()
    sink.finish()
    silent = tuple(video for video in weights if video not in planned.captions)
    clips = sum(len(weight) for weight in weights.values())
    made = len(weights.keys() - present)
    return CaptionResult(planned.folder, planned.id, len(weights), made, clips, empty, silent)


def read(source: Path) -> list[Caption]:
    """Every row with words; rows whose caption is empty count as missing.

    Raises:
        UsageError: the file cannot be read, or rows are wrong; the first lines are named.
    """
    try:
        rows = list(_rows(source))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise UsageError(f"cannot read the captions {source}: {error}") from error
    found, wrong = [], []
    for line, row in rows:
        try:
            caption = _caption(row, line)
        except (ValueError, TypeError) as error:
            wrong.append(f"line {line}: {error}")
        else:
            found += [caption] if caption.words else []
    if wrong or not found:
        told = "\n  ".join(wrong[:SHOWN]) or "no caption in it"
        more = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UsageError(
            f"the captions {source} have errors:\n  {told}{more}",
            hint="fields: video, caption, and clip | start,end (seconds) | start_frames,end_frames",
        )
    return found


def encode(encoder: str, words: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Each text's unit vector (D,); a text longer than the encoder takes is cut there."""
    found: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(words), BATCH):
        part = words[start : start + BATCH]
        found |= dict(zip(part, texts.encode(encoder, part), strict=True))
    return found


def _rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with source.open(encoding="utf-8", newline="") as handle:
        if source.suffix.lower() in (".jsonl", ".ndjson"):
            for line, content in enumerate(handle, start=1):
                if content.strip():
                    row = json.loads(content)
                    if not isinstance(row, dict):
                        raise ValueError(f"line {line} is no JSON object")
                    yield line, row
        else:
            reader = csv.DictReader(handle)
            if not {"video", "caption"} <= set(reader.fieldnames or ()):
                raise ValueError(f"its header {', '.join(reader.fieldnames or ()) or '(none)'} lacks video or caption")
            for row in reader:
                yield reader.line_num, row


def _caption(row: Mapping[str, Any], line: int) -> Caption:
    video, words = str(row.get("video") or "").strip(), str(row.get("caption") or "").strip()
    if not video:
        raise ValueError("no video")
    if _given(row, "clip"):
        clip = int(str(row["clip"]))
        if clip < 0:
            raise ValueError(f"clip {clip}")
        return Caption(video, words, line, clip=clip)
    for first, last, unit in (
        ("start_frames", "end_frames", "frames"),
        ("start_s", "end_s", "seconds"),
        ("start", "end", "seconds"),
    ):
        if _given(row, first) and _given(row, last):
            start, end = float(row[first]), float(row[last])
            if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
                raise ValueError(f"{first}={row[first]}, {last}={row[last]}")
            return Caption(video, words, line, start=start, end=end, unit=unit)
    raise ValueError("neither clip nor start and end")


def _given(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) not in (None, "")


def _known(captions: Sequence[Caption], dataset: Dataset) -> None:
    ids = [video.id for video in dataset.all_videos()]
    unknown = sorted({c.video for c in captions} - set(ids))
    if unknown:
        told = ", ".join(f"{name!r}{suggest(name, ids)}" for name in unknown[:SHOWN])
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise UsageError(
            f"{len(unknown)} video ids of the captions are not in {dataset.name}: {told}{more}",
            hint=f"vad data show {dataset.name}",
        )


def _reference(dataset: Dataset, layers: Sequence[Path], like: str | None) -> FeatureStore:
    if like is not None:
        return choose_features(layers, dataset.name, like, defaults=()).streams[0][0]
    stores = [s for s in find_stores(layers, dataset.name) if not _is_captions(str(s.artifact.recipe["encoder"]))]
    if not stores:
        raise MissingArtifactError(
            f"captions follow the clips of visual features, and {dataset.name} has none",
            hint=f"vad extract {dataset.name}, then again with --captions",
        )
    return max(stores, key=lambda store: store.artifact.created)


def _is_captions(encoder: str) -> bool:
    return encoder.partition(":")[0] == NAME


def _default(visual: str) -> str:
    if visual.startswith("clip:"):
        return visual
    return "minilm" if texts.has_minilm() else "seeded"


def _recipe(reference: FeatureStore, captions: Sequence[Caption], encoder: str) -> dict[str, Any]:
    """The keys of an extracted recipe; the content of the file and the clips it follows are part of it."""
    base = reference.artifact.recipe
    content = [[c.video, c.words, c.clip, c.start, c.end, c.unit] for c in captions]
    nothing = {"resize": None, "crop_px": None, "interpolation": "none", "mean": [0.0] * 3, "std": [1.0] * 3}
    return {
        "encoder": f"{NAME}:{encoder.replace(':', '-')}",
        "revision": REVISION,
        "weights_sha256": texts.weights_sha256(encoder),
        "options": {
            "captions": fingerprint(sorted(content, key=str)),
            "text": encoder,
            "text_revision": texts.REVISIONS[encoder.partition(":")[0]],
            "like": reference.artifact.id,
        },
        "decoder": base.get("decoder", "unknown"),
        "clip_len": base["clip_len"],
        "stride": base["stride"],
        "fps": base.get("fps"),
        "last_clip": base.get("last_clip", "drop"),
        "crops": [WHOLE],
        "preprocess": nothing,
        "precision": "float32",
    }


def _weights(planned: CaptionPlan, video: str) -> NDArray[np.float64]:
    """Frames that each clip shares with each caption of the video: (T, captions)."""
    facts, rows = planned.like.facts(video), planned.captions.get(video, ())
    spans = spans_of(planned.like.shape(video)[0], facts)
    shared = np.zeros((len(spans), len(rows)))
    for column, caption in enumerate(rows):
        if caption.clip is not None:
            caption.frames(spans, facts)  # checked
            shared[caption.clip, column] = spans[caption.clip, 1] - spans[caption.clip, 0]
            continue
        a, b = caption.frames(spans, facts)
        shared[:, column] = np.clip(np.minimum(spans[:, 1], b) - np.maximum(spans[:, 0], a), 0, None)
    return shared


def _vectors(
    weight: NDArray[np.float64], rows: Sequence[Caption], vectors: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """(T, D) unit rows, zeros where no caption speaks."""
    dim = len(next(iter(vectors.values())))
    if not rows:
        return np.zeros((len(weight), dim), np.float32)
    mixed = weight @ np.stack([vectors[row.words] for row in rows])
    length = np.linalg.norm(mixed, axis=1, keepdims=True)
    return np.asarray(np.divide(mixed, length, out=np.zeros_like(mixed), where=length > 1e-12), dtype=np.float32)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
