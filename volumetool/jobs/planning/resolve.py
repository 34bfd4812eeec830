"""Resolving: from what a job names to everything that decides a byte. The output is not looked at, and nothing is written."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import ConfigError
from volumetool.events import Observer, ignore
from volumetool.geometry import Box, Lattice, LevelGrid, Triple, coarse_level, fused_count, part_inside, total_factor
from volumetool.jobs.choices import BatchingChoice, Familiarity
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import roles_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.autotune import autotune, choose_batching
from volumetool.jobs.planning.checks import (
    bad_sections,
    check_dtype,
    check_options,
    check_second,
    check_survey,
    check_voxel_size,
)
from volumetool.jobs.planning.choice import check_gate, judge
from volumetool.jobs.planning.inputs import Inputs, nodata_of, open_inputs, section_curves, section_statistics
from volumetool.jobs.planning.layout import box_counts, make_lattice, make_levels, output_box, output_format
from volumetool.jobs.planning.memory import MemoryModel, memory_model, patches_within
from volumetool.jobs.planning.resources import Resources, machine_resources
from volumetool.jobs.records.input_digest import RegionInput
from volumetool.processing.device.arrays import computes_bfloat16, resolve_device
from volumetool.processing.engine import Engine
from volumetool.processing.operation import with_trust
from volumetool.processing.region import ChainStep, computed, stored_windows
from volumetool.processing.sections.repair import SectionRepair
from volumetool.processing.spec import Numerics, OutputSpec
from volumetool.processing.statistics import Statistics
from volumetool.processing.survey import Survey, grey_limits
from volumetool.storage.create import check_layout
from volumetool.storage.formats.registry import shift_notes
from volumetool.storage.io.roles import name_roles
from volumetool.storage.volume import Level, Volume
from volumetool.storage.voxels import Source
from volumetool.units import show_shape

FIXED_BATCH = 16
"""Patches per call where their number changes bytes, which must not depend on what was tried."""

NETWORK_SHARE = 0.5
"""Share of a worker's memory that patches in the network may take: the rest makes bands wide."""


@dataclass(frozen=True)
class Resolved:
    """A job with everything that decides its voxels, before its costs are estimated.

    Attributes
    ----------
    asked : Job
        The job that was asked for; of a chain, that of `inputs` is the job of the last operation alone.
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
    paces : tuple of BatchingChoice
        The ways to run the network that were tried on this machine.
    resources : Resources
        The workers that it is resolved for.
    gate : Familiarity, optional
        Whether the volume looks like what the model was trained on.
    survey : Survey, optional
        What else the sample of the statistics shows; None where these were not fitted.
    before : Resolved, optional
        The job of a chain's earlier operations, whose output this one reads without its being stored.
    """

    asked: Job
    inputs: Inputs
    engine: Engine
    spec: OutputSpec
    notes: tuple[str, ...]
    extrapolated: bool
    paces: tuple[BatchingChoice, ...]
    resources: Resources
    gate: Familiarity | None
    survey: Survey | None = None
    before: Resolved | None = None

    @property
    def memory_of(self) -> MemoryModel:
        """Memory that a worker needs."""
        numerics = self.engine.numerics
        model = memory_model(self.inputs, numerics.precision, numerics.batch, self.engine.streams)
        model.before = None if self.before is None else (self.before.memory_of, self.before.spec)
        return model

    @property
    def chain(self) -> tuple[Resolved, ...]:
        """The jobs of all operations, in order; this one is the last."""
        return (self,) if self.before is None else (*self.before.chain, self)

    @property
    def stored(self) -> Inputs:
        """The inputs that a store has: those of the first operation."""
        return self.chain[0].inputs

    @property
    def steps(self) -> tuple[ChainStep, ...]:
        """The operations before the last."""
        return tuple(ChainStep(each.spec, each.engine, each.inputs.mask_factor) for each in self.chain[:-1])

    def source(self, channel: int) -> Source:
        """Open the stored input of a channel, and the mask."""
        inputs = self.stored
        stored = RegionInput(inputs.job, inputs.volume, inputs.mask, self.inputs.mask_factor)
        chunks, source = stored.chunks(channel), stored.source(channel)
        if inputs.job.missing != "skip":
            return source
        return replace(source, absent=lambda box: chunks.absent(box, chunks.never_stored(box, source.voxels)))

    @property
    def _all_steps(self) -> tuple[ChainStep, ...]:
        return (*self.steps, ChainStep(self.spec, self.engine, self.inputs.mask_factor))

    def reads(self, channel: int, box: Box) -> Box:
        """Return the voxels of the stored input that `compute` reads."""
        return functools.reduce(Box.joined, stored_windows(self._all_steps, channel, [box])[1])

    def compute(self, channel: int, box: Box, read: Callable[[Box], NDArray[Any]] | None = None) -> NDArray[Any]:
        """Return what a job would store of a channel and a box of the output, which must be a whole volume.

        Parameters
        ----------
        channel : int
            Channel of the output.
        box : Box
            Voxels of its finest level.
        read : callable, optional
            Gives the voxels of a box of the stored input; by default the store does.
        """
        source = self.source(stored_windows(self._all_steps, channel, [box])[0])
        with computed(self._all_steps, channel, [box], replace(source, computed=read)) as output:
            return output.read(box)

    @property
    def output(self) -> Volume:
        """The output, as the volume that the next operation reads."""
        grid, stored = self.spec.levels[0], self.stored.volume
        level = Level("", grid.shape, grid.voxel_size, grid.translation, grid.chunk, grid.shard)
        return replace(
            stored,
            driver="virtual_chunked",
            reader=None,
            cast=None,
            dtype=np.dtype(self.spec.dtype),
            channels=self.spec.channels,
            levels=(level,),
            attributes={},
            identity=self.spec.fingerprint,
            level_identities=(),
            compute=self.compute,
        )


