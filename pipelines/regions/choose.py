"""Proposers by name: `yolox-nano`, `motion`, `grid`, and several in order as `yolox-nano+motion`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UsageError
from pipelines.recipe import Config, resolve, suggest
from pipelines.regions._base import Proposals, Proposer, joined
from pipelines.regions.boxes import Boxes
from pipelines.regions.motion import Grid, GridConfig, Motion, MotionConfig
from pipelines.regions.yolox import Yolox, YoloxConfig

CONFIGS: dict[str, type[Config]] = {"yolox": YoloxConfig, "motion": MotionConfig, "grid": GridConfig}
NAMES = ("yolox-nano", "yolox-tiny", "yolox-s", "motion", "grid")


def proposers(text: str, *, weights: Path | None, options: Mapping[str, Any]) -> list[Proposer]:
    """The proposers that `text` names, in order; later ones see what earlier ones found.

    Args:
        weights: the detector's file, for `yolox-...`.
        options: per family, as `{"motion": {"threshold": 15}}`; with one proposer the family may be left out.

    Raises:
        UsageError: an unknown name or option, or a detector without a file.
    """
    names = [name.strip() for name in text.split("+") if name.strip()]
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        told = f"unknown proposer {unknown[0]!r}{suggest(unknown[0], NAMES)}" if unknown else "no proposer is named"
        raise UsageError(told, hint=f"--boxes {', '.join(NAMES)}, several as A+B, or a csv file of boxes")
    families = [name.partition("-")[0] for name in names]
    given = dict(options)
    if len(names) == 1 and families[0] not in given:
        given = {families[0]: given} if given else {}
    if strangers := sorted(given.keys() - set(families)):
        raise UsageError(
            f"--set {strangers[0]}: none of the proposers {', '.join(names)} is called so{suggest(strangers[0], families)}",
            hint="for example: --set motion.threshold=15",
        )
    return [_built(name, weights, given.get(family, {})) for name, family in zip(names, families, strict=True)]


def propose(found: Sequence[Proposer], window: NDArray[np.uint8], *, first: int, frames: range) -> Proposals:
    """Boxes of `frames` (numbers in the video), whose pixels stand in window, which begins at frame `first`."""
    parts = []
    for frame in frames:
        taken: Boxes = np.zeros((0, 4), np.float32)
        for proposer in found:
            box, score, label = proposer.frame(window, frame - first, taken)
            parts.append(Proposals(np.full(len(box), frame, np.int64), box.astype(np.float32), score, label))
            taken = np.concatenate([taken, box]).astype(np.float32)
    return joined(parts)


def _built(name: str, weights: Path | None, options: Mapping[str, Any]) -> Proposer:
    config, _ = resolve(CONFIGS[name.partition("-")[0]], [("--set", dict(options))])
    if isinstance(config, MotionConfig):
        return Motion(config)
    if isinstance(config, GridConfig):
        return Grid(config)
    assert isinstance(config, YoloxConfig)
    if weights is None:
        raise UsageError(
            f"{name} needs its network as an ONNX file",
            hint=f"--boxes {name} --boxes-weights FILE; `--boxes motion` needs none",
        )
    return Yolox(name, weights, config)
