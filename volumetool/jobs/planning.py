"""Planning: from the job to the plan, reading no more than metadata and a sample."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from volumetool.enhancement.device import computes_bfloat16, resolve_device
from volumetool.enhancement.engine import Engine, Numerics
from volumetool.enhancement.spec import OutputSpec
from volumetool.enhancement.statistics import Statistics
from volumetool.geometry import part_inside
from volumetool.jobs.checks import (
    check_dtype,
    check_patch,
    check_resources,
    check_sample,
    check_survey,
    check_voxel_size,
    show_bytes,
)
from volumetool.jobs.clash import refuse_other_settings
from volumetool.jobs.estimate import estimate, left_over, patch_facts, written_bytes
from volumetool.jobs.folder import open_ledger, roles_of
from volumetool.jobs.inputs import Inputs, open_inputs, refuse_foreign_output, section_statistics
from volumetool.jobs.job import Job
from volumetool.jobs.keeping import kept_anew, plan_keeping
from volumetool.jobs.layout import Demand, Work, box_counts, make_lattice, make_levels, output_box
from volumetool.jobs.ledger import DONE
from volumetool.jobs.memory import MemoryModel
from volumetool.jobs.pace import Pace, choose_pace, find_paces
from volumetool.jobs.plan import Plan
from volumetool.jobs.sample import take_sample
from volumetool.machine import memory_limit, usable_cores, usable_memory
from volumetool.store.convert import Progress
from volumetool.store.limits import check_sections, unpacked_chunk
from volumetool.store.roles import told_by_role

MEMORY_SHARE = 0.7
"""Share of the free memory that a job takes unless told otherwise."""

FIXED_BATCH = 16
"""Patches per call where their number changes bytes, which must not depend on what was tried."""

NETWORK_SHARE = 0.5
"""Share of a worker's memory that patches in the network may take: the rest makes bands wide."""


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
    with told_by_role(*roles_of(job)):
        ground = lay_ground(job, progress)
        existing = ground.inputs.existing
        if existing is None:
            made = plan_anew(ground)
            check_resources(made.estimates, _limit(job))
        else:
            made = _taken_up(existing, ground)
            memory = ground.memory_of(ground.work, made.grid.span, made.keep), _allowed(job, made.workers)
            check_resources(left_over(made.estimates, job.output, memory, _share_left(made)), _limit(job))
        return made


def plan_anew(ground: Ground) -> Plan:
    """Return the plan of a job that nobody began; whether the machine has what it takes is not asked."""
    inputs, engine, spec, work = ground.inputs, ground.engine, ground.spec, ground.work
    job, running = inputs.job, _running(ground)
    workers, allowed = running["workers"], _allowed(inputs.job, running["workers"])
    probe = engine.probe(work.lattice.patch)  # first: it warms the network up for the sample, which is timed
    sample = take_sample(spec, engine, inputs.volume.open(job.level, strict=True))
    running["notes"] += check_sample(job, inputs.model.card, sample)
    keeping = plan_keeping(job, work, Demand(workers, allowed, sample.patch_seconds), sample, ground.memory_of)
    memory = ground.memory_of(work, keeping.span, keeping.keep), allowed
    return Plan(
        job=job,
        spec=spec,
        fingerprint=spec.fingerprint,
        grid=work.grid(keeping.span),
        numerics=engine.numerics,
        probe=probe,
        **running,
        model=inputs.model.card.name,
        model_spec=inputs.model.spec,
        input_shape=inputs.level.shape,
        input_dtype=inputs.volume.dtype.name,
        voxel_size=inputs.level.voxel_size,
        mask_factor=inputs.mask_factor,
        estimates=estimate(job, work, keeping, sample, memory, workers),
        extrapolated=ground.extrapolated,
    )


def _running(ground: Ground) -> dict[str, Any]:
    """Return what a plan says of this run alone."""
    workers, threads = _workers(ground.inputs.job)
    return {
        "workers": workers,
        "threads": threads,
        "streams": ground.engine.streams,
        "paces": ground.paces,
        "notes": ground.notes,
    }


