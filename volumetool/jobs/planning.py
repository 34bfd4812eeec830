"""Planning: from the job to the plan, reading no more than metadata and a sample."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from volumetool.enhance.engine import Engine, Numerics
from volumetool.enhance.statistics import Statistics, fit_statistics, no_normalisation
from volumetool.errors import ConfigError, FingerprintError, ModelError, OutputError
from volumetool.geometry import RegionGrid
from volumetool.jobs.checks import check_dtype, check_place, check_resources, check_voxel_size, mask_factor, show_size
from volumetool.jobs.folder import job_url, read_plan, read_statistics
from volumetool.jobs.job import Job
from volumetool.jobs.layout import Demand, Work, choose_span, make_lattice, make_levels, output_box
from volumetool.jobs.memory import MemoryModel
from volumetool.jobs.plan import Estimates, Plan
from volumetool.jobs.sample import Sample, take_sample
from volumetool.jobs.terms import Terms, differences
from volumetool.models import Model, ModelCard, fitting_models, load_model
from volumetool.store.kvstore import canonical_url, is_local, local_path, read_key
from volumetool.store.open import open_volume
from volumetool.store.volume import Volume

MEMORY_SHARE = 0.7
"""Share of the free memory that a job takes unless told otherwise."""

CPU_BATCH, GPU_BATCH = 4, 32
"""Patches per call: on a CPU small batches stay in the caches, a GPU wants many."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Inputs:
    """What the job names, opened."""

    job: Job
    volume: Volume
    model: Model
    existing: Plan | None
    mask: Volume | None


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
    inputs = _open(job)
    level = inputs.volume.levels[_level(job, inputs.volume)]
    card = inputs.model.card
    extrapolated, notes = check_voxel_size(job, card, level.voxel_size)
    lattice = make_lattice(job, card, level.shape)
    box = output_box(job, lattice)
    work = Work(
        lattice,
        box,
        make_levels(job, box, card.scale, level.voxel_size, level.translation),
        inputs.volume.channels or 1,
    )
    workers, threads = _workers(job)
    engine = make_engine(inputs.model, _numerics(inputs, lattice.patch), job, threads)
    statistics = _statistics(inputs, progress)
    window = (
        (float(statistics.low.min()), float(statistics.high.max())) if card.normalisation.kind == "percentiles" else (0.0, 0.0)
    )
    terms = _terms(inputs, work, engine.numerics, statistics, check_dtype(job, inputs.volume, window))
    if inputs.existing is not None:
        _check_same(inputs.existing, terms)
        resumed = inputs.existing.model_copy(update={"job": job, "workers": workers, "threads": threads})
        return resumed, read_statistics(job_url(job.output), resumed)

    factor = (1, 1, 1) if inputs.mask is None else mask_factor(job, inputs.mask, level.shape)
    decided = Plan(
        job=job,
        terms=terms,
        fingerprint=terms.fingerprint,
        grid=work.grid((1, 1, 1)),
        numerics=engine.numerics,
        probe=engine.probe(lattice.patch),
        workers=workers,
        threads=threads,
        model=card.name,
        model_spec=inputs.model.spec,
        input_shape=level.shape,
        input_dtype=inputs.volume.dtype.name,
        voxel_size=level.voxel_size,
        mask_factor=factor,
        estimates=_nothing(),
        notes=notes,
        extrapolated=extrapolated,
    )
    sample = take_sample(decided.recipe(statistics), engine, inputs.volume.open(job.level), decided.layout)
    return _with_grid(decided, card, work, sample), statistics


def make_engine(model: Model, numerics: Numerics, job: Job, threads: int) -> Engine:
    """Return the engine, with its last batch padded where a short one would give other bytes."""
    return Engine(model, numerics, job.device, threads)


def _open(job: Job) -> _Inputs:
    volume = open_volume(job.input, voxel_size=job.voxel_size)
    check_place(job)
    model = _choose_model(job, volume)
    existing = None if job.overwrite else read_plan(job_url(job.output))
    if existing is None and not job.overwrite:
        _refuse_foreign_output(job)
    mask = None if job.mask is None else open_volume(job.mask, voxel_size=(1.0, 1.0, 1.0))
    return _Inputs(job, volume, model, existing, mask)


def _level(job: Job, volume: Volume) -> int:
    if job.level >= len(volume.levels):
        raise ConfigError(
            "config.level",
            f"--level {job.level}: {job.input} has levels 0 to {len(volume.levels) - 1}",
            hint="see `volumetool info`",
        )
    return job.level


def _choose_model(job: Job, volume: Volume) -> Model:
    if job.model != "auto":
        return load_model(job.model)
    size = volume.levels[_level(job, volume)].voxel_size
    fitting: tuple[ModelCard, ...] = fitting_models(size)
    if not fitting:
        raise ModelError(
            "model.none-fits",
            f"no built-in model was trained on voxels of {show_size(size)}",
            hint="choose one with --model NAME (`volumetool model list`), another --level, or correct the metadata with --voxel-size",
        )
    return load_model(fitting[0].name)


