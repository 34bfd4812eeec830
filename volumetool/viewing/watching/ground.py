"""What decides the voxels of a watched volume: the specification of its final job, whatever the number of sections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from volumetool.enhancement.spec import OutputSpec, check_version
from volumetool.enhancement.statistics import Statistics
from volumetool.errors import ConfigError, FingerprintError, NumericsError
from volumetool.geometry import Lattice
from volumetool.jobs.clash import field_lines, told_by_specs
from volumetool.jobs.inputs import read_table
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning import plan_anew
from volumetool.jobs.resolve import Resolved, resolve
from volumetool.viewing.watching.books import Fixed
from volumetool.viewing.watching.growing import VolumeLevels

GROWS = ("input", "statistics", "box", "levels")
"""What of a specification follows from the number of sections."""


def given_statistics(job: Job) -> Statistics | None:
    """Return the table that the job names: with one row it holds for all sections, else it has one for each.

    Raises
    ------
    ConfigError
        ``config.sections``: it cannot be read.
    """
    if job.sections is None:
        return None
    text = read_table(job.sections)
    return Statistics.from_csv(text, 1, max(1, len(text.split()) - 1))


def fix(job: Job, fitted: tuple[int, ...], given: Statistics | None) -> tuple[Resolved, Fixed]:
    """Decide what the first sections do not leave open.

    Parameters
    ----------
    job : Job
        Its input is the raw volume with the sections so far.
    fitted : tuple of int
        The sections, by z, whose median percentiles hold for all.
    given : Statistics, optional
        Instead of those.
    """
    resolved = resolve(job.model_copy(update={"sections": None}))
    if given is None:
        chosen = list(fitted)
        low = (float(np.median(resolved.spec.statistics.low[0, chosen])),)
        high = (float(np.median(resolved.spec.statistics.high[0, chosen])),)
    else:
        low, high = tuple(given.low[0].tolist()), tuple(given.high[0].tolist())
    numerics = resolved.engine.numerics
    probe = resolved.engine.probe(resolved.spec.lattice.patch)
    return resolved, Fixed(
        spec=lasting(resolved.spec),
        precision=numerics.precision,
        batch=numerics.batch,
        probe=probe,
        low=low,
        high=high,
    )


def take_up(job: Job, fixed: Fixed, depth: int) -> Resolved:
    """Decide the same again after a restart.

    Raises
    ------
    FingerprintError
        ``job.fingerprint``: other settings than those that the watch began with.
    NumericsError
        ``numerics.other-class``: this machine computes other bytes.
    """
    check_version(job.output, fixed.spec["numerics_version"])
    resolved = resolve(_frozen(job, fixed), statistics=statistics_for(fixed, depth))
    before, now = fixed.spec, lasting(resolved.spec)
    if before != now:
        lines = "\n".join(f"  {line}" for line in told_by_specs(before, now))
        raise FingerprintError(
            "job.fingerprint",
            f"{job.output} was begun with other settings:\n{lines}",
            hint="watch with the first settings to go on, or choose another --into",
            detail=field_lines(before, now),
        )
    probe = resolved.engine.probe(resolved.spec.lattice.patch)
    if probe != fixed.probe and not job.allow_mixed_numerics:
        raise NumericsError(
            "numerics.other-class",
            f"this machine computes other bytes than the watch began with: its probe is {probe[:12]}, not {fixed.probe[:12]}",
            hint="go on with the same processor, device and torch version",
        )
    return resolved


def lasting(spec: OutputSpec) -> dict[str, Any]:
    """Return what of a specification holds for any number of sections."""
    plain = {name: value for name, value in spec.plain().items() if name not in GROWS}
    if not spec.lattice.z.overlap:
        plain["lattice"] = {**plain["lattice"], "z": {**plain["lattice"]["z"], "size": None}}
    return plain


def statistics_for(fixed: Fixed, depth: int) -> Statistics:
    """Return the table of so many sections.

    Raises
    ------
    ConfigError
        ``config.sections``: the table that was given has fewer rows.
    """
    if len(fixed.low) not in (1, depth):
        if len(fixed.low) < depth:
            raise ConfigError(
                "config.sections",
                f"the table of section statistics has {len(fixed.low)} rows, and section {depth} has arrived",
                hint="give one row for all sections, or a row for each",
            )
        return Statistics(np.array([fixed.low[:depth]]), np.array([fixed.high[:depth]]))
    ones = np.ones((1, depth))
    return Statistics(ones * np.array(fixed.low), ones * np.array(fixed.high))


def spec_for(resolved: Resolved, fixed: Fixed, depth: int, levels: VolumeLevels) -> OutputSpec:
    """Return what decides the voxels of the sections so far, stored on levels of the growing volume."""
    lattice: Lattice = resolved.spec.lattice
    deeper = replace(lattice, z=replace(lattice.z, size=depth))
    changes = {"lattice": deeper, "statistics": statistics_for(fixed, depth), "levels": levels}
    return resolved.spec.model_copy(update=changes)


def final_plan(job: Job, fixed: Fixed, depth: int) -> Plan:
    """Return the plan of the batch job that the finished volume is the output of."""
    resolved = resolve(_frozen(job, fixed), statistics=statistics_for(fixed, depth))
    asked = job.model_copy(update={"sections": None, "precision": fixed.precision, "batch": fixed.batch})
    return plan_anew(resolved).model_copy(update={"job": asked})


def _frozen(job: Job, fixed: Fixed) -> Job:
    """Return the job with what was fixed at the beginning; all of its patches are known, so that none is kept."""
    return job.model_copy(update={"precision": fixed.precision, "batch": fixed.batch, "keep_patches": "never"})
