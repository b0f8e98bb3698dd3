"""Text vectors for methods that ask for them: seeded frozen label vectors where no text encoder's artefact is given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH = 128


class LabelVectors(Mapping[str, NDArray[np.float32]]):
    """The prompt sets "classes" (Y, 128) and "coarse" (2, 128), one random unit vector a word [ours].

    A word's vector depends on the word alone, so it is the same in every run. They carry no meaning: classes are
    nearly orthogonal. `used` holds the sets that a method took (saved with the run).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._words = {"classes": tuple(classes), "coarse": ("normal", "anomaly")}
        self.used: dict[str, NDArray[np.float32]] = {}

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self._words:
            raise KeyError(name)
        if name not in self.used:
            self.used[name] = np.stack([label_vector(word) for word in self._words[name]])
        return self.used[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, name: object) -> bool:
        return name in self._words


def label_vector(word: str) -> NDArray[np.float32]:
    """The frozen unit vector of a label, (128,) float32, seeded by the word's hash."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
