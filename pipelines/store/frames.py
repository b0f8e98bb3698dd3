"""Frames on disk: one Zarr v3 array (N, H, W, C) uint8 a video, chunked along N; or an index into a folder of images."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import VerificationError
from pipelines.records import VideoFacts
from pipelines.store.features import FeatureStore
from pipelines.store.listing import GROUPS

INDEX = "images"  # attribute of a lazy video: file names in order
CHUNK_BYTES = 16 * 2**20  # a training window then touches one or two files


class FramesStore(FeatureStore):
    """One frames artefact; listing, commit, failures and redo are those of features.

    A lazy video has no chunks: its attributes name a folder and the images in it, which are decoded when read.
    """

    KIND: ClassVar[str] = "frames"
    GROUP: ClassVar[str] = GROUPS["frames"]

    def frames_shape(self, video_id: str) -> tuple[int, int, int, int]:
        """(N, H, W, C) without reading the values."""
        n, h, w, c = self.metadata(video_id)["shape"]
        return int(n), int(h), int(w), int(c)

    def read_frames(self, video_id: str, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
        """Frames [start, stop) as (n, H, W, C) uint8; only the chunks they stand in are touched.

        Raises:
            MissingArtifactError, VerificationError: no such video, or a missing or short chunk.
        """
        metadata = self.metadata(video_id)
        n_frames = int(metadata["shape"][0])
        first, last = slice(start, stop).indices(n_frames)[:2]
        if INDEX in metadata["attributes"].get("extra", {}):
            return _read_images(metadata, first, last)
        chunk = tuple(int(size) for size in metadata["chunk_grid"]["configuration"]["chunk_shape"])
        rows = chunk[0]
        parts = [
            self._frames_chunk(video_id, index, chunk)[max(0, first - index * rows) : last - index * rows]
            for index in range(first // rows, -(-last // rows))
        ]
        return np.concatenate(parts) if parts else np.zeros((0, *metadata["shape"][1:]), np.uint8)

    def frames_checksum(self, video_id: str) -> str:
        """sha256 of the stored frames, read chunk by chunk."""
        digest = hashlib.sha256()
        n_frames = self.frames_shape(video_id)[0]
        rows = int(self.metadata(video_id)["chunk_grid"]["configuration"]["chunk_shape"][0])
        for start in range(0, n_frames, rows):
            digest.update(np.ascontiguousarray(self.read_frames(video_id, start, start + rows)).tobytes())
        return digest.hexdigest()

    def write_index(self, video_id: str, images: Sequence[Path], facts: VideoFacts, *, size: tuple[int, int]) -> bool:
        """Commit a lazy video: `images` of one folder in order, `size` (height, width) as they are read."""
        staged = self.new_staging()
        extra = facts.extra | {"folder": str(images[0].parent), INDEX: [path.name for path in images]}
        attributes = asdict(facts) | {"crops": list(facts.crops), "extra": extra, "checksum": None}
        shape = (len(images), *size, 3)
        (staged / "zarr.json").write_text(json.dumps(_metadata(shape, rows=len(images), attributes=attributes)))
        return self.publish(video_id, staged)

    def _frames_chunk(self, video_id: str, index: int, chunk: tuple[int, ...]) -> NDArray[np.uint8]:
        path = self.path(video_id) / "c" / str(index) / "0" / "0" / "0"
        try:
            return np.memmap(path, dtype=np.uint8, mode="r", shape=chunk)
        except (OSError, ValueError) as error:
            raise VerificationError(
                f"video {video_id!r}: chunk {index} of {self.path(video_id)} is missing or short: {error}",
                hint="vad cache verify --fix moves damaged videos aside; the same extract redoes them",
            ) from error


class FramesWriter:
    """Writes one video's frames chunk by chunk under .staging/, so that no video stands in memory whole."""

    def __init__(self, store: FramesStore, video_id: str) -> None:
        self.store = store
        self.video_id = video_id
        self.n_frames = 0
        self._staged = store.new_staging()
        self._waiting: list[NDArray[np.uint8]] = []
        self._shape: tuple[int, int, int] | None = None
        self._chunks = 0
        self._hash = hashlib.sha256()

    def append(self, frames: NDArray[np.uint8]) -> None:
        """Take the next frames, (n, H, W, C) uint8.

        Raises:
            VerificationError: frames of another size than the first ones.
        """
        shape = (int(frames.shape[1]), int(frames.shape[2]), int(frames.shape[3]))
        if self._shape is None:
            self._shape = shape
        elif self._shape != shape:
            raise VerificationError(f"video {self.video_id!r}: frames change size from {self._shape} to {shape}")
        self._waiting.append(np.array(frames))
        self.n_frames += len(frames)
        while sum(map(len, self._waiting)) >= self.rows:
            block = np.concatenate(self._waiting)
            self._put(block[: self.rows])
            self._waiting = [block[self.rows :]]

    @property
    def rows(self) -> int:
        """Frames of a chunk."""
        return max(1, CHUNK_BYTES // max(1, int(np.prod(self._shape or (1, 1, 1)))))

    def commit(self, facts: VideoFacts, *, replace: frozenset[str] = frozenset()) -> None:
        """Publish the video; with its id in `replace`, in the place of what the store holds."""
        if self._shape is None:
            raise VerificationError(f"video {self.video_id!r}: no frames to store")
        rest = np.concatenate(self._waiting)
        if len(rest):
            full = np.zeros((self.rows, *self._shape), np.uint8)
            full[: len(rest)] = rest
            self._hash.update(rest.tobytes())
            self._write(full)
        attributes = asdict(facts) | {"crops": list(facts.crops), "checksum": self._hash.hexdigest()}
        metadata = _metadata((self.n_frames, *self._shape), rows=self.rows, attributes=attributes)
        (self._staged / "zarr.json").write_text(json.dumps(metadata))
        if self.video_id in replace:
            self.store.swap(self.video_id, self._staged)
        else:
            self.store.publish(self.video_id, self._staged)

    def discard(self) -> None:
        """Forget what was written."""
        shutil.rmtree(self._staged, ignore_errors=True)

    def _put(self, block: NDArray[np.uint8]) -> None:
        self._hash.update(block.tobytes())
        self._write(block)

    def _write(self, block: NDArray[np.uint8]) -> None:
        path = self._staged / "c" / str(self._chunks) / "0" / "0" / "0"
        path.parent.mkdir(parents=True)
        with path.open("wb") as handle:
            handle.write(np.ascontiguousarray(block).data)
        self._chunks += 1


def _read_images(metadata: dict[str, Any], start: int, stop: int) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = (int(size) for size in metadata["shape"][1:3])
    extra = metadata["attributes"]["extra"]
    frames = np.zeros((max(0, stop - start), height, width, 3), np.uint8)
    for row, name in enumerate(extra[INDEX][start:stop]):
        path = Path(extra["folder"]) / name
        try:
            with Image.open(path) as image:
                pixels = image.convert("RGB")
                if pixels.size != (width, height):
                    pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
                frames[row] = np.asarray(pixels)
        except OSError as error:
            raise VerificationError(
                f"cannot read the image {path}: {error}", hint="an index (--lazy) needs the images to stay in place"
            ) from error
    return frames


def _metadata(shape: Sequence[int], *, rows: int, attributes: dict[str, Any]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, rows), *shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": attributes,
        "dimension_names": ["frame", "height", "width", "channel"],
        "storage_transformers": [],
    }
