"""Planning: from the job to the plan, reading no more than metadata and a sample."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import numpy as np

from volumetool.errors import ConfigError
from volumetool.events import Observer, ignore
from volumetool.geometry import Box, Triple
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import JobDir, refuse_file, roles_of
from volumetool.jobs.plan import EarlierStep, Estimates, Plan
from volumetool.jobs.planning.autotune import patch_seconds
from volumetool.jobs.planning.cache_policy import partition_again, plan_partition
from volumetool.jobs.planning.calibrate import take_sample
from volumetool.jobs.planning.checks import check_place, check_resources, check_sample
from volumetool.jobs.planning.conflicts import refuse_other_settings, same_trust
from volumetool.jobs.planning.cost import asked_box, estimate, left_over, opens, patch_facts, written_bytes
from volumetool.jobs.planning.inputs import refuse_foreign_output, refuse_foreign_trust
from volumetool.jobs.planning.layout import WorkerDemand, count_earlier
from volumetool.jobs.planning.resolve import Resolved, resolve
from volumetool.jobs.planning.resources import Resources
from volumetool.jobs.records.ledger import DONE
from volumetool.jobs.records.parts import living_parts
from volumetool.jobs.records.plan_file import open_ledger, read_job
from volumetool.jobs.records.staging import rereads
from volumetool.processing.columns import input_windows
from volumetool.processing.spec import OutputSpec
from volumetool.storage.io.chunks import stored_chunks
from volumetool.storage.io.roles import name_roles

_log = logging.getLogger(__name__)


def plan(job: Job, observer: Observer = ignore, resources: Resources | None = None) -> Plan:
    """Decide everything about a job before a voxel is written.

    Planning an output that a job began before gives that job's plan again, so that running it goes on.

    Parameters
    ----------
    job : Job
        What is asked for.
    observer : Observer, optional
        Told by `Progressed` how many sections the statistics are fitted to.
    resources : Resources, optional
        Workers that will run the job; by default those of this machine.

    Raises
    ------
    InputError, OutputError, ModelError, ConfigError, ResourceError
        The job cannot run; nothing was written.
    FingerprintError
        ``job.fingerprint``: the output belongs to a job with other settings.
    """
    with name_roles(*roles_of(job)):
        resolved, existing = _resolve_for_output(job, resources, observer)
        if existing is None:
            made = plan_anew(resolved)
            check_resources(made.estimates, resolved.resources.bound)
        else:
            made = _taken_up(existing, resolved)
            memory = resolved.memory_of(resolved.spec, made.grid.span, made.keep), resolved.resources.memory
            check_resources(left_over(made.estimates, job.output, memory, _share_left(made)), resolved.resources.bound)
        stored = "a new" if existing is None else "the stored"
        _log.info("%s: %s plan %.12s of %d regions", made.output, stored, made.fingerprint, made.grid.count)
        return made


def plan_anew(resolved: Resolved) -> Plan:
    """Return the plan of a job that has no records yet, without checking that the machine has the memory and disk for it."""
    inputs, engine, spec = resolved.inputs, resolved.engine, resolved.spec
    job, running = inputs.job, _running(resolved)
    workers, allowed = resolved.resources.workers, resolved.resources.memory
    probe = engine.probe(spec.lattice.patch)  # first: it warms the network up for the sample, which is timed
    earlier = tuple(map(_earlier, resolved.chain[:-1]))
    sample = take_sample(spec, engine, replace(resolved.source(0), mask=None), resolved.steps)
    running["notes"] += check_sample(job, inputs.operation.card, sample)
    pace = tuple((step.spec.lattice, step.patch_seconds) for step in earlier)
    demand = WorkerDemand(workers, allowed, sample.patch_seconds, earlier=pace)
    keeping = plan_partition(job, spec, demand, sample, resolved.memory_of)
    memory = resolved.memory_of(spec, keeping.span, keeping.keep), allowed
    earlier = _counted(earlier, spec, keeping.span, asked_box(job, spec))
    stored = resolved.stored
    costs = estimate(job, spec, keeping, sample, memory, resolved.resources.pace)
    chunk = stored_chunks(stored.volume, resolved.asked.level, 0).size
    strips = list(input_windows(spec, spec.grid(keeping.span).region(0))) if not earlier else []
    again = rereads(strips, stored.level.chunk) if strips else 1.0
    opened = opens(job, spec, keeping.span, chunk, sharded=stored.level.shard not in (None, stored.level.chunk))
    return Plan(
        job=resolved.asked,
        spec=spec,
        fingerprint=spec.fingerprint,
        grid=spec.grid(keeping.span),
        numerics=engine.numerics,
        probe=probe,
        **running,
        model=inputs.operation.card.name,
        model_spec=inputs.operation.spec,
        about=inputs.operation.card.about,
        choice=inputs.choice,
        gate=resolved.gate,
        input_shape=stored.level.shape,
        input_dtype=stored.volume.dtype.name,
        voxel_size=stored.level.voxel_size,
        mask_factor=inputs.mask_factor,
        estimates=_with_earlier(costs.model_copy(update={"opens": opened, "rereads": again}), earlier, resolved.resources.pace),
        noise=None if resolved.survey is None else resolved.survey.noise,
        extrapolated=resolved.extrapolated,
        earlier=earlier,
    )


def _earlier(resolved: Resolved) -> EarlierStep:
    """Return an operation of a chain whose output is not stored."""
    inputs, engine, spec = resolved.inputs, resolved.engine, resolved.spec
    return EarlierStep(
        spec=spec,
        fingerprint=spec.fingerprint,
        numerics=engine.numerics,
        probe=engine.probe(spec.lattice.patch),
        streams=engine.streams,
        model=inputs.operation.card.name,
        model_spec=inputs.operation.spec,
        about=inputs.operation.card.about,
        choice=inputs.choice,
        gate=resolved.gate,
        mask_factor=inputs.mask_factor,
        patch_seconds=patch_seconds(engine, spec.lattice.patch, engine.at_once),
    )


def _counted(earlier: tuple[EarlierStep, ...], spec: OutputSpec, span: Triple, asked: Box | None) -> tuple[EarlierStep, ...]:
    """Return the operations before the last with the patches that regions of `span` shards evaluate."""
    counts = count_earlier(spec, [step.spec.lattice for step in earlier], span, asked)
    return tuple(
        step.model_copy(update={"patches": every, "recomputed": every - once})
        for step, (every, once) in zip(earlier, counts, strict=True)
    )


def _with_earlier(estimates: Estimates, earlier: tuple[EarlierStep, ...], pace: float) -> Estimates:
    """Return what a chain costs, the operations before its last included: the first of them reads."""
    if not earlier:
        return estimates
    first, seconds = earlier[0], sum(step.patches * step.patch_seconds for step in earlier) / pace
    read = first.patches * math.prod(first.spec.lattice.patch) * first.spec.itemsize
    return estimates.model_copy(update={"seconds": estimates.seconds + seconds, "read_bytes": read})


def _running(resolved: Resolved) -> dict[str, Any]:
    """Return what a plan says of this run alone."""
    return {
        "workers": resolved.resources.workers,
        "threads": resolved.resources.threads,
        "rates": dict(resolved.resources.rates),
        "streams": resolved.engine.streams,
        "paces": resolved.paces,
        "notes": resolved.notes,
    }


def _resolve_for_output(job: Job, resources: Resources | None, observer: Observer) -> tuple[Resolved, Plan | None]:
    """Resolve a job, and check it against what an earlier run began at the output; return the plan that goes on, too.

    Raises
    ------
    VolumetoolError
        As :func:`plan`.
    """
    if not job.output:
        raise ConfigError(
            "config.option", "an output is needed", hint="name the volume to write: volumetool enhance INPUT OUTPUT"
        )
    if job.overwrite and job.part is not None:
        raise ConfigError(
            "config.option",
            f"--overwrite together with --part {job.part}: each part would delete what the others have done",
            hint="delete the output and its job's folder, or choose another output; then start the parts",
        )
    check_place(job)
    refuse_file(JobDir(job.output).url)
    existing = None if job.overwrite else read_job(job.output)
    if existing is None:
        refuse_foreign_output(job)
        refuse_foreign_trust(job)
        return resolve(job, resources=resources, observer=observer), None
    if open_ledger(existing).done or (job.part is not None and living_parts(existing.job_dir.url)):
        resolved = resolve(job, existing=existing, resources=resources, observer=observer)
        refuse_other_settings(existing, job, resolved.spec)
        return resolved, existing
    # No voxel would be lost: the job is begun anew unless it is the very same, whose failed attempts then count on.
    resolved = resolve(job, resources=resources, observer=observer)
    probe = resolved.engine.probe(resolved.spec.lattice.patch)
    if (resolved.spec.fingerprint, probe) == (existing.fingerprint, existing.probe) and same_trust(existing, job):
        return resolved, existing
    refuse_foreign_output(job)
    refuse_foreign_trust(job)
    note = f"an earlier job had finished no region of {job.output}: it is begun anew"
    return replace(resolved, notes=(*resolved.notes, note)), None


def _taken_up(existing: Plan, resolved: Resolved) -> Plan:
    """Return an existing plan for another run of its job."""
    job, spec, running = resolved.inputs.job, resolved.spec, _running(resolved)
    keeping = partition_again(job, spec, existing.grid.span, running["workers"])
    facts = {} if keeping is None else patch_facts(job, spec, keeping)
    written = written_bytes(job, spec, existing.grid.span, existing.estimates.compression)  # the first run may have had a box
    estimates = existing.estimates.model_copy(update={**facts, "written_bytes": written})
    return existing.model_copy(update={**running, "job": resolved.asked, "estimates": estimates})


def _share_left(plan: Plan) -> float:
    """Return the share of the regions asked for that are not done."""
    states = open_ledger(plan).states
    asked = states[np.asarray(plan.asked, np.int64)]
    return float((asked != DONE).mean()) if len(asked) else 0.0
