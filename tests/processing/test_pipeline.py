"""The pipeline: order, errors, no thread left behind, and the seconds in which a stage was busy."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetool.processing import pipeline as module
from volumetool.processing.pipeline import Pipeline
from volumetool.storage.io.prefetch import prefetch

_of_other_tests: list[threading.Thread] = []


@pytest.fixture(autouse=True)
def _count_anew() -> None:
    """Leave out what tests before this one have left."""
    _of_other_tests[:] = threading.enumerate()


def stage_threads() -> list[threading.Thread]:
    running = [thread for thread in threading.enumerate() if thread not in _of_other_tests]
    return [thread for thread in running if thread.name == "volumetool-prefetch"]


@settings(max_examples=30)
@given(st.lists(st.integers()), st.integers(1, 4))
def test_items_come_in_order_and_all_of_them(items: list[int], depth: int) -> None:
    assert list(prefetch(prefetch(items, depth), depth)) == items
    assert not stage_threads()


def test_no_more_than_depth_and_one_in_the_making_are_ahead() -> None:
    """Memory is bounded: with one item taken and depth 2, the third waits and the fourth is made, but no fifth."""
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with closing(prefetch(items(), depth=2)) as stage:  # type: ignore[type-var]
        assert next(stage) == 0
        deadline = time.monotonic() + 60
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert made == [0, 1, 2, 3]


def test_the_stage_runs_beside_its_consumer() -> None:
    """The next item is made while the consumer holds the last one."""
    reached = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        reached.set()
        yield 1

    stage = prefetch(items())
    assert next(stage) == 0
    assert reached.wait(60)
    assert list(stage) == [1]


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("the third")

    stage = prefetch(prefetch(items()))
    assert [next(stage), next(stage)] == [1, 2]
    with pytest.raises(KeyError, match="the third"):
        next(stage)
    assert not stage_threads()


def test_stopping_early_stops_and_closes_every_stage_before() -> None:
    """A consumer that gives up leaves no thread, and generators behind it run their last words."""
    closed: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.append(threading.current_thread().name)

    first = prefetch(items())
    second = prefetch(first)
    with closing(first), closing(second):  # type: ignore[type-var]
        assert next(second) == 0
    assert closed == ["volumetool-prefetch"]
    assert not stage_threads()


def test_a_stage_that_was_never_asked_starts_no_thread() -> None:
    stage = prefetch(range(3))
    with closing(stage):  # type: ignore[type-var]
        assert not stage_threads()
    assert list(stage) == []


def test_a_signal_while_the_stage_ends_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else closing the stage before it would fail with an error that hides the signal."""
    slow = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        slow.wait(60)
        yield 2

    before, join = items(), threading.Thread.join

    def interrupted(_: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "join", join)
        threading.Timer(0.1, slow.set).start()
        raise KeyboardInterrupt

    stage = prefetch(before)
    assert next(stage) == 1
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), closing(before), closing(stage):  # type: ignore[type-var]
        pass
    assert not stage_threads()


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


def test_making_counts_for_a_stage_and_waiting_for_the_one_before_does_not(clock: Clock) -> None:
    """Each stage's own seconds, of its parts without the whole; signs of life come for every item of every stage."""
    beats: list[float] = []

    def ticking(seconds: float, items: Iterator[int]) -> Iterator[int]:
        for number in items:
            clock.now += seconds
            yield number

    def adding(number: int) -> int:
        clock.now += 1000
        return number

    stages = Pipeline(lambda: beats.append(clock.now))
    read = stages.run("read", ticking(1, iter(range(3))), threaded=False)
    blended = stages.run("blend", map(stages.part("consistency", "blend", adding), ticking(10, read)), threaded=False)
    assert stages.finish("write", lambda: sum(ticking(100, blended))) == 3
    expected = {"read": 3, "network": 0, "blend": 30, "consistency": 3000, "pyramid": 0, "write": 300}
    assert stages.seconds == expected
    assert len(beats) == 6


@pytest.mark.parametrize("threaded", [True, False])
def test_a_last_stage_that_fails_closes_those_before_it(threaded: bool) -> None:  # noqa: FBT001  (a parameter of the test)
    closed = []

    def endless() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.append("endless")

    stages = Pipeline()
    second = stages.run("blend", map(abs, stages.run("read", endless(), threaded=threaded)))

    def write() -> None:
        next(second)
        raise KeyError("no room")

    with pytest.raises(KeyError, match="no room"):
        stages.finish("write", write)
    assert closed == ["endless"]
    assert not stage_threads()
