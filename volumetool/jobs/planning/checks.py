"""Checks before work: a job that cannot succeed is refused here, with both values and what to do next."""

from __future__ import annotations

import numpy as np

from volumetool.errors import ConfigError, DataError, InputError, ModelError, OutputError, ResourceError
from volumetool.geometry import Size, Triple, whole_ratio
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.plan import Estimates
from volumetool.jobs.planning.calibrate import Sample
from volumetool.models import OperationCard, fitting_models
from volumetool.processing.columns import NAN_HINT
from volumetool.processing.quantize import integer_limits
from volumetool.processing.sections.quality import show_sections
from volumetool.processing.statistics import Statistics
from volumetool.processing.survey import CERTAIN, LIKELY, MANY_ZEROS, Survey
from volumetool.storage.create import check_output_place, choose_format
from volumetool.storage.io.kvstore import contains
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Level, Volume
from volumetool.units import show_bytes, show_size

MOST_MASK_FACTOR = 64
"""Voxels of the input along one axis of a voxel of the mask, at most."""

NEARLY = 0.01
"""Share by which voxel sizes of two volumes on one grid may differ: they are rounded where they are written."""

NO_CHANGE = 0.003
"""Change by a model that keeps the voxel size, in parts of the contrast, up to which it does nothing: less than a grey level.
em-denoise changes clean images by 0.04."""

TOLERATED_FACTOR = 2.0
"""A voxel size at most this far outside the card's range is warned of; beyond it is refused."""


def check_options(job: Job) -> None:
    """Refuse options that have no meaning together, and those of a chain that can only be meant for one of its operations.

    Raises
    ------
    ConfigError
        ``config.option``, ``config.chain``.
    """
    if job.tta and job.trust is None:
        raise ConfigError(
            "config.option",
            "--tta without --trust: how far the outputs of turned patches spread is a channel of the trust volume",
            hint="name a place for it: --trust PLACE; the output itself is the same with and without",
        )
    given = [name for name in ("patch", "overlap", "statistics", "with_") if getattr(job, name) is not None]
    if given and len(job.operations) > 1:
        option = f"--{given[0].rstrip('_')}"
        raise ConfigError(
            "config.chain",
            f"{option} {getattr(job, given[0])} is for one operation, and the chain has {len(job.operations)}: {job.model}",
            hint=f"leave {option} out, or run the operations as jobs one after the other",
        )


def check_voxel_size(job: Job, card: OperationCard, voxel_size: Size) -> tuple[bool, tuple[str, ...]]:
    """Compare the input's voxel size with what the model was trained on.

    Parameters
    ----------
    job : Job
        May have `force_voxel_size`, which turns the refusal into a warning.
    card : OperationCard
        Says on which voxel sizes the model was trained; nothing is checked where it does not.
    voxel_size : tuple of float
        Of the input's level, in nm, z, y, x.

    Returns
    -------
    bool
        Whether the model extrapolates.
    tuple of str
        Warnings for the user.

    Raises
    ------
    ModelError
        ``model.voxel-size``: further than a factor of 2 outside, and not forced.
    """
    trained = card.voxel_size
    if trained is None or trained.holds(voxel_size):
        return False, ()
    pairs = zip(trained.smallest, voxel_size, trained.largest, strict=True)
    factor = max(max(low / size, size / high) for low, size, high in pairs)
    range_text = f"{show_size(trained.smallest)} to {show_size(trained.largest)}"
    clash = f"the input's voxels are {show_size(voxel_size)}, {card.name} was trained on {range_text}"
    if factor > TOLERATED_FACTOR and not job.force_voxel_size:
        fitting = ", ".join(other.name for other in fitting_models(voxel_size)) or "none"
        raise ModelError(
            "model.voxel-size",
            clash,
            hint=f"built-in models that fit: {fitting}; --level N takes a coarser level, --voxel-size corrects wrong metadata, "
            "--force-voxel-size goes on and stamps the output as extrapolated",
        )
    return True, (f"{clash}: the output is stamped as extrapolated",)


def bad_sections(job: Job, statistics: Statistics) -> tuple[str, ...]:
    """Return what to beware of where sections are bad, and the job does not say what stands in for them."""
    quality = statistics.quality
    if quality is None or job.repair_sections is not None or not any(map(quality.bad, range(len(quality.verdicts)))):
        return ()
    bad = sorted({z for channel in range(len(quality.verdicts)) for z in quality.bad(channel)})
    told = f"{len(bad)} of {len(quality.verdicts[0])} sections look unlike the others: {show_sections(bad)}"
    return (f"{told}. --repair-sections fill interpolates them, and keeps them out of what their neighbours are made of",)


