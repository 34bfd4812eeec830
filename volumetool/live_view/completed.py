"""What a job has stored already: regions that its ledger calls done, and all levels once it is complete."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry import Box
from volumetool.jobs.execution.finalize import is_marked_complete
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.ledger import DONE, Ledger
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.jobs.records.segments import segment_keys
from volumetool.jobs.records.volumes import open_written
from volumetool.live_view.cache import cached_context
from volumetool.live_view.levels import below
from volumetool.storage.voxels import read_voxels

REFRESH_SECONDS = 2.0
"""Seconds between two looks at the ledger of a job that another process runs."""


class CompletedRegions:
    """The stored part of a job's output.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    ledger : Ledger, optional
        Ledger of the process that runs the job; without it the one on disk is followed.
    """

    def __init__(self, plan: Plan, ledger: Ledger | None) -> None:
        self._plan = plan
        self._own = ledger is not None
        self._ledger = ledger or open_ledger(plan)
        self._keys = segment_keys(plan.job_dir.url)
        self._looked = time.monotonic()
        self.complete = is_marked_complete(plan)

    def refresh(self) -> None:
        """Look for regions that were finished since the last look; it reads files."""
        if time.monotonic() - self._looked < REFRESH_SECONDS:
            return
        self._looked = time.monotonic()
        if not self._own and (keys := segment_keys(self._plan.job_dir.url)) != self._keys:
            self._keys, self._ledger = keys, open_ledger(self._plan)
        self.complete = self.complete or (self._ledger.done == self._plan.grid.count and is_marked_complete(self._plan))

    def holds(self, level: int, channel: int, box: Box) -> bool:
        """Return whether every voxel of a box is stored and recorded.

        Parameters
        ----------
        level, channel : int
            Level of the output, and index on its c axis, from 0.
        box : Box
            Part of the level, in the level's voxels.
        """
        if self.complete:
            return True
        levels, grid = self._plan.spec.levels, self._plan.grid
        if not levels[level].fused:
            return False
        states = self._ledger.states
        first = channel // self._plan.spec.per_input * (grid.count // grid.channels)
        of_channel = range(first, first + grid.count // grid.channels)
        regions = grid.touching(below(levels, level, box))
        return all(states[index] == DONE for index in regions if index in of_channel)

    def read(self, level: int, channel: int, box: Box) -> NDArray[Any]:
        """Return stored voxels.

        Parameters
        ----------
        level, channel, box
            As for :meth:`holds`; the box is one for which it returned True.

        Returns
        -------
        numpy.ndarray, shape of the box
            Voxels (z, y, x) in the output's dtype.

        Raises
        ------
        DataError
            ``data.unreadable``: the store lost or damaged them; `volumetool verify` says where.
        """
        return read_voxels(self._open(level, channel), box, f"level {level} of the output:")

    @functools.cached_property
    def _open(self) -> Callable[[int, int], ts.TensorStore]:
        plan, context = self._plan, cached_context()
        return functools.cache(lambda level, channel: open_written(plan, level, channel, context))
