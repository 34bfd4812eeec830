"""What a process moves is counted, and a limit keeps its rate."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorstore as ts

from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.kvstore import read_key, write_key
from volumetool.storage.io.stores import traffic as traffic_module
from volumetool.storage.io.stores.traffic import BURST_SECONDS, WRITTEN_FILE, IoLimit, Traffic, count_beside, limit_io, traffic


class Storage:
    """A storage and a clock that stand still but for what is asked of them."""

    def __init__(self) -> None:
        self.now, self.moved = 1000.0, 0

    def move(self, size: int, seconds: float) -> None:
        self.moved += size
        self.now += seconds

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def limit(self, rate: float) -> IoLimit:
        return IoLimit(rate, lambda: self.now, self.sleep, lambda: self.moved)


@pytest.mark.parametrize("size", [1_000, 300_000, 5_000_000])
@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.02])
def test_a_fast_storage_is_slowed_to_the_limit_within_a_tenth(size: int, seconds: float) -> None:
    storage, rate = Storage(), 1e6
    limit = storage.limit(rate)
    for _ in range(200_000_000 // size if size > 1_000 else 20_000):
        storage.move(size, seconds)
        limit.pace()
    measured = storage.moved / (storage.now - 1000.0)
    alone = size / seconds if seconds else np.inf
    assert 0.9 * min(rate, alone) <= measured <= 1.1 * rate


def test_a_slow_storage_is_not_slowed_further() -> None:
    storage = Storage()
    limit = storage.limit(1e6)
    for _ in range(100):
        storage.move(1_000, 1.0)
        limit.pace()
    assert storage.now == 1100.0


def test_after_a_pause_no_more_than_a_moment_is_made_up_for() -> None:
    storage = Storage()
    limit = storage.limit(1e6)
    storage.now += 3600
    began = storage.now
    for _ in range(100):
        storage.move(100_000, 0.0)
        limit.pace()
    assert storage.now - began == pytest.approx(10 - BURST_SECONDS)


def test_what_is_written_and_read_is_counted(tmp_path: Path) -> None:
    moved = []
    for _ in range(3):  # it is counted for the whole process, of which other threads may write something, too
        before = traffic()
        write_key(str(tmp_path), "a.bin", b"x" * 5_000)
        read_key(str(tmp_path), "a.bin")
        count_beside(70)
        moved.append(traffic() - before)
    assert Traffic(10_070, WRITTEN_FILE + 2) in moved, moved


def test_reading_an_array_waits_where_there_is_a_limit(tmp_path: Path) -> None:
    storage = Storage()
    limit = storage.limit(1e6)
    array = ts.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path)}}, create=True, dtype="uint8", shape=[8, 8, 8]
    ).result()
    with mock.patch.object(traffic_module, "_limit", limit):
        storage.moved += 5_000_000
        read_part(array, (slice(0, 8),) * 3)
    assert storage.now == pytest.approx(1005.0 - BURST_SECONDS, abs=BURST_SECONDS)


def test_a_limit_stays_the_same_when_it_is_set_again_and_goes_when_it_is_taken_away() -> None:
    try:
        limit_io(1e6)
        first = traffic_module._limit
        limit_io(1e6)
        assert traffic_module._limit is first
    finally:
        limit_io(None)
    assert traffic_module._limit is None
