"""Running a plan: regions that are not in the ledger, on some worker, until none is left."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np
import tensorstore as ts

from volumetool.errors import DataError, FingerprintError, LedgerError, OutputError
from volumetool.events import Noted, Observer, RegionEnded, RunStarted, ignore
from volumetool.jobs.clusters import Cluster, open_cluster
from volumetool.jobs.clusters import plan as make_plan
from volumetool.jobs.execution.clean import delete_kept, sweep
from volumetool.jobs.execution.finalize import build_coarse_levels, finish, is_marked_complete, mark_incomplete
from volumetool.jobs.execution.input_check import check_input, check_there
from volumetool.jobs.execution.schedule import RegionQueue, to_do
from volumetool.jobs.job_dir import STATES, roles_of
from volumetool.jobs.part import begin_part, end_parts, free_part
from volumetool.jobs.plan import Plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records.attempts import discard_unfinished_on_exit
from volumetool.jobs.records.holder import current_holder
from volumetool.jobs.records.in_flight import InFlight
from volumetool.jobs.records.lease import Lease
from volumetool.jobs.records.ledger import DONE, TODO, Ledger, Record
from volumetool.jobs.records.parts import PartState, living_parts, own_job, part_states
from volumetool.jobs.records.plan_file import open_ledger, read_plan
from volumetool.jobs.records.shard_digests import note_unbuilt, read_unbuilt
from volumetool.jobs.verification.repair import check_whole
from volumetool.notification import notify
from volumetool.redaction import fact_table, redact
from volumetool.storage.io.kvstore import (
    join_url,
    kvstore_spec,
    limit_open_files,
    shared_context,
)
from volumetool.storage.io.retries import STORAGE
from volumetool.storage.io.roles import name_roles
from volumetool.storage.io.stores.traffic import limit_io

MAX_CONSECUTIVE_FAILURES = 16
"""Failed regions in a row that end a run: what fails so often is not a region's own trouble."""


@dataclass(frozen=True, repr=False)
class RunResult:
    """The result of a run.

    Attributes
    ----------
    plan : Plan
        The plan that was run.
    complete : bool
        Every voxel of the output is there.
    done, failed, regions : int
        Regions finished by now, failed, and in all.
    ran : int
        Regions that this run finished.
    failures : tuple of Record
        The failed regions.
    parts : tuple of PartState
        The parts that the job is cut into, where it is and is not complete.
    left : int
        Regions that were asked for, of a part or of a box, and are not done.
    """

    plan: Plan
    complete: bool
    done: int
    failed: int
    regions: int
    ran: int
    failures: tuple[Record, ...]
    parts: tuple[PartState, ...] = ()
    left: int = 0

    @property
    def output(self) -> str:
        """Path or URL of the output."""
        return self.plan.job.output

    @property
    def fingerprint(self) -> str:
        """The digest of all that decides the output's bytes."""
        return self.plan.fingerprint

    def __repr__(self) -> str:
        counts = f"{self.done} of {self.regions} regions done ({self.ran} now), {self.failed} failed"
        return f"<Outcome {'complete' if self.complete else 'unfinished'}: {counts}; {redact(self.plan.output)}>"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {"output": self.output, "state": "complete" if self.complete else "unfinished"}
        facts |= {"regions done": f"{self.done} of {self.regions}, {self.ran} by this run", "regions failed": self.failed}
        return fact_table("Run", facts)

    @property
    def exit_code(self) -> int:
        """0 where all that was asked for is there, a part or a box of the job, too; 3 where running again goes on."""
        if self.complete:
            return 0
        whole = self.plan.roi is None and self.plan.job.part is None
        return 3 if whole or self.left else 0


def run(plan: Plan, observer: Observer = ignore) -> RunResult:
    """Run the regions of a plan that its ledger does not call done, and tell whom the job names that the run ended.

    Parameters
    ----------
    plan : Plan
        From :func:`volumetool.plan`.
    observer : Observer, optional
        Told what happens: `Waiting`, `RunStarted`, `RegionEnded`, `Progressed` for the coarse levels, and `Noted` where whom
        the job names could not be told.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``: the plan's specification is not the one that its fingerprint names.
    LedgerError
        ``ledger.owned``: another run writes this job, or this part of it. ``ledger.parts``: it is being run in another number
        of parts. ``ledger.overtaken``: another one took it over during the run.
    DataError
        ``data.failing``: `MAX_CONSECUTIVE_FAILURES` regions in a row failed.
    """
    try:
        result = _run_job(plan, observer)
    except BaseException as error:
        tell(plan, observer, error)
        raise
    tell(plan, observer, result)
    return result


