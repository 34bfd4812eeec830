"""Who gets which region: uneven workers, workers that come and go, and second copies at the end, by a simulated clock."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from fleet import Device, Fleet
from hypothesis import given
from hypothesis import strategies as st

from volumetool.jobs.clusters.assignment import ANYBODY, Assignment
from volumetool.jobs.plan import WINDOW

FAST, TEN_TIMES_SLOWER = Device(20.0), Device(200.0)


@given(st.integers(1, 6), st.integers(1, 80))
def test_a_worker_ten_times_slower_delays_the_end_by_less_than_a_region_of_a_fast_one(fast: int, regions: int) -> None:
    peers = [FAST] * fast
    with_it = Fleet([*peers, TEN_TIMES_SLOWER], regions).run()
    without = Fleet(peers, regions).run()
    assert with_it.end < without.end + FAST.seconds
    assert len(with_it.ended) == regions


def test_workers_share_the_regions_by_their_speed() -> None:
    outcome = Fleet([Device(1.0), Device(2.0), Device(10.0)], 1600).run()
    share = Counter(worker for _, worker in outcome.ended)
    assert [share[f"worker-{n}"] for n in range(3)] == [1000, 500, 100]


def test_throughput_follows_workers_that_come_and_go_within_ten_seconds() -> None:
    """1 -> 4 -> 2 workers of two regions a second."""
    devices = [Device(0.5), Device(0.5, goes=200.5), *[Device(0.5, comes=100.5, goes=200.5)] * 2]
    devices[1] = Device(0.5, comes=100.5)
    outcome = Fleet(devices, 2000).run()
    rates = [outcome.rate(start, stop) for start, stop in ((20, 100), (110.5, 200), (210.5, 300))]
    assert [round(rate, 1) for rate in rates] == [2.0, 8.0, 4.0]


@given(
    st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 30), st.floats(1, 60)), max_size=6),
    st.integers(1, 100),
    st.floats(0, 1),
)
def test_every_region_is_recorded_once_whoever_comes_and_goes(
    others: list[tuple[float, float, float]], regions: int, spread: float
) -> None:
    """A region is begun again where its worker went, and once more at most by a worker that had nothing to do."""
    devices = [Device(1.0), *[Device(seconds, comes, comes + stays) for seconds, comes, stays in others]]
    outcome = Fleet(devices, regions, spread=spread).run()
    assert len(outcome.ended) == regions
    assert outcome.begun - regions <= len(devices) * (len(others) + 2)


@given(st.integers(1, 8), st.integers(1, 60))
def test_equal_workers_compute_few_regions_twice(workers: int, regions: int) -> None:
    outcome = Fleet([Device(1.0)] * workers, regions).run()
    assert outcome.end == pytest.approx(math.ceil(regions / workers))
    assert outcome.begun - regions < workers


def test_a_region_that_takes_twice_as_long_as_usual_is_begun_a_second_time() -> None:
    """As with a worker that is cut off: it is not known to be gone, and never ends."""
    assignment = Assignment()
    assignment.see(["a", "b"])
    assignment.give(0, "a", [0])
    assert assignment.straggler(0.0) is None  # nobody knows yet how long one takes
    assignment.end(0, [1.0])
    assignment.give(1, "a", [1])
    assignment.began("a", 1, 10.0)
    assert assignment.straggler(11.0) is None
    assert assignment.straggler(11.9) is None
    assert assignment.straggler(12.1) == (1, "b")
    assignment.give(2, "b", [1])
    assert assignment.straggler(19.0) is None  # two have it


def test_a_worker_has_one_region_at_hand_and_those_with_none_come_first() -> None:
    assignment = Assignment()
    assert assignment.next_worker() == ANYBODY
    assignment.see(["a", "b"])
    handed = Counter[str]()
    key = 0
    while (worker := assignment.next_worker()) is not None:
        assignment.give(key, worker, [key])
        handed[worker] += 1
        assert max(handed.values()) - min(handed["a"], handed["b"]) <= 1
        key += 1
    assert handed == {"a": WINDOW, "b": WINDOW}


def test_a_region_that_was_moved_is_with_whoever_began_it() -> None:
    assignment = Assignment()
    assignment.see(["a", "b"])
    assignment.give(0, "a", [0])
    assignment.began("b", 0, 0.0)
    assignment.give(1, "a", [1])
    assignment.see(["b"])  # and what a had is with nobody, until somebody begins it
    assignment.began("b", 1, 1.0)
    assert assignment.next_worker() is None
    assignment.end(0, [1.0])
    assert assignment.next_worker() == "b"