def _refuse_foreign_output(job: Job) -> None:
    place = canonical_url(job.output)
    foreign = any(read_key(place, key) is not None for key in ("zarr.json", ".zgroup", ".zarray", "attributes.json"))
    if foreign or (
        is_local(place) and local_path(place).exists() and (local_path(place).is_file() or any(local_path(place).iterdir()))
    ):
        raise OutputError(
            "output.exists",
            f"{job.output} exists and is not the output of a volumetool job",
            hint="choose another output; nothing was touched",
        )


def _workers(job: Job) -> tuple[int, int]:
    """Return workers and threads of each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if job.workers is None and job.cluster == "cuda":
        import torch

        return max(1, torch.cuda.device_count()), max(1, cores // max(1, torch.cuda.device_count()))
    workers = job.workers or 1
    return workers, max(1, cores // workers)


def _numerics(inputs: _Inputs, patch: tuple[int, int, int]) -> Numerics:
    """Return the existing job's numerics, or those that suit model and machine."""
    job, card = inputs.job, inputs.model.card
    if inputs.existing is not None and job.precision in ("auto", inputs.existing.numerics.precision):
        return inputs.existing.numerics
    from volumetool.enhance.device import computes_bfloat16, resolve_device

    device = resolve_device(job.device)
    precision = job.precision
    if precision == "auto":
        precision = (
            "bfloat16" if "bfloat16" in card.precision_safe and not job.exact and computes_bfloat16(device) else "float32"
        )
    numerics = Numerics(precision, job.batch or (CPU_BATCH if device.type == "cpu" else GPU_BATCH), pad=False)
    engine = Engine(inputs.model, numerics, job.device)
    return replace(numerics, pad=engine.batch_matters(patch))


def _statistics(inputs: _Inputs, progress: Progress | None) -> Statistics:
    job, volume = inputs.job, inputs.volume
    channels, sections = volume.channels or 1, volume.levels[job.level].shape[0]
    normalisation = inputs.model.card.normalisation
    if job.sections is not None:
        try:
            text = Path(job.sections).read_text()
        except OSError as error:
            raise ConfigError(
                "config.sections", f"--sections {job.sections} cannot be read: {error}", hint="give a CSV file"
            ) from error
        return Statistics.from_csv(text, channels, sections)
    if normalisation.kind == "none":
        return no_normalisation(channels, sections)
    if inputs.existing is not None and inputs.existing.terms.lattice.z.size == sections:
        return read_statistics(job_url(job.output), inputs.existing)
    percentiles = (normalisation.low, normalisation.high)
    return fit_statistics(volume, job.level, percentiles, seed=job.seed, nodata=job.nodata, progress=progress)


def _terms(inputs: _Inputs, work: Work, numerics: Numerics, statistics: Statistics, dtype: str) -> Terms:
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
        dtype=dtype,
        box=work.box,
        channels=inputs.volume.channels,
        levels=work.levels,
    )


def _text(value: float | None) -> str | None:
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


def _nothing() -> Estimates:
    return Estimates(
        patches=0, recomputed=0, read_bytes=0, written_bytes=0, objects=0, free_bytes=None, worker_bytes=0, allowed_bytes=0, seconds=0,
        compression=1,
    )  # fmt: skip


def _with_grid(decided: Plan, card: ModelCard, work: Work, sample: Sample) -> Plan:
    """Choose the regions for this machine's memory and workers, and estimate what they cost."""
    job, levels = decided.job, decided.terms.levels
    allowed = (job.memory or int(MEMORY_SHARE * psutil.virtual_memory().available)) // decided.workers
    memory_of = MemoryModel(card, _itemsize(decided.terms.dtype), decided.numerics.batch)
    span = job.region or choose_span(work, Demand(decided.workers, allowed, sample.patch_seconds), memory_of)
    grid = work.grid(span)
    asked = decided.roi
    share = sum(grid.region(i).box.voxels for i in grid.touching(asked)) / (work.box.voxels * work.channels) if asked else 1.0
    patches = int(grid.patches(work.lattice, work.box.start) * share)
    distinct = int(work.grid(work.shards).patches(work.lattice, work.box.start) * share)
    stored = (
        sum(level.shape[0] * level.shape[1] * level.shape[2] for level in levels)
        * work.channels
        * _itemsize(decided.terms.dtype)
    )
    estimates = Estimates(
        patches=patches,
        recomputed=patches - distinct,
        read_bytes=patches
        * work.lattice.patch[0]
        * work.lattice.patch[1]
        * work.lattice.patch[2]
        * _itemsize(decided.input_dtype),
        written_bytes=int(stored * sample.compression * share),
        objects=work.channels * sum(_shards(RegionGrid(level.shape, level.shard, (1, 1, 1))) for level in levels),
        free_bytes=_free_bytes(job.output),
        worker_bytes=memory_of(work, span),
        allowed_bytes=allowed,
        seconds=patches * sample.patch_seconds,
        compression=sample.compression,
    )
    check_resources(estimates.free_bytes, estimates.written_bytes, estimates.worker_bytes, allowed)
    return decided.model_copy(update={"grid": grid, "estimates": estimates})


def _shards(grid: RegionGrid) -> int:
    z, y, x = grid.grid
    return z * y * x


def _itemsize(dtype: str) -> int:
    import numpy as np

    return np.dtype(dtype).itemsize


def _free_bytes(output: str) -> int | None:
    place = canonical_url(output)
    if not is_local(place):
        return None
    folder = local_path(place)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
