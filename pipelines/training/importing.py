"""Published weights as a run: keys renamed strictly, every difference listed, scored like any other run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipelines import artifacts, catalog
from pipelines.artifacts import Roots
from pipelines.data import manifest as manifests
from pipelines.data.manifest import Dataset, Part
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.extraction.text import class_text, default_encoder, prompt_tower, text_id
from pipelines.methods._base import Method, MethodConfig, Resources, Shape
from pipelines.progress import Progress, Silent
from pipelines.recipe import parse_assignments, resolve
from pipelines.training.bags import abnormal
from pipelines.training.checkpoint import CONFIG, RUN, WEIGHTS, save_weights, shape_record
from pipelines.training.choose import Choice, choose_features
from pipelines.training.group import Member, find_group, group_id, is_done, new_group, write_group, write_latest
from pipelines.training.inputs import Inputs, JoinedFeatures
from pipelines.training.material import FeatureMaterial
from pipelines.training.select import learn_thresholds

PUBLISHED = "published"
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
OURS = ("class_text", "text_map")  # buffers that the words of the dataset fill, in no published file


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A checkpoint and what it is for; None means the default, which the result's `notes` then say."""

    method: str
    checkpoint: Path
    dataset: str
    features: str | None = None
    split: str | None = None
    preset: str | None = None
    sets: Sequence[str] = ()
    text: str | None = None
    device: str = "cpu"
    new: bool = False
    cache_dir: str | Path | None = None
    runs_dir: str | Path | None = None
    manifest: Path | None = None


@dataclass(frozen=True, slots=True)
class ImportResult:
    """The run that now exists: its folder and id, the checkpoint's hash, tensors taken, and what was assumed."""

    folder: Path
    id: str
    sha256: str
    tensors: int
    status: str
    notes: tuple[str, ...]


