"""Captions of regions as an artefact: the best word of four lists for every crop (Local Patterns, 3.2).

    <cache>/captions/<dataset>/<captioner>-<id8>/    artifact.json  captions.zarr/<video id>/

Needed when ITAM is trained and never afterwards. Captioners: an image-text pair (`clip:...`), whose image vector is
compared with each word's; `effnet`, whose ImageNet classes stand for words; `geometry`, which looks at boxes alone
and is deterministic (for tests, and to see that the chain works).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts, catalog
from pipelines.data.manifest import Dataset
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.extraction import text as texts
from pipelines.extraction.regions import Objects, ObjectsConfig, crops_of, objects_of
from pipelines.extraction.stop import stop_on_signals
from pipelines.methods._words import LISTS, NAMES, sentences
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint, parse_assignments, resolve
from pipelines.regions.boxes import Boxes
from pipelines.store.features import find_stores
from pipelines.store.frames import FramesStore
from pipelines.store.regions import BoxesStore, CaptionsStore, find_boxes, find_frames

REVISION = 1
SEEN = 0.05  # a class of a lower probability was not seen [ours]
SLOTS = 4


class CaptionsConfig(ObjectsConfig):
    """Which regions are captioned."""

    max_boxes: int = 8
    every: int = 5  # frames from one captioned frame to the next: neighbouring crops look the same


class Captioner(Protocol):
    """Words for crops. `recipe` is what decides them; `size` the side of its crops, or None where it needs no pixels."""

    recipe: dict[str, Any]
    size: tuple[int, int] | None

    def words(self, crops: Any, boxes: Boxes, *, frame: tuple[int, int]) -> NDArray[np.int64]:
        """crops uint8 (m, h, w, 3) or None, boxes (m, 4), (height, width) of the frame -> (m, 4) word of each slot."""


@dataclass(frozen=True, slots=True)
class CaptionsPlan:
    """What would be made, and what is left to do."""

    dataset: str
    captioner: Captioner
    config: CaptionsConfig
    recipe: dict[str, Any]
    id: str
    folder: Path
    boxes: tuple[BoxesStore, ...]
    frames: tuple[FramesStore, ...]
    done: frozenset[str]
    todo: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaptionsResult:
    """What was made; `common` are the most frequent sentences with their counts."""

    folder: Path
    id: str
    videos: int
    made: int
    regions: int
    common: tuple[tuple[str, int], ...]


class Geometry:
    """Height against width, place in the frame and size say which word: deterministic, and blind."""

    size: tuple[int, int] | None = None

    def __init__(self) -> None:
        self.recipe: dict[str, Any] = {"captioner": "geometry", "revision": 1}

    def words(self, crops: Any, boxes: Boxes, *, frame: tuple[int, int]) -> NDArray[np.int64]:
        """See `Captioner.words`."""
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.array([frame[1], frame[0]], np.float32)
        area = np.sqrt(sides.prod(axis=1) / (frame[0] * frame[1]))
        found = [sides[:, 1] / sides.sum(axis=1), centre[:, 0], centre[:, 1], area]
        steps = [np.floor(value.clip(0, 0.999) * 8) for value in found]
        counts = np.array([len(names) for names in NAMES], dtype=np.int64)
        found_words: NDArray[np.int64] = np.stack(steps, axis=1).astype(np.int64) % counts
        return found_words


class ImageNet:
    """EfficientNet-Lite0's classes, read as words: the word whose best class is most probable; the first if none is."""

    size: tuple[int, int] | None = (224, 224)

    def __init__(self, device: str) -> None:
        import torch

        from pipelines.encoders import _weights, effnet

        path = _weights.require(effnet.CARD, "effnet:lite0", given=None)
        state = torch.load(path, map_location="cpu", weights_only=True)
        effnet.check_state(state, path)
        self.device = device
        self.network = effnet.Network(state).to(device, torch.float32)
        self.weight, self.bias = state["_fc.weight"].to(device), state["_fc.bias"].to(device)
        self.mean, self.scale = effnet.MEAN, effnet.SCALE
        self.recipe = {"captioner": "effnet:lite0", "revision": 1, "weights_sha256": effnet.CARD.sha256, "seen": SEEN}

    def words(self, crops: Any, boxes: Boxes, *, frame: tuple[int, int]) -> NDArray[np.int64]:
        """See `Captioner.words`."""
        import torch

        with torch.inference_mode():
            x = (crops.to(self.device).permute(0, 3, 1, 2).float() - self.mean) / self.scale
            shares = (self.network(x) @ self.weight.T + self.bias).softmax(1).cpu().numpy()
        return np.stack([_best_word(shares, words) for words in LISTS], axis=1)


