"""Memory that a decoder child and its parent both see: anonymous, so that nothing is left behind by any kind of death."""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FREE, BUSY, HELD = 0, 1, 2  # a slot: empty, being filled or on its way, in the hands of the pool's caller
PAGE = 4096
SLOT_BYTES = 8 << 20
SLOTS = 6
MAX_CLIPS = 32


def anonymous_file(size: int) -> int:
    """A descriptor of `size` zero bytes of memory without a name (an unlinked file where memfd is missing)."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("vad", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


class Control:
    """One page of 64-bit words, written by the child and read by the parent at any time.

    `ticks` counts signs of progress; `waiting` is 1 while the child waits for a free slot; `allowance_s` is added to
    the time that it may stay silent (a native call over a large file).
    """

    def __init__(self, fd: int) -> None:
        self._words = np.frombuffer(mmap.mmap(fd, PAGE), np.int64)

    @property
    def ticks(self) -> int:
        return int(self._words[0])

    def tick(self) -> None:
        self._words[0] += 1

    @property
    def waiting(self) -> bool:
        return bool(self._words[1])

    @waiting.setter
    def waiting(self, value: bool) -> None:
        self._words[1] = value

    @property
    def allowance_s(self) -> int:
        return int(self._words[2])

    @allowance_s.setter
    def allowance_s(self, value: int) -> None:
        self._words[2] = value


@dataclass(frozen=True, slots=True)
class Layout:
    """How an arena is cut: `slots` slots of `slot_bytes` each, behind one page of slot states."""

    slots: int
    slot_bytes: int

    @classmethod
    def for_clips(cls, clip_bytes: int) -> Layout:
        """A layout for clips of this size: 48 MiB in all for ordinary clips, two slots for the largest.

        Two slots (one filled, one read) are the least that keeps both sides busy.
        """
        slot_bytes = -(-max(SLOT_BYTES, clip_bytes) // PAGE) * PAGE
        return cls(slots=max(2, min(SLOTS, (SLOTS * 4 * SLOT_BYTES) // slot_bytes)), slot_bytes=slot_bytes)

    def fits(self, clip_bytes: int) -> bool:
        """Whether clips of this size can use it without waste."""
        return clip_bytes <= self.slot_bytes <= 4 * max(SLOT_BYTES, clip_bytes)

    @property
    def total_bytes(self) -> int:
        return PAGE + self.slots * self.slot_bytes


class Arena:
    """The slots of one child. It lives until the last array over it is gone, in both processes on their own."""

    def __init__(self, fd: int, layout: Layout) -> None:
        self.layout = layout
        self._memory = mmap.mmap(fd, layout.total_bytes)
        self.states: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8, count=layout.slots)

    def batch(self, slot: int, clip_shape: tuple[int, ...], count: int) -> NDArray[np.uint8]:
        """The owning array over `count` clips of a slot, flat: reshape it to (count, *clip_shape)."""
        size = count * int(np.prod(clip_shape))
        return np.frombuffer(self._memory, np.uint8, count=size, offset=PAGE + slot * self.layout.slot_bytes)

    def clips_per_slot(self, clip_shape: tuple[int, ...]) -> int:
        """How many clips of this shape one slot takes."""
        return max(1, min(MAX_CLIPS, self.layout.slot_bytes // int(np.prod(clip_shape))))

    def first_free(self) -> int | None:
        """The number of a free slot, if there is one."""
        free = np.flatnonzero(self.states == FREE)
        return int(free[0]) if len(free) else None
