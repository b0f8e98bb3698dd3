"""A run on disk: weights (safetensors), the state of a stopped training, and reading a run back.

Nothing here unpickles: `state.pt` is loaded with `weights_only=True`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipelines import artifacts, catalog
from pipelines.artifacts import Artifact
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.methods._base import Method, MethodConfig, Resources, Shape
from pipelines.recipe import resolve
from pipelines.store.features import FeatureStore
from pipelines.training.inputs import Inputs, Stream

RUN = "run"
TUBES = "tubes"  # KIND of methods that read boxes and frames
FRAMES = "frames"  # KIND of methods that read frames; their artefacts are of this kind too
WEIGHTS = "model.safetensors"
STATE = "state.pt"
CONFIG = "config.yaml"
LOG = "train.csv"
METHOD, INPUTS, TEXT = "method.", "inputs.", "text."  # prefixes of the keys in model.safetensors
PATH_FREE = ("crops",)  # recipe keys in which features may differ from a run's


@dataclass(frozen=True, slots=True)
class FeatureNeed:
    """One stream a run was trained on: its name, encoder, artefact's id and kind, width D, and the whole recipe."""

    stream: str
    encoder: str
    id: str
    dim: int
    recipe: dict[str, Any]
    kind: str = "features"


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run ready to score: the method in eval mode and what it was trained on.

    `inputs` normalises a vector before the method sees it; `features` are the streams in the order of D.
    """

    folder: Path
    artifact: Artifact
    method_name: str
    config: MethodConfig
    method: Method
    inputs: Any
    shape: Shape
    features: tuple[FeatureNeed, ...]
    selection: str
    dataset: str
    split: str
    seed: int

    @property
    def classes(self) -> tuple[str, ...]:
        return self.shape.classes

    @property
    def kind(self) -> str:
        """What the method reads: "features" or "frames"."""
        return TUBES if self.features[0].kind == "boxes" else self.features[0].kind

    @property
    def thresholds(self) -> dict[str, float]:
        """Quantile -> score on normal videos, learnt at training; empty where there were none."""
        return {str(k): float(v) for k, v in self.artifact.recorded.get("thresholds", {}).items()}


def load_run(folder: Path, *, device: str = "cpu") -> LoadedRun:
    """The run in `folder`, its method in eval mode on `device`.

    Raises:
        MissingArtifactError: no run, or no weights (an unfinished one: the same `vad train` goes on).
        VerificationError: weights of another method, or with other names or shapes.
    """
    artifact = artifacts.read(folder)
    if artifact.kind != RUN:
        raise UsageError(f"{folder} is an artefact of kind {artifact.kind!r}, not a run", hint="vad runs ls")
    recipe = artifact.recipe
    module = catalog.load("methods", str(artifact.recorded.get("method_file") or recipe["method"]))
    config, _ = resolve(module.Config, [("the run", recipe["config"])])
    shape = shape_from(recipe["shape"])
    tensors = read_weights(folder / WEIGHTS, method=str(recipe["method"]))
    text = {key[len(TEXT) :]: value.numpy() for key, value in tensors.items() if key.startswith(TEXT)}
    stored = _under(tensors, METHOD)
    with torch.random.fork_rng(devices=[]):
        method: Method = module.build(config, shape, Resources(text=text, extras={"stored": frozenset(stored)}))
    pixels = getattr(module, "KIND", "") in (FRAMES, TUBES)
    inputs = torch.nn.Module() if pixels else Inputs(shape.dim, shape.streams, config.data)
    put_weights(method, stored, where=folder / WEIGHTS)
    put_weights(inputs, _under(tensors, INPUTS), where=folder / WEIGHTS)
    return LoadedRun(
        folder=folder,
        artifact=artifact,
        method_name=str(recipe["method"]),
        config=config,
        method=method.to(device).eval(),
        inputs=inputs.to(device).eval(),
        shape=shape,
        features=tuple(FeatureNeed(**need) for need in artifact.recorded["features"]),
        selection=str(recipe["selection"]),
        dataset=str(recipe["dataset"]),
        split=str(recipe["split"]),
        seed=int(recipe["seed"]),
    )


def check_features(run: LoadedRun, streams: Sequence[Stream]) -> None:
    """Refuse features that another recipe made than those the run was trained on.

    Raises:
        UsageError: names every recipe value that differs (crops may be others: scores are averaged over them).
    """
    if len(streams) != len(run.features):
        raise UsageError(
            f"the run was trained on {'+'.join(need.encoder for need in run.features)}, "
            f"{len(streams)} features artefacts were given"
        )
    pairs = [
        (need, store)
        for need, stream in zip(run.features, streams, strict=True)
        for store in ((stream,) if isinstance(stream, FeatureStore) else stream)
    ]
    for need, store in pairs:
        differing = recipe_differences(need.recipe, store.artifact.recipe)
        if store.artifact.id != need.id and differing:
            raise UsageError(
                f"{store.folder} was made with another recipe than the run's features {need.id[:8]} ({need.encoder}): "
                + "; ".join(differing),
                hint="scores of mixed recipes mean nothing: extract this dataset with the run's recipe",
            )


def recipe_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """`key: ours / theirs` for every recipe value that differs and matters."""
    keys = sorted((ours.keys() | theirs.keys()) - set(PATH_FREE))
    return [f"{key}: {ours.get(key)!r} / {theirs.get(key)!r}" for key in keys if ours.get(key) != theirs.get(key)]


def save_weights(path: Path, method: Method, inputs: torch.nn.Module, resources: Resources, *, name: str) -> None:
    """Write the learnt state as safetensors (aside, flushed, renamed); text tables go with it."""
    tensors = {METHOD + key: value for key, value in method.state_dict().items()}
    tensors |= {INPUTS + key: value for key, value in inputs.state_dict().items()}
    tensors |= {TEXT + key: torch.from_numpy(np.ascontiguousarray(v)) for key, v in resources.text.items()}
    plain = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    _aside(path, lambda to: save_file(plain, to, metadata={"method": name}))


def read_weights(path: Path, *, method: str) -> dict[str, Tensor]:
    """Every tensor of a run's weights.

    Raises:
        MissingArtifactError: no such file.
        VerificationError: not safetensors, or the weights of another method.
    """
    if not path.is_file():
        raise MissingArtifactError(f"no weights at {path}", hint="an unfinished run: the same `vad train` goes on")
    try:
        with safe_open(path, framework="pt") as handle:
            told = (handle.metadata() or {}).get("method")
            if told != method:
                raise VerificationError(f"{path} holds the weights of {told!r}, the run is one of {method!r}")
            return {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise VerificationError(f"cannot read the weights {path}: {error}") from error


def put_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Load `tensors` into `module`; buffers that it declares as `grown` take the size that is stored.

    Raises:
        VerificationError: missing, unexpected or differently shaped tensors, each named.
    """
    for name in getattr(module, "grown", ()):
        if name in tensors:
            part, _, buffer = name.rpartition(".")
            owner = module.get_submodule(part)
            setattr(owner, buffer, torch.empty_like(tensors[name], device=getattr(owner, buffer).device))
    own = module.state_dict()
    wrong = [f"{key} is missing" for key in sorted(own.keys() - tensors.keys())]
    wrong += [f"{key} is unknown" for key in sorted(tensors.keys() - own.keys())]
    wrong += [
        f"{key} has shape {tuple(tensors[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(own.keys() & tensors.keys())
        if own[key].shape != tensors[key].shape
    ]
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise VerificationError(f"the weights {where} do not fit this method: {shown}")
    module.load_state_dict(dict(tensors))


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a training (tensors and plain values): aside, flushed, renamed."""
    _aside(path, lambda to: torch.save(dict(state), to))


def load_state(path: Path, *, run_id: str) -> dict[str, Any]:
    """The state of a stopped training.

    Raises:
        VerificationError: it cannot be read, or belongs to another run.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, UnpicklingError) as error:
        raise VerificationError(
            f"cannot read the training state {path}: {error}", hint="--new starts afresh"
        ) from error
    if state.get("run_id") != run_id:
        raise VerificationError(f"{path} is the state of run {str(state.get('run_id'))[:8]}, not of {run_id[:8]}")
    return state


def shape_record(shape: Shape) -> dict[str, Any]:
    """A Shape as JSON values, for a run's recipe."""
    return {
        "dim": shape.dim,
        "streams": {name: [where.start, where.stop] for name, where in shape.streams.items()},
        "classes": list(shape.classes),
        "crops": list(shape.crops),
        "clip_len": shape.clip_len,
        "stride": shape.stride,
    }


def shape_from(record: Mapping[str, Any]) -> Shape:
    """The inverse of `shape_record`; streams stand in the order of D whatever the JSON's order."""
    streams = sorted(record["streams"].items(), key=lambda item: item[1][0])
    return Shape(
        dim=int(record["dim"]),
        streams={name: slice(a, b) for name, (a, b) in streams},
        classes=tuple(record["classes"]),
        crops=tuple(record["crops"]),
        clip_len=int(record["clip_len"]),
        stride=int(record["stride"]),
    )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _aside(path: Path, save: Any) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        save(aside)
        with aside.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