class ImageText:
    """An image-text pair: the word whose vector is nearest to the crop's; equal ones give the first of the list."""

    def __init__(self, name: str, device: str) -> None:
        module = catalog.load("encoders", name)
        self.encoder = module.build(name.partition(":")[2], module.Config())
        self.encoder.load(device, "float32")
        self.device = device
        self.size: tuple[int, int] | None = self.encoder.preprocess.crop_px or (224, 224)
        self.vectors = [texts.encode(name, list(names)) for names in NAMES]
        self.recipe = {
            "captioner": name,
            "revision": 1,
            "weights_sha256": self.encoder.weights_sha256(),
            "text": "word",
        }

    def words(self, crops: Any, boxes: Boxes, *, frame: tuple[int, int]) -> NDArray[np.int64]:
        """See `Captioner.words`."""
        found = self.encoder.encode(crops[:, None, None].to(self.device))[:, 0].float().cpu().numpy()
        unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return np.stack([(unit @ vectors.T).argmax(1) for vectors in self.vectors], axis=1)


def plan(
    dataset: Dataset,
    name: str,
    *,
    layers: Sequence[Path],
    boxes: str,
    settings: Sequence[str] = (),
    split: str | None = None,
    device: str = "cpu",
) -> CaptionsPlan:
    """Open the captioner, choose boxes and frames; writes nothing. The training videos of the split are captioned.

    Args:
        name: `effnet`, `geometry` or `clip:<variant>`.
        settings: `regions.X=...` of `CaptionsConfig`.

    Raises:
        UsageError: an unknown captioner or setting. MissingArtifactError: no boxes, frames or weights.
    """
    found = find_boxes(layers, dataset.name, boxes)
    frames = find_frames(layers, dataset.name, str(found[0].artifact.recipe["frames"]))
    config, _ = resolve(CaptionsConfig, [("--set", parse_assignments(settings).get("regions", {}))])
    captioner = _captioner(name, device)
    recipe = {
        "encoder": f"{name}@{found[0].name.replace('+', '_')}",
        "revision": REVISION,
        **captioner.recipe,
        "words": fingerprint([sentences(slot) for slot in range(SLOTS)]),
        "boxes": found[0].artifact.id,
        "regions": config.model_dump(mode="json"),
    }
    id = fingerprint(recipe)
    stores = [
        CaptionsStore(s.folder) for s in find_stores(layers, dataset.name, kind="captions") if s.artifact.id == id
    ]
    have = frozenset[str]().union(*(store.videos() for store in stores))
    boxed = frozenset[str]().union(*(store.videos() for store in found))
    listed = [video.id for video in dataset.videos(split or dataset.default_split, "train")]
    todo = tuple(video for video in listed if video in boxed and video not in have)
    label = f"{name.replace(':', '-')}@{found[0].name.replace('+', '_')}-{id[:8]}"
    folder = layers[0] / "captions" / artifacts.folder_name(dataset.name) / label
    return CaptionsPlan(dataset.name, captioner, config, recipe, id, folder, tuple(found), tuple(frames), have, todo)


