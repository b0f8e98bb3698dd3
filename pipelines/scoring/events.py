"""What an event is: one rule for a stored line of scores and for one that is still growing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipelines.errors import UsageError
from pipelines.metrics.operating import MERGE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRule:
    """When frame scores make an event.

    It begins at a frame whose score is above `on` and goes on while scores are above `low` (`on` unless given); gaps
    below `merge_s` seconds do not end it. One shorter than `min_s` is none, and after an end nothing begins for
    `cooldown_s`. With the defaults these are the alarms that `vad eval` counts, for scores strictly above `on`.

    Raises:
        UsageError: `low` above `on`, negative seconds, or a level that is not a number.
    """

    on: float
    low: float | None = None
    min_s: float = 0.0
    merge_s: float = MERGE_S
    cooldown_s: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.on) or (self.low is not None and not self.low <= self.on):
            raise UsageError(
                f"an event begins above {self.on} and ends below {self.low}: the second must not be higher"
            )
        for name in ("min_s", "merge_s", "cooldown_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} = {getattr(self, name)}: give seconds, 0 or more")


@dataclass(frozen=True, slots=True)
class Span:
    """Frames [start, end) of an event and its highest score; of one that goes on, as far as is known."""

    start: int
    end: int
    peak: float


@dataclass(frozen=True, slots=True)
class Change:
    """An event that begins (long enough to be one) or that is over."""

    begins: bool
    span: Span


class EventFinder:
    """Takes frame scores as they come and tells when events begin and end; a pure state machine.

    The end of an event is known `merge_s` after its last frame.

    Args:
        rule: what makes an event.
        fps: frames a second; None takes every gap as an end and every length as enough.
        first: the number of the first frame that is pushed.
    """

    def __init__(self, rule: AlarmRule, fps: float | None, *, first: int = 0) -> None:
        self._on, self._low = rule.on, rule.on if rule.low is None else rule.low
        rate = fps or 0.0
        self._merge = max(rule.merge_s * rate, 1.0)
        self._least = max(1, math.ceil(rule.min_s * rate - 1e-9))
        self._cooldown = rule.cooldown_s * rate
        self._next = first
        self._cool_until = float(first)
        self._start: int | None = None
        self._last = first
        self._peak = -math.inf
        self._told = False

    @property
    def open(self) -> Span | None:
        """The event that has been told to begin and not to end."""
        return self._span() if self._told else None

    def push(self, scores: Sequence[float]) -> list[Change]:
        """The next frames' scores; what begins and ends with them, in order."""
        changes: list[Change] = []
        for score in scores:
            changes += self._frame(score)
            self._next += 1
        return changes

    def finish(self) -> list[Change]:
        """No more frames come: an open event ends with its last frame."""
        return self._close()

    def _frame(self, score: float) -> list[Change]:
        frame = self._next
        if self._start is None:
            if not (score > self._on and frame >= self._cool_until):
                return []
            self._start, self._peak = frame, score
        elif score <= self._low:
            return self._close() if frame - self._last >= self._merge else []
        self._last, self._peak = frame, max(self._peak, score)
        if self._told or self._last + 1 - self._start < self._least:
            return []
        self._told = True
        return [Change(True, self._span())]

    def _close(self) -> list[Change]:
        changes = [Change(False, self._span())] if self._told else []
        if self._told:
            self._cool_until = self._last + 1 + self._cooldown
        self._start, self._told = None, False
        return changes

    def _span(self) -> Span:
        assert self._start is not None
        return Span(self._start, self._last + 1, self._peak)


def find_events(scores: Iterable[float], rule: AlarmRule, fps: float | None) -> list[Span]:
    """Every event of a whole line of frame scores."""
    finder = EventFinder(rule, fps)
    changes = finder.push(list(scores)) + finder.finish()
    return [change.span for change in changes if not change.begins]
