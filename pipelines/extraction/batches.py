"""Filling fixed-size batches with the crops of several videos."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.extraction.writer import Ticket

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive clips of one video: crops uint8 (b, K, P, h, w, 3), the first of them clip `first_clip`."""

    ticket: Ticket
    first_clip: int
    crops: Tensor

    def __len__(self) -> int:
        return int(self.crops.shape[0])

    def split(self, count: int) -> tuple[Piece, Piece]:
        """The first `count` clips and the rest."""
        rest = Piece(self.ticket, self.first_clip + count, self.crops[count:])
        return Piece(self.ticket, self.first_clip, self.crops[:count]), rest


class Batcher:
    """Collects pieces into batches of exactly `size` clips; crops of different sizes never share a batch.

    Thread-safe. Exact sizes keep the arithmetic of a clip the same whatever stands beside it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._waiting: dict[Shape, list[Piece]] = {}

    def add(self, piece: Piece) -> list[list[Piece]]:
        """Take a piece; the batches that are full now."""
        full: list[list[Piece]] = []
        with self._lock:
            waiting = self._waiting.setdefault(tuple(piece.crops.shape[1:]), [])
            while len(piece):
                room = self.size - sum(map(len, waiting))
                head, piece = piece.split(room)
                waiting.append(head)
                if len(head) == room:
                    full.append(list(waiting))
                    waiting.clear()
        return full

    def flush(self) -> list[list[Piece]]:
        """Every batch that is not full yet, for the end of a run."""
        with self._lock:
            left = [pieces for pieces in self._waiting.values() if pieces]
            self._waiting = {}
        return left
