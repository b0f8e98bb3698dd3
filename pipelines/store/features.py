"""Features on disk: one Zarr v3 array a video, committed by rename (design: the cache)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.artifacts import Artifact
from pipelines.errors import MissingArtifactError, VerificationError
from pipelines.recipe import canonical_json
from pipelines.records import Failure, VideoFacts
from pipelines.spans import region_frames
from pipelines.store.listing import FAILURES, GROUPS, crops_word, failure_lines, stored_ids

STAGING = ".staging"
MAX_CHUNK_BYTES = 64 * 2**20


class FeatureStore:
    """One features artefact: artifact.json, features.zarr/<video>/, failures/, .staging/.

    Reading needs no zarr import: an uncompressed one-chunk array is a raw little-endian file.
    """

    KIND: ClassVar[str] = "features"
    GROUP: ClassVar[str] = GROUPS["features"]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifact: Artifact = artifacts.read(folder)

    @classmethod
    def create(cls, folder: Path, artifact: Artifact) -> Self:
        """The store in `folder`, made when it is not there; called once, by the planner."""
        if not (folder / artifacts.FILE).exists():
            (folder / cls.GROUP).mkdir(parents=True, exist_ok=True)
            group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
            artifacts.write_text(folder / cls.GROUP / "zarr.json", json.dumps(group))
            for name in (STAGING, FAILURES):
                (folder / name).mkdir(exist_ok=True)
            artifacts.write(folder, artifact)
        return cls(folder)

    @property
    def group(self) -> Path:
        return self.folder / self.GROUP

    def path(self, video_id: str) -> Path:
        """The array's folder; it exists only when it is complete."""
        return self.group / artifacts.folder_name(video_id)

    def videos(self) -> set[str]:
        """Ids of all complete videos, from one listdir."""
        return stored_ids(self.group)

    def __contains__(self, video_id: str) -> bool:
        return self.path(video_id).is_dir()

    def write(
        self,
        video_id: str,
        features: NDArray[np.float16],
        facts: VideoFacts,
        *,
        step: Callable[[str], None] = lambda name: None,
    ) -> bool:
        """Commit one video's (T, K, D) float16 array; True when this call won, False when it was there already."""
        staged = self.stage(video_id, features, facts, step=step)
        return self.publish(video_id, staged, step=step)

    def publish(self, video_id: str, staged: Path, *, step: Callable[[str], None] = lambda name: None) -> bool:
        """Commit the staged folder under the video's name; True when this call won. Nothing is left of a failed try."""
        try:
            return artifacts.commit(staged, self.path(video_id), step=step)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise

    def replace(
        self,
        video_id: str,
        features: NDArray[np.float16],
        facts: VideoFacts,
        *,
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Write a video again (`--redo`, a replaced source file): the old array is moved aside, then deleted.

        A process killed in between leaves the old array under .staging/; `clean_staging` puts it back.
        """
        self.swap(video_id, self.stage(video_id, features, facts, step=step), step=step)

    def swap(self, video_id: str, staged: Path, *, step: Callable[[str], None] = lambda name: None) -> None:
        """Publish `staged` in the place of what the store holds of `video_id`."""
        old = self.set_aside(video_id)
        step("aside")
        artifacts.commit(staged, self.path(video_id), step=step)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)

    def discard(self, video_id: str) -> bool:
        """Delete a video's array, from sight at once; True when there was one."""
        old = self.set_aside(video_id)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
        return old is not None

    def set_aside(self, video_id: str) -> Path | None:
        """Move a video's array under .staging/, where readers do not see it; the folder to delete, or None."""
        final = self.path(video_id)
        if not final.exists():
            return None
        old = self.new_staging(prefix="old-")
        os.rename(final, old / final.name)
        return old

    def new_staging(self, *, prefix: str = "") -> Path:
        """A fresh folder under .staging/ whose name says which process of which host owns it."""
        folder = self.folder / STAGING / f"{prefix}{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        return folder

    def stage(
        self,
        video_id: str,
        features: NDArray[np.float16],
        facts: VideoFacts,
        *,
        step: Callable[[str], None] = lambda name: None,
    ) -> Path:
        """Write a video's array under .staging/ and return its folder; nothing is visible to readers yet."""
        data = np.ascontiguousarray(features, dtype="<f2")
        empty = data.ndim == 3 and not data.shape[0] and region_frames(facts) is not None  # a video without regions
        if data.ndim != 3 or (0 in data.shape and not (empty and data.shape[1] and data.shape[2])):
            raise VerificationError(
                f"video {video_id!r}: features of shape {features.shape}, expected (T, K, D) without a zero"
            )
        staged = self.new_staging()
        try:
            step("staged")
            self._write_array(staged, data, facts)
            step("written")
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return staged

    def _write_array(self, staged: Path, data: NDArray[np.float16], facts: VideoFacts) -> None:
        rows = max(1, min(data.shape[0], MAX_CHUNK_BYTES // (data.shape[1] * data.shape[2] * 2)))
        (staged / "zarr.json").write_text(json.dumps(_array_metadata(data, rows, facts)))
        for index, start in enumerate(range(0, data.shape[0], rows)):
            chunk = staged / "c" / str(index) / "0" / "0"
            chunk.parent.mkdir(parents=True)
            block = data[start : start + rows]
            if len(block) < rows:  # zarr chunks are full; the rest is fill value
                block = np.concatenate([block, np.zeros((rows - len(block), *data.shape[1:]), data.dtype)])
            with chunk.open("wb") as handle:  # tofile() reports a full disk without its errno
                handle.write(np.ascontiguousarray(block).view(np.uint8).data)

    def metadata(self, video_id: str) -> dict[str, Any]:
        """The array's zarr.json.

        Raises:
            MissingArtifactError: the video is not in the store.
            VerificationError: the metadata cannot be read.
        """
        path = self.path(video_id) / "zarr.json"
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MissingArtifactError(
                f"no features of video {video_id!r} in {self.folder}", hint="`vad status` lists what is missing"
            ) from error
        except (OSError, ValueError) as error:
            raise VerificationError(f"cannot read {path}: {error}", hint="vad cache verify") from error
        return data

    def shape(self, video_id: str) -> tuple[int, int, int]:
        """(T, K, D) without reading the values."""
        t, k, d = self.metadata(video_id)["shape"]
        return int(t), int(k), int(d)

    def facts(self, video_id: str) -> VideoFacts:
        """What is stored beside the features."""
        attributes = dict(self.metadata(video_id)["attributes"])
        attributes.pop("checksum", None)
        attributes["crops"] = tuple(attributes["crops"])
        return VideoFacts(**attributes)

    def read(self, video_id: str) -> NDArray[np.float16]:
        """(T, K, D) float16; memory-mapped where the array is one raw chunk, in memory otherwise.

        Raises:
            VerificationError: a missing or short chunk, or a layout that this store does not write and zarr cannot read.
        """
        metadata = self.metadata(video_id)
        shape = tuple(int(n) for n in metadata["shape"])
        if not shape[0]:
            return np.zeros(shape, np.float16)
        chunk = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
        codecs = [codec["name"] for codec in metadata["codecs"]]
        if codecs != ["bytes"] or metadata["data_type"] != "float16" or chunk[1:] != shape[1:]:
            return self._read_with_zarr(video_id)
        parts = [self._chunk(video_id, index, chunk) for index in range(-(-shape[0] // chunk[0]))]
        return parts[0][: shape[0]] if len(parts) == 1 else np.concatenate(parts)[: shape[0]]

    def _chunk(self, video_id: str, index: int, shape: tuple[int, ...]) -> NDArray[np.float16]:
        path = self.path(video_id) / "c" / str(index) / "0" / "0"
        try:
            return np.memmap(path, dtype="<f2", mode="r", shape=shape)
        except (OSError, ValueError) as error:
            raise VerificationError(
                f"video {video_id!r}: chunk {index} of {self.path(video_id)} is missing or short: {error}",
                hint="vad cache verify --fix moves damaged videos aside; the same extract redoes them",
            ) from error

    def _read_with_zarr(self, video_id: str) -> NDArray[np.float16]:
        import zarr

        array = zarr.open_array(str(self.path(video_id)), mode="r")
        return np.asarray(array[...], dtype=np.float16)

    def checksum(self, video_id: str) -> str | None:
        """The sha256 stored with the video's values."""
        value = self.metadata(video_id)["attributes"].get("checksum")
        return None if value is None else str(value)

    def record_failure(self, failure: Failure) -> None:
        """Append a failure to this process's own file."""
        folder = self.folder / FAILURES
        folder.mkdir(exist_ok=True)
        with (folder / f"{os.uname().nodename}-{os.getpid()}.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(asdict(failure)) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def failures(self) -> dict[str, Failure]:
        """The newest failure of every video that is not in the store; half-written lines are skipped."""
        found: dict[str, Failure] = {}
        for entry in failure_lines(self.folder):
            try:
                failure = Failure(**entry)
            except TypeError:
                continue
            if failure.video_id not in found or failure.when >= found[failure.video_id].when:
                found[failure.video_id] = failure
        done = self.videos() if found else set()
        return {video: failure for video, failure in found.items() if video not in done}

    @cached_property
    def crops(self) -> tuple[str, ...]:
        """Crop names of the recipe, in the order of axis K."""
        return tuple(self.artifact.recipe["crops"])


def artifact_folder(root: Path, dataset: str, recipe: Mapping[str, Any], *, id: str, kind: str = "features") -> Path:
    """`<root>/features/<dataset>/<encoder>-<crops>-<id8>`; ':' and '+' of the encoder become '-' and '_'."""
    encoder = str(recipe["encoder"]).replace(":", "-").replace("+", "_").replace("/", "-")
    return root / kind / artifacts.folder_name(dataset) / f"{encoder}-{crops_word(recipe['crops'])}-{id[:8]}"


def values_checksum(features: NDArray[Any]) -> str:
    """sha256 of the little-endian float16 bytes of (T, K, D)."""
    return hashlib.sha256(np.ascontiguousarray(features, dtype="<f2").tobytes()).hexdigest()


def find_stores(layers: Iterable[Path], dataset: str, *, kind: str = "features") -> list[FeatureStore]:
    """Every artefact of `dataset` of a kind (features, frames, boxes, captions) over the cache layers, the first's first."""
    from pipelines.store.frames import FramesStore  # kinds of these stores, built upon them
    from pipelines.store.regions import BoxesStore, CaptionsStore

    kinds: tuple[type[FeatureStore], ...] = (FramesStore, BoxesStore, CaptionsStore)
    store = next((known for known in kinds if kind == known.KIND), FeatureStore)
    return [
        store(folder)
        for root in layers
        for folder in artifacts.find(root / kind / artifacts.folder_name(dataset), kind)
    ]


def serving_stores(
    layers: Iterable[Path], dataset: str, recipe: Mapping[str, Any], *, kind: str = "features"
) -> list[FeatureStore]:
    """The artefacts of `dataset` whose vectors are those of `recipe`: the same recipe, then supersets of its crops.

    Within each group the first cache layer comes first; a video is read from the first store that has it.
    """
    exact: list[FeatureStore] = []
    wider: list[FeatureStore] = []
    for store in find_stores(layers, dataset, kind=kind):
        if serves(store.artifact.recipe, recipe):
            same = tuple(store.artifact.recipe.get("crops", ())) == tuple(recipe.get("crops", ()))
            (exact if same else wider).append(store)
    return exact + wider


def serves(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an artefact of recipe `stored` holds every vector that `wanted` asks for (more crops, same otherwise)."""
    if not set(wanted.get("crops", ())) <= set(stored.get("crops", ())):
        return False
    here, there = dict(stored), dict(wanted)
    here.pop("crops", None)
    there.pop("crops", None)
    return canonical_json(here) == canonical_json(there)


def _array_metadata(data: NDArray[np.float16], rows: int, facts: VideoFacts) -> dict[str, Any]:
    attributes = asdict(facts) | {"crops": list(facts.crops), "checksum": values_checksum(data)}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(data.shape),
        "data_type": "float16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [rows, *data.shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": attributes,
        "dimension_names": ["clip", "crop", "dim"],
        "storage_transformers": [],
    }