def run(request: ImportRequest, *, progress: Progress | None = None) -> ImportResult:
    """Read, rename, compare and store a published checkpoint as a run.

    Raises:
        MissingArtifactError: no such file, no features, or no text weights where prompts are learned.
        VerificationError: a file that cannot be read safely.
        UsageError: a method without published weights, or tensors that do not fit (all are listed).
    """
    sink = progress or Silent()
    module = catalog.load("methods", request.method)
    if not hasattr(module, "rename_public"):
        raise UsageError(f"{module.NAME} knows no published state dict", hint="vad methods ls")
    state, sha256 = read_checkpoint(request.checkpoint)
    renamed = dict(module.rename_public(state))
    listed = manifests.load(request.manifest)
    dataset = listed.dataset(request.dataset)
    roots = artifacts.resolve_roots(
        cache_dir=request.cache_dir, runs_dir=request.runs_dir, manifest_cache_dir=listed.cache_dir
    )
    notes: list[str] = []
    config = _config(module, request, dataset, notes)
    defaults = [*module.DEFAULT_FEATURES, dataset.encoder]
    choice = choose_features(roots.features, dataset.name, request.features, defaults=defaults)
    notes.append(f"features: {choice.label} ({choice.why})")
    features = JoinedFeatures(choice.streams)
    shape = Shape(features.dim, features.streams, dataset.classes, features.crops, features.clip_len, features.stride)
    text = _text_encoder(module, request, choice, notes)
    recipe = _recipe(request, module, dataset, config, choice, shape, text, sha256)
    member = Member("seed-0", 0, {}, recipe)
    folder, done = _folder(roots, dataset, module, member, new=request.new)
    if not done:
        resources = _resources(module, dataset, roots, text)
        method = fitted(module, config, shape, resources, renamed, where=request.checkpoint)
        _write(folder, member, config, method, resources, features, choice, dataset, request, sink)
    write_group(folder.parent, group_id([member]), [member])
    write_latest(roots.runs, folder.parent)
    return ImportResult(folder, member.id, sha256, len(renamed), "up to date" if done else "imported", tuple(notes))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], str]:
    """(the state dict of a safetensors or torch file, the file's sha256); wrappers and `module.` are taken off.

    Raises:
        MissingArtifactError: no such file.
        VerificationError: it cannot be read without running code from it, or holds no tensors.
    """
    if not path.is_file():
        raise MissingArtifactError(f"there is no checkpoint {path}", hint="vad runs import --method M CHECKPOINT")
    with path.open("rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path)), sha256
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, UnpicklingError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise VerificationError(
            f"cannot read the checkpoint {path} as plain tensors: {reason}",
            hint="where you trust it, load it in its own code and torch.save(model.state_dict(), FILE)",
        ) from error
    return unwrapped(loaded, path), sha256


def unwrapped(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The tensors below `state_dict` and the like, without the `module.` of a parallel training.

    Raises:
        VerificationError: something else than named tensors.
    """
    while isinstance(loaded, Mapping) and (
        inner := next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
    ):
        loaded = inner
    if not isinstance(loaded, Mapping) or not loaded:
        raise VerificationError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    strange = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if strange:
        raise VerificationError(f"{path} is no state dict: {', '.join(strange[:5])} are no tensors")
    parallel = all(str(key).startswith("module.") for key in loaded)
    return {str(key).removeprefix("module.") if parallel else str(key): value for key, value in loaded.items()}


def fitted(
    module: ModuleType,
    config: MethodConfig,
    shape: Shape,
    resources: Resources,
    state: Mapping[str, Tensor],
    *,
    where: Path,
) -> Method:
    """The method with exactly these tensors, in eval mode.

    Raises:
        UsageError: any tensor that is missing, unknown or of another shape; all are listed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method: Method = module.build(config, shape, resources)
    own = method.state_dict()
    wrong = [f"{key} is missing" for key in sorted(own.keys() - state.keys()) if key not in OURS]
    wrong += [f"{key} is unknown" for key in sorted(state.keys() - own.keys())]
    wrong += [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    if wrong:
        lines = "\n  ".join(wrong)
        raise UsageError(
            f"{where} does not fit {module.NAME} on these features (width {shape.dim}, {len(shape.classes)} classes):\n  {lines}",
            hint=f"vad methods show {module.NAME}: another --preset, --set or --features; a checkpoint of another method",
        )
    method.load_state_dict({**{key: own[key] for key in OURS if key in own}, **state})
    return method.eval()


def _config(module: ModuleType, request: ImportRequest, dataset: Dataset, notes: list[str]) -> MethodConfig:
    presets: dict[str, Any] = getattr(module, "PRESETS", {})
    name = request.preset or (dataset.name if dataset.name in presets else None)
    if name is not None and name not in presets:
        raise UsageError(f"{module.NAME} has no preset {name!r}", hint=f"one of {', '.join(presets)}")
    if name is not None and request.preset is None:
        notes.append(f"preset: {name}")
    layers = [(f"preset {name}", presets[name])] if name else []
    config: MethodConfig = resolve(module.Config, [*layers, ("--set", parse_assignments(list(request.sets)))])[0]
    return config


def _text_encoder(module: ModuleType, request: ImportRequest, choice: Choice, notes: list[str]) -> str | None:
    if not _class_of(module).needs_text:
        return None
    if request.text is None:
        notes.append(f"text vectors: {default_encoder(choice.encoders)}")
    return request.text or default_encoder(choice.encoders)


def _resources(module: ModuleType, dataset: Dataset, roots: Roots, text: str | None) -> Resources:
    """Class text as the published code has it: names, or the titles of coded classes."""
    if text is None:
        return Resources()
    words = dataset.entry.class_titles
    found = class_text(dataset.classes, encoder=text, cache=roots.cache, layers=roots.features[1:], phrases=words)
    if not _class_of(module).takes_prompt_tower:
        return Resources(text=found.vectors)
    if not text.startswith("clip:"):
        raise UsageError(
            f"{module.NAME}'s published weights hold learned prompts, which only CLIP's text tower can read; "
            f"the text encoder is {text!r}",
            hint="--text clip:vit-b-16",
        )
    return Resources(
        text=found.vectors, extras={"prompt_tower": prompt_tower(dataset.classes, encoder=text, phrases=words)}
    )


def _recipe(
    request: ImportRequest,
    module: ModuleType,
    dataset: Dataset,
    config: MethodConfig,
    choice: Choice,
    shape: Shape,
    text: str | None,
    sha256: str,
) -> dict[str, Any]:
    words = dataset.entry.class_titles
    return {
        "method": str(module.NAME),
        "method_source": catalog.source_hash(request.method),
        "dataset": dataset.name,
        "split": request.split or dataset.default_split,
        "selection": PUBLISHED,
        "checkpoint": sha256,
        "precision": "float32",
        "features": choice.records(shape.streams),
        "text": text,
        **({"text_id": text_id(dataset.classes, encoder=text, phrases=words)} if text else {}),
        "classes": list(dataset.classes),
        "shape": shape_record(shape),
        "config": config.model_dump(mode="json"),
        "seed": 0,
    }


def _folder(roots: Roots, dataset: Dataset, module: ModuleType, member: Member, *, new: bool) -> tuple[Path, bool]:
    root = roots.runs / artifacts.folder_name(dataset.name) / artifacts.folder_name(str(module.NAME))
    group = (None if new else find_group(root, group_id([member]))) or new_group(root, group_id([member]))
    folder = group / member.place
    return folder, is_done(folder, member)


def _write(
    folder: Path,
    member: Member,
    config: MethodConfig,
    method: Method,
    resources: Resources,
    features: JoinedFeatures,
    choice: Choice,
    dataset: Dataset,
    request: ImportRequest,
    progress: Progress,
) -> None:
    recipe = member.recipe
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_text(folder / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    inputs = Inputs(features.dim, features.streams, config.data)
    save_weights(folder / WEIGHTS, method, inputs, resources, name=str(recipe["method"]))
    shape = Shape(features.dim, features.streams, dataset.classes, features.crops, features.clip_len, features.stride)
    scorer = FeatureMaterial(features, inputs.to(request.device), shape, device=request.device)
    normal, part = _normal_videos(dataset, recipe["split"], features)
    progress.note(f"thresholds from {len(normal)} normal {part} videos with features")
    filters = ("none", f"gaussian:{shape.stride}")
    thresholds = learn_thresholds(method.to(request.device), scorer, normal, filters=filters)
    needs = [
        {**need, "recipe": stack[0].artifact.recipe}
        for need, stack in zip(recipe["features"], choice.streams, strict=True)
    ]
    recorded = {
        "imported": str(request.checkpoint),
        "sha256": recipe["checkpoint"],
        "features": needs,
        "feature_folders": [str(stack[0].folder) for stack in choice.streams],
        "thresholds": thresholds.get("none", {}),
        "threshold_smooth": "none",
        "thresholds_smoothed": {name: found for name, found in thresholds.items() if name != "none"},
        "thresholds_from": f"frame scores of {len(normal)} normal {part} videos",
        "expand": method.expand,
        "complexity": method.complexity(1),
        "method_file": str(Path(request.method).resolve()) if request.method.endswith(".py") else None,
        "swept": {},
    }
    roles = {f"features:{need['stream']}": str(need["id"]) for need in needs}
    artifacts.write(folder, artifacts.make(RUN, member.id, recipe, inputs=roles, recorded=recorded))


def _normal_videos(dataset: Dataset, split: str, features: JoinedFeatures) -> tuple[list[str], str]:
    """Normal videos that have features and the part they stand in: val, which no weights have seen, else train."""
    have = features.videos()
    parts: tuple[Part, ...] = ("val", "train")
    for part in parts:
        try:
            videos = [video for video in dataset.videos(split, part) if video.id in have and video.classes]
        except (MissingArtifactError, VerificationError):
            continue
        found = [v.id for v, bad in zip(videos, abnormal(videos, dataset.classes).tolist(), strict=True) if not bad]
        if found:
            return found, part
    return [], "val"


def _class_of(module: ModuleType) -> type[Method]:
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    )
