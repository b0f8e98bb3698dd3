"""What a proposer is: frames in, scored boxes out. It knows no dataset, no store and no method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.regions.boxes import Boxes

UNKNOWN = -1  # class of a box whose proposer knows no classes


@dataclass(frozen=True, slots=True)
class Proposals:
    """Boxes of one video, ordered by frame: frame (M,) int64, box (M, 4), score (M,), label (M,) class index or -1."""

    frame: NDArray[np.int64]
    box: Boxes
    score: NDArray[np.float32]
    label: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frame)

    def of(self, frame: int) -> Proposals:
        """Those of one frame."""
        first, last = np.searchsorted(self.frame, [frame, frame + 1])
        part = slice(int(first), int(last))
        return Proposals(self.frame[part], self.box[part], self.score[part], self.label[part])


def joined(parts: list[Proposals]) -> Proposals:
    """Proposals of several proposers or frames as one, ordered by frame (stable)."""
    if not parts:
        return Proposals(
            np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        )
    frame = np.concatenate([part.frame for part in parts])
    order = np.argsort(frame, kind="stable")
    box, score = np.concatenate([p.box for p in parts])[order], np.concatenate([p.score for p in parts])[order]
    return Proposals(frame[order], box, score, np.concatenate([p.label for p in parts])[order])


class Proposer(Protocol):
    """Where boxes come from. `recipe` is everything that changes them, and nothing else."""

    name: str

    @property
    def recipe(self) -> dict[str, object]: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class indices; empty where it knows none."""

    def frame(
        self, window: NDArray[np.uint8], at: int, taken: Boxes
    ) -> tuple[Boxes, NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (M, 4), scores (M,) and labels (M,) of frame `at` of window uint8 (P, H, W, 3).

        `window` holds the frame before and after where the video has them; `taken` are the boxes that earlier proposers
        of the same list gave for this frame.
        """
