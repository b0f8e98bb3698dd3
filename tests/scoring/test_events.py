"""The one definition of an event: against the alarms that the metrics count, by hand, and in pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UsageError
from pipelines.metrics.operating import alarm_runs
from pipelines.scoring.events import AlarmRule, EventFinder, Span, find_events

LINES = st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=60)


@given(LINES, st.sampled_from([None, 1.0, 3.0, 10.0]), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_the_plain_rule_is_the_metrics_own(line, fps, merge_s):
    found = find_events(line, AlarmRule(on=0.7, merge_s=merge_s), fps)
    wanted = alarm_runs(np.array(line, dtype=float) > 0.7, merge_s * (fps or 0))
    assert [[span.start, span.end] for span in found] == wanted.tolist()
    assert all(span.peak == max(line[span.start : span.end]) for span in found)


@given(LINES, st.integers(1, 7), st.floats(0, 2), st.floats(0, 3))
def test_pieces_say_what_the_whole_says(line, size, min_s, cooldown_s):
    rule = AlarmRule(on=0.7, low=0.2, min_s=min_s, merge_s=0.4, cooldown_s=cooldown_s)
    finder = EventFinder(rule, 5.0)
    changes = [c for at in range(0, len(line), size) for c in finder.push(line[at : at + size])] + finder.finish()
    assert [c.span for c in changes if not c.begins] == find_events(line, rule, 5.0)
    assert [c.begins for c in changes] == [True, False] * (len(changes) // 2)


def spans(line: list[float], **rule: float) -> list[tuple[int, int]]:
    return [(s.start, s.end) for s in find_events(line, AlarmRule(on=0.7, merge_s=0.0, **rule), 1.0)]


def test_hysteresis_minimum_length_and_cooldown():
    line = [0, 1, 0.5, 0.5, 0, 0.5, 1, 1, 0, 1, 1, 1]
    assert spans(line) == [(1, 2), (6, 8), (9, 12)]
    assert spans(line, low=0.4) == [(1, 4), (6, 8), (9, 12)]  # 0.5 keeps an event open and opens none
    assert spans(line, min_s=2) == [(6, 8), (9, 12)]
    assert spans(line, cooldown_s=5) == [(1, 2), (7, 8)]
    assert find_events(line, AlarmRule(on=0.7, merge_s=2), 1.0) == [Span(1, 2, 1), Span(6, 12, 1)]


def test_an_event_is_told_when_it_is_long_enough_and_again_when_it_is_over():
    finder = EventFinder(AlarmRule(on=0.5, min_s=2, merge_s=3), 1.0, first=100)
    assert finder.push([0, 1]) == [] and finder.open is None
    (begins,) = finder.push([2])
    assert begins.begins and begins.span == Span(101, 103, 2) == finder.open
    assert finder.push([0, 0]) == []
    (ends,) = finder.push([0])  # three seconds of silence
    assert not ends.begins and ends.span == Span(101, 103, 2) and finder.open is None


@pytest.mark.parametrize("rule", [{"low": 0.9}, {"min_s": -1}, {"cooldown_s": float("nan")}, {"on": float("inf")}])
def test_rules_without_sense_are_refused(rule):
    with pytest.raises(UsageError):
        AlarmRule(**{"on": 0.5} | rule)
