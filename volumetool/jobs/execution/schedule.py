"""Turns: the order in which regions run, so that a patch which several need is computed once and kept for the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator

import numpy as np

from volumetool.geometry import RegionTask
from volumetool.jobs.plan import LOOK_AHEAD, Plan
from volumetool.jobs.records.ledger import DONE, QUARANTINED, Ledger


class _LookAhead:
    """Gives out regions in their order, but passes over some while others are to be had.

    Parameters
    ----------
    regions : iterator of int
        In order.
    """

    def __init__(self, regions: Iterator[int]) -> None:
        self._regions = enumerate(regions)
        self._waiting: deque[tuple[int, int]] = deque()
        self._beyond: tuple[int, int] | None = next(self._regions, None)

    def take(self, avoid: Callable[[int], bool], reach: int = 1) -> int | None:
        """Return the first region that is not to be avoided, else the very first; None when all were given out.

        Parameters
        ----------
        avoid : callable
            Says of a region whether it should rather wait.
        reach : int, default 1
            How far the first region that waits looks ahead, itself included.
        """
        while self._beyond is not None and (not self._waiting or self._beyond[0] < self._waiting[0][0] + reach):
            self._waiting.append(self._beyond)
            self._beyond = next(self._regions, None)
        if not self._waiting:
            return None
        first = self._waiting[0]
        chosen = next((entry for entry in self._waiting if entry[0] < first[0] + reach and not avoid(entry[1])), first)
        self._waiting.remove(chosen)
        return chosen[1]


class RegionQueue:
    """The regions of a run, one after the other, each with what its worker must know of its neighbours.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    ledger : Ledger
        Says which regions are done; kept up to date by the run.
    began : callable, optional
        Told of each region that a worker begins to compute; from any thread.

    Attributes
    ----------
    plan : Plan
        The job's plan.
    count : int
        Regions that this run has to do.
    """

    def __init__(self, plan: Plan, ledger: Ledger, began: Callable[[int], None] = lambda _: None) -> None:
        self.plan, self.began = plan, began
        self._ledger, self._sharing = ledger, plan.sharing
        self._to_come = np.zeros(plan.grid.count, bool)
        for index in to_do(plan, ledger):
            self._to_come[index] = True
        self.count = int(np.count_nonzero(self._to_come))
        regions = (int(index) for index in np.flatnonzero(self._to_come))
        self._order = _LookAhead(regions)

    def take(self, flying: Collection[int]) -> RegionTask | None:
        """Return the next region: where patches are kept, not a neighbour of a region that is under way if it can be helped.

        Parameters
        ----------
        flying : collection of int
            Regions that are under way.
        """
        if self.plan.keep == "none":
            index = self._order.take(lambda _: False)
            return None if index is None else RegionTask(index)
        crowded = {near for region in flying for near in self._sharing.neighbours(region)}
        index = self._order.take(crowded.__contains__, LOOK_AHEAD * max(1, len(flying)))
        if index is None:
            return None
        self._to_come[index] = False
        near = list(self._sharing.neighbours(index))
        return RegionTask(
            index,
            earlier=tuple(n for n in near if self._ledger.states[n] == DONE or n in flying),
            later=tuple(n for n in near if self._to_come[n] and self._kept_between(index, n)),
        )

    def _kept_between(self, one: int, other: int) -> bool:
        """Return whether patches are kept from one region for another: without room for whole layers, only within a layer."""
        return self.plan.keep == "all" or self._sharing.layer(one) == self._sharing.layer(other)


def to_do(plan: Plan, ledger: Ledger) -> Iterator[int]:
    """Yield the regions that are asked for and not done; those that are set aside only where that is asked for, too."""
    aside = {index for index, record in ledger.failures.items() if record.error.get("code") == QUARANTINED}
    for index in plan.asked:
        if ledger.states[index] != DONE and (plan.job.retry_quarantined or index not in aside):
            yield index
