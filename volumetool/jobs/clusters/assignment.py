"""Assignment: which worker gets the next region, and which region a worker with nothing to do computes a second time.

Nothing here knows dask or a clock: the driver says what happens and when, and so does a simulation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass

from volumetool.jobs.plan import WINDOW

ANYBODY = ""
"""Stands for whichever worker comes first, where none is known."""

REMEMBERED = 8
"""Regions of a worker from which its pace is taken."""


@dataclass
class Task:
    """Regions that a worker has.

    Attributes
    ----------
    worker : str
        Who has them.
    regions : tuple of int
        The regions.
    began : float, optional
        When the first of them was begun, in seconds; None while it waits.
    """

    worker: str
    regions: tuple[int, ...]
    began: float | None = None


class Assignment:
    """Workers and what each of them has: one task that runs and one at hand.

    A worker gets a task as it ends one, so each works at its own speed. Once no region is left to hand out, a worker with
    nothing to do gets a second copy of a task that another one would end later: the first result counts, and both write the
    same bytes.
    """

    def __init__(self) -> None:
        self._tasks: dict[Hashable, Task] = {}
        self._copies: dict[int, dict[Hashable, None]] = {}  # of each region, the tasks that have it
        self._had: dict[str, dict[Hashable, None]] = {}
        self._paces: dict[str, deque[float]] = {}
        self._all = deque[float](maxlen=REMEMBERED)
        # Workers by the number of their tasks, below `WINDOW`: those that have fewest are served first.
        self._hungry: list[dict[str, None]] = [{} for _ in range(WINDOW)]

    @property
    def workers(self) -> Collection[str]:
        """The workers that are there."""
        return self._had.keys()

    def see(self, workers: Collection[str]) -> list[Hashable]:
        """Take note of the workers that are there now.

        Returns
        -------
        list of hashable
            The tasks of those that are gone: with nobody, until they end or somebody begins them.
        """
        lost = list[Hashable]()
        for gone in [name for name in self._had if name not in workers]:
            for key in self._had.pop(gone):
                self._tasks[key].worker, self._tasks[key].began = ANYBODY, None
                lost.append(key)
            self._paces.pop(gone, None)
            for names in self._hungry:
                names.pop(gone, None)
        for name in workers:
            if name not in self._had:
                self._had[name] = {}
                self._sort(name)
        return lost

    def next_worker(self) -> str | None:
        """Return the worker that has least; None where all have enough, `ANYBODY` where nobody is there to wait for."""
        if not self._had:
            return ANYBODY if len(self._tasks) < WINDOW else None
        return next((name for names in self._hungry for name in names), None)

    def give(self, key: Hashable, worker: str, regions: Collection[int]) -> None:
        """Note that a worker gets a task.

        Parameters
        ----------
        key : hashable
            Names the task.
        worker : str
            One that is there, or `ANYBODY`.
        regions : collection of int
            Its regions.
        """
        self._tasks[key] = Task(worker, tuple(regions))
        for region in regions:
            self._copies.setdefault(region, {})[key] = None
        self._hold(key, worker)

    def began(self, worker: str, region: int, now: float) -> None:
        """Note that a worker began a region; the task is that worker's from now on, whoever was to have it.

        Parameters
        ----------
        worker : str
            Who began it; a worker that is not known yet counts as nobody.
        region : int
            The region.
        now : float
            The time in seconds.
        """
        holding = self._copies.get(region, {})
        key = next((key for key in holding if self._tasks[key].worker == worker), None)
        if key is None:  # it was moved here
            key = next((key for key in holding if self._tasks[key].began is None), None)
            if key is None:
                return
            self._release(key)
            self._hold(key, worker)
        if self._tasks[key].began is None:
            self._tasks[key].began = now

    def end(self, key: Hashable, seconds: Collection[float] = ()) -> None:
        """Note that a task is over.

        Parameters
        ----------
        key : hashable
            The task.
        seconds : collection of float
            What each of its regions took.
        """
        worker = self._tasks[key].worker
        self._release(key)
        for region in self._tasks.pop(key).regions:
            self._copies[region].pop(key)
            if not self._copies[region]:
                del self._copies[region]
        self._all.extend(seconds)
        if worker in self._had:
            self._paces.setdefault(worker, deque(maxlen=REMEMBERED)).extend(seconds)

    def has(self, region: int) -> bool:
        """Return whether a task has a region."""
        return region in self._copies

    def straggler(self, now: float) -> tuple[Hashable, str] | None:
        """Return a task that two workers should compute, and who the second is: one that has nothing and would end it earlier.

        Parameters
        ----------
        now : float
            The time in seconds.

        Returns
        -------
        tuple or None
            Key of the task that would end last, of those that only one worker has, and the fastest idle worker.
        """
        if not self._all or not self._hungry[0]:  # nobody knows how long a region takes, or all are at work
            return None
        helper = min(self._hungry[0], key=self._pace)
        chosen, longest = None, 0.0
        for owner, keys in self._had.items():
            left = 0.0
            for key in keys:
                task = self._tasks[key]
                left += self._left(task, owner, now)
                alone = all(len(self._copies[region]) == 1 for region in task.regions)
                if alone and left > max(longest, len(task.regions) * self._pace(helper)):
                    chosen, longest = key, left
        return None if chosen is None else (chosen, helper)

    def _left(self, task: Task, owner: str, now: float) -> float:
        """Return the seconds that a task is expected to need yet: one that is late, as long again as it is late.

        A worker that has ended no region may be of any speed: what it has begun may take as long again as it has taken.
        """
        usual = len(task.regions) * self._pace(owner)
        if task.began is None:
            return usual
        taken = now - task.began
        return abs(usual - taken) if owner in self._paces else max(usual - taken, taken)

    def _pace(self, worker: str) -> float:
        """Return the seconds that a worker needs for a region: all workers' where it has ended none."""
        seconds = self._paces.get(worker) or self._all
        return math.fsum(seconds) / len(seconds)

    def _hold(self, key: Hashable, worker: str) -> None:
        known = worker if worker in self._had else ANYBODY
        self._tasks[key].worker = known
        if known != ANYBODY:
            self._had[known][key] = None
            self._sort(known)

    def _release(self, key: Hashable) -> None:
        worker = self._tasks[key].worker
        if worker in self._had:
            self._had[worker].pop(key, None)
            self._sort(worker)

    def _sort(self, worker: str) -> None:
        for names in self._hungry:
            names.pop(worker, None)
        if (number := len(self._had[worker])) < WINDOW:
            self._hungry[number][worker] = None