def check_survey(job: Job, card: OperationCard, survey: Survey) -> tuple[str, ...]:
    """Compare what the sample of the statistics shows with what the job says of the volume.

    Parameters
    ----------
    job : Job
        What is asked for: `invert`, `nodata`, `accept_failed`.
    card : OperationCard
        Says which polarity the model learned.
    survey : Survey
        What the sample showed.

    Returns
    -------
    tuple of str
        Options that the user may have forgotten, and why.

    Raises
    ------
    DataError
        ``data.not-finite``: a voxel is NaN or infinite, and neither said to be without data nor accepted as a failure.
    """
    notes = []
    if survey.strange is not None:
        channel, place, value = survey.strange
        where = f"the input is {value:g} at voxel z {place[0]}, y {place[1]}, x {place[2]}"
        where += f", channel {channel}" if channel else ""
        hint = NAN_HINT if np.isnan(value) else "mend the input, or leave that part out with --roi"
        if not job.accept_failed:
            raise DataError("data.not-finite", f"{where}; regions that hold such voxels would fail", hint=hint, where=job.input)
        notes.append(f"{where}: regions that hold such voxels fail. {hint}")
    if survey.nodata is None and survey.zero_share > MANY_ZEROS:
        notes.append(
            f"{survey.zero_share:.0%} of the sampled voxels are exactly 0: if they are margins without an image, --nodata 0 "
            "leaves them out of the statistics and as they are"
        )
    shown = -survey.polarity if job.invert else survey.polarity  # as the model will see it
    if shown < -LIKELY and "dark membranes" in card.polarity:
        colour, advice = ("dark already", "leave --invert away") if job.invert else ("bright", "try --invert")
        agree = np.mean([(line > 0) == job.invert for line in survey.lines])
        notes.append(
            f"membranes are {'almost certainly' if shown < -CERTAIN else 'probably'} {colour}, so in {agree:.0%} of "
            f"{len(survey.lines)} sampled places, and {card.name} learned from dark ones: {advice}"
        )
    return tuple(notes)


def check_sample(job: Job, card: OperationCard, sample: Sample) -> tuple[str, ...]:
    """Warn if the sample that a plan enhances shows that the job would change nothing.

    Parameters
    ----------
    job : Job
        What is asked for.
    card : OperationCard
        Its scale: only a model that keeps the voxel size can change nothing.
    sample : Sample
        Result of enhancing a sample.

    Returns
    -------
    tuple of str
        The warning, or nothing.

    Raises
    ------
    DataError
        ``data.not-finite``: it holds NaN or infinity, and failures are not accepted.
    """
    if sample.not_finite is not None and not job.accept_failed and (job.roi is None or job.crop):
        raise sample.not_finite
    if max(card.scale) > 1 or sample.change is None or sample.change > NO_CHANGE:
        return ()
    return (
        f"{card.name} changes almost nothing: grey values of a sample moved by {sample.change:.2%} of their contrast. "
        "Either the input has no noise that the model knows, or the model has learned to repeat its input",
    )


def check_place(job: Job) -> None:
    """Refuse volumes to write that lie in the input or in one another, and such that are named as another format.

    Raises
    ------
    OutputError
        ``output.inside-input``, ``output.format``.
    """
    check_output_place(job.output)
    choose_format(job.output, job.format)
    if contains(job.input, job.output) or contains(job.output, job.input):
        raise OutputError(
            "output.inside-input",
            f"the output {job.output} and the input {job.input} lie in one another",
            hint="give the output a place of its own",
        )
    if job.trust is None:
        return
    check_output_place(job.trust)
    choose_format(job.trust, choose_format(job.output, job.format))
    for other in (job.output, JobDir(job.output).url, job.input):
        if contains(other, job.trust) or contains(job.trust, other):
            raise OutputError(
                "output.inside-input",
                f"the trust volume {job.trust} and {other} lie in one another",
                hint="give the trust volume a place of its own",
            )


def check_dtype(job: Job, dtype: str, window: tuple[float, float]) -> None:
    """Check that the output's dtype holds the intensities and the value of missing voxels.

    Parameters
    ----------
    job : Job
        Its `output_fill` is the value of missing voxels.
    dtype : str
        NumPy name of the output's dtype.
    window : tuple of float
        Lowest and highest percentile of all sections, in intensities of the input.

    Raises
    ------
    ConfigError
        ``config.dtype``: the dtype cannot hold the volume's intensities; ``config.nodata``: nodata or fill is not a value of
        the dtype.
    """
    low, high = integer_limits(dtype)
    if not low <= window[0] <= window[1] <= high:
        raise ConfigError(
            "config.dtype",
            f"--dtype {dtype} holds {low:g} to {high:g}, the volume's intensities span {window[0]:g} to {window[1]:g}",
            hint="intensities keep their scale: choose a dtype that holds them",
        )
    fill = job.output_fill
    if fill is not None and np.dtype(dtype).kind != "f" and not (low <= fill <= high and fill == int(fill)):
        raise ConfigError(
            "config.nodata",
            f"voxels without data would become {fill:g}, which is no {dtype}",
            hint="name a value of that dtype with --fill",
        )


