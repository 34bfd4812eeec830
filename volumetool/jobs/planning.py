"""Planning: from the job to the plan, reading no more than metadata and a sample."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import psutil

from volumetool.enhancement.device import computes_bfloat16, resolve_device
from volumetool.enhancement.engine import Engine, Numerics
from volumetool.enhancement.statistics import Statistics
from volumetool.errors import FingerprintError
from volumetool.jobs.checks import check_dtype, check_resources, check_voxel_size
from volumetool.jobs.estimate import estimate, patch_facts
from volumetool.jobs.inputs import Inputs, open_inputs, section_statistics
from volumetool.jobs.job import Job
from volumetool.jobs.keeping import kept_anew, plan_keeping
from volumetool.jobs.layout import Demand, Work, make_lattice, make_levels, output_box
from volumetool.jobs.memory import MemoryModel
from volumetool.jobs.plan import Plan, make_recipe
from volumetool.jobs.sample import take_sample
from volumetool.jobs.terms import Terms, differences
from volumetool.store.convert import Progress
from volumetool.store.create import VolumeLayout

MEMORY_SHARE = 0.7
"""Share of the free memory that a job takes unless told otherwise."""

CPU_BATCH, GPU_BATCH = 2, 32
"""Patches per call: on a CPU small batches stay in the caches, a GPU wants many."""


def plan(job: Job, progress: Progress | None = None) -> Plan:
    """Decide everything about a job before a voxel is written.

    Planning an output that a job began before gives that job's plan again, so that running it goes on.

    Parameters
    ----------
    job : Job
        What is asked for.
    progress : callable, optional
        Called with (sections done, sections in all) while statistics are fitted.

    Raises
    ------
    InputError, OutputError, ModelError, ConfigError, ResourceError
        The job cannot be; nothing was written.
    FingerprintError
        ``job.fingerprint``: the output belongs to a job with other settings.
    """
    decided, _ = plan_with_statistics(job, progress)
    return decided


def plan_with_statistics(job: Job, progress: Progress | None = None) -> tuple[Plan, Statistics]:
    """Return the plan together with the table that its fingerprint names."""
    inputs = open_inputs(job)
    extrapolated, notes = check_voxel_size(job, inputs.model.card, inputs.level.voxel_size)
    work = _lay_out(inputs)
    workers, threads = _workers(job)
    engine = _engine(inputs, work, threads)
    statistics = section_statistics(inputs, progress)
    check_dtype(job, work.dtype, _window(inputs, statistics))
    terms = _terms(inputs, work, engine.numerics, statistics)
    if inputs.existing is not None:
        _check_same(inputs.existing, terms)
        return _taken_up(inputs.existing, job, work, (workers, threads)), statistics

    layout = VolumeLayout(terms.dtype, terms.levels, terms.channels)
    sample = take_sample(make_recipe(job, terms, statistics), engine, inputs.volume.open(job.level), layout)
    allowed = (job.memory or int(MEMORY_SHARE * psutil.virtual_memory().available)) // workers
    memory_of = MemoryModel(inputs.model.card, engine.numerics.batch, inputs.volume.dtype.itemsize)
    keeping = plan_keeping(job, work, Demand(workers, allowed, sample.patch_seconds), sample, memory_of)
    estimates = estimate(job, work, keeping, sample, (memory_of(work, keeping.span, keeping.keep), allowed))
    check_resources(estimates)
    return Plan(
        job=job,
        terms=terms,
        fingerprint=terms.fingerprint,
        grid=work.grid(keeping.span),
        numerics=engine.numerics,
        probe=engine.probe(work.lattice.patch),
        workers=workers,
        threads=threads,
        model=inputs.model.card.name,
        model_spec=inputs.model.spec,
        input_shape=inputs.level.shape,
        input_dtype=inputs.volume.dtype.name,
        voxel_size=inputs.level.voxel_size,
        mask_factor=inputs.mask_factor,
        estimates=estimates,
        notes=notes,
        extrapolated=extrapolated,
    ), statistics


def _taken_up(existing: Plan, job: Job, work: Work, workers: tuple[int, int]) -> Plan:
    """Return an existing plan for another run of its job."""
    keeping = kept_anew(job, work, existing.grid.span, workers[0])
    facts = {} if keeping is None else patch_facts(job, work, keeping)
    estimates = existing.estimates.model_copy(update=facts)
    return existing.model_copy(update={"job": job, "workers": workers[0], "threads": workers[1], "estimates": estimates})


def _lay_out(inputs: Inputs) -> Work:
    job, card, level = inputs.job, inputs.model.card, inputs.level
    lattice = make_lattice(job, card, level.shape)
    box = output_box(job, lattice)
    levels = make_levels(job, box, card, level)
    return Work(lattice, box, levels, inputs.channels, job.dtype or inputs.volume.dtype.name)


def _workers(job: Job) -> tuple[int, int]:
    """Return workers, and CPU threads of each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = job.workers or 1
    if job.workers is None and job.cluster == "cuda":
        import torch

        workers = max(1, torch.cuda.device_count())
    return workers, max(1, cores // workers)


def _engine(inputs: Inputs, work: Work, threads: int) -> Engine:
    """Return the engine with the existing job's numerics, or with those that suit model and machine."""
    job, existing = inputs.job, inputs.existing
    if existing is not None and job.precision in ("auto", existing.numerics.precision):
        return Engine(inputs.model, existing.numerics, job.device, threads)
    device = resolve_device(job.device)
    precision = job.precision
    if precision == "auto":
        safe = "bfloat16" in inputs.model.card.precision_safe and not job.exact
        precision = "bfloat16" if safe and computes_bfloat16(device) else "float32"
    batch = job.batch or (CPU_BATCH if device.type == "cpu" else GPU_BATCH)
    engine = Engine(inputs.model, Numerics(precision, batch, pad=False), job.device, threads)
    if engine.batch_matters(work.lattice.patch):
        engine.numerics = replace(engine.numerics, pad=True)
    return engine


def _window(inputs: Inputs, statistics: Statistics) -> tuple[float, float]:
    """Return the range of intensities that the output must hold."""
    if inputs.model.card.normalisation.kind == "none":
        return 0.0, 0.0
    return float(statistics.low.min()), float(statistics.high.max())


def _terms(inputs: Inputs, work: Work, numerics: Numerics, statistics: Statistics) -> Terms:
    job = inputs.job
    return Terms(
        input=inputs.volume.identity,
        level=job.level,
        model=inputs.model.weights_sha256,
        lattice=work.lattice,
        precision=numerics.precision,
        padded_batch=numerics.batch if numerics.pad else None,
        statistics=statistics.digest,
        seed=job.seed,
        flatten=job.flatten,
        invert=job.invert,
        nodata=_text(job.nodata),
        fill=_text(job.output_fill),
        mask=None if inputs.mask is None else inputs.mask.identity,
        dtype=work.dtype,
        box=work.box,
        channels=inputs.volume.channels,
        levels=work.levels,
    )


def _text(value: float | None) -> str | None:
    # As text, because NaN is not equal to itself and JSON has none.
    return None if value is None else repr(float(value))


def _check_same(existing: Plan, terms: Terms) -> None:
    if existing.terms.fingerprint == terms.fingerprint:
        return
    changed = differences(existing.terms.plain(), terms.plain())
    lines = "\n".join(f"  {name}: {_short(before)} then, {_short(after)} now" for name, before, after in changed)
    raise FingerprintError(
        "job.fingerprint",
        f"{existing.job.output} belongs to a job with other settings:\n{lines}",
        hint="run with the first settings to go on, choose another output, or start anew with --overwrite",
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
