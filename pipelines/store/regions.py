"""Proposed boxes on disk: one Zarr v3 array (M, 7) float32 a video, committed as features are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.records import VideoFacts
from pipelines.regions._base import Proposals
from pipelines.store.features import FeatureStore, find_stores
from pipelines.store.frames import FramesStore
from pipelines.store.listing import GROUPS


class RowsStore(FeatureStore):
    """Arrays (M, columns) float32 of any length, none included; listing, commit, failures and redo are those of features."""

    COLUMNS: ClassVar[tuple[str, ...]]

    def stage_rows(self, video_id: str, rows: NDArray[np.float32], facts: VideoFacts) -> Path:
        """Write a video's rows under .staging/; the folder, for `publish` or `swap`."""
        data = np.ascontiguousarray(rows, dtype="<f4")
        staged = self.new_staging()
        (staged / "zarr.json").write_text(json.dumps(_metadata(data, facts)))
        if len(data):
            chunk = staged / "c" / "0" / "0"
            chunk.parent.mkdir(parents=True)
            chunk.write_bytes(data.tobytes())
        return staged

    def read_rows(self, video_id: str) -> NDArray[np.float32]:
        """A video's rows.

        Raises:
            MissingArtifactError, VerificationError: no such video, or a missing or short chunk.
        """
        count = self.count(video_id)
        path = self.path(video_id) / "c" / "0" / "0"
        try:
            rows = np.fromfile(path, dtype="<f4") if count else np.zeros(0, "<f4")
            return rows.reshape(count, len(self.COLUMNS))
        except (OSError, ValueError) as error:
            raise VerificationError(
                f"video {video_id!r}: the rows in {path} are missing or short: {error}",
                hint="remove the video's folder; the same `vad extract --boxes` redoes it",
            ) from error

    def count(self, video_id: str) -> int:
        """Number of a video's rows, without reading them."""
        return int(self.metadata(video_id)["shape"][0])

    def rows_checksum(self, video_id: str) -> str:
        """sha256 of the stored values."""
        path = self.path(video_id) / "c" / "0" / "0"
        return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()


class BoxesStore(RowsStore):
    """One boxes artefact."""

    KIND: ClassVar[str] = "boxes"
    GROUP: ClassVar[str] = GROUPS["boxes"]
    COLUMNS = ("frame", "x1", "y1", "x2", "y2", "score", "label")

    def stage_boxes(self, video_id: str, found: Proposals, facts: VideoFacts) -> Path:
        """Write a video's boxes under .staging/; the folder, for `publish` or `swap`."""
        rows = np.concatenate(
            [found.frame[:, None], found.box, found.score[:, None], found.label[:, None]], axis=1, dtype=np.float32
        )
        return self.stage_rows(video_id, rows, facts)

    def read_boxes(self, video_id: str) -> Proposals:
        """A video's boxes in frame order; errors as `read_rows`."""
        rows = self.read_rows(video_id)
        frame, label = rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64)
        return Proposals(frame, rows[:, 1:5].astype(np.float32), rows[:, 5].astype(np.float32), label)

    @property
    def name(self) -> str:
        """The proposers' names: `yolox-nano+motion`."""
        return str(self.artifact.recipe["encoder"])


class CaptionsStore(RowsStore):
    """Captions of regions: frame, box, and the word of each slot (`methods/_words.py`)."""

    KIND: ClassVar[str] = "captions"
    GROUP: ClassVar[str] = GROUPS["captions"]
    COLUMNS = ("frame", "x1", "y1", "x2", "y2", "action", "clothes", "place", "object")


def boxes_folder(root: Path, dataset: str, name: str, id: str) -> Path:
    """`<root>/boxes/<dataset>/<name>-<id8>`."""
    return root / "boxes" / artifacts.folder_name(dataset) / f"{name.replace('+', '_')}-{id[:8]}"


def find_boxes(layers: Sequence[Path], dataset: str, wanted: str | None = None) -> list[BoxesStore]:
    """The boxes of `dataset` over the cache layers: those of one artefact, which `wanted` names (id or proposers).

    Raises:
        MissingArtifactError: none; the hint makes them. UsageError: several match.
    """
    stores = [BoxesStore(store.folder) for store in find_stores(layers, dataset, kind="boxes")]
    if wanted is not None:
        stores = [s for s in stores if s.name == wanted or (len(wanted) >= 4 and s.artifact.id.startswith(wanted))]
    if not stores:
        which = f" that {wanted!r} names" if wanted else ""
        raise MissingArtifactError(
            f"there are no boxes of {dataset}{which}", hint=f"vad extract {dataset} --boxes {wanted or 'motion'}"
        )
    ids = {store.artifact.id for store in stores}
    if wanted is not None and len(ids) > 1:
        lines = "".join(f"\n  {store.artifact.id8}  {store.folder}" for store in stores)
        raise UsageError(f"{len(ids)} boxes of {dataset} match {wanted!r}:{lines}", hint="name one by its id")
    newest = max(stores, key=lambda store: store.artifact.created).artifact.id
    return [store for store in stores if store.artifact.id == newest]


def find_frames(layers: Sequence[Path], dataset: str, wanted: str | None = None) -> list[FramesStore]:
    """The stored frames of `dataset` over the cache layers: those of one artefact (its id, or the newest).

    Raises:
        MissingArtifactError: none; the hint makes them.
    """
    stores = [FramesStore(store.folder) for store in find_stores(layers, dataset, kind="frames")]
    if wanted is not None:
        stores = [store for store in stores if store.artifact.id.startswith(wanted)]
    if not stores:
        which = f" ({wanted[:8]})" if wanted else ""
        raise MissingArtifactError(
            f"there are no frames of {dataset}{which}; boxes and crops are cut from them",
            hint=f"vad extract {dataset} --encoder frames (--lazy stores an index where the videos are image folders)",
        )
    newest = max(stores, key=lambda store: store.artifact.created).artifact.id
    return [store for store in stores if store.artifact.id == newest]


def _metadata(rows: NDArray[np.float32], facts: VideoFacts) -> dict[str, Any]:
    checksum = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(rows.shape),
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, len(rows)), rows.shape[1]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": asdict(facts) | {"crops": list(facts.crops), "checksum": checksum},
        "dimension_names": ["row", "column"],
        "storage_transformers": [],
    }
