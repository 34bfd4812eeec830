"""Stages that run ahead: order, errors, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetool.enhancement.ahead import ahead


def stage_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "volumetool-ahead"]


@settings(max_examples=30)
@given(st.lists(st.integers()), st.integers(1, 4))
def test_items_come_in_order_and_all_of_them(items: list[int], depth: int) -> None:
    assert list(ahead(ahead(items, depth), depth)) == items
    assert not stage_threads()


def test_no_more_than_depth_and_one_in_the_making_are_ahead() -> None:
    """Memory is bounded: with one item taken and depth 2, the third waits and the fourth is made, but no fifth."""
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with closing(ahead(items(), depth=2)) as stage:  # type: ignore[type-var]
        assert next(stage) == 0
        deadline = time.monotonic() + 5
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

    stage = ahead(items())
    assert next(stage) == 0
    assert reached.wait(5)
    assert list(stage) == [1]


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("the third")

    stage = ahead(ahead(items()))
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

    first = ahead(items())
    second = ahead(first)
    with closing(first), closing(second):  # type: ignore[type-var]
        assert next(second) == 0
    assert closed == ["volumetool-ahead"]
    assert not stage_threads()


def test_a_stage_that_was_never_asked_starts_no_thread() -> None:
    stage = ahead(range(3))
    with closing(stage):  # type: ignore[type-var]
        assert not stage_threads()
    assert list(stage) == []


def test_a_signal_while_the_stage_ends_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else closing the stage before it would fail with an error that hides the signal."""
    slow = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        slow.wait(5)
        yield 2

    before, join = items(), threading.Thread.join

    def interrupted(_: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "join", join)
        threading.Timer(0.1, slow.set).start()
        raise KeyboardInterrupt

    stage = ahead(before)
    assert next(stage) == 1
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), closing(before), closing(stage):  # type: ignore[type-var]
        pass
    assert not stage_threads()