def mask_factor(job: Job, mask: Volume, shape: Triple) -> Triple:
    """Return the input voxels per voxel of the mask.

    Parameters
    ----------
    job : Job
        Names the mask, for the error.
    mask : Volume
        The mask; its first level is compared.
    shape : tuple of int
        Shape of the input's level, in voxels, z, y, x.

    Returns
    -------
    tuple of int
        Along z, y, x; each from 1 to `MOST_MASK_FACTOR`.

    Raises
    ------
    ConfigError
        ``config.mask``: the mask's shape is not the input's divided by whole numbers.
    """
    fitting = [
        next((factor for factor in range(1, MOST_MASK_FACTOR + 1) if -(-voxels // factor) == coarse), 0)
        for voxels, coarse in zip(shape, mask.shape, strict=True)
    ]
    if all(fitting):
        return fitting[0], fitting[1], fitting[2]
    raise ConfigError(
        "config.mask",
        f"the mask {job.mask} has {mask.shape} voxels, the input {shape}",
        hint="the mask covers the same volume, on the same grid or one a whole number coarser",
    )


def check_second(job: Job, card: OperationCard, level: Level) -> None:
    """Refuse a second volume that the operation does not take, or that lies on another grid, and a lack of one that it takes.

    Parameters
    ----------
    job : Job
        May name it.
    card : OperationCard
        Says how many volumes the operation takes.
    level : Level
        The level of the input that is read.

    Raises
    ------
    ConfigError
        ``config.with``.
    InputError
        As :func:`volumetool.storage.open.open_volume`.
    """
    wanted = card.inputs == 2
    if wanted != (job.with_ is not None) or (wanted and job.mask is not None):
        given = ", ".join(f"{name} {place}" for name, place in (("--with", job.with_), ("--mask", job.mask)) if place) or "none"
        raise ConfigError(
            "config.with",
            f"{card.name} takes {'a' if wanted else 'no'} second volume; given was {given}",
            hint="--with names what a function of two arguments takes, and then no --mask stands beside it",
        )
    if job.with_ is None:
        return
    second, told = open_volume(job.with_, voxel_size=(1.0, 1.0, 1.0)), level.voxel_size
    try:
        told = open_volume(job.with_).levels[0].voxel_size
    except InputError as error:
        if error.code != "input.no-voxel-size":
            raise
    if second.shape != level.shape or whole_ratio(told, level.voxel_size, NEARLY) != (1, 1, 1) or second.channels:
        raise ConfigError(
            "config.with",
            f"--with {job.with_} has {second.shape} voxels of {show_size(told)}{', a c axis' if second.channels else ''}, "
            f"the input {level.shape} of {show_size(level.voxel_size)}",
            hint="it must lie on the very grid of the input's level, without a c axis",
        )


def check_resources(cost: Estimates, limit: str) -> None:
    """Refuse a job that does not fit on the disk or into memory; `limit` says by name and value what bounds the memory.

    Raises
    ------
    ResourceError
        ``resource.disk``, ``resource.files`` or ``resource.memory``.
    """
    if cost.free_files is not None and cost.objects > cost.free_files:
        raise ResourceError(
            "resource.files",
            f"the output is about {cost.objects} files, {_bound(cost.bounds[1])} has room for {cost.free_files} more",
            hint="take larger shards (--shard), delete files there, or write to another place",
        )
    if cost.free_bytes is not None and cost.written_bytes + cost.kept_bytes > cost.free_bytes:
        kept = f" and kept patches {show_bytes(cost.kept_bytes)}" if cost.kept_bytes else ""
        raise ResourceError(
            "resource.disk",
            f"the output takes about {show_bytes(cost.written_bytes)}{kept}, {_bound(cost.bounds[0])} leaves "
            f"{show_bytes(cost.free_bytes)}",
            hint="make room, write to another place, or enhance a part with --roi and --crop",
        )
    if cost.worker_bytes > cost.allowed_bytes:
        hint = "take smaller shards (--shard), fewer --workers, or more --memory"
        raise _memory((cost.worker_bytes, cost.allowed_bytes), "", limit, hint)


def _bound(name: str) -> str:
    return name or "its file system"


def check_patch(needed: int, allowed: int, what: str, limit: str) -> None:
    """Refuse patches and chunks if memory does not hold a single one.

    Parameters
    ----------
    needed, allowed : int
        Bytes that a worker needs, and that it may use.
    what : str
        What needs them, for the error.
    limit : str
        What bounds the memory, by name and value, for the error: "--memory 4 GiB".

    Raises
    ------
    ResourceError
        ``resource.memory``.
    """
    if needed > allowed:
        hint = "take a --model with smaller patches, a smaller --patch where you gave one, or more --memory"
        raise _memory((needed, allowed), f" for {what}", limit, hint)


def _memory(amounts: tuple[int, int], what: str, limit: str, hint: str) -> ResourceError:
    needed, allowed = map(show_bytes, amounts)
    clash = f"a worker needs about {needed}{what}, it may use {allowed} (limit: {limit})"
    return ResourceError("resource.memory", clash, hint=hint)
