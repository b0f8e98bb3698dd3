"""What a stage says while it works. The command line renders it; a library user may pass nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """The sink that every stage reports to."""

    def start(self, total: int | None, what: str, unit: str = "videos") -> None:
        """Begin a task of `total` units (None when unknown)."""

    def advance(self, count: int = 1) -> None:
        """`count` units are done."""

    def note(self, message: str) -> None:
        """One line worth reading now: an assumption, a choice, a recorded failure."""

    def warn(self, message: str) -> None:
        """One line that may change a number."""

    def finish(self) -> None:
        """The task is over."""


class Silent:
    """A Progress that says nothing; the default of every stage."""

    def start(self, total: int | None, what: str, unit: str = "videos") -> None:
        pass

    def advance(self, count: int = 1) -> None:
        pass

    def note(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        pass

    def finish(self) -> None:
        pass
