"""What trivial scores reach on a split, before anybody trains: the floors alone, and plain motion where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.artifacts import Roots
from pipelines.data.totals import compare
from pipelines.errors import MissingArtifactError
from pipelines.records import Scores, Video
from pipelines.scoring.block import evaluate_scores, floors_alone
from pipelines.scoring.gather import to_data
from pipelines.scoring.protocol import Protocol
from pipelines.scoring.sources import Provided, known_length
from pipelines.spans import native_stride, stored_spans
from pipelines.store.features import FeatureStore, find_stores

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset, Part

MOTION = "motion"
RANDOM_SD = "random_sd"


def floor_table(
    dataset: Dataset,
    split: str,
    part: Part,
    *,
    protocol: Protocol,
    metrics: Sequence[str],
    roots: Roots,
    lengths: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Floor -> metric -> value (fractions of 1), with the counts and the truth they hold for.

    `motion` (the median frame difference of a clip, index 0 of the encoder `motion`) is added where its features are
    in the cache. `lengths` stand in for videos whose length is known from nowhere else.

    Raises:
        MissingArtifactError: a video's length is known from nowhere; the hint has the command.
    """
    protocol = protocol.resolved(dataset.name, dataset.truths)
    videos = dataset.videos(split, part)
    stores = find_stores(roots.features, dataset.name)
    blank = _constant(dataset, videos, stores, lengths or {})
    data, gathered = to_data(blank, videos, dataset, protocol=protocol)
    block = floors_alone(data, metrics, protocol.options())
    found: dict[str, dict[str, float | None]] = {}
    for metric, values in block.floors.items():
        for floor, value in values.items():
            found.setdefault(floor, {})[metric] = value
    motion = _motion(videos, stores)
    if motion is not None:
        found[MOTION] = _measured(motion, videos, dataset, protocol, list(block.floors))
    truths = gathered.truths
    known = compare(
        dataset.name,
        split=split,
        part=part,
        truth=str(protocol.gt),
        videos=len(truths),
        frames=int(block.counts["frames"]),
        positives=int(block.counts["positives"]),
    )
    return {
        "dataset": dataset.name,
        "split": split,
        "part": part,
        "videos": len(truths),
        "abnormal": sum(truth.is_abnormal for truth in truths),
        "frames": int(block.counts["frames"]),
        "positives": int(block.counts["positives"]),
        "known_totals": known.as_json() if known else {},
        "truth": f"{dataset.name}:{protocol.gt}",
        "recipe": block.recipe,
        "length_source": dict(blank.length_source),
        "floors": found,
    }


def _constant(
    dataset: Dataset, videos: Sequence[Video], stores: Sequence[FeatureStore], lengths: Mapping[str, int]
) -> Provided:
    held = {store.folder: store.videos() for store in stores}
    scores: dict[str, Scores] = {}
    fps: dict[str, float | None] = {}
    sources: dict[str, int] = {}
    for video in videos:
        store = next((s for s in stores if video.id in held[s.folder]), None)
        known = known_length(video, store, None)
        if known is None and video.id in lengths:
            known = lengths[video.id], "given", video.fps
        if known is None:
            raise MissingArtifactError(
                f"the length of video {video.id!r} is known from nowhere: no features, no published length, no file",
                hint=f"vad extract {dataset.name}, or --lengths FILE (video, frames)",
            )
        n_frames, source, fps[video.id] = known
        sources[source] = sources.get(source, 0) + 1
        scores[video.id] = Scores(
            video.id,
            np.ones((1, 1), dtype=np.float32),
            np.array([[0, n_frames]], dtype=np.int64),
            n_frames,
            n_frames,
        )
    return Provided(
        scores=scores, fps=fps, length_source=sources, classes=None, facts={}, approximate=frozenset(lengths)
    )


def _motion(videos: Sequence[Video], stores: Sequence[FeatureStore]) -> Provided | None:
    """The motion scalar of every video as its score, from the first store that has them all."""
    for store in stores:
        if store.artifact.recipe.get("encoder") == MOTION and {v.id for v in videos} <= store.videos():
            scores = {video.id: _motion_scores(store, video.id) for video in videos}
            return Provided(
                scores=scores,
                fps={video.id: store.facts(video.id).fps for video in videos},
                length_source={"features": len(videos)},
                classes=None,
                facts={},
            )
    return None


def _motion_scores(store: FeatureStore, video: str) -> Scores:
    facts, values = store.facts(video), np.asarray(store.read(video)[:, :, 0], dtype=np.float32)
    spans = stored_spans(facts, len(values))
    return Scores(video, values.T, spans, facts.n_frames, native_stride(facts), crops=facts.crops)


def _measured(
    provided: Provided, videos: Sequence[Video], dataset: Dataset, protocol: Protocol, metrics: Sequence[str]
) -> dict[str, float | None]:
    data, _ = to_data(provided, videos, dataset, protocol=protocol)
    bare = replace(protocol, rounds=0, floors="none", by=()).options()
    found: dict[str, float | None] = {}
    for metric in metrics:
        entry = evaluate_scores(data, [metric], replace(bare, undefined="null")).metrics[metric]
        found[metric] = entry["value"]
    return found