def resolve(
    job: Job,
    *,
    existing: Plan | None = None,
    statistics: Statistics | None = None,
    survey: Survey | None = None,
    resources: Resources | None = None,
    observer: Observer = ignore,
) -> Resolved:
    """Decide every byte of a job's output.

    Parameters
    ----------
    job : Job
        What is asked for; its output need not be named.
    existing : Plan, optional
        Plan of the job that goes on: what was chosen for it stays.
    statistics : Statistics, optional
        Section statistics to use, instead of those that the job names or that would be fitted.
    survey : Survey, optional
        What the sample shows that `statistics` were fitted to.
    resources : Resources, optional
        The workers; those of this machine without it.
    observer : Observer, optional
        Told by `Progressed` how many sections the statistics are fitted to.

    Raises
    ------
    InputError, ModelError, ConfigError, ResourceError
        The job cannot run.
    """
    with name_roles(*roles_of(job)):
        return _resolve(job, existing, (statistics, survey), resources or machine_resources(job), observer)


def resolve_as_begun(job: Job, trust_level: object) -> Resolved:
    """Decide every byte of a job whose output says, in metadata that others may have written, where its trust volume begins."""
    with name_roles(*roles_of(job)):
        known = trust_level if isinstance(trust_level, int) else -1
        return _resolve(job, None, (None, None), machine_resources(job), ignore, known)


