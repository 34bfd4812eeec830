"""The driver of a part of a job: how it begins beside those of other parts, and how the last one ends the job.

The first one writes the plan and creates the output; the others take the plan up. See `volumetool.jobs.records.parts`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager

import numpy as np

from volumetool.errors import ConfigError, LedgerError
from volumetool.events import Observer, ignore
from volumetool.jobs.execution.clean import sweep
from volumetool.jobs.execution.schedule import to_do
from volumetool.jobs.plan import Plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records.holder import current_holder
from volumetool.jobs.records.lease import Lease, await_free, own, take
from volumetool.jobs.records.ledger import TODO
from volumetool.jobs.records.parts import join_parts, living_parts, part_dir, plan_of_part
from volumetool.jobs.records.plan_file import open_ledger, read_plan
from volumetool.jobs.records.segments import PartCut, read_cut, write_cut
from volumetool.jobs.verification.layout_check import lost_metadata

ENDS = "finishes the job"
"""For what the driver of the last part owns the job."""


def begin_part(plan: Plan, observer: Observer = ignore) -> Lease | None:
    """Become the driver of a part.

    Parameters
    ----------
    plan : Plan
        A plan of the part.
    observer : Observer, optional
        Told why it takes a while.

    Returns
    -------
    Lease or None
        None where the job has another plan by now, because somebody else planned it meanwhile.

    Raises
    ------
    LedgerError
        ``ledger.owned``: another driver runs this part, or all of the job. ``ledger.parts``: the job is being run in another
        number of parts.
    """
    asked = PartCut(plan.part.count if plan.part else 1, plan.job.roi if plan.roi is not None else None)
    try:
        return _begin(plan, asked, observer)
    except LedgerError as error:
        stored = read_cut(plan.job_dir.url)
        if error.code != "ledger.owned" or stored in (None, asked):
            raise
        raise LedgerError(
            "ledger.parts",
            f"{plan.job_dir.url} is being run as {stored}, and this is part {plan.part} of {asked}: {error.message}",
            hint="start the parts as they were begun; once none is being run, the job can be cut otherwise",
            where=plan.job_dir.url,
        ) from error


def _begin(plan: Plan, asked: PartCut, observer: Observer) -> Lease | None:
    url = plan.job_dir.url
    while True:  # again where another driver was faster
        free = await_free(plan.run_dir, observer)
        with own(url, observer, f"begins part {plan.part}") as job:
            stored = read_plan(url)
            other = stored is not None and stored.identity != plan.identity
            if stored is not None and other and (open_ledger(stored).done or living_parts(url)):
                return None
            if other or read_cut(url) != asked or lost_metadata(plan):
                join_parts(url, observer)
            prepare(plan)
            sweep(url, url)
            write_cut(url, asked)
            claim = take(plan.run_dir, *free, doing=f"part {plan.part}")
            if claim is None:
                continue
            job.beat()
            if job.lost:  # this process stood still, and the job may belong to somebody else
                claim.release()
            job.check()
            claim.start()
            return claim


@contextmanager
def end_parts(plan: Plan, observer: Observer = ignore) -> Iterator[bool]:
    """Own the whole job, to finish it, after the last of its parts; yield whether that may be.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    observer : Observer, optional
        Told why it takes a while.

    Yields
    ------
    bool
        False where another part is being run, whose driver will end the job, or where another driver is about to.
    """
    url = plan.job_dir.url
    ending = current_holder(url)
    if ending is not None and ending.doing == ENDS:
        yield False
        return
    with own(url, observer, ENDS):
        try:
            join_parts(url, observer)
        except LedgerError as error:
            if error.code != "ledger.owned":
                raise
            alone = False
        else:
            alone = True
        yield alone


def free_part(plan: Plan, tried: Collection[int], observer: Observer = ignore) -> Plan | None:
    """Return a job's plan for a part that has regions to do and no driver, None where there is none.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    tried : collection of int
        Parts that are left out, because this driver ran them: what they have to do has failed.
    observer : Observer, optional
        Told which owners are watched, to see whether they live.

    Raises
    ------
    ConfigError
        ``config.option``: the job has regions to do, and nothing says into how many parts it is cut.
    """
    url = plan.job_dir.url
    cut = read_cut(url)
    ledger = open_ledger(plan.whole)
    if cut is None:
        if current_holder(url) is not None or not (ledger.states == TODO).any():  # joined meanwhile
            return None
        raise ConfigError(
            "config.option",
            f"--part {plan.job.part}, but no part of {plan.output} was begun: nothing says into how many parts it is cut",
            hint="start one by its number, such as --part 0/4",
        )
    parts = [plan_of_part(plan, cut, number) for number in range(cut.count)]
    left = {number: part for number, part in enumerate(parts) if next(to_do(part, ledger), None) is not None}
    left = {number: part for number, part in left.items() if number not in tried}
    living = living_parts(url)
    if free := [part for number, part in left.items() if number not in living]:
        # Parts of which nothing is left but what has failed come last.
        return min(free, key=lambda part: TODO not in ledger.states[np.asarray(part.asked, np.int64)])
    with ThreadPoolExecutor(max(1, len(left)), "volumetool-parts") as pool:
        looks = {pool.submit(await_free, part_dir(url, number), observer): part for number, part in left.items()}
        for look in as_completed(looks):
            error = look.exception()
            if error is None:
                return looks[look]
            if not (isinstance(error, LedgerError) and error.code == "ledger.owned"):
                raise error
    return None
