"""Pseudo labels as an artefact: a guess of which clips of an abnormal training video are abnormal, in [0, 1].

    <cache>/pseudo/<dataset>/<source>-<id8>/    artifact.json  labels.safetensors

Two sources: the clip scores of a trained run, and an image-text pair on cached image features (reference 4.1). Both are
scaled per video to [0, 1]; a constant line becomes zeros. Normal videos have none: their clips are all normal.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts
from pipelines.artifacts import Roots
from pipelines.data.manifest import Dataset
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.extraction.text import class_text, make_recipe
from pipelines.progress import Progress, Silent
from pipelines.recipe import fingerprint
from pipelines.records import Video
from pipelines.scoring.sources import RunSource
from pipelines.store import runs
from pipelines.training.choose import Choice, choose_features
from pipelines.training.inputs import JoinedFeatures

KIND = "pseudo"
FILE = "labels.safetensors"
CLIP = "clip"
REVISION = 1
LOGIT_SCALE = 100.0  # CLIP's learnt temperature [code] CMSIL
TEMPLATE = "a video of {}"  # the public code has one hand-picked template a model [ours]

Labels = dict[str, NDArray[np.float32]]


class Source(Protocol):
    """Where the lines come from, before they are scaled."""

    def lines(self, progress: Progress) -> dict[str, NDArray[Any]]:
        """One value a clip, (T,), by video id."""


@dataclass(frozen=True, slots=True)
class Pseudo:
    """Pseudo labels that are decided on and perhaps not made yet.

    `id` hashes `recipe`; `inputs` are the artefacts they come from; `grid` is the (clip_len, stride) of their clips.
    """

    recipe: dict[str, Any]
    inputs: dict[str, str]
    grid: tuple[int, int]
    source: Source
    dataset: str
    roots: Roots

    @property
    def id(self) -> str:
        """Hash of the recipe."""
        return fingerprint(self.recipe)

    @property
    def label(self) -> str:
        """`run:mil-rank (1a2b3c4d)`."""
        return f"{self.recipe['encoder']} ({next(iter(self.inputs.values()))[:8]})"

    def folder(self, root: Path) -> Path:
        """Where they stand below a cache root."""
        name = str(self.recipe["encoder"]).replace(":", "-")
        return root / KIND / artifacts.folder_name(self.dataset) / f"{name}-{self.id[:8]}"

    def labels(self, *, progress: Progress | None = None) -> Labels:
        """Video id -> (T,) float32 in [0, 1]: read from any cache layer, or made and committed to the first.

        Raises:
            MissingArtifactError: features or weights of the source are missing.
            VerificationError: what is stored cannot be read.
        """
        for root in self.roots.features:
            if (self.folder(root) / artifacts.FILE).exists():
                return _read(self.folder(root))
        lines = self.source.lines(progress or Silent())
        made = {video: scale(line) for video, line in lines.items()}
        _write(self.roots.cache, self.folder(self.roots.cache), self, made)
        return made


def resolve(
    text: str, dataset: Dataset, videos: Sequence[Video], *, roots: Roots, grid: tuple[int, int], device: str = "cpu"
) -> Pseudo:
    """The pseudo labels that `text` means for the abnormal ones of `videos`.

    Args:
        text: `clip` or `clip:<variant>` for an image-text pair on cached CLIP features; else a run (latest, id, folder).
        grid: (clip_len, stride) of the features they will train with.

    Raises:
        MissingArtifactError: no such run, or no features.
        UsageError: several match, clips of another length, one anomaly class for an image-text pair.
    """
    abnormal = [video for video in videos if dataset.is_abnormal(video)]
    if text == CLIP or text.startswith(f"{CLIP}:"):
        found = _from_text(text, dataset, abnormal, roots)
    else:
        found = _from_run(text, dataset, abnormal, roots, device)
    if found.grid != grid:
        raise UsageError(
            f"the pseudo labels of {found.label} stand for clips of {found.grid[0]} every {found.grid[1]} frames, "
            f"the features for clips of {grid[0]} every {grid[1]}",
            hint="extract both with the same --clip-len and --stride",
        )
    return found


def missing(dataset: Dataset, *, method: str, roots: Roots) -> MissingArtifactError:
    """The error of a method that needs pseudo labels, with the exact command for what is here."""
    command = f"vad train {dataset.name} --method {method} --pseudo"
    trained = [g for g in runs.find_groups(roots.runs) if _recipe_of(g.runs[0]).get("dataset") == dataset.name]
    ranked = [group for group in trained if _recipe_of(group.runs[0]).get("method") == "mil-rank"]
    if trained:
        run = (ranked or trained)[-1].runs[0]
        hint = f"{command} {run.relative_to(roots.runs).as_posix()}   (the scores of that run)"
    else:
        hint = f"vad train {dataset.name} --method mil-rank, then: {command} latest"
    return MissingArtifactError(
        f"{method} trains on pseudo labels and none were named (--pseudo RUN, or --pseudo clip with CLIP features)",
        hint=hint,
    )


def scale(line: NDArray[Any]) -> NDArray[np.float32]:
    """(x - min) / (max - min) of one video; a constant line becomes zeros."""
    values = np.asarray(line, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    span = high - low
    scaled = (values - low) / span if span > 0 else np.zeros_like(values)
    return np.asarray(scaled, dtype=np.float32)


def class_share(
    x: NDArray[Any], text: NDArray[np.float32], wanted: Sequence[int], *, logit_scale: float = LOGIT_SCALE
) -> NDArray[np.float64]:
    """Summed probability of the wanted anomaly classes per clip, mean over crops (reference 4.1).

    x (T, K, D) image features; text (M, D) of the anomaly classes only, rows at length 1; wanted: rows of `text`.
    The softmax runs over anomaly classes only -> (T,).
    """
    features = np.asarray(x, dtype=np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    logits = logit_scale * (features @ np.asarray(text, dtype=np.float64).T)  # (T, K, M)
    logits -= logits.max(axis=-1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=-1, keepdims=True)
    return np.asarray(p[..., list(wanted)].sum(axis=-1).mean(axis=1))


# ---- from a run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Run:
    """The clip scores of a run, mean over crops."""

    source: RunSource
    videos: tuple[Video, ...]

    def lines(self, progress: Progress) -> dict[str, NDArray[Any]]:
        provided = self.source.read(self.videos, progress)
        return {video: scores.clips.mean(axis=0) for video, scores in provided.scores.items()}


def _from_run(text: str, dataset: Dataset, videos: Sequence[Video], roots: Roots, device: str) -> Pseudo:
    folder = runs.only_run(text, roots.runs)
    run = artifacts.read(folder)
    source = RunSource(folder, run, dataset, roots, device)
    _complete(source.coverage(videos).missing, dataset, f"the run {folder}")
    recipe = {
        "encoder": f"run:{run.recipe['method']}",
        "revision": REVISION,
        "run": run.id,
        "dataset": dataset.name,
        "videos": fingerprint(sorted(video.id for video in videos)),
    }
    shape = run.recipe["shape"]
    grid = (int(shape["clip_len"]), int(shape["stride"]))
    return Pseudo(recipe, {"run": run.id}, grid, _Run(source, tuple(videos)), dataset.name, roots)


# ---- from image and text ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _ImageText:
    """Cosines of cached image features with the words of the anomaly classes."""

    dataset: Dataset
    choice: Choice
    videos: tuple[Video, ...]
    roots: Roots

    def lines(self, progress: Progress) -> dict[str, NDArray[Any]]:
        text = class_text(
            self.dataset.classes,
            encoder=self.choice.encoders[0],
            cache=self.roots.cache,
            layers=self.roots.features[1:],
            phrases=self.dataset.phrases,
            template=TEMPLATE,
        ).vectors["classes"][1:]
        features = JoinedFeatures(self.choice.streams)
        known = list(self.dataset.classes[1:])
        progress.start(len(self.videos), "comparing clips with class words")
        found = {}
        for video in self.videos:
            wanted = [known.index(name) for name in video.classes if name in known]
            found[video.id] = class_share(features.read(video.id), text, wanted)
            progress.advance()
        progress.finish()
        return found


def _from_text(text: str, dataset: Dataset, videos: Sequence[Video], roots: Roots) -> Pseudo:
    if len(dataset.classes) < 3:
        raise UsageError(
            f"{dataset.name} has one anomaly class: a softmax over it alone says nothing of single clips",
            hint="--pseudo RUN takes a trained run's scores",
        )
    try:
        choice = choose_features(roots.features, dataset.name, text, defaults=())
    except MissingArtifactError as error:
        wanted = text if ":" in text else f"{CLIP}:vit-b-16"
        hint = f"vad extract {dataset.name} --encoder {wanted}, or --pseudo RUN"
        raise MissingArtifactError(error.message, hint=hint) from error
    features = JoinedFeatures(choice.streams)
    have = features.videos()
    _complete([video.id for video in videos if video.id not in have], dataset, choice.label)
    encoder, artifact = choice.encoders[0], choice.streams[0][0].artifact
    words = make_recipe(dataset.classes, encoder=encoder, phrases=dataset.phrases, template=TEMPLATE)
    recipe = {
        "encoder": encoder,
        "revision": REVISION,
        "features": artifact.id,
        "text": fingerprint(words),
        "logit_scale": LOGIT_SCALE,
        "dataset": dataset.name,
        "videos": fingerprint(sorted([video.id, sorted(video.classes)] for video in videos)),
    }
    inputs = {f"features:{encoder}": artifact.id, "text": fingerprint(words)}
    source = _ImageText(dataset, choice, tuple(videos), roots)
    return Pseudo(recipe, inputs, (features.clip_len, features.stride), source, dataset.name, roots)


# ---- on disk ---------------------------------------------------------------------------------------------------


def _complete(lost: Sequence[str], dataset: Dataset, of: str) -> None:
    if lost:
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        raise MissingArtifactError(
            f"no pseudo labels from {of}: {len(lost)} abnormal videos of {dataset.name} lack features: {shown}",
            hint=f"vad status {dataset.name}",
        )


def _recipe_of(folder: Path) -> Mapping[str, Any]:
    return artifacts.read(folder).recipe


def _write(root: Path, folder: Path, pseudo: Pseudo, made: Labels) -> None:
    from safetensors.numpy import save_file

    staging = root / KIND / ".staging" / uuid.uuid4().hex
    staging.mkdir(parents=True)
    try:
        save_file(made, staging / FILE)
        counts = {"videos": len(made), "constant": sum(not line.any() for line in made.values())}
        artifacts.write(
            staging, artifacts.make(KIND, pseudo.id, pseudo.recipe, inputs=dict(pseudo.inputs), counts=counts)
        )
        artifacts.commit(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _read(folder: Path) -> Labels:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(folder / FILE))
    except (OSError, SafetensorError) as error:
        raise VerificationError(
            f"cannot read {folder / FILE}: {error}", hint=f"delete {folder}; it is made again"
        ) from error
