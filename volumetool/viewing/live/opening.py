"""Opening a live volume: its parts put together, without any server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from volumetool.errors import LedgerError
from volumetool.geometry import Box
from volumetool.jobs.changed import check_input
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.ledger import Ledger
from volumetool.jobs.ownership import own
from volumetool.jobs.plan_file import open_ledger
from volumetool.jobs.planning import plan
from volumetool.jobs.run import prepare
from volumetool.jobs.worker import Worker
from volumetool.machine import usable_memory
from volumetool.viewing.live.basis import Basis, basis_of_job, basis_of_worker
from volumetool.viewing.live.desk import Desk
from volumetool.viewing.live.filling import Filling
from volumetool.viewing.live.finished import Finished
from volumetool.viewing.live.levels import computed_levels, input_levels, stored_levels
from volumetool.viewing.live.lookahead import Lookahead
from volumetool.viewing.live.metadata import LiveLayout
from volumetool.viewing.live.patches import PatchMaker
from volumetool.viewing.live.volume import Levels, LiveVolume
from volumetool.viewing.live.voxels import JobSoFar, LiveVoxels

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
    desk : Desk
        Has its patches made.
    basis : Basis
        What it is made from.
    layout : LiveLayout
        Dtype, channels and levels.
    notes : tuple of str
        Warnings for the user.
    """

    keys: LiveVolume
    desk: Desk
    basis: Basis
    layout: LiveLayout
    notes: tuple[str, ...]


@contextmanager
def open_live(job: Job, *, into: bool = False, ahead: int = STEPS_AHEAD) -> Iterator[Opened]:
    """Open a live volume while the block runs.

    Parameters
    ----------
    job : Job
        What is asked for. Without `into` its output is not looked at.
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
    with ExitStack() as stack:
        worker, ledger = None, None
        if into:
            worker, ledger, notes = _take_up(job, stack)
            basis = basis_of_worker(worker)
        else:
            basis, notes = basis_of_job(job)
        maker, room = PatchMaker(basis.spec, basis.engine, basis.source_of, basis.stored), _room(job)
        desk = Desk(maker, room)
        so_far = None if worker is None else _join(worker, ledger, desk, stack)
        stack.callback(desk.close)
        lookahead = Lookahead(basis.spec.lattice, ahead, room // (2 * _patch_bytes(basis)))
        voxels = LiveVoxels(maker, desk, lookahead, basis.input_of, so_far)
        stack.callback(voxels.close)
        levels = _levels(basis)
        layout = LiveLayout(basis.spec.dtype, basis.spec.channels, basis.spec.fill, levels.computed + levels.stand_in)
        yield Opened(LiveVolume(levels, layout, basis.provenance, voxels), desk, basis, layout, notes)


def _take_up(job: Job, stack: ExitStack) -> tuple[Worker, Ledger | None, tuple[str, ...]]:
    """Begin the job or go on with it; without a ledger where it may only be looked at."""
    folder = JobDir(job.output).url
    decided = plan(job)
    notes = decided.notes
    try:
        stack.enter_context(own(folder))
    except LedgerError as error:
        if error.code != "ledger.owned":
            raise
        return Worker(decided), None, (*notes, f"{error.message}: finished regions are shown, none is written from here")
    prepare(decided)
    ledger = open_ledger(decided)
    ledger.begin()
    check_input(decided, ledger)
    return Worker(decided), ledger, notes


def _join(worker: Worker, ledger: Ledger | None, desk: Desk, stack: ExitStack) -> JobSoFar:
    finished = Finished(worker.plan, ledger)
    if ledger is None:
        return JobSoFar(finished, _nobody_minds)
    filling = Filling(worker, ledger, desk)
    filling.start()
    stack.callback(filling.close)
    return JobSoFar(finished, filling.looked_at)


def _nobody_minds(channel: int, box: Box) -> None:
    """Take in what is looked at where no region is run."""


def _room(job: Job) -> int:
    return min(MOST_PATCHES, int(PATCH_SHARE * (job.memory or usable_memory())))


def _patch_bytes(basis: Basis) -> int:
    lattice = basis.spec.lattice
    return 4 * math.prod(lattice.patch) * math.prod(lattice.scale)


def _levels(basis: Basis) -> Levels:
    computed = computed_levels(basis.spec, basis.voxel_size, basis.chunk)
    stand_in = input_levels(basis.volume, basis.job.level)
    return Levels(computed, stand_in, stored_levels(basis.spec, len(computed)))
