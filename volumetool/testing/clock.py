"""A clock and chances that a test decides: an hour passes in no time, and a run of luck comes again."""

from __future__ import annotations

import random
import threading


class SimulatedClock:
    """Stands in for `time.monotonic`, `time.sleep` and `random.random`, wherever a function takes them as parameters.

    Parameters
    ----------
    seed : int, default 0
        Seed of the random numbers.
    start : float, default 0.0
        What the clock shows first, in seconds.

    Attributes
    ----------
    slept : list of float
        Every sleep that was asked for, in seconds.
    """

    def __init__(self, seed: int = 0, start: float = 0.0) -> None:
        self.slept: list[float] = []
        self._now = start
        self._random = random.Random(seed)  # noqa: S311  (chances of a test, not secrets)
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the time in seconds."""
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass; backwards too, as clocks that are set do."""
        with self._lock:
            self._now += seconds

    def sleep(self, seconds: float) -> None:
        """Let the time pass that somebody wants to wait."""
        self.slept.append(seconds)
        self.advance(max(0.0, seconds))

    def chance(self) -> float:
        """Return the next number between 0 and 1."""
        with self._lock:
            return self._random.random()
