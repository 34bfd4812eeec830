"""Threads that answer: pages wait neither for passwords that are hashed, nor for volumes that are looked at."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, TypeVar

Result = TypeVar("Result")
Asked = TypeVar("Asked", bound=Callable[..., object])
PoolName = Literal["pages", "passwords", "volumes", "institution"]

THREADS: dict[PoolName, int] = {"pages": 8, "passwords": 2, "volumes": 2, "institution": 4}
"""Threads of each pool. A hash takes 19 MiB and some 30 ms of a core; a plan reads volumes, with all cores, and a
box that is cut out has a section in memory; an institution may take its time."""

MOST_WAITING = 500
"""Requests of a pool that wait for a thread; more are told to come again."""

_POOLS = {name: ThreadPoolExecutor(threads, f"volumetool-{name}") for name, threads in THREADS.items()}
_asked: Counter[PoolName] = Counter()
_lock = threading.Lock()


class PoolFull(Exception):  # noqa: N818  (no fault of the program)
    """More wait than could be answered soon."""


def runs_in(name: PoolName) -> Callable[[Asked], Asked]:
    """Return the decorator of a handler that is answered by the threads of a pool; of others "pages" are."""

    def enter(handler: Asked) -> Asked:
        vars(handler)["pool"] = name
        return handler

    return enter


async def answer(handler: object, work: Callable[[], Result]) -> Result:
    """Return what a thread of a handler's pool makes.

    Raises
    ------
    PoolFull
        Too many wait for it.
    """
    name: PoolName = getattr(handler, "pool", "pages")
    with _lock:
        if _asked[name] >= THREADS[name] + MOST_WAITING:
            raise PoolFull(name)
        _asked[name] += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_POOLS[name], work)
    finally:
        with _lock:
            _asked[name] -= 1


class Turns:
    """A lock that goes to whoever has not had it for the longest time, as jobs have their turns."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[int, Hashable] = {}
        self._last: dict[Hashable, int] = {}
        self._taken = False
        self._asked = self._given = 0

    @contextmanager
    def take(self, who: Hashable) -> Iterator[None]:
        """Hold the lock while the block runs.

        Parameters
        ----------
        who : hashable
            Who asks; what one of them asks for is served in the order of asking.
        """
        with self._changed:
            self._asked += 1
            number = self._asked
            self._waiting[number] = who
            self._changed.wait_for(lambda: not self._taken and self._next() == number)
            del self._waiting[number]
            self._taken = True
            self._given += 1
            self._last[who] = self._given
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()

    def _next(self) -> int:
        """Return whose turn it is, of those who wait: never had one, or had it longest ago; then who asked first."""
        return min(self._waiting, key=lambda number: (self._last.get(self._waiting[number], 0), number))
