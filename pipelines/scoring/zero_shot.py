"""A run with text classes on another dataset: the same weights beside the words of that dataset's classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.artifacts import Roots
from pipelines.errors import UsageError
from pipelines.extraction.text import class_text
from pipelines.methods._base import Resources
from pipelines.methods._blocks import text_vectors
from pipelines.training.checkpoint import LoadedRun

if TYPE_CHECKING:
    from pipelines.data.manifest import Dataset


def with_words_of(run: LoadedRun, dataset: Dataset, roots: Roots) -> LoadedRun:
    """The run with the dataset's class words in place of its own; every weight stays as it was trained.

    Raises:
        UsageError: the method's classes are no text, or its prompts were learned for its own classes; the reason.
        MissingArtifactError: the text encoder's weights are not here.
    """
    method, encoder = run.method, run.artifact.recipe.get("text")
    if not method.class_words or not encoder:
        raise UsageError(f"the classes of {run.method_name} are not read as text")
    if getattr(method, "prompt", None) is not None:
        raise UsageError(f"the prompts of this {run.method_name} run were learned for its own classes")
    found = class_text(
        dataset.classes, encoder=str(encoder), cache=roots.cache, layers=roots.features[1:], phrases=dataset.phrases
    )
    own = method.get_buffer(method.class_words)
    words = text_vectors(Resources(text=found.vectors), "classes", own.shape[1], rows=len(dataset.classes))
    setattr(method, method.class_words, words.to(own.device))
    return replace(run, shape=replace(run.shape, classes=dataset.classes))