def _resolve(
    job: Job,
    existing: Plan | None,
    fitted: tuple[Statistics | None, Survey | None],
    resources: Resources,
    observer: Observer,
    trust_level: int = -1,
) -> Resolved:
    check_options(job)
    before, asked = None, job
    if job.earlier is not None:
        before = _resolve(job.earlier, None if existing is None else existing.before, (None, None), resources, observer)
        job = job.last(before.spec.output_nodata, _within(job, before))
    inputs = open_inputs(job, existing, observer, None if before is None else before.output)
    if any(max(channel.block) > 1 for channel in inputs.operation.card.channels):
        raise ConfigError(
            "config.option", f"{job.model}: block is for a trust volume", hint="leave it out, or give --trust PLACE"
        )
    check_second(job, inputs.operation.card, inputs.level)
    extrapolated, notes = check_voxel_size(job, inputs.operation.card, inputs.level.voxel_size)
    lattice = make_lattice(job, inputs.operation.card, inputs.level.shape)
    box = output_box(job, lattice)
    levels = make_levels(job, box, inputs.operation.card, inputs.level)
    trust_level = _trust_level(inputs, existing, levels, box.voxels // math.prod(lattice.scale), trust_level)
    if trust_level:
        means, steps = total_factor(levels, trust_level), job.store_error is not None
        inputs = replace(inputs, operation=with_trust(inputs.operation, spread=job.tta, means=means, steps=steps))
    threads = resources.threads
    precision = _precision(inputs, existing)
    most = patches_within(inputs, lattice, precision, resources)
    paces = autotune(inputs.operation, precision, job.device, threads, most)
    numerics = None if existing is None or existing.numerics.precision != precision else existing.numerics
    engine = _engine(inputs, lattice, _pace(inputs, lattice, precision, paces, resources.memory), precision, threads, numerics)
    statistics, survey = fitted
    if statistics is None:
        statistics, survey = section_statistics(inputs, existing, observer)
    card, gate = inputs.operation.card, None if existing is None else existing.gate
    if survey is not None:
        notes += check_survey(job, card, survey)
        notes += bad_sections(job, statistics)
        gate = judge(card, survey, invert=job.invert)
    notes += check_gate(job.gate, card, gate)
    check_dtype(job, inputs.dtype, _window(inputs, statistics))
    spec = _spec(inputs, engine.numerics, statistics, lattice, box, levels)
    spec = spec.model_copy(update={"repair": _repair(inputs, statistics, existing), "trust_level": trust_level})
    if card.matching is not None:
        spec = spec.model_copy(update={"curves": section_curves(inputs, card.matching, spec, existing, observer)})
    notes += (card.caution,) if card.caution else ()
    if job.output:  # a live view writes nothing
        for place, layout in zip((job.output, job.trust or job.output), spec.layouts, strict=False):
            check_layout(place, layout)
        notes += tuple(shift_notes(spec.layout))
    notes += _input_notes(inputs, lattice) + (resources.notes if before is None else before.notes)
    extrapolated = extrapolated or (before is not None and before.extrapolated)
    return Resolved(asked, inputs, engine, spec, notes, extrapolated, paces, resources, gate, survey, before)


def _within(job: Job, before: Resolved) -> Box | None:
    """Return the part that a job asks for of what its earlier operations make; None for all of it."""
    if job.roi is None:
        return None
    inside = part_inside(job.roi, before.stored.level.shape, box_counts(job))[0]
    for each in before.chain:
        inside = each.spec.lattice.made_of(inside).intersection(Box.whole(each.spec.lattice.output_shape))
    return inside


def _input_notes(inputs: Inputs, lattice: Lattice) -> tuple[str, ...]:
    """Return what was left out or turned round in reading the volume, and where the box reaches beyond it."""
    job, read = inputs.job, inputs.volume.attributes.get("notes", ())
    note = None if job.roi is None else part_inside(job.roi, inputs.level.shape, box_counts(job))[1]
    return (*read, *(() if note is None else (note,)), *_left_out(inputs.level.shape, lattice))


def _left_out(shape: Triple, lattice: Lattice) -> tuple[str, ...]:
    """Return what is not read because it fills no whole block of the voxels that become one."""
    rest = " x ".join(str(n - used) for n, used in zip(shape, lattice.shape, strict=True))
    told = f"the last {rest} voxels (z, y, x) fill no whole block of {show_shape(lattice.shrink)}, and are left out"
    return () if shape == lattice.shape else (told,)


def _trust_level(inputs: Inputs, existing: Plan | None, levels: tuple[LevelGrid, ...], voxels: int, begun: int) -> int:
    """Return the level at which the trust volume begins: as it was begun, or as the input's number of voxels says."""
    if not inputs.trust:
        return 0
    if existing is not None and existing.spec.trust and existing.spec.levels == levels:
        return existing.spec.trust_level
    return begun if begun in range(fused_count(levels)) else coarse_level(levels, voxels)  # others may have written it


def _precision(inputs: Inputs, existing: Plan | None) -> str:
    """Return the existing job's precision, or the one that suits model and machine."""
    job = inputs.job
    if job.precision != "auto":
        return job.precision
    if existing is not None:
        return existing.numerics.precision
    safe = "bfloat16" in inputs.operation.card.precision_safe and not job.exact
    return "bfloat16" if safe and computes_bfloat16(resolve_device(job.device)) else "float32"


def _pace(inputs: Inputs, lattice: Lattice, precision: str, paces: tuple[BatchingChoice, ...], allowed: int) -> BatchingChoice:
    """Return the fastest way to run the network that leaves memory for the rest, and has patches for all its calls."""
    room = NETWORK_SHARE * allowed

    def fits(pace: BatchingChoice) -> bool:
        enough = pace.patches <= lattice.count
        return enough and memory_model(inputs, precision, pace.batch, pace.streams).network(lattice) <= room

    return choose_batching(paces, fits)


def _engine(
    inputs: Inputs, lattice: Lattice, pace: BatchingChoice, precision: str, threads: int, numerics: Numerics | None
) -> Engine:
    """Return the engine with the given numerics, or with those of the fastest way."""
    job = inputs.job
    if numerics is not None:
        return Engine(inputs.operation, numerics, job.device, threads, pace.streams)
    free = Numerics(precision, job.batch or pace.batch, pad=False)
    engine = Engine(inputs.operation, free, job.device, threads, pace.streams)
    if not engine.batch_matters(lattice.patch):
        return engine
    return Engine(inputs.operation, Numerics(precision, job.batch or FIXED_BATCH, pad=True), job.device, threads, pace.streams)


def _window(inputs: Inputs, statistics: Statistics) -> tuple[float, float]:
    """Return the range of intensities that the output must hold."""
    if inputs.operation.card.normalisation.kind == "none" or not inputs.operation.card.restores:
        return 0.0, 0.0
    return float(statistics.low.min()), float(statistics.high.max())


def _spec(
    inputs: Inputs, numerics: Numerics, statistics: Statistics, lattice: Lattice, box: Box, levels: tuple[LevelGrid, ...]
) -> OutputSpec:
    job, card, channels = inputs.job, inputs.operation.card, inputs.volume.channels
    outputs = card.channels
    if job.store_error is not None and (not inputs.trust or max(outputs[-1].block) > 1):  # what steps go by is not stored
        outputs = outputs[:1] + outputs[2:] if inputs.trust else ()
    made = (channels or 1) * len(outputs) if outputs and not inputs.trust else channels
    return OutputSpec(
        input=inputs.volume.identity_of(job.level),
        level=job.level,
        model=inputs.operation.identity,
        lattice=lattice,
        precision=numerics.precision,
        padded_batch=numerics.batch if numerics.pad else None,
        statistics=statistics,
        seed=job.seed,
        equalise_sections=job.equalise_sections or card.equalises,
        invert=job.invert,
        nodata=job.nodata,
        fill=job.output_fill or 0.0,
        mask=None if inputs.mask is None else inputs.mask.identity_of(0),
        missing=job.missing,
        dtype=inputs.dtype,
        box=box,
        channels=made,
        levels=levels,
        format=output_format(job),
        restores=card.restores,
        inputs=card.inputs,
        outputs=outputs,
        reference=card.reference,
        spares=card.spares,
        trust=inputs.trust,
        store_error=job.store_error or 0.0,
    )


def _repair(inputs: Inputs, statistics: Statistics, existing: Plan | None) -> SectionRepair | None:
    job, quality = inputs.job, statistics.quality
    if job.repair_sections is None or quality is None:
        return None
    bad = tuple(tuple(quality.bad(channel)) for channel in range(inputs.channels))
    earlier = None if existing is None else existing.spec.repair
    if earlier is not None and earlier.bad == bad:
        return earlier.model_copy(update={"mode": job.repair_sections})
    known = inputs.operation.card.normalisation.kind == "percentiles"  # other tables do not say where black and white are
    grey = None if known or not any(bad) else grey_limits(inputs.volume, job.level, nodata_of(job, inputs.volume))
    return SectionRepair(mode=job.repair_sections, bad=bad, grey=grey)
