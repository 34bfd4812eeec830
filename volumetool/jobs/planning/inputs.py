"""What a job names, opened: the input volume, the model, the mask, and what an earlier run left at the output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import ConfigError, InputError, LedgerError, OutputError
from volumetool.events import Observer, Progressed, counting, ignore
from volumetool.geometry import Box, Triple
from volumetool.jobs.choices import ModelChoice
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import PLAN, JobDir
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.checks import mask_factor
from volumetool.jobs.planning.choice import rank_models
from volumetool.jobs.records.plan_file import read_plan
from volumetool.models import HistogramMatching, Normalisation
from volumetool.paths import absolute_path, open_file
from volumetool.processing.operation import Operation, open_operation, with_steps, with_trust
from volumetool.processing.operations.match import fit_curves
from volumetool.processing.sections.curves import GreyCurves
from volumetool.processing.sections.look import SectionView
from volumetool.processing.sections.quality import SectionQuality
from volumetool.processing.sections.reading import repaired_tiles
from volumetool.processing.sections.tiles import read_tiles
from volumetool.processing.spec import OutputSpec
from volumetool.processing.statistics import (
    Statistics,
    no_normalisation,
    range_normalisation,
    sample_statistics,
    smooth_statistics,
)
from volumetool.processing.survey import Survey, grey_limits
from volumetool.storage.create import read_root
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.chunk_keys import VOLUME_METADATA
from volumetool.storage.io.kvstore import canonical_url, is_local, local_path, read_key
from volumetool.storage.io.limits import check_sections
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import provenance_of
from volumetool.storage.volume import Level, Volume
from volumetool.units import check_given_size

MOST_TABLE = 2**28
"""Bytes of a table of section statistics: 128 for each of the sections that a volume may have."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a job, opened.

    Attributes
    ----------
    job : Job
        The job that names the inputs.
    volume : Volume
        The volume that is enhanced.
    operation : Operation
        The network or filter that enhances it.
    mask : Volume, optional
        Zero where nothing needs enhancing.
    choice : ModelChoice, optional
        How the model was chosen, where the job names none and goes on with none.
    sample : tuple of Statistics and Survey, optional
        What was fitted to the sample that the choice rests on, by the chosen model's percentiles.
    """

    job: Job
    volume: Volume
    operation: Operation
    mask: Volume | None
    choice: ModelChoice | None = None
    sample: tuple[Statistics, Survey] | None = None

    @property
    def level(self) -> Level:
        """The level of the input that is enhanced."""
        return self.volume.levels[self.job.level]

    @property
    def dtype(self) -> str:
        """Data type of the output."""
        apart = self.job.trust is not None or self.job.store_error is not None  # what is no grey value is not stored with it
        image = apart or self.operation.card.keeps_dtype
        return self.job.dtype or (self.volume.dtype.name if image else "float32")

    @property
    def trust(self) -> str:
        """Data type of the trust volume, as wide as that of the output, and signed; empty without one."""
        dtype = np.dtype(self.dtype)
        signed = dtype.name if dtype.kind == "f" else f"int{8 * dtype.itemsize}"
        return "" if self.job.trust is None else signed

    @property
    def channels(self) -> int:
        """Number of channels, at least 1."""
        return self.volume.channels or 1

    @property
    def mask_factor(self) -> Triple:
        """Input voxels per voxel of the mask."""
        if self.mask is None or self.job.with_ is not None:
            return 1, 1, 1
        return mask_factor(self.job, self.mask, self.level.shape)


def open_inputs(job: Job, existing: Plan | None = None, observer: Observer = ignore, made: Volume | None = None) -> Inputs:
    """Open what a job names; where it names no model, the sample of the statistics is read, and one is chosen.

    Parameters
    ----------
    job : Job
        What is asked for; its output is not looked at.
    existing : Plan, optional
        Plan of the job that goes on: its model is taken where the job names none.
    observer : Observer, optional
        Told by `Progressed` how many sections of the sample are read.
    made : Volume, optional
        What earlier operations of a chain make, in place of the volume that the job names.

    Raises
    ------
    InputError, ModelError, ConfigError
        Something is missing, or not what it should be.
    """
    check_given_size(job.voxel_size, sure=job.force_voxel_size)
    volume = made or open_volume(job.input, voxel_size=job.voxel_size)
    if job.level >= len(volume.levels):
        last = len(volume.levels) - 1
        raise ConfigError(
            "config.level", f"--level {job.level}: {job.input} has levels 0 to {last}", hint="see `volumetool info`"
        )
    mask = None if job.second is None else open_volume(job.second, voxel_size=(1.0, 1.0, 1.0))
    check_sections(job.input, volume.levels[job.level].shape[0] * (volume.channels or 1))
    if job.model != "auto":
        return Inputs(job, volume, _operation(job, job.model), mask)
    if existing is not None and existing.job.operations[-1] == "auto":  # chosen then; another version may choose otherwise
        return Inputs(job, volume, _operation(job, existing.model_spec), mask, existing.choice)
    return _choose(job, volume, mask, observer)


def section_statistics(
    inputs: Inputs, existing: Plan | None = None, observer: Observer = ignore
) -> tuple[Statistics, Survey | None]:
    """Return the table of section statistics: given by the user, frozen by an earlier run, or fitted now.

    Parameters
    ----------
    inputs : Inputs
        The job with its volume and operation.
    existing : Plan, optional
        Plan of the job that goes on. Its table is taken if the input still has as many sections.
    observer : Observer, optional
        Told by `Progressed` how many sections the statistics are fitted to.

    Returns
    -------
    Statistics
        Two percentiles per channel and section.
    Survey or None
        What else the sample showed; None unless the table was fitted now.

    Raises
    ------
    ConfigError
        ``config.statistics``: the table that the user gave cannot be read.
    """
    table, survey = _table(inputs, existing, observer)
    if inputs.job.repair_sections is not None and table.quality is None:
        known = existing is not None and existing.spec.lattice.shape[0] == inputs.level.shape[0]
        quality = existing.spec.statistics.quality if existing is not None and known else None
        view = SectionView(inputs.volume, inputs.job.level, nodata_of(inputs.job, inputs.volume))
        table = replace(table, quality=quality or _quality(view, observer))
    return table, survey


def _table(inputs: Inputs, existing: Plan | None, observer: Observer) -> tuple[Statistics, Survey | None]:
    job = inputs.job
    normalisation, sections = inputs.operation.card.normalisation, inputs.level.shape[0]
    if job.statistics is not None:
        return Statistics.from_csv(read_table(job.statistics), inputs.channels, sections), None
    if normalisation.kind == "none":
        return no_normalisation(inputs.channels, sections), None
    if normalisation.kind == "range":
        return range_normalisation(inputs.volume.dtype, inputs.channels, sections), None
    if existing is not None and existing.spec.lattice.shape[0] == sections:
        return existing.spec.statistics, None
    if normalisation.kind == "limits":
        limits = grey_limits(inputs.volume, job.level, nodata_of(job, inputs.volume))
        low, high = (np.full((inputs.channels, sections), limit) for limit in limits)
        return Statistics(low, high), None
    return inputs.sample or _fit(job, inputs.volume, normalisation, observer)


def _fit(job: Job, volume: Volume, normalisation: Normalisation, observer: Observer) -> tuple[Statistics, Survey]:
    """Fit the table of section statistics to the sample, and survey it."""
    channels, shape, nodata = volume.channels or 1, volume.levels[job.level].shape, nodata_of(job, volume)
    whole, count = Box.whole(shape), shape[0] * channels
    survey = Survey(whole if job.roi is None else job.roi.intersection(whole), count, nodata)
    view = None if volume.compute is not None else SectionView(volume, job.level, nodata)

    def look(channel: int, box: Box, voxels: NDArray[Any]) -> None:
        survey.add(channel, box, voxels)
        if view is not None and view.sampled:
            view.add(channel, box, voxels)
        observer(Progressed("section statistics", channel * shape[0] + box.stop[0], count))

    percentiles = None if normalisation.kind == "standard" else (normalisation.low, normalisation.high)
    sampled = sample_statistics(volume, job.level, percentiles, seed=job.seed, nodata=nodata, seen=look)
    if view is None:
        return smooth_statistics(sampled), survey
    quality = _quality(view, observer)
    bad = [] if job.repair_sections is None else [list(quality.bad(channel)) for channel in range(channels)]
    return replace(smooth_statistics(sampled, bad), quality=quality), survey


def _quality(view: SectionView, observer: Observer) -> SectionQuality:
    """Return the quality of all sections, of which those are read now that were not read for the statistics."""
    if not view.complete:
        view.read(lambda done, count: observer(Progressed("section quality", done, count)))
    return view.quality


def section_curves(
    inputs: Inputs, matching: HistogramMatching, spec: OutputSpec, existing: Plan | None, observer: Observer = ignore
) -> GreyCurves:
    """Return the curves that match histograms of sections: frozen by an earlier run, or fitted now to all that is read.

    Parameters
    ----------
    inputs : Inputs
        The job with its volume and operation.
    matching : HistogramMatching
        What they are matched to.
    spec : OutputSpec
        The rest of what decides the bytes: it says what stands in for bad sections.
    existing : Plan, optional
        Plan of the job that goes on. Its curves are taken if the input still has as many sections.
    observer : Observer, optional
        Told by `Progressed` how many voxels were counted.

    Raises
    ------
    ConfigError
        ``config.histograms``.
    """
    known = None if existing is None or existing.spec.model != inputs.operation.identity else existing.spec.curves
    if known is not None and known.table.shape[1] == inputs.level.shape[0]:
        return known
    volume, level = inputs.volume, inputs.job.level
    count = counting(observer, "section histograms", Box.whole(inputs.level.shape).voxels * inputs.channels)
    tiles = read_tiles if spec.repair is None else partial(repaired_tiles, spec)
    return fit_curves(volume, level, matching, nodata_of(inputs.job, volume), count, tiles)


def nodata_of(job: Job, volume: Volume) -> float | None:
    """Return the value that says nothing of contrast: that of voxels without data, or what reads where nothing is stored."""
    if job.nodata is None and job.missing == "skip":
        return float(volume.open(job.level).fill_value or 0)
    return job.nodata


def read_table(sections: str) -> str:
    """Return the text of the table of section statistics that a job names.

    Raises
    ------
    ConfigError
        ``config.statistics``: it cannot be read.
    """
    try:
        with open_file(absolute_path(sections)) as file:
            text = file.read(MOST_TABLE + 1)
        if len(text) > MOST_TABLE:
            raise ValueError(f"more than {MOST_TABLE} bytes are no table")
        return text.decode()
    except (OSError, ValueError) as error:
        raise ConfigError(
            "config.statistics", f"--statistics {sections} cannot be read: {error}", hint="give a CSV file"
        ) from error


def _choose(job: Job, volume: Volume, mask: Volume | None, observer: Observer) -> Inputs:
    """Choose the model by the sample of the volume that its statistics are fitted to anyway."""
    size = volume.levels[job.level].voxel_size
    first = rank_models(size, None)[0]
    sample = _fit(job, volume, first.normalisation, observer)
    evidence = sample[1].evidence
    cards = rank_models(size, evidence)
    choice = ModelChoice(evidence=evidence, next_best=cards[1].name if len(cards) > 1 else None)
    kept = sample if cards[0].normalisation == first.normalisation else None
    return Inputs(job, volume, _operation(job, cards[0].name), mask, choice, kept)


def _operation(job: Job, name: str) -> Operation:
    """Open an operation, which makes the channels of a trust volume, or the error that steps go by, where the job asks."""
    operation = open_operation(name)
    operation = operation if job.store_error is None else with_steps(operation)
    return operation if job.trust is None else with_trust(operation, spread=job.tta)


def refuse_foreign_output(job: Job) -> None:
    """Refuse to write over, or to delete, what no job of volumetool made; a plan beside it is no proof that one did.

    Raises
    ------
    OutputError
        ``output.exists``, ``output.foreign``.
    """
    place = canonical_url(job.output)
    something = _is_something(place)
    planned = read_key(JobDir(job.output).url, PLAN) is not None  # of a job that is to be begun anew
    ours = _made_by(place, _readable_plan(job), something=something) if planned else not something
    if not ours and not planned and _names_job(place):
        raise OutputError(
            "output.foreign" if job.overwrite else "output.exists",
            f"{job.output} is the output of a job whose folder {JobDir(job.output).url} is lost",
            hint=f"`volumetool verify {job.output} --adopt` makes a new one from what is right; or bring the folder back, or "
            "choose another output; nothing was touched",
            where=place,
        )
    if not ours:
        raise OutputError(
            "output.foreign" if job.overwrite else "output.exists",
            f"{job.output} exists and is not the output of a volumetool job",
            hint=f"choose another output, or delete it and {JobDir(job.output).url} yourself; nothing was touched",
            where=place,
        )


def refuse_foreign_trust(job: Job) -> None:
    """Refuse to write a trust volume over, or to delete, what the job at the output did not make.

    Raises
    ------
    OutputError
        ``output.exists``.
    """
    if job.trust is None:
        return
    place, earlier = canonical_url(job.trust), _readable_plan(job)
    mine = earlier if earlier is not None and earlier.trust == place else None
    if _is_something(place) and (mine is None or not _made_by(place, mine, something=True)):
        raise OutputError(
            "output.exists",
            f"something is at {job.trust} that the job of {job.output} did not make",
            hint="choose another place, or delete it yourself; nothing was touched",
            where=place,
        )


def _is_something(place: str) -> bool:
    """Return whether a volume, a file or a folder that holds something is at a place."""
    something = any(read_key(place, key) is not None for key in VOLUME_METADATA)
    if is_local(place) and local_path(place).exists():
        something = something or local_path(place).is_file() or any(local_path(place).iterdir())
    return something


def _names_job(place: str) -> bool:
    """Return whether the metadata of a volume name a job."""
    try:
        return "fingerprint" in (provenance_of(read_root(place)[1] or {}) or {})
    except InputError:
        return False


def _readable_plan(job: Job) -> Plan | None:
    try:
        return read_plan(JobDir(job.output).url)
    except LedgerError:
        return None


def _parts(plan: Plan) -> set[str]:
    """Return the names of what lies in the output of a job before it is a volume, and after it was one."""
    written = WRITTEN[plan.spec.format]
    return {written.path.format(number) for number in range(len(plan.spec.levels))} | set(written.beside)


def _made_by(place: str, plan: Plan | None, *, something: bool) -> bool:
    """Return whether what is at a place was made by the job whose plan lies beside it, None for a plan that cannot be read."""
    parts = set() if plan is None else _parts(plan)
    if not any(read_key(place, key) is not None for key in VOLUME_METADATA if key not in parts):
        # What an interrupted deletion or creation leaves.
        left = [] if not something or local_path(place).is_file() else [entry.name for entry in local_path(place).iterdir()]
        return plan is not None and (not something or (bool(left) and set(left) <= parts))
    try:
        own = provenance_of(read_root(place)[1] or {})
    except InputError:
        return False
    return own is not None and (own.get("fingerprint") == plan.fingerprint if plan is not None else "fingerprint" in own)
