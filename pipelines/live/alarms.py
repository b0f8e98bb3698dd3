"""From scores and pictures to events: anomalies, black and frozen pictures, each with a beginning and an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.live.hub import Looked, Scored
from pipelines.live.pictures import Picture
from pipelines.scoring.events import AlarmRule, Change, EventFinder, Span

Kind = Literal["anomaly", "black", "frozen", "lost"]
# [ours] how long a picture must be black or the same before that is an event
BLACK_RULE = AlarmRule(on=0.5, min_s=2.0)
FROZEN_RULE = AlarmRule(on=0.5, min_s=10.0)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something begins or ends at a camera, in frames of the current connection."""

    kind: Kind
    begins: bool
    span: Span
    label: str | None = None


class Alarms:
    """One connection's alarms.

    Args:
        rule: of anomalies.
        fps: frames a second.
        stride: frames a clip; pictures are judged a clip at a time.
    """

    def __init__(self, rule: AlarmRule, *, fps: float, stride: int) -> None:
        self._stride = stride
        self._anomaly = EventFinder(rule, fps)
        self._pictures: dict[Kind, EventFinder] = {
            "black": EventFinder(BLACK_RULE, fps / stride),
            "frozen": EventFinder(FROZEN_RULE, fps / stride),
        }
        self._label: str | None = None

    def scored(self, record: Scored) -> list[Notice]:
        """What begins and ends with these scores."""
        self._label = record.label
        return [self._notice("anomaly", change, 1) for change in self._anomaly.push(record.scores.tolist())]

    def looked(self, record: Looked) -> list[Notice]:
        """What begins and ends with these pictures; a black picture does not count as a frozen one too."""
        picture = Picture(record.bright, record.change)
        seen = {"black": picture.is_black, "frozen": picture.is_frozen and not picture.is_black}
        found: list[Notice] = []
        for kind, finder in self._pictures.items():
            changes = finder.push([float(seen[kind])])
            found += [self._notice(kind, change, self._stride) for change in changes]
        return found

    def finish(self) -> list[Notice]:
        """The connection is over: what is open ends."""
        found = [self._notice("anomaly", change, 1) for change in self._anomaly.finish()]
        for kind, finder in self._pictures.items():
            found += [self._notice(kind, change, self._stride) for change in finder.finish()]
        return found

    def _notice(self, kind: Kind, change: Change, frames: int) -> Notice:
        span = Span(change.span.start * frames, change.span.end * frames, change.span.peak)
        return Notice(kind, change.begins, span, self._label if kind == "anomaly" else None)