@dataclass(frozen=True)
class Ground:
    """What decides every voxel of a job, before anybody asks what the job costs.

    Attributes
    ----------
    inputs : Inputs
        What the job names.
    engine : Engine
        The network on its device.
    spec : OutputSpec
        Everything that decides a byte.
    notes : tuple of str
        Warnings for the user.
    extrapolated : bool
        The voxel size is outside the range that the model was trained on.
    paces : tuple of Pace
        The ways to run the network that were tried on this machine.
    """

    inputs: Inputs
    engine: Engine
    spec: OutputSpec
    notes: tuple[str, ...]
    extrapolated: bool
    paces: tuple[Pace, ...]

    @property
    def work(self) -> Work:
        """The geometry that regions are cut from."""
        spec = self.spec
        return Work(spec.lattice, spec.box, spec.levels, self.inputs.channels, spec.dtype)

    @property
    def memory_of(self) -> MemoryModel:
        """What a worker needs."""
        numerics = self.engine.numerics
        return _memory(self.inputs, numerics.precision, numerics.batch, self.engine.streams)


def lay_ground(job: Job, progress: Progress | None = None) -> Ground:
    """Decide what a job computes, and check it against what an earlier run began at the output.

    Raises
    ------
    VolumetoolError
        As :func:`plan`.
    """
    with told_by_role(*roles_of(job)):
        return _lay_ground(job, progress)


def _lay_ground(job: Job, progress: Progress | None) -> Ground:
    if job.cluster == "cuda":
        from volumetool.jobs.clusters.cuda import require_gpus

        require_gpus(job.device, job.workers)
    inputs = open_inputs(job)
    existing = inputs.existing
    if existing is None:
        return _ground(inputs, progress)
    if open_ledger(existing).done:
        ground = _ground(inputs, progress)
        refuse_other_settings(existing, job, ground.spec)
        return ground
    # No voxel would be lost: the job is begun anew unless it is the very same, whose failed attempts then count on.
    ground = _ground(replace(inputs, existing=None), progress)
    if (ground.spec.fingerprint, ground.engine.probe(ground.spec.lattice.patch)) == (existing.fingerprint, existing.probe):
        return replace(ground, inputs=inputs)
    refuse_foreign_output(job)
    return replace(ground, notes=(*ground.notes, f"an earlier job had finished no region of {job.output}: it is begun anew"))


def _ground(inputs: Inputs, progress: Progress | None) -> Ground:
    job = inputs.job
    check_sections(job.input, inputs.level.shape[0] * inputs.channels)
    extrapolated, notes = check_voxel_size(job, inputs.model.card, inputs.level.voxel_size)
    work = _lay_out(inputs)
    workers, threads = _workers(job)
    precision = _precision(inputs)
    most = _check_patches(inputs, work, precision, _allowed(job, workers))
    paces = find_paces(inputs.model, precision, job.device, threads, most)
    engine = _engine(inputs, work, _pace(inputs, work, precision, paces, _allowed(job, workers)), (precision, threads))
    statistics, survey = section_statistics(inputs, progress)
    notes += () if survey is None else check_survey(job, inputs.model.card, survey)
    check_dtype(job, work.dtype, _window(inputs, statistics))
    spec = _spec(inputs, work, engine.numerics, statistics)
    return Ground(inputs, engine, spec, (*notes, *_box_notes(inputs)), extrapolated, paces)


def _box_notes(inputs: Inputs) -> tuple[str, ...]:
    """Say where the box that was asked for reaches beyond the volume."""
    job = inputs.job
    note = None if job.roi is None else part_inside(job.roi, inputs.level.shape, box_counts(job))[1]
    return () if note is None else (note,)


def _taken_up(existing: Plan, ground: Ground) -> Plan:
    """Return an existing plan for another run of its job."""
    job, work, running = ground.inputs.job, ground.work, _running(ground)
    keeping = kept_anew(job, work, existing.grid.span, running["workers"])
    facts = {} if keeping is None else patch_facts(job, work, keeping)
    written = written_bytes(job, work, existing.grid.span, existing.estimates.compression)  # the first run may have had a box
    estimates = existing.estimates.model_copy(update={**facts, "written_bytes": written})
    return existing.model_copy(update={**running, "job": job, "estimates": estimates})


def _share_left(plan: Plan) -> float:
    """Return the share of the regions asked for that are not done."""
    states = open_ledger(plan).states
    asked = states if plan.roi is None else states[list(plan.grid.touching(plan.roi))]
    return float((asked != DONE).mean()) if len(asked) else 0.0


def _lay_out(inputs: Inputs) -> Work:
    job, card, level = inputs.job, inputs.model.card, inputs.level
    lattice = make_lattice(job, card, level.shape)
    box = output_box(job, lattice)
    levels = make_levels(job, box, card, level)
    return Work(lattice, box, levels, inputs.channels, job.dtype or inputs.volume.dtype.name)


