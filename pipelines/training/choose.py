"""Which stored features a training reads: by id, by encoder, joined as `A+B`, or the ones a user would expect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pipelines import artifacts
from pipelines.errors import MissingArtifactError, UsageError
from pipelines.recipe import canonical_json
from pipelines.store.features import FeatureStore, find_stores, serving_stores
from pipelines.store.regions import find_boxes, find_frames

CLIP_KEYS = ("clip_len", "stride", "fps", "last_clip", "regions")
MIN_ID = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen features: for each stream its stores (cache layers, then wider crops), and why these."""

    streams: tuple[tuple[FeatureStore, ...], ...]
    why: str

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoder of each stream."""
        return tuple(str(stack[0].artifact.recipe["encoder"]) for stack in self.streams)

    def records(self, streams: Mapping[str, slice]) -> list[dict[str, Any]]:
        """What a run's recipe says of its features: encoder, id, width and stream name of each."""
        return [
            {"encoder": encoder, "id": stack[0].artifact.id, "dim": where.stop - where.start, "stream": name}
            for encoder, stack, (name, where) in zip(self.encoders, self.streams, streams.items(), strict=True)
        ]

    @property
    def label(self) -> str:
        """`effnet:lite0 (1a2b3c4d) + motion (5e6f7a8b), clips of 16`."""
        first = self.streams[0][0].artifact.recipe
        names = " + ".join(f"{n} ({s[0].artifact.id8})" for n, s in zip(self.encoders, self.streams, strict=True))
        clips = f", clips of {first.get('clip_len')} every {first.get('stride')}"
        return names + (clips if first.get("clip_len") else "")


def choose_features(
    layers: Sequence[Path], dataset: str, wanted: str | None, *, defaults: Sequence[str], kind: str = "features"
) -> Choice:
    """The features artefacts of `dataset` that `wanted` means; without it the first of `defaults`, else the newest.

    Args:
        wanted: an id (or its first digits), an encoder, or several joined by `+`.
        defaults: encoder texts to try in order when nothing is named; among several artefacts the newest is taken.
        kind: of the artefacts: features, or frames.

    Raises:
        MissingArtifactError: nothing matches; the hint extracts it.
        UsageError: several match what was named; all are listed.
    """
    stores = _distinct(find_stores(layers, dataset, kind=kind))
    if not stores:
        encoder = " --encoder frames" if kind == "frames" else ""
        raise MissingArtifactError(f"there are no {kind} of {dataset}", hint=f"vad extract {dataset}{encoder}")
    if wanted is not None:
        found = _combinations(stores, wanted)
        if not found:
            raise MissingArtifactError(
                f"no features of {dataset} match {wanted!r}; there are {_listed(stores)}",
                hint=f"vad extract {dataset} --encoder {wanted}",
            )
        if len(found) > 1:
            lines = "".join("\n  " + " + ".join(_line(s) for s in combination) for combination in found)
            raise UsageError(f"{len(found)} features of {dataset} match {wanted!r}:{lines}", hint="name one by its id")
        return _choice(found[0], layers, dataset, "named")
    for text in dict.fromkeys(defaults):
        if found := _combinations(stores, text):
            newest = max(found, key=lambda combination: max(s.artifact.created for s in combination))
            return _choice(newest, layers, dataset, "default")
    return _choice((max(stores, key=lambda s: s.artifact.created),), layers, dataset, "the last extracted")


def choose_tubes(layers: Sequence[Path], dataset: str, wanted: str | None) -> Choice:
    """Boxes (an id, or proposers; the newest) and the frames that they were found in.

    Raises:
        MissingArtifactError: none; the hint makes them. UsageError: several boxes match.
    """
    boxes = find_boxes(layers, dataset, wanted)
    frames = find_frames(layers, dataset, str(boxes[0].artifact.recipe["frames"]))
    return Choice((tuple(boxes), tuple(frames)), "named" if wanted else "the last made")


def last_dataset(layers: Sequence[Path], *, kind: str = "features") -> str:
    """The dataset whose features (or frames) were made last.

    Raises:
        MissingArtifactError: there are none at all.
    """
    folders = [f for root in layers if (root / kind).is_dir() for f in (root / kind).iterdir() if f.is_dir()]
    dated = [
        (artifacts.read(folder).created, artifacts.video_id_of(parent.name))
        for parent in folders
        for folder in artifacts.find(parent, kind)
    ]
    if not dated:
        encoder = " --encoder frames" if kind == "frames" else ""
        raise MissingArtifactError(
            f"there are no {kind} in {', '.join(map(str, layers))}", hint=f"vad extract DATASET{encoder} (vad data ls)"
        )
    return max(dated)[1]


def _combinations(stores: Sequence[FeatureStore], text: str) -> list[tuple[FeatureStore, ...]]:
    """Every way to read `A+B` from the stores: each part matched, all of the same clips."""
    parts = [[store for store in stores if _matches(store, part.strip())] for part in text.split("+")]
    return [found for found in product(*parts) if len({_clips(store) for store in found}) == 1]


def _matches(store: FeatureStore, part: str) -> bool:
    encoder = str(store.artifact.recipe.get("encoder"))
    by_id = len(part) >= MIN_ID and store.artifact.id.startswith(part)
    family, _, regions = encoder.partition("@")
    short = f"{family.partition(':')[0]}@{regions}" if regions else family.partition(":")[0]
    anywhere = f"{family.partition(':')[0]}@" if regions else ""  # `effnet@`: of whatever regions there are
    return by_id or part in (encoder, short, anywhere, store.folder.name)


def _clips(store: FeatureStore) -> tuple[object, ...]:
    return tuple(canonical_json(store.artifact.recipe.get(key)) for key in CLIP_KEYS)


def _distinct(stores: Iterable[FeatureStore]) -> list[FeatureStore]:
    """One store of each id: the first layer's."""
    found: dict[str, FeatureStore] = {}
    for store in stores:
        found.setdefault(store.artifact.id, store)
    return list(found.values())


def _choice(found: Sequence[FeatureStore], layers: Sequence[Path], dataset: str, why: str) -> Choice:
    stacks = []
    for store in found:
        serving = serving_stores(layers, dataset, store.artifact.recipe, kind=store.artifact.kind)
        same = [other for other in serving if other.artifact.id == store.artifact.id]
        stacks.append(tuple(same + [other for other in serving if other.artifact.id != store.artifact.id]) or (store,))
    return Choice(tuple(stacks), why)


def _line(store: FeatureStore) -> str:
    recipe = store.artifact.recipe
    return f"{recipe.get('encoder')} ({store.artifact.id8}, clips of {recipe.get('clip_len')}, {store.folder.name})"


def _listed(stores: Sequence[FeatureStore]) -> str:
    return ", ".join(_line(store) for store in stores)
