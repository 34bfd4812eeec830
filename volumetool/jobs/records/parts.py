"""The parts of a job: which are being run, and how the job becomes one again.

A part is claimed by who owns the job at that moment, and the job belongs to the driver of a part only while that begins and
ends. So a run of the whole job, which keeps the job to itself, finds every part that is being run, and no part can begin
beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from volumetool.events import Observer, ignore
from volumetool.jobs.job import Part
from volumetool.jobs.job_dir import PARTS, PATCHES
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.holder import Holder, current_holder
from volumetool.jobs.records.lease import Lease, acquire, confirm, own
from volumetool.jobs.records.ledger import DONE, FAILED, Ledger
from volumetool.jobs.records.segments import PartCut, merge_parts, read_cut
from volumetool.storage.io.kvstore import delete_prefix, join_url

THREADS = 16
"""Owners that are watched at the same time, for the time of a lease each."""


@dataclass(frozen=True)
class PartState:
    """How far a part of a job is.

    Attributes
    ----------
    part : str
        Its name, such as ``2/4``.
    done, failed, regions : int
        Regions finished, failed, in all.
    owner : str, optional
        The run that writes it, and where; None if no run is known to.
    """

    part: str
    done: int
    failed: int
    regions: int
    owner: str | None

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        run = f"run by {self.owner}" if self.owner else "run by nobody"
        return f"{self.part}: {self.done} of {self.regions} regions done{failed}; {run}"


@contextmanager
def own_job(url: str, observer: Observer = ignore) -> Iterator[Lease]:
    """Own a whole job for as long as the context lasts: no part of it is run, and all its records are in its own ledger.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    observer : Observer, optional
        Told why it takes a while.

    Raises
    ------
    LedgerError, OutputError
        As :func:`volumetool.jobs.records.lease.own`; ``ledger.owned``, too, where a part is being run.
    """
    with own(url, observer) as claim:
        join_parts(url, observer)
        yield claim


def join_parts(url: str, observer: Observer = ignore) -> None:
    """Make a job one again that is cut into parts; to be called by its owner.

    Raises
    ------
    LedgerError
        ``ledger.owned``: a part of it is being run.
    """
    cut = read_cut(url)
    if cut is None:
        return
    with ThreadPoolExecutor(THREADS, "volumetool-parts") as pool:
        list(pool.map(lambda part: acquire(part_dir(url, part), observer).release(), living_parts(url)))
    for part in range(cut.count):
        confirm(url)
        delete_prefix(join_url(part_dir(url, part), PATCHES))
    merge_parts(url)


def part_dir(url: str, part: int) -> str:
    """Return the folder of a part, in the job's folder."""
    return join_url(url, PARTS, str(part))


def living_parts(url: str) -> dict[int, Holder]:
    """Return the parts that have an owner, who may have died without notice."""
    cut = read_cut(url)
    holders = {part: current_holder(part_dir(url, part)) for part in range(cut.count if cut else 0)}
    return {part: holder for part, holder in holders.items() if holder is not None}


def part_states(plan: Plan, ledger: Ledger) -> list[PartState]:
    """Return how far each part of a job is, none where it is not cut into parts."""
    cut = read_cut(plan.job_dir.url)
    if cut is None:
        return []
    living = living_parts(plan.job_dir.url)
    found = []
    for number in range(cut.count):
        one = plan_of_part(plan, cut, number)
        states = ledger.states[np.asarray(one.asked, np.int64)]
        done, failed = (int(np.count_nonzero(states == state)) for state in (DONE, FAILED))
        owner = living[number].identity if number in living else None
        found.append(PartState(str(one.part), done, failed, len(states), owner))
    return found


def plan_of_part(plan: Plan, cut: PartCut, number: int) -> Plan:
    """Return a job's plan for one of its parts.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    cut : PartCut
        How it is cut into parts.
    number : int
        Of the part, from 0.
    """
    asked = {"part": str(Part(number, cut.count))} | ({} if plan.job.crop else {"roi": cut.box})
    return plan.model_copy(update={"job": plan.job.model_copy(update=asked)})
