"""The desk makes a patch once, the newest wish first, and nothing that nobody waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from volumetool.errors import DataError
from volumetool.live_view.patch_scheduler import Closed, PatchScheduler
from volumetool.live_view.patches import Patch, PatchMaker, PatchPosition

PATIENCE = 120
BATCH = 2


def at(x: int) -> PatchPosition:
    return PatchPosition(0, 0, 0, x)


class Maker:
    """Makes patches one batch at a time, each when it is let; place 13 is broken."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(at_once=BATCH)
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.may = threading.Semaphore(0)

    def make(self, places: Sequence[PatchPosition]) -> list[Patch | Exception]:
        self.batches.append([place.x for place in places])
        self.begun.release()
        assert self.may.acquire(timeout=PATIENCE)
        broken = DataError("data.not-finite", "broken")
        return [broken if place.x == 13 else Patch(np.full((1, 1, 4), place.x, np.float32), None) for place in places]

    def is_current(self, _place: PatchPosition, _patch: Patch) -> bool:
        return True

    def let(self, batches: int = 1) -> None:
        for _ in range(batches):
            self.may.release()


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def desk(maker: Maker) -> Iterator[PatchScheduler]:
    desk = PatchScheduler(cast("PatchMaker", maker), room=16 * 100)
    yield desk
    maker.let(100)
    desk.close()


def _busy(desk: PatchScheduler, maker: Maker) -> None:
    """Have the desk make patch 0, and wait until it does."""
    desk.want([at(0)])
    assert maker.begun.acquire(timeout=PATIENCE)


def _values(patches: dict[PatchPosition, Patch]) -> dict[int, float]:
    return {place.x: float(patch.values[0, 0, 0]) for place, patch in patches.items()}


def test_two_wishes_for_a_patch_share_it(desk: PatchScheduler, maker: Maker) -> None:
    _busy(desk, maker)
    wishes = [desk.want([at(1), at(2)]), desk.want([at(2), at(3)])]
    maker.let(10)
    assert [_values(wish.result(PATIENCE)) for wish in wishes] == [{1: 1, 2: 2}, {2: 2, 3: 3}]
    assert _values(desk.want([at(1), at(3)]).result(PATIENCE)) == {1: 1, 3: 3}
    assert desk.made == 4
    assert sorted(chain(*maker.batches)) == [0, 1, 2, 3]


def test_a_patch_that_is_being_made_is_waited_for(desk: PatchScheduler, maker: Maker) -> None:
    _busy(desk, maker)
    wish = desk.want([at(0)])
    maker.let()
    assert _values(wish.result(PATIENCE)) == {0: 0}
    assert desk.made == 1


def test_the_newest_wish_goes_first_and_older_ones_fill_its_batch(desk: PatchScheduler, maker: Maker) -> None:
    _busy(desk, maker)
    wishes = [desk.want([at(1), at(2), at(3)]), desk.want([at(5)])]
    maker.let(10)
    for wish in wishes:
        wish.result(PATIENCE)
    assert maker.batches == [[0], [5, 1], [2, 3]]


def test_what_nobody_waits_for_is_not_made(desk: PatchScheduler, maker: Maker) -> None:
    _busy(desk, maker)
    gone, kept = desk.want([at(1), at(2)]), desk.want([at(2), at(3)])
    assert gone.cancel()
    maker.let(10)
    kept.result(PATIENCE)
    assert sorted(chain(*maker.batches)) == [0, 2, 3]


def test_a_broken_patch_fails_those_that_want_it_alone(desk: PatchScheduler, maker: Maker) -> None:
    _busy(desk, maker)
    good, bad = desk.want([at(1)]), desk.want([at(13)])
    maker.let(10)
    assert _values(good.result(PATIENCE)) == {1: 1}
    with pytest.raises(DataError):
        bad.result(PATIENCE)
    with pytest.raises(DataError):  # and is tried again: the trouble may have passed
        desk.want([at(13)]).result(PATIENCE)
    assert maker.batches == [[0], [13, 1], [13]]


def test_the_least_recently_used_patches_go(maker: Maker) -> None:
    desk = PatchScheduler(cast("PatchMaker", maker), room=3 * 16)  # three patches of four values
    maker.let(100)
    for x in (1, 2, 3, 1, 4):  # 1 is used again; 2 goes for 4
        desk.want([at(x)]).result(PATIENCE)
    assert desk.made == 4
    desk.want([at(1), at(3), at(4)]).result(PATIENCE)
    assert desk.made == 4
    desk.want([at(2)]).result(PATIENCE)
    assert desk.made == 5
    desk.close()


def test_an_answer_larger_than_the_room_is_still_given(maker: Maker) -> None:
    desk = PatchScheduler(cast("PatchMaker", maker), room=0)
    maker.let(100)
    assert len(desk.want([at(x) for x in range(7)]).result(PATIENCE)) == 7
    assert desk.made == 7
    desk.close()


def test_guesses_are_made_once_nobody_waits_and_replaced_by_new_ones(desk: PatchScheduler, maker: Maker) -> None:
    _busy(desk, maker)
    desk.guess([at(8), at(9)])
    desk.guess([at(0), at(6), at(7)])
    wish = desk.want([at(1)])
    maker.let(2)
    wish.result(PATIENCE)
    maker.let(1)
    _values(desk.want([at(6), at(7)]).result(PATIENCE))
    assert [*chain(*maker.batches)] == [0, 1, 6, 7]


def test_the_network_is_lent_once_nobody_waits(desk: PatchScheduler, maker: Maker) -> None:
    _busy(desk, maker)
    wish = desk.want([at(1)])
    order: list[Any] = []

    def borrow() -> None:
        with desk.spare():
            order.append(wish.done())

    thread = threading.Thread(target=borrow)
    thread.start()
    maker.let(10)
    thread.join(PATIENCE)
    assert order == [True]


def test_closing_tells_everybody(maker: Maker) -> None:
    desk = PatchScheduler(cast("PatchMaker", maker), room=100)
    _busy(desk, maker)
    wish = desk.want([at(1)])
    told = threading.Event()

    def borrow() -> None:
        try:
            with desk.spare():
                pass
        except Closed:
            told.set()

    thread = threading.Thread(target=borrow)
    thread.start()
    closing = threading.Thread(target=desk.close)
    closing.start()
    thread.join(PATIENCE)
    maker.let()
    closing.join(PATIENCE)
    assert told.is_set()
    with pytest.raises(CancelledError):
        wish.result(PATIENCE)
