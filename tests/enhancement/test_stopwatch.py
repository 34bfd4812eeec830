"""The stopwatch counts what a stage does, and not what it waits for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from volumetool.enhancement import stopwatch as module
from volumetool.enhancement.ahead import ahead
from volumetool.enhancement.stopwatch import Stopwatch


class Clock:
    """Stands in for the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_making_counts_and_waiting_for_what_is_made_of_does_not(clock: Clock) -> None:
    def first() -> Iterator[int]:
        for number in range(3):
            clock.now += 1
            yield number

    def second(items: Iterator[int]) -> Iterator[int]:
        for number in items:
            clock.now += 10
            yield number

    watch = Stopwatch()
    made = watch.busy("second", second(watch.waiting("second", watch.busy("first", first()))))
    for _ in made:
        clock.now += 100  # the consumer's own time is nobody's
    assert watch.seconds == {"first": 3, "second": 30}


def test_a_part_counts_for_itself_and_not_for_the_whole(clock: Clock) -> None:
    watch = Stopwatch()
    with watch.part("pyramid", "write"):
        clock.now += 2
    assert watch.seconds == {"pyramid": 2, "write": -2}


def test_a_stage_that_is_given_up_tells_those_before_it() -> None:
    closed = []

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append("endless")

    watch = Stopwatch()
    stage = ahead(watch.busy("b", watch.waiting("b", watch.busy("a", endless()))))
    assert next(stage) == 0
    stage.close()  # type: ignore[attr-defined]  # generators have close
    assert closed == ["endless"]