def run(planned: CaptionsPlan, *, progress: Progress | None = None) -> CaptionsResult:
    """Caption what is missing, a video at a time.

    Raises:
        Stopped: SIGTERM came; finished videos are kept. VerificationError: damaged frames or boxes.
    """
    sink = progress or Silent()
    inputs = {"boxes": planned.boxes[0].artifact.id, "frames": planned.frames[0].artifact.id}
    store = CaptionsStore.create(planned.folder, artifacts.make("captions", planned.id, planned.recipe, inputs=inputs))
    sink.start(len(planned.todo), f"captions of {planned.dataset}")
    counts: dict[str, int] = {}
    regions = 0
    with stop_on_signals() as stop:
        for video in planned.todo:
            stop.check()
            rows = _caption(planned, video)
            facts = next(s for s in planned.boxes if video in s).facts(video)
            store.publish(video, store.stage_rows(video, rows, facts))
            regions += len(rows)
            for slot in range(SLOTS):
                for word in rows[:, 5 + slot].astype(int):
                    said = sentences(slot)[word]
                    counts[said] = counts.get(said, 0) + 1
            sink.advance()
    sink.finish()
    common = tuple(sorted(counts.items(), key=lambda item: -item[1])[:8])
    return CaptionsResult(
        planned.folder, planned.id, len(planned.done) + len(planned.todo), len(planned.todo), regions, common
    )


def find_captions(layers: Sequence[Path], dataset: str, boxes_id: str) -> list[CaptionsStore]:
    """The newest captions of regions of these boxes, over the cache layers.

    Raises:
        MissingArtifactError: none; the hint makes them.
    """
    stores = [
        CaptionsStore(store.folder)
        for store in find_stores(layers, dataset, kind="captions")
        if store.artifact.recipe.get("boxes") == boxes_id
    ]
    if not stores:
        raise MissingArtifactError(
            f"there are no captions of the regions of {dataset} ({boxes_id[:8]}); image-text alignment trains on them",
            hint=f"vad extract {dataset} --boxes {boxes_id[:8]} --text effnet",
        )
    newest = max(stores, key=lambda store: store.artifact.created).artifact.id
    return [store for store in stores if store.artifact.id == newest]


def thinned(objects: Objects, every: int) -> Objects:
    """The regions of every `every`-th frame."""
    kept = objects.frame % every == 0
    return Objects(objects.frame[kept], objects.box[kept], objects.track[kept], objects.n_frames, objects.size)


def _caption(planned: CaptionsPlan, video: str) -> NDArray[np.float32]:
    """(M, 9) rows of one video."""
    boxes = next(store for store in planned.boxes if video in store)
    frames = next((store for store in planned.frames if video in store), None)
    if frames is None:
        raise MissingArtifactError(
            f"no frames of video {video!r}", hint=f"vad extract {planned.dataset} --encoder frames"
        )
    n_frames, height, width, _ = frames.frames_shape(video)
    objects = objects_of(boxes.read_boxes(video), planned.config, n_frames=n_frames, size=(height, width))
    objects = thinned(objects, planned.config.every)
    words = np.zeros((len(objects.frame), SLOTS), np.int64)
    size = planned.captioner.size
    if size is None:
        words = planned.captioner.words(None, objects.box, frame=(height, width))
    else:
        for rows, crops in crops_of(objects, frames, video, offsets=(0,), size=size, tubes="fixed"):
            words[rows] = planned.captioner.words(crops[:, 0], objects.box[rows], frame=(height, width))
    return np.concatenate([objects.frame[:, None], objects.box, words], axis=1, dtype=np.float32)


def _captioner(name: str, device: str) -> Captioner:
    if name == "geometry":
        return Geometry()
    if name in ("effnet", "effnet:lite0"):
        return ImageNet(device)
    if name.startswith("clip:"):
        return ImageText(name, device)
    raise UsageError(
        f"no captioner {name!r}", hint="--text effnet (ImageNet classes as words), clip:<variant>, or geometry"
    )


def _best_word(shares: NDArray[np.float32], words: dict[str, tuple[int, ...]]) -> NDArray[np.int64]:
    """shares (m, 1000) -> (m,): the word whose best class is most probable, 0 where nothing was seen."""
    best = np.stack(
        [shares[:, list(classes)].max(1) if classes else np.zeros(len(shares)) for classes in words.values()], axis=1
    )
    return np.where(best.max(1) >= SEEN, best.argmax(1), 0)
