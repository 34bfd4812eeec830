"""The pipeline of a region: stages that run beside each other, each one item ahead of the next."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from typing import ParamSpec, TypeVar

from volumetool.storage.io.prefetch import prefetch

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

STAGES = ("read", "network", "blend", "consistency", "pyramid", "write")
"""In the order in which a voxel passes them. Consistency runs in the thread of blend, pyramid in that of write."""


def silent() -> None:
    """Do nothing: the heartbeat of a caller that needs none."""


class Pipeline:
    """Stages that run beside each other; each takes in what the one before it makes.

    Parameters
    ----------
    heartbeat : callable
        Called in the stages' threads for every item that a stage has made.
    """

    def __init__(self, heartbeat: Callable[[], None] = silent) -> None:
        self._heartbeat = heartbeat
        self._outputs: dict[str, Generator[object, None, None]] = {}
        self._before: dict[str, str] = {}
        self._busy: defaultdict[str, float] = defaultdict(float)  # by stage: its own seconds, and those that it waited
        self._waited: defaultdict[str, float] = defaultdict(float)  # by stage: the next one waited for its items

    def run(self, stage: str, items: Iterable[T], *, threaded: bool = True) -> Iterator[T]:
        """Add a stage, and return what it makes for the next one.

        Parameters
        ----------
        stage : str
            Name of the stage, one of `STAGES`.
        items : iterable
            Makes its items, out of those of the stage before it.
        threaded : bool
            Run it in a thread of its own, one item ahead. Otherwise it runs in the thread of the next stage.
        """
        made = self._timed(self._busy, stage, items, self._heartbeat)
        output = self._timed(self._waited, stage, prefetch(made) if threaded else made)
        self._before[stage] = next(reversed(self._outputs), "")
        self._outputs[stage] = output
        return output

    def part(self, name: str, stage: str, work: Callable[P, R]) -> Callable[P, R]:
        """Return a function that a stage calls, with its seconds counted apart from the stage's.

        Parameters
        ----------
        name : str
            One of `STAGES`, for which the seconds count.
        stage : str
            The stage that calls the function; the seconds are taken off its own.
        work : callable
            The function that is timed.

        Returns
        -------
        callable
            Takes and returns what `work` does.
        """

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            started = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                passed = time.perf_counter() - started
                self._busy[name] += passed
                self._busy[stage] -= passed

        return timed

    def finish(self, stage: str, work: Callable[[], R]) -> R:
        """Run the last stage in this thread, and close all others when it ends; return its result."""
        self._before[stage] = next(reversed(self._outputs), "")
        with self._closing():
            started = time.perf_counter()
            result = work()
            self._busy[stage] += time.perf_counter() - started
        return result

    def drain(self, items: Iterator[T]) -> Generator[T, None, None]:
        """Yield what the last stage makes, and close all stages when it ends or is given up."""
        with self._closing():
            yield from items

    def _closing(self) -> ExitStack:
        stack = ExitStack()
        for output in self._outputs.values():
            stack.enter_context(closing(output))  # the last one is closed first
        return stack

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds in which each of `STAGES` had something to do; their sum may exceed the time that passed."""
        return {stage: self._busy[stage] - self._waited[self._before.get(stage, "")] for stage in STAGES}

    @staticmethod
    def _timed(
        seconds: dict[str, float], stage: str, items: Iterable[T], heartbeat: Callable[[], None] = silent
    ) -> Generator[T, None, None]:
        """Yield items; the time until each is there counts for the stage."""
        iterator = iter(items)
        try:
            while True:
                started = time.perf_counter()
                try:
                    item = next(iterator)
                except StopIteration:
                    return
                finally:
                    seconds[stage] += time.perf_counter() - started
                heartbeat()
                yield item
        finally:
            if isinstance(iterator, Generator):
                iterator.close()  # a stage that is given up tells those before it