def _run_job(plan: Plan, observer: Observer) -> RunResult:
    if plan.fingerprint != plan.spec.fingerprint:  # another name would be on these bytes than their own
        raise FingerprintError(
            "job.fingerprint",
            f"the plan's specification was edited: its fingerprint is {plan.spec.fingerprint[:12]}, the plan says "
            f"{plan.fingerprint[:12]}",
            hint="regions, workers and the like may be edited; for other voxels plan a job with other options",
        )
    limit_io(plan.job.io_limit)  # of this process: it builds the coarse levels
    limit_open_files(plan.job.open_files)
    with name_roles(*roles_of(plan.job)):
        if plan.job.part is not None:
            return _run_any(plan, observer) if plan.part is None else _run_part(plan, observer)
        with own_job(plan.job_dir.url, observer) as claim:
            return _run(plan, observer, claim)


def _run(plan: Plan, observer: Observer, claim: Lease) -> RunResult:
    folder = plan.job_dir.url
    with discard_unfinished_on_exit(folder), ExitStack() as stack:
        begun = not plan.job.overwrite and read_plan(folder) is not None
        try:  # a job begins once its workers answer: a start that fails leaves nothing
            first = None if begun else stack.enter_context(open_cluster(plan))
        except BaseException:
            claim.withdraw()
            raise
        prepare(plan)
        sweep(folder, folder)
        ledger, ran = _go_on(plan, observer, claim, lambda: first or stack.enter_context(open_cluster(plan)))
    return _result(plan, ledger, ran, complete=finish_run(plan, ledger, observer))


def _run_any(plan: Plan, observer: Observer) -> RunResult:
    """Run the parts that nobody runs, one after the other, until there is none."""
    ran, tried = 0, set[int]()
    while (free := free_part(plan, tried, observer)) is not None:
        try:
            ran += _run_part(free, observer).ran
            tried |= set() if free.part is None else {free.part.number}
        except LedgerError as error:
            if error.code != "ledger.owned":
                raise  # else another driver was faster
    return _end_job(plan, ran, observer)


def _run_part(plan: Plan, observer: Observer) -> RunResult:
    """Run a part of a job, beside the drivers of other parts."""
    with ExitStack() as held, discard_unfinished_on_exit(plan.run_dir), ExitStack() as stack:
        begun = read_plan(plan.job_dir.url) is not None
        first = None if begun else stack.enter_context(open_cluster(plan))
        claim = begin_part(plan, observer)
        if claim is not None:
            held.callback(claim.release)
            _, ran = _go_on(plan, observer, claim, lambda: first or stack.enter_context(open_cluster(plan)))
    if claim is None:  # somebody else planned the job meanwhile
        return _run_job(make_plan(plan.job, observer), observer)
    return _end_job(plan, ran, observer)


def _end_job(plan: Plan, ran: int, observer: Observer) -> RunResult:
    """Finish the job of a part that has ended, if it is the last one."""
    whole, url = plan.whole, plan.job_dir.url
    ledger, complete, ended = open_ledger(whole), False, False
    while not ended and not (ledger.states[np.asarray(whole.asked, np.int64)] == TODO).any():
        with end_parts(whole, observer) as alone:
            if alone:
                ledger = open_ledger(whole)
                ledger.begin()
                ledger.compact()
                write_maps(whole, ledger)
                complete = finish_run(whole, ledger, observer)
        # A driver that ended while this one looked left the job to it: so it looks again, unless another one is there.
        ended = alone or bool(living_parts(url)) or current_holder(url) is not None
    return _result(plan, ledger, ran, complete=complete)


def _result(plan: Plan, ledger: Ledger, ran: int, *, complete: bool) -> RunResult:
    asked = frozenset(() if plan.part is None else plan.asked)
    return RunResult(
        plan=plan,
        complete=complete,
        done=ledger.done,
        failed=len(ledger.failures),
        regions=plan.grid.count,
        ran=ran,
        failures=tuple(ledger.failures[index] for index in sorted(ledger.failures) if plan.part is None or index in asked),
        parts=() if complete else tuple(part_states(plan, ledger)),
        left=int(np.count_nonzero(ledger.states[np.asarray(plan.asked, np.int64)] != DONE)),
    )


def _go_on(plan: Plan, observer: Observer, claim: Lease, cluster: Callable[[], Cluster]) -> tuple[Ledger, int]:
    """Run what is to do; return the ledger, and how many regions were finished."""
    ledger = open_ledger(plan)
    ledger.begin()
    ledger.compact()
    check_input(plan, ledger, observer)
    before = ledger.done
    try:
        if next(to_do(plan, ledger), None) is not None:
            _run_regions(plan, ledger, observer, claim, cluster())
    finally:
        ledger.flush()
        if plan.part is None:
            write_maps(plan, ledger)
    with suppress(OutputError):  # what cannot be deleted is asked for again at the end of the next run, and by `clean`
        delete_kept(plan)
    return ledger, ledger.done - before


