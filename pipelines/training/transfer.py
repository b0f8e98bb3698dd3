"""Part of a trained run as the start of another training (`init_core` of refine-vad)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.errors import UsageError
from pipelines.methods._base import MethodConfig
from pipelines.store import runs
from pipelines.training.checkpoint import load_run

KEY = "init_core"


@dataclass(frozen=True, slots=True)
class Start:
    """What a training begins with: the configuration as the source changes it, extras, and the source run's id."""

    config: MethodConfig
    extras: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None


def start_of(module: ModuleType, config: MethodConfig, classes: tuple[str, ...], *, root: Path) -> Start:
    """The start that `config` asks for: nothing, or the method's `take_over` of the run that `init_core` names.

    In the returned configuration `init_core` is that run's id, so that `latest` means the same run ever after.

    Raises:
        MissingArtifactError: no such run.
        UsageError: several match, or a run that this method or configuration cannot take over.
    """
    named = getattr(config, KEY, None)
    if not named:
        return Start(config)
    if not hasattr(module, "take_over"):
        raise UsageError(f"{module.NAME} has {KEY} in its configuration but no take_over() in its file")
    run = load_run(runs.only_run(str(named), root))
    config, extras = module.take_over(config, run.method, classes)
    return Start(config.model_copy(update={KEY: run.artifact.id}), extras, run.artifact.id)
