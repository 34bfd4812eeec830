"""Traffic of this process with storage: bytes moved and files opened, and a limit that keeps the rate polite.

tensorstore counts what it reads and writes, compressed as it is stored; what is read beside it is added here. A file that is
opened to be read, and an object that is asked for or sent, count as one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import tensorstore as ts

_METRICS = "/tensorstore/kvstore/"
_BYTES = ("bytes_read", "bytes_written")
_OPENS = ("open_read", "write")
_READS = "read"

WRITTEN_FILE = 3
"""How often something is opened to write a file: its lock, which is the file later, twice, and the folder, to be synced."""

BURST_SECONDS = 1.0
"""A pause of the storage is made up for as far as the limit gives so many seconds."""


@dataclass(frozen=True)
class Traffic:
    """What was moved.

    Attributes
    ----------
    bytes : int
        Read and written.
    opens : int
        Files opened, or objects asked for and sent.
    """

    bytes: int = 0
    opens: int = 0

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(self.bytes - earlier.bytes, self.opens - earlier.opens)


_lock = threading.Lock()
_beside = Traffic()


def count_beside(moved: int) -> None:
    """Count a file that was read without tensorstore, and its bytes."""
    global _beside  # noqa: PLW0603  (a counter of the process, as tensorstore's are)
    with _lock:
        _beside = Traffic(_beside.bytes + moved, _beside.opens + 1)


def traffic() -> Traffic:
    """Return what this process has moved so far."""
    moved, opens = _beside.bytes, _beside.opens
    for metric in ts.experimental_collect_matching_metrics(_METRICS):
        driver, _, what = metric["name"].removeprefix(_METRICS).partition("/")
        value = metric["values"][0].get("value", 0)
        if driver == "memory":
            continue
        moved += value if what in _BYTES else 0
        # The driver of files counts a read as opened once the file is there; those of object stores count requests.
        times = WRITTEN_FILE if (driver, what) == ("file", "write") else 1
        opens += value * times if what in _OPENS or (what == _READS and driver != "file") else 0
    return Traffic(moved, opens)


class IoLimit:
    """Keeps the bytes that a process moves below a rate, by waiting after what was more.

    Parameters
    ----------
    rate : float
        Bytes a second.
    clock, sleep : callable
        A monotonic clock, and how to wait.
    moved : callable
        Returns the bytes that were moved so far.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        moved: Callable[[], int] = lambda: traffic().bytes,
    ) -> None:
        self.rate = rate
        self._clock, self._sleep, self._moved = clock, sleep, moved
        self._lock = threading.Lock()
        self._seen, self._due = moved(), clock()

    def pace(self) -> None:
        """Wait until what was moved by now was due."""
        with self._lock:  # who reads and who writes wait for each other: they share the rate
            now, moved = self._clock(), self._moved()
            self._due = max(self._due, now - BURST_SECONDS) + (moved - self._seen) / self.rate
            self._seen = moved
            if self._due > now:
                self._sleep(self._due - now)


_limit: IoLimit | None = None


def limit_io(rate: float | None) -> None:
    """Limit the bytes a second that this process moves from now on; None lets it go as fast as it can."""
    global _limit  # noqa: PLW0603  (of the process, as its storage is)
    if rate is None or _limit is None or _limit.rate != rate:
        _limit = None if rate is None else IoLimit(rate)


def pace() -> None:
    """Wait, where this process has a limit and has moved more than it allows; to be called after what moves many bytes."""
    if _limit is not None:
        _limit.pace()
