"""Repair: what is found damaged is marked, so that the next run makes it again, and nothing else."""

from __future__ import annotations

from contextlib import suppress

from volumetool.errors import InputError, OutputError
from volumetool.events import Observer, ignore
from volumetool.jobs.execution.finalize import is_marked_complete, mark_incomplete
from volumetool.jobs.job_dir import PLAN, roles_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.holder import gone
from volumetool.jobs.records.ledger import Ledger, Record
from volumetool.jobs.records.parts import own_job
from volumetool.jobs.records.plan_file import check_output, keep_table, open_ledger, read_plan
from volumetool.jobs.verification.layout_check import DamageKind, restore_metadata
from volumetool.jobs.verification.verify import Extent, Report, verify
from volumetool.storage.io.kvstore import delete_key, parent_url
from volumetool.storage.io.roles import name_roles


def mark_for_recompute(plan: Plan, report: Report, observer: Observer = ignore) -> int:
    """Mark damaged regions as failed, so that the next run makes them and the coarse levels again; return how many.

    Metadata are written again from the plan, and files that are no shards are deleted.

    Parameters
    ----------
    plan : Plan
        The job's stored plan.
    report : Report
        Findings of a verification.
    observer : Observer, optional
        Told by `Waiting` of a run that may write this job still.

    Raises
    ------
    LedgerError
        ``ledger.owned``: a run writes this job.
    """
    with name_roles(*roles_of(plan.job)), own_job(plan.job_dir.url, observer):
        # First: a volume that is known to be damaged calls itself complete at no moment.
        if report.damaged:
            with suppress(InputError):  # one that has lost its metadata calls itself nothing
                mark_incomplete(plan)
        ledger = open_ledger(plan)
        ledger.begin()
        marked = _mark_regions(ledger, report)
        ledger.compact()
        for damage in report.damaged:
            if damage.kind is DamageKind.STRANGER:
                delete_key(*parent_url(damage.place))
        # Last: with its metadata, a volume is gone on with as its records say.
        if any(damage.kind is DamageKind.METADATA for damage in report.damaged):
            restore_metadata(plan)
            mark_incomplete(plan)
    return marked


def check_whole(plan: Plan, ledger: Ledger) -> bool:
    """Look whether all that a job recorded is still stored, without reading it, and mark what is not for the next run.

    To be called by the job's owner. A region that has lost a shard, or whose shard has another size, is recorded as failed;
    where a shard of a coarse level is lost, the volume calls itself unfinished.

    Returns
    -------
    bool
        Whether every region that was done still is.

    Raises
    ------
    LedgerError
        ``ledger.lost``: the plan or records are gone, or another job's; ``ledger.sections``: the table of statistics;
        ``ledger.other-output``: the output is another job's.
    OutputError
        ``output.damaged``: metadata of the output are not what was written.
    """
    folder = plan.job_dir.url
    ledger.flush()
    stored = read_plan(folder)
    if stored is None or (stored.fingerprint, stored.grid) != (plan.fingerprint, plan.grid):
        raise gone(folder, f"{PLAN} is {'missing' if stored is None else 'that of another job'}")
    check_output(plan)
    keep_table(plan)
    report = verify(plan, Extent("structure"))
    if report.regions != ledger.done:
        raise gone(folder, f"it holds records of {report.regions} finished regions, but {ledger.done} were finished")
    if metadata := [damage.place for damage in report.damaged if damage.kind is DamageKind.METADATA]:
        raise OutputError(
            "output.damaged",
            f"deleted or changed by somebody else since this job wrote it: {', '.join(metadata)}",
            hint=f"`volumetool verify {plan.output} --repair` writes that anew and marks what else is lost; then the same "
            "command goes on",
            where=plan.output,
        )
    if any(damage.is_remade for damage in report.damaged) and is_marked_complete(plan):
        mark_incomplete(plan)
    return not _mark_regions(ledger, report)


def _mark_regions(ledger: Ledger, report: Report) -> int:
    """Record damaged regions as failed; return how many."""
    remade = [damage for damage in reversed(report.damaged) if damage.is_remade]
    damaged = {damage.region: damage for damage in remade if damage.region is not None}
    for index, damage in sorted(damaged.items()):
        message = f"stored bytes are not those that were written: {damage.place or damage.box or ''} {damage.detail}"
        hint = "it was deleted or changed after it was written; the next run makes the region again"
        ledger.append(Record(region=index, state="failed", error={"code": "data.damaged", "message": message, "hint": hint}))
    ledger.flush()
    return len(damaged)
