"""The order of regions: each once, none forgotten, and neighbours apart where patches are kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_jobs import SMALL, noise, write_input

from volumetool.geometry import RegionTask
from volumetool.jobs.execution.schedule import RegionQueue, _LookAhead
from volumetool.jobs.job import make_job
from volumetool.jobs.plan import LOOK_AHEAD, Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.ledger import Ledger, Record


@given(count=st.integers(0, 60), reach=st.integers(1, 12), avoided=st.data())
def test_every_region_comes_once_and_none_is_far_ahead_of_one_that_waits(count: int, reach: int, avoided: Any) -> None:
    """Whatever is avoided, and when: also everything, always."""
    order = _LookAhead(iter(range(count)))
    waiting = set(range(count))
    while (region := order.take(lambda _: avoided.draw(st.booleans()), reach)) is not None:
        assert region < min(waiting) + reach
        waiting.remove(region)
    assert not waiting
    assert order.take(lambda _: False) is None


@given(count=st.integers(1, 60), reach=st.integers(1, 12))
def test_with_nothing_to_avoid_the_order_stays(count: int, reach: int) -> None:
    order = _LookAhead(iter(range(count)))
    assert [order.take(lambda _: False, reach) for _ in range(count)] == list(range(count))


def test_the_first_one_within_reach_that_need_not_be_avoided_comes_first() -> None:
    order = _LookAhead(iter([5, 6, 8, 9, 20]))
    assert order.take({5, 6}.__contains__, 4) == 8
    assert order.take({5, 6, 9}.__contains__, 4) == 5, "20 is out of reach"
    assert order.take({6, 9}.__contains__, 2) == 6, "20 is out of this shorter reach"
    assert order.take({9}.__contains__, 4) == 20
    assert order.take(set().__contains__) == 9


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Give the plan of a 3D job of 4 x 3 x 5 regions for two workers that keeps patches."""
    folder = tmp_path_factory.mktemp("turns")
    source = write_input(folder / "in.zarr", noise((16, 48, 80)))
    model = "fake:position?dims=3&scale=2,2,2&patch=8,16,16&overlap=4,4,4&trim=1,1,1"
    more = {"model": model, "shard": "8,32,32", "region": "1,1,1", "patch_cache": "always", "workers": 2}
    return plan(make_job(input=str(source), output=str(folder / "out.zarr"), **SMALL | more))


def brute_neighbours(decided: Plan, index: int) -> set[int]:
    sharing = decided.sharing
    box = decided.grid.region(index).box
    found: set[int] = set()
    lattice = decided.spec.lattice
    for z in lattice.z.touching(box.start[0], box.stop[0]):
        for y in lattice.y.touching(box.start[1], box.stop[1]):
            for x in lattice.x.touching(box.start[2], box.stop[2]):
                found.update(sharing.owners(0, (z, y, x)))
    return found - {index}


def done(index: int) -> Record:
    return Record(index, "done")


def test_each_turn_knows_its_neighbours_before_and_after(decided: Plan, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), decided.grid.count)
    turns = RegionQueue(decided, ledger)
    for index in range(decided.grid.count):
        turn = turns.take(())
        assert turn is not None
        near = brute_neighbours(decided, index)
        assert turn.region == index
        assert set(turn.earlier) == {n for n in near if n < index}
        assert set(turn.later) == {n for n in near if n > index}
        ledger.append(done(index))
    assert turns.take(()) is None
    ledger.flush()


def test_what_is_done_or_was_not_asked_for_is_not_kept_for(decided: Plan, tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path), decided.grid.count)
    for index in (1, 6):
        ledger.append(done(index))
    ledger.append(Record(5, "failed"))
    ledger.flush()
    turn = RegionQueue(decided, ledger).take(())
    assert turn is not None
    near = brute_neighbours(decided, 0)
    assert {1, 5, 6} <= near
    assert (turn.region, set(turn.earlier), set(turn.later)) == (0, {1, 6}, near - {1, 6})


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), workers=st.integers(1, 3))
def test_neighbours_are_apart_as_long_as_others_are_to_be_had(
    decided: Plan, tmp_path_factory: pytest.TempPathFactory, seed: int, workers: int
) -> None:
    """Of regions that end in any order, a neighbour of one under way is taken only when no other is within reach."""
    random = np.random.default_rng(seed)
    ledger = Ledger(str(tmp_path_factory.mktemp("ledger")), decided.grid.count)
    turns = RegionQueue(decided.model_copy(update={"workers": workers}), ledger)
    flying: list[int] = []
    taken: Counter[int] = Counter()
    while True:
        while len(flying) < workers and (turn := turns.take(flying)) is not None:
            crowded = {near for region in flying for near in brute_neighbours(decided, region)}
            waiting = sorted(set(range(decided.grid.count)) - taken.keys())
            within = waiting[0] + LOOK_AHEAD * max(1, len(flying))
            assert turn.region not in crowded or all(n in crowded for n in waiting if n < within)
            assert set(turn.earlier) >= set(flying) & brute_neighbours(decided, turn.region)
            taken[turn.region] += 1
            flying.append(turn.region)
        if not flying:
            break
        ledger.append(done(flying.pop(int(random.integers(len(flying))))))
    ledger.flush()
    assert taken == Counter(range(decided.grid.count))


def test_where_nothing_is_kept_the_order_is_the_grids(decided: Plan, tmp_path: Path) -> None:
    plain = decided.model_copy(update={"job": decided.job.model_copy(update={"patch_cache": "never"})})
    turns = RegionQueue(plain, Ledger(str(tmp_path), plain.grid.count))
    assert [turns.take([0, 1, 2]) for _ in range(plain.grid.count)] == [RegionTask(index) for index in range(plain.grid.count)]
