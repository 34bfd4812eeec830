"""The functions that users call to look at a job that is stored: `verify`, `status`, `clean`, with options by name."""

from __future__ import annotations

import os
from typing import Any

from volumetool.configuration import Natural, Options, Place, with_options
from volumetool.errors import ConfigError
from volumetool.events import Observer, ignore
from volumetool.jobs.execution.clean import Cleaned, clean_output
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.plan_file import stored_plan
from volumetool.jobs.status import Status, job_status
from volumetool.jobs.verification.repair import mark_for_recompute
from volumetool.jobs.verification.verify import Depth, Report, make_extent, verify_output
from volumetool.jobs.verification.verify import verify as verify_plan
from volumetool.paths import place_text


class Verification(Options):
    """How an output is verified: the options of ``volumetool verify`` and of `volumetool.verify`.

    Parameters
    ----------
    depth : {"structure", "stored", "full"}
        Metadata, records, and which shards are there; their bytes, too; their voxels, too.
    sample : str, optional
        Read one of T parts, such as ``"2/7"``, or a share, such as ``"5%"``; all without it.
    recompute : int
        Regions to compute again and to compare bit for bit.
    seed : int, optional
        Chooses these regions.
    adopt : bool
        The job's folder is lost: make a new one, from what is stored and right.
    source : str or path, optional
        With `adopt`: where the input is now, if it was moved.
    statistics : str or path, optional
        With `adopt`: the table of section statistics that the job was given.
    allow_host : tuple of str
        Hosts that the plan may name although they are not public.
    repair : bool
        Mark what is damaged, so that `enhance` makes it again.
    """

    told_by = "`volumetool verify --help`"

    depth: Depth = "full"
    sample: str | None = None
    recompute: Natural = 0
    seed: int | None = None
    adopt: bool = False
    source: Place | None = None
    statistics: Place | None = None
    allow_host: tuple[str, ...] = ()
    repair: bool = False


@with_options(Verification)
def verify(output: str | os.PathLike[str] | Plan, *, observer: Observer = ignore, **options: Any) -> Report:
    """Compare what is stored with the ledger; damage is reported, never raised, and nothing is changed unless asked for.

    Parameters
    ----------
    output : str, path or Plan
        Path or URL of a job's output, or the job's plan.
    observer : Observer, optional
        Told by `Progressed` of each region and each coarse shard.
    **options
        Any field of :class:`volumetool.jobs.inspection.Verification`, such as ``depth="stored"`` or ``repair=True``.

    Raises
    ------
    VolumetoolError
        As :func:`volumetool.jobs.verification.verify.verify_output`; with `adopt` as
        :func:`volumetool.jobs.verification.adopt.adopt`, with `repair` as
        :func:`volumetool.jobs.verification.repair.mark_for_recompute`.
    """
    asked = Verification(**options)
    if asked.adopt and asked.repair:
        raise ConfigError(
            "config.option", "adopt and repair are both asked for", hint="adopt first; then repair what verify finds damaged"
        )
    extent = make_extent("full" if asked.adopt else asked.depth, asked.sample, asked.recompute, asked.seed)
    if asked.adopt:
        from volumetool.jobs.verification.adopt import adopt  # it computes: torch takes its time

        given: dict[str, Any] = {"source": asked.source, "statistics": asked.statistics, "allow_hosts": asked.allow_host}
        place = output.output if isinstance(output, Plan) else place_text(output)
        return adopt(place, extent=extent, observer=observer, **given)
    if isinstance(output, Plan):
        plan: Plan | None = output
        report = verify_plan(output, extent, asked.allow_host, observer)
    else:
        plan, report = verify_output(place_text(output), extent, asked.allow_host, observer)
    if asked.repair and plan is not None:
        report.marked = mark_for_recompute(plan, report, observer)
    return report


def status(output: str | os.PathLike[str]) -> Status:
    """Return how far a job is, what failed and why, and what to type next.

    Parameters
    ----------
    output : str or path
        Path or URL of the job's output.

    Raises
    ------
    OutputError
        ``output.no-job``.
    LedgerError
        ``ledger.plan``, ``ledger.other-output``.
    """
    return job_status(stored_plan(place_text(output)))


def clean(output: str | os.PathLike[str], *, observer: Observer = ignore) -> Cleaned:
    """Remove what killed writers left behind: temporary files that belong to no shard.

    Parameters
    ----------
    output : str or path
        Path or URL of the job's output.
    observer : Observer, optional
        Told by `Waiting` of a run that may write this job still.

    Raises
    ------
    OutputError
        ``output.no-job``.
    LedgerError
        ``ledger.owned``: a run writes this job, and those may be its files.
    """
    return clean_output(stored_plan(place_text(output)), observer)
