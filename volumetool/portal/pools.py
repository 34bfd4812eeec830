"""Threads that answer: pages wait neither for passwords that are hashed, nor for volumes that are looked at."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

Result = TypeVar("Result")
Asked = TypeVar("Asked", bound=Callable[..., object])
PoolName = Literal["pages", "passwords", "volumes", "institution"]

THREADS: dict[PoolName, int] = {"pages": 8, "passwords": 2, "volumes": 2, "institution": 4}
"""Threads of each pool. A hash takes 64 MiB and a tenth of a second of a core; a plan reads volumes, with all cores, and a
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