def _run_regions(plan: Plan, ledger: Ledger, observer: Observer, claim: Lease, cluster: Cluster) -> None:
    noted = False
    if is_marked_complete(plan):  # regions that failed before, or were found damaged
        mark_incomplete(plan)
    with InFlight(plan.job_dir.url) as in_flight:
        turns = RegionQueue(plan, ledger, in_flight.began)
        observer(RunStarted(turns.count, plan.grid.count, cluster.link))
        began, voxels = time.monotonic(), 0
        for ended, record in enumerate(_stop_when_failing(cluster.records(turns), plan), start=1):
            claim.check()
            if record.state == "done" and not noted:
                note_unbuilt(plan)
                noted = True
            ledger.append(record)
            in_flight.ended(record.region)
            voxels += 0 if record.error else plan.grid.region(record.region).box.voxels
            counts = ended, turns.count, voxels, time.monotonic() - began
            observer(RegionEnded(record.region, record.error, record.worker, record.seconds, *counts))


def _stop_when_failing(records: Iterator[Record], plan: Plan) -> Iterator[Record]:
    """Yield records until too many regions in a row have failed.

    Raises
    ------
    InputError
        ``input.vanished``: the input is gone, and no other region would fare better.
    DataError
        ``data.failing``.
    """
    failed = 0
    for record in records:
        failed = failed + 1 if record.state == "failed" else 0
        yield record
        if record.error.get("code") == "input.vanished":
            check_there(plan)
        if failed >= MAX_CONSECUTIVE_FAILURES and not plan.job.accept_failed:
            raise DataError(
                "data.failing",
                f"{failed} regions in a row failed, the last one with: {record.error.get('message', 'no message')}",
                hint=record.error.get("hint", "see `volumetool status` for each of them; what was finished is kept"),
                where=plan.output,
            )


def finish_run(plan: Plan, ledger: Ledger, observer: Observer) -> bool:
    """Write the coarse levels over what was computed, by this run or by earlier ones that were killed before they had.

    What is recorded must be stored, before the levels are built and after: only then is the volume called complete.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    ledger : Ledger
        Records of the job.
    observer : Observer
        Told by `Progressed` of each shard of the coarse levels.

    Returns
    -------
    bool
        Whether every voxel of the output is there.

    Raises
    ------
    LedgerError
        ``ledger.lost``.
    OutputError
        ``output.damaged``.
    """
    if not check_whole(plan, ledger):
        return False
    complete = _finished_volume(plan, ledger)
    unbuilt = read_unbuilt(plan)
    if is_marked_complete(plan) if complete else unbuilt is None:
        return complete
    within = None if complete else unbuilt
    build_coarse_levels(plan, within, observer)
    if complete and not check_whole(plan, ledger):
        return False
    return finish(plan, ledger)


def _finished_volume(plan: Plan, ledger: Ledger) -> bool:
    left = plan.grid.count - ledger.done
    return left == 0 or (plan.job.accept_failed and left == len(ledger.failures))


def write_maps(plan: Plan, ledger: Ledger) -> None:
    """Write the states of all regions as a small array on the region grid, for views; the ledger stays the truth.

    Where the storage refuses it the map of an earlier run stays, or none: nothing is raised.
    """
    states = np.asarray(ledger.states).reshape(plan.grid.channels, *plan.grid.grid)
    spec = {"driver": "zarr3", "kvstore": kvstore_spec(join_url(plan.job_dir.url, STATES))}

    def write(_: int) -> None:
        pools = shared_context()
        array = ts.open(spec, create=True, delete_existing=True, dtype="uint8", shape=states.shape, context=pools).result()
        array.write(states).result()

    # A run whose store fails says so by its ledger; this map is nobody's loss.
    with suppress(ValueError, OSError):
        STORAGE.call(write, patient=False)


def tell(plan: Plan, observer: Observer, ended: RunResult | BaseException) -> None:
    """Tell whom a job names that its run has ended.

    Parameters
    ----------
    plan : Plan
        The job's plan.
    observer : Observer
        Told by `Noted` where that was not possible.
    ended : RunResult or BaseException
        How it ended; what is no `Exception` interrupted it.
    """
    if plan.job.notify is None:
        return
    record: dict[str, object] = {
        "kind": "run",
        "output": plan.output,
        "fingerprint": plan.fingerprint,
        "regions": plan.grid.count,
    }
    record |= {"host": socket.gethostname(), "time": time.time()}
    if isinstance(ended, RunResult):
        counts = {name: getattr(ended, name) for name in ("done", "failed", "ran", "complete")}
        record |= {"state": "complete" if ended.complete else "failed" if ended.exit_code else "part done", **counts}
    else:
        error = {"code": getattr(ended, "code", type(ended).__name__), "message": getattr(ended, "message", str(ended))}
        record |= {"state": "failed" if isinstance(ended, Exception) else "interrupted", "complete": False, "error": error}
    if (why := notify(plan.job.notify, record)) is not None:
        observer(Noted(f"warning: {why}"))
