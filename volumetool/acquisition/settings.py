"""What decides the voxels of a watched volume: the specification of its final job, whatever the number of sections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from volumetool.acquisition.growing import VolumeLevels
from volumetool.acquisition.state import SessionHeader
from volumetool.errors import ConfigError, FingerprintError, NumericsError
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.conflicts import field_lines, told_by_specs
from volumetool.jobs.planning.inputs import read_table
from volumetool.jobs.planning.planner import plan_anew
from volumetool.jobs.planning.resolve import Resolved, resolve
from volumetool.processing.spec import OutputSpec, check_version
from volumetool.processing.statistics import Statistics

GROWS = ("input", "statistics", "box", "levels")
"""Fields of a specification that depend on the number of sections."""


def given_statistics(job: Job) -> Statistics | None:
    """Return the table that the job names: with one row it holds for all sections, else it has one for each.

    Raises
    ------
    ConfigError
        ``config.statistics``: it cannot be read.
    """
    if job.statistics is None:
        return None
    text = read_table(job.statistics)
    return Statistics.from_csv(text, 1, max(1, len(text.split()) - 1))


def fix(job: Job, begun: SessionHeader, given: Statistics | None) -> tuple[Resolved, SessionHeader]:
    """Decide what the first sections leave open.

    Parameters
    ----------
    job : Job
        The job of the watch; its input is the raw volume with the sections so far.
    begun : SessionHeader
        Settings of the watch. They say which sections the percentiles are taken of; their medians hold for all sections.
    given : Statistics, optional
        Percentiles to take instead.

    Returns
    -------
    resolved : Resolved
        Everything that decides a voxel of the sections so far.
    begun : SessionHeader
        The settings, completed by what was decided for all sections.
    """
    if len(job.operations) > 1:
        raise ConfigError(
            "config.chain",
            f"{job.model} is a chain, and what its operations make of a volume that grows is not fixed",
            hint="watch with one of its operations, and apply the others to the finished volume",
        )
    if job.repair_sections is not None:
        raise ConfigError(
            "config.option",
            f"--repair-sections {job.repair_sections} compares sections with those after them, which are yet to come",
            hint="watch without it, and repair with a job on the finished raw volume",
        )
    if job.store_error is not None:
        raise ConfigError(
            "config.option",
            f"--store-error {job.store_error:g} is for whole volumes: sections that arrive are stored as they are made",
            hint="watch without it, and round with a job on the finished raw volume",
        )
    resolved = resolve(job.model_copy(update={"statistics": None}))
    card = resolved.inputs.operation.card
    if card.channels or max(card.shrink) > 1 or card.matching is not None:
        made = "makes several channels" if card.channels else "makes one voxel of several"
        done = made if card.matching is None else "counts the voxels of sections that are yet to come"
        raise ConfigError(
            "config.option",
            f"{card.name} {done}, but sections that arrive become one channel of all voxels, each when it is there",
            hint="take another model, and apply this one to the finished volume",
        )
    fitted, chosen = resolved.spec.statistics, list(begun.fitted)
    low, high = (np.median(table[:, chosen], axis=1, keepdims=True) for table in (fitted.low, fitted.high))  # (1, 1)
    decided = {
        "spec": resolved.spec.model_copy(update={"statistics": given or Statistics(low, high)}),
        "model": resolved.inputs.operation.spec,
        "numerics": resolved.engine.numerics,
        "probe": resolved.engine.probe(resolved.spec.lattice.patch),
    }
    return resolved, begun.model_copy(update=decided)


def take_up(job: Job, begun: SessionHeader, depth: int) -> Resolved:
    """Decide the same again after a restart.

    Parameters
    ----------
    job : Job
        The job of the watch; its input is the raw volume with the sections so far.
    begun : SessionHeader
        Settings that the watch was begun with.
    depth : int
        Number of input sections so far.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``: other settings than those that the watch began with.
    NumericsError
        ``numerics.other-class``: this machine computes other bytes.
    """
    spec = begun.decided
    check_version(job.output, spec.numerics_version)
    resolved = resolve(_frozen(job, begun), statistics=statistics_for(spec, depth))
    before, now = lasting(spec), lasting(resolved.spec)
    if before != now:
        lines = "\n".join(f"  {line}" for line in told_by_specs(before, now))
        raise FingerprintError(
            "job.fingerprint",
            f"{job.output} was begun with other settings:\n{lines}",
            hint="watch with the first settings to go on, or choose another --into",
            detail=field_lines(before, now),
        )
    probe = resolved.engine.probe(resolved.spec.lattice.patch)
    if probe != begun.probe and not job.allow_mixed_numerics:
        raise NumericsError(
            "numerics.other-class",
            f"this machine computes other bytes than the watch began with: its probe is {probe[:12]}, not {begun.probe[:12]}",
            hint="go on with the same processor, device and torch version",
        )
    return resolved


def lasting(spec: OutputSpec) -> dict[str, Any]:
    """Return what of a specification holds for any number of sections."""
    plain = {name: value for name, value in spec.plain().items() if name not in GROWS}
    if not spec.lattice.z.overlap:
        plain["lattice"] = {**plain["lattice"], "z": {**plain["lattice"]["z"], "size": None}}
    return plain


def statistics_for(spec: OutputSpec, depth: int) -> Statistics:
    """Return the table of so many sections.

    Raises
    ------
    ConfigError
        ``config.statistics``: the table that was given has fewer rows.
    """
    low, high = spec.statistics.low, spec.statistics.high  # (1, rows)
    rows = low.shape[1]
    if 1 < rows < depth:
        raise ConfigError(
            "config.statistics",
            f"the table of section statistics has {rows} rows, and section {depth} has arrived",
            hint="give one row for all sections, or a row for each",
        )
    if rows == 1:
        low, high = np.repeat(low, depth, axis=1), np.repeat(high, depth, axis=1)
    return Statistics(low[:, :depth], high[:, :depth])


def spec_for(spec: OutputSpec, depth: int, levels: VolumeLevels) -> OutputSpec:
    """Return what decides the voxels of the sections so far.

    Parameters
    ----------
    spec : OutputSpec
        What holds for all sections.
    depth : int
        Number of input sections so far.
    levels : tuple of LevelGrid
        Levels of the growing volume, on which they are stored.

    Raises
    ------
    ConfigError
        ``config.statistics``: the table of statistics has fewer rows.
    """
    lattice = replace(spec.lattice, z=replace(spec.lattice.z, size=depth))
    return spec.model_copy(update={"lattice": lattice, "statistics": statistics_for(spec, depth), "levels": levels})


def final_plan(job: Job, begun: SessionHeader, depth: int) -> Plan:
    """Return the plan of the batch job that the finished volume is the output of.

    Parameters
    ----------
    job, begun
        As for :func:`take_up`.
    depth : int
        Number of input sections in all.
    """
    frozen = _frozen(job, begun)
    plan = plan_anew(resolve(frozen, statistics=statistics_for(begun.decided, depth)))
    return plan.model_copy(update={"job": frozen.model_copy(update={"patch_cache": job.patch_cache, "model": job.model})})


def _frozen(job: Job, begun: SessionHeader) -> Job:
    """Return the job with what was decided at the beginning; all of its patches are known, so that none is kept."""
    numerics = begun.numerics
    update = {} if numerics is None else {"precision": numerics.precision, "batch": numerics.batch}
    if job.model == "auto" and begun.model:  # more sections might show something else
        update["model"] = begun.model
    return job.model_copy(update={**update, "statistics": None, "patch_cache": "never"})
