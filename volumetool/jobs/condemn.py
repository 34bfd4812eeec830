"""Condemning: what verification found damaged is marked, so that the next run makes it again, and nothing else."""

from __future__ import annotations

from contextlib import suppress

from volumetool.errors import InputError
from volumetool.jobs.finish import mark_unfinished
from volumetool.jobs.folder import job_url, open_ledger
from volumetool.jobs.ledger import Record
from volumetool.jobs.ownership import own
from volumetool.jobs.plan import Plan
from volumetool.jobs.structure import STRANGER, restore_metadata
from volumetool.jobs.verify import Report
from volumetool.store.kvstore import delete_key, parent_url


def condemn(plan: Plan, report: Report) -> int:
    """Mark damaged regions as failed, so that the next run makes them and the coarse levels again; return how many.

    Metadata are written anew from the plan, and files that are no shards are deleted.

    Raises
    ------
    LedgerError
        ``ledger.owned``: a run writes this job.
    """
    regions = sorted({int(entry["region"]) for entry in report.damaged if "region" in entry})
    error = {"code": "data.damaged", "message": "stored bytes are not those that were written"}
    with own(job_url(plan.job.output)):
        # First: a volume that is known to be damaged calls itself complete at no moment.
        if report.damaged:
            with suppress(InputError):  # one that has lost its metadata calls itself nothing
                mark_unfinished(plan)
        ledger = open_ledger(plan)
        ledger.begin()
        for index in regions:
            ledger.append(Record(region=index, state="failed", error=error))
        ledger.flush()
        ledger.compact()
        for entry in report.damaged:
            if entry["what"] == STRANGER:
                folder, name = parent_url(entry["shard"])
                delete_key(folder, name)
        # Last: with its metadata, a volume is gone on with as its records say.
        if any("metadata" in entry for entry in report.damaged):
            restore_metadata(plan)
            mark_unfinished(plan)
    return len(regions)
