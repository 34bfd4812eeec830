"""Status: how far a job is, from its folder alone."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Any

from volumetool.jobs.folder import job_url, open_ledger
from volumetool.jobs.job import Job
from volumetool.jobs.ownership import current_owner
from volumetool.jobs.plan import Plan
from volumetool.store.open import open_volume


@dataclass(frozen=True)
class Status:
    """Where a job stands.

    Attributes
    ----------
    state : {"complete", "unfinished"}
        As the volume's own attributes say.
    done, failed, regions : int
        Regions finished, failed, in all.
    patches, recomputed, skipped : int
        Sums over finished regions.
    seconds, network_seconds : float
        Sums over finished regions, of all workers.
    idle_seconds : float, optional
        Since the last region ended; None before the first.
    owner : str, optional
        The run that writes the job, and where; None where nobody is known to.
    absent : int
        Input chunks that were not stored and counted as the job says (``--missing``), once for every finished region that read
        them.
    failures : list of dict
        Region, box and error of each failed one.
    next_command : str
        What to type next.
    """

    state: str
    done: int
    failed: int
    regions: int
    patches: int
    recomputed: int
    skipped: int
    seconds: float
    network_seconds: float
    idle_seconds: float | None
    owner: str | None
    absent: int
    failures: list[dict[str, Any]]
    next_command: str


def job_status(plan: Plan) -> Status:
    """Return where the job of a stored plan stands."""
    ledger = open_ledger(plan)
    totals = ledger.totals()
    owner = current_owner(job_url(plan.job.output))
    state = str(open_volume(plan.job.output).attributes.get("status", "unfinished"))
    failures = [
        {"region": index, "box": str(plan.grid.region(index).box), **record.error}
        for index, record in sorted(ledger.failures.items())
    ]
    return Status(
        state=state,
        done=ledger.done,
        failed=len(ledger.failures),
        regions=plan.grid.count,
        patches=totals.patches,
        recomputed=totals.recomputed,
        skipped=totals.skipped,
        seconds=totals.seconds,
        network_seconds=totals.network_seconds,
        idle_seconds=time.time() - ledger.last_finished if ledger.last_finished else None,
        owner=None if owner is None else owner.identity,
        absent=totals.absent,
        failures=failures,
        next_command=f"volumetool verify {plan.job.output}" if state == "complete" else resume_command(plan.job),
    )


ONCE = ("overwrite", "retry_quarantined", "recompute_changed")
"""Fields of a job that were meant for the run that was given them, and not for the next."""


def resume_command(job: Job) -> str:
    """Return the command that goes on with a job: with every option that it was begun with, over the whole of it."""
    words = ["volumetool", "enhance", job.input, job.output]
    given = job.model_dump(mode="json", exclude_defaults=True, exclude={"input", "output", "roi", *ONCE})
    for name, value in given.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        words.append(f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={text}")
    if job.crop and job.roi is not None:
        words.append(f"--roi={job.roi}")
    return shlex.join(words)