def _allowed(job: Job, workers: int) -> int:
    """Return the bytes that one worker may use."""
    return (job.memory or int(MEMORY_SHARE * usable_memory())) // workers


def _limit(job: Job) -> str:
    """Return what bounds the memory of all workers, by name and value."""
    return memory_limit() if job.memory is None else f"--memory {show_bytes(job.memory)}"


def _workers(job: Job) -> tuple[int, int]:
    """Return workers, and CPU threads of each."""
    cores = usable_cores()
    workers = job.workers or 1
    if job.workers is None and job.cluster == "cuda":
        import torch

        workers = max(1, torch.cuda.device_count())
    return workers, max(1, cores // workers)


def _precision(inputs: Inputs) -> str:
    """Return the existing job's precision, or the one that suits model and machine."""
    job, existing = inputs.job, inputs.existing
    if job.precision != "auto":
        return job.precision
    if existing is not None:
        return existing.numerics.precision
    safe = "bfloat16" in inputs.model.card.precision_safe and not job.exact
    return "bfloat16" if safe and computes_bfloat16(resolve_device(job.device)) else "float32"


def _memory(inputs: Inputs, precision: str, batch: int, streams: int) -> MemoryModel:
    chunk = unpacked_chunk(inputs.volume.open(inputs.job.level))
    return MemoryModel(inputs.model.card, inputs.volume.dtype.itemsize, precision, batch, streams, chunk)


def _check_patches(inputs: Inputs, work: Work, precision: str, allowed: int) -> int:
    """Return how many of the card's patches memory holds in the network at once, before the first one is made.

    Raises
    ------
    ResourceError
        ``resource.memory``: not even one.
    """
    memory_of = _memory(inputs, precision, 1, 1)
    patch = max(inputs.model.card.patch, work.lattice.patch, key=memory_of.least)
    what = f"patches of {patch} voxels and chunks of {memory_of.chunk[0]}"
    check_patch(memory_of.least(patch), allowed, what, _limit(inputs.job))
    free, each = allowed - memory_of.least((0, 0, 0)), memory_of.least(patch) - memory_of.least((0, 0, 0))
    return free // each


def _pace(inputs: Inputs, work: Work, precision: str, paces: tuple[Pace, ...], allowed: int) -> Pace:
    """Return the fastest way to run the network that leaves memory for the rest, and has patches for all its calls."""
    room = NETWORK_SHARE * allowed

    def fits(pace: Pace) -> bool:
        enough = pace.patches <= work.lattice.count
        return enough and _memory(inputs, precision, pace.batch, pace.streams).network(work) <= room

    return choose_pace(paces, fits)


def _engine(inputs: Inputs, work: Work, pace: Pace, how: tuple[str, int]) -> Engine:
    """Return the engine with the existing job's numerics, or with those of the fastest way."""
    job, existing = inputs.job, inputs.existing
    precision, threads = how
    if existing is not None and precision == existing.numerics.precision:
        return Engine(inputs.model, existing.numerics, job.device, threads, pace.streams)
    numerics = Numerics(precision, job.batch or pace.batch, pad=False)
    engine = Engine(inputs.model, numerics, job.device, threads, pace.streams)
    if engine.batch_matters(work.lattice.patch):
        engine.numerics = replace(engine.numerics, batch=job.batch or FIXED_BATCH, pad=True)
    return engine


def _window(inputs: Inputs, statistics: Statistics) -> tuple[float, float]:
    """Return the range of intensities that the output must hold."""
    if inputs.model.card.normalisation.kind == "none":
        return 0.0, 0.0
    return float(statistics.low.min()), float(statistics.high.max())


def _spec(inputs: Inputs, work: Work, numerics: Numerics, statistics: Statistics) -> OutputSpec:
    job = inputs.job
    return OutputSpec(
        input=inputs.volume.identity_of(job.level),
        level=job.level,
        model=inputs.model.weights_sha256,
        lattice=work.lattice,
        precision=numerics.precision,
        padded_batch=numerics.batch if numerics.pad else None,
        statistics=statistics,
        seed=job.seed,
        flatten=job.flatten,
        invert=job.invert,
        nodata=job.nodata,
        fill=job.output_fill or 0.0,
        mask=None if inputs.mask is None else inputs.mask.identity_of(0),
        missing=job.missing,
        dtype=work.dtype,
        box=work.box,
        channels=inputs.volume.channels,
        levels=work.levels,
    )
