"""What each stage of a region is busy with, while all of them run beside each other."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

STAGES = ("read", "network", "blend", "consistency", "pyramid", "write")
"""In the order in which a voxel passes them. Consistency runs in the thread of blend, pyramid in that of write."""


class Stopwatch:
    """Adds up, by stage, the seconds in which it had something to do.

    Attributes
    ----------
    seconds : dict of str to float
        By name of the stage. As stages run beside each other, the sum may exceed the time that passed.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def busy(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Yield what a stage makes; the time that it takes to make each counts for it."""
        return self._watched(stage, items, 1)

    def waiting(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Yield what a stage takes in; the time until each is there does not count for it."""
        return self._watched(stage, items, -1)

    @contextmanager
    def part(self, stage: str, whole: str) -> Iterator[None]:
        """Count what is done meanwhile for a stage that is part of another, and not for that other one."""
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            self.seconds[stage] += passed
            self.seconds[whole] -= passed

    def _watched(self, stage: str, items: Iterable[T], sign: int) -> Iterator[T]:
        iterator = iter(items)
        try:
            while True:
                started = time.perf_counter()
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                finally:
                    self.seconds[stage] += sign * (time.perf_counter() - started)
                yield item
        finally:
            if isinstance(iterator, Generator):
                iterator.close()  # a stage that is given up tells those before it
