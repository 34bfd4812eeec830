"""Opening a live volume: its parts put together, without any server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from volumetool.errors import LedgerError
from volumetool.geometry import Box
from volumetool.jobs.clusters import cluster_module
from volumetool.jobs.execution.input_check import check_input
from volumetool.jobs.execution.worker import Worker
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records.ledger import Ledger
from volumetool.jobs.records.parts import own_job
from volumetool.jobs.records.plan_file import open_ledger
from volumetool.live_view.background import BackgroundFill
from volumetool.live_view.completed import CompletedRegions
from volumetool.live_view.levels import computed_levels, input_levels, stored_levels
from volumetool.live_view.lookahead import Lookahead
from volumetool.live_view.metadata import LiveLayout
from volumetool.live_view.patch_scheduler import PatchScheduler
from volumetool.live_view.patches import PatchMaker
from volumetool.live_view.reader import JobSoFar, LiveVoxels
from volumetool.live_view.source import LiveSource, basis_of_job, basis_of_worker
from volumetool.live_view.volume import Levels, LiveVolume
from volumetool.machine import usable_memory

PATCH_SHARE, MOST_PATCHES = 0.25, 2**31
"""Share of the memory that patches are kept in, and the most bytes that are worth keeping."""

STEPS_AHEAD = 4
"""Sections to compute ahead of somebody who scrolls."""


@dataclass(frozen=True)
class Opened:
    """A live volume, ready to answer.

    Attributes
    ----------
    keys : LiveVolume
        Answers for its keys.
    desk : PatchScheduler
        Decides which patches are made next.
    basis : LiveSource
        Everything that decides the voxels.
    layout : LiveLayout
        Dtype, channels and levels.
    notes : tuple of str
        Warnings for the user.
    voxels : LiveVoxels
        Gives the voxels themselves.
    """

    keys: LiveVolume
    desk: PatchScheduler
    basis: LiveSource
    layout: LiveLayout
    notes: tuple[str, ...]
    voxels: LiveVoxels

    def read(self, box: Box, channel: int = 0) -> NDArray[Any]:
        """Return voxels of the finest level (z, y, x) as the job writes them.

        Parameters
        ----------
        box : Box
            In voxels of the output.
        channel : int
            Index on its c axis.

        Raises
        ------
        VolumetoolError
            Why they cannot be computed.
        """
        return asyncio.run(self.voxels.read(self.layout.levels[0], channel, box))


@contextmanager
def open_live(job: Job, *, into: bool = False, ahead: int = STEPS_AHEAD) -> Iterator[Opened]:
    """Open a live volume while the block runs.

    Parameters
    ----------
    job : Job
        Job that describes the volume. Without `into` its output is not looked at.
    into : bool
        Fill the job's output: its finished regions are read, and others run while nobody looks. Where another process
        writes it, finished regions are read, and none is written.
    ahead : int
        Sections to compute ahead of somebody who scrolls.

    Raises
    ------
    VolumetoolError
        As :func:`volumetool.plan`; ``numerics.other-class`` where this machine computes other bytes than the job began with.
    """
    cluster_module(job.cluster)
    with ExitStack() as stack:
        worker, ledger = None, None
        if into:
            worker, ledger, notes = _take_up(job, stack)
            basis = basis_of_worker(worker)
        else:
            basis, notes = basis_of_job(job)
        maker, room = PatchMaker(basis.spec, basis.engine, basis.source_of, basis.stored, basis.steps), _room(job)
        desk = PatchScheduler(maker, room)
        so_far = None if worker is None else _join(worker, ledger, desk, stack)
        stack.callback(desk.close)
        lookahead = Lookahead(basis.spec.lattice, ahead, room // (2 * _patch_bytes(basis)))
        voxels = LiveVoxels(maker, desk, lookahead, basis.input_of, so_far)
        stack.callback(voxels.close)
        levels = _levels(basis)
        layout = LiveLayout(basis.spec.dtype, basis.spec.channels, basis.spec.fill, levels.computed + levels.stand_in)
        yield Opened(LiveVolume(levels, layout, basis.provenance, voxels), desk, basis, layout, notes, voxels)


def _take_up(job: Job, stack: ExitStack) -> tuple[Worker, Ledger | None, tuple[str, ...]]:
    """Begin the job or go on with it; without a ledger where it may only be looked at."""
    folder = JobDir(job.output).url
    decided = plan(job)
    notes = decided.notes
    try:
        stack.enter_context(own_job(folder))
    except LedgerError as error:
        if error.code != "ledger.owned":
            raise
        return Worker(decided), None, (*notes, f"{error.message}: finished regions are shown, none is written from here")
    prepare(decided)
    ledger = open_ledger(decided)
    ledger.begin()
    check_input(decided, ledger)
    return Worker(decided), ledger, notes


def _join(worker: Worker, ledger: Ledger | None, desk: PatchScheduler, stack: ExitStack) -> JobSoFar:
    finished = CompletedRegions(worker.plan, ledger)
    if ledger is None:
        return JobSoFar(finished, _nobody_minds)
    filling = BackgroundFill(worker, ledger, desk)
    filling.start()
    stack.callback(filling.close)
    return JobSoFar(finished, filling.looked_at)


def _nobody_minds(channel: int, box: Box) -> None:
    """Ignore what somebody looks at, because no regions are run."""


def _room(job: Job) -> int:
    return min(MOST_PATCHES, int(PATCH_SHARE * (job.memory or usable_memory())))


def _patch_bytes(basis: LiveSource) -> int:
    lattice = basis.spec.lattice
    return 4 * math.prod(lattice.patch) * math.prod(lattice.scale) * (basis.spec.predicted or 1)


def _levels(basis: LiveSource) -> Levels:
    computed = computed_levels(basis.spec, basis.voxel_size, basis.chunk)
    # Of several channels none but the first could be the input's, whose levels may also be finer than a smaller output.
    alike = (not basis.spec.outputs or bool(basis.spec.trust)) and max(basis.spec.lattice.shrink) == 1
    stand_in = input_levels(basis.volume, basis.job.level) if alike else ()
    return Levels(computed, stand_in, stored_levels(basis.spec, len(computed)))
