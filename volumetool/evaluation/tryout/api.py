"""The function that users call to try models on a volume: it plans each job, and computes what the job would store in crops."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import Field

from volumetool.configuration import Numbers, Options, Place, with_options
from volumetool.errors import ConfigError, ResourceError
from volumetool.evaluation.tryout.places import Crop, choose_crops, crop_around, crop_shape
from volumetool.evaluation.tryout.results import Tried, Tryout
from volumetool.evaluation.tryout.tryout_page import check_page, write_page
from volumetool.evaluation.tryout.views import finest_scale, read_once, view_error, view_input, view_output
from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Box, Triple, part_inside
from volumetool.jobs.job import Job, make_job
from volumetool.jobs.job_dir import roles_of
from volumetool.jobs.planning.checks import check_resources
from volumetool.jobs.planning.conflicts import resume_command
from volumetool.jobs.planning.inputs import open_inputs
from volumetool.jobs.planning.planner import plan_anew
from volumetool.jobs.planning.resolve import Resolved, resolve
from volumetool.models import ModelCard, fitting_models
from volumetool.paths import AnyPlace, absolute_path
from volumetool.processing.operation import open_operation, operation_name
from volumetool.processing.sections.quality import SectionQuality
from volumetool.processing.survey import LEAST_SIDE
from volumetool.storage.io.roles import name_roles
from volumetool.units import show_scale

SIDE = 128
"""Side of a crop in plane, in voxels of the input."""

WITHOUT = ("output", "model", "crop", "gate", "part", "overwrite", "cluster", "dashboard")
"""Options of a job that a tryout does not take."""


class TryoutOptions(Options):
    """What is tried, and where: the options of ``volumetool try`` and of `volumetool.try_models` beside those of a job.

    Parameters
    ----------
    models : tuple of str
        Models or other operations to try; all built-in ones that fit the voxel size without it.
    at : tuple of int, optional
        The centre of a single crop, in voxels z, y, x, instead of those that rules choose.
    side : int
        Side of the crops in plane, in voxels.
    """

    told_by = "`volumetool try --help`"

    models: tuple[Place, ...] = ()
    at: Numbers | None = None
    side: Annotated[int, Field(ge=LEAST_SIDE, le=512)] = SIDE


@with_options(Job, *WITHOUT)
def try_models(
    input: AnyPlace,  # noqa: A002  (the user's word)
    page: str | os.PathLike[str] = "try.html",
    *,
    models: Sequence[AnyPlace] = (),
    at: Triple | str | None = None,
    side: int = SIDE,
    observer: Observer = ignore,
    **options: Any,
) -> Tryout:
    """Show on one page what models make of typical parts of a volume, and what the whole job would cost.

    The crops have the bytes that the job would store there, and the costs are those of its plan. Nothing but the page is
    written.

    Parameters
    ----------
    input : str or path
        Path or URL of the volume.
    page : str or path
        HTML file to write, which holds everything; one that is there is replaced.
    models : sequence of str or path
        Models or other operations to try; all built-in ones that fit the voxel size without it, of a single section those that
        make no further ones, and of those that do the same the smaller one.
    at : tuple of int, optional
        The centre of a single crop, in voxels z, y, x, instead of those that rules choose.
    side : int
        Side of the crops in plane, in voxels of the input.
    observer : Observer, optional
        Told by `Progressed` how far it is.
    **options
        Any other field of :class:`volumetool.Job`, such as ``voxel_size=(30, 8, 8)``; crops are chosen inside ``roi``.

    Raises
    ------
    VolumetoolError
        As :func:`volumetool.plan`; ``output.unwritable`` where the page cannot be written.
    """
    asked = TryoutOptions(models=tuple(models), at=at, side=side)
    job, place = make_job(input=input, **options), absolute_path(page)
    check_page(place)
    with name_roles(*roles_of(job)):
        fitting, left_out = _resolved(job, asked.models, observer)
        resolved = [each for each, _ in fitting]
        crops = _crops(resolved[0], asked, observer)
        count = counting(observer, "models on crops", len(resolved) * (1 + len(crops)))
        near = [read_once(resolved, crop) for crop in crops]
        shown = [view_input(read(crop.box), crop, finest_scale(resolved)) for crop, read in zip(crops, near, strict=True)]
        tried = []
        for each, costs in fitting:
            error = _with_error(each)
            count(1)
            for views, view in zip(shown, view_output(each, crops, near), strict=True):
                views.append(view)
                count(1)
            expected = [] if error is None else list(view_error(error, crops, near))
            for views, view in zip(shown, expected, strict=False):
                views.append(view)
            tried.append(replace(costs, expected_error=tuple(float(view.xy.mean()) for view in expected)))
    stored = resolved[0].stored
    level, channels = stored.level, stored.channels
    found = Tryout(job.input, level.shape, level.voxel_size, channels, place, crops, tuple(tried), left_out)
    write_page(found, shown)
    return found


def _resolved(
    job: Job, models: Sequence[str], observer: Observer
) -> tuple[list[tuple[Resolved, Tried]], tuple[tuple[str, str], ...]]:
    """Plan a job for each model; those that scale grey values alike share the sample of the volume.

    Returns
    -------
    list of (Resolved, Tried)
        The jobs, with what their plans say.
    tuple of (str, str)
        The models whose job cannot be planned, and why. If none can, the first one's error is raised.
    """
    names, sample, rule = [operation_name(model) for model in models], None, None
    if not names:
        inputs = open_inputs(job, observer=observer)
        best, sample = inputs.operation.card, inputs.sample
        single = inputs.level.shape[0] == 1  # there is nothing between sections to make
        fitting = [card for card in fitting_models(inputs.level.voxel_size) if not single or card.scale[0] == 1]
        simplest = {card.scale: card.name for card in reversed(fitting)}
        names = [best.name, *(card.name for card in fitting if simplest[card.scale] == card.name)]
        rule = best.normalisation if sample is not None and job.statistics is None else None
    found: list[tuple[Resolved, Tried]] = []
    errors: dict[str, ResourceError | ConfigError] = {}
    names = list(dict.fromkeys(names))
    count = counting(observer, "models opened", len(names))
    for name in names:
        own = job.model_copy(update={"model": name, "output": _output(job.input, name), "gate": "off"})
        alike = rule is not None and len(own.operations) == 1 and open_operation(name).card.normalisation == rule
        known = sample if alike and sample is not None else (None, None)
        count(1)
        try:
            each = resolve(own, statistics=known[0], survey=known[1], observer=observer)
            found.append((each, _planned(each)))
        except (ResourceError, ConfigError) as error:
            errors[name] = error
            continue
        if rule is None and each.survey is not None and each.before is None:
            rule, sample = each.inputs.operation.card.normalisation, (each.spec.statistics, each.survey)
    if not found:
        raise next(iter(errors.values()))
    return found, tuple((name, f"{error.message}. {error.hint}") for name, error in errors.items())


def _output(place: str, model: str) -> str:
    """Return a name for what a model makes of a volume, in the working directory."""
    volume = PurePosixPath(place.rstrip("/")).name
    stem = re.sub(r"(\.ome)?\.[A-Za-z0-9]{1,12}$", "", volume) or volume
    operation = re.sub(r"[^A-Za-z0-9.]+", "-", model.rpartition("/")[2].removesuffix(".safetensors")).strip("-")
    return f"{stem}-{operation}.zarr"


def _crops(resolved: Resolved, asked: TryoutOptions, observer: Observer) -> tuple[Crop, ...]:
    level, job = resolved.stored.level, resolved.asked
    whole, shape = Box.whole(level.shape), crop_shape(asked.side, level.voxel_size)
    if asked.at is None:
        inside = whole if job.roi is None else part_inside(job.roi, level.shape, job.input)[0]
        bad = _unlike_others(resolved.chain[0].spec.statistics.quality, inside)
        return choose_crops(resolved.source(0), inside, shape, job.nodata, bad, observer)
    z, y, x = asked.at
    part_inside(Box((z, y, x), (z + 1, y + 1, x + 1)), level.shape, job.input)
    return (Crop("as asked", f"around voxel {z}, {y}, {x} (z, y, x)", crop_around((z, y, x), shape, whole), z),)


def _unlike_others(quality: SectionQuality | None, inside: Box) -> tuple[int, str] | None:
    """Return the section of a box that the plan calls bad and that is least like its neighbours, with the verdict on it."""
    bad = {} if quality is None else quality.bad(0)
    seen = [z for z, verdict in bad.items() if inside.start[0] <= z < inside.stop[0] and verdict != "blank"]
    if quality is None or not seen:
        return None
    worst = min(seen, key=lambda z: float(quality.correlation[0, z]))
    return worst, bad[worst]


def _with_error(resolved: Resolved) -> Resolved | None:
    """Return the job of the same model with its expected error; None where it says none."""
    card, job = resolved.inputs.operation.card, resolved.asked
    if not isinstance(card, ModelCard) or not card.architecture.expected_error or card.channels:
        return None
    model = f"{job.model};expected_error=true"
    own = job.model_copy(update={"model": model, "dtype": None})
    if resolved.before is not None:
        return resolve(own)
    return resolve(own, statistics=resolved.spec.statistics, survey=resolved.survey)


def _planned(resolved: Resolved) -> Tried:
    """Return what the plan of a job says."""
    plan, job = plan_anew(resolved), resolved.asked
    costs, notes = plan.estimates, plan.notes
    try:
        check_resources(costs, resolved.resources.bound)
    except ResourceError as error:
        notes += (f"the job would be refused here: {error.message}. {error.hint}",)
    command = resume_command(job.model_copy(update={"gate": "warn"}))
    specs = [each.spec.lattice for each in resolved.chain]
    return Tried(
        model=plan.title,
        does="; then ".join(show_scale(each.scale, each.shrink) for each in specs),
        voxel_size=plan.spec.levels[0].voxel_size,
        gate=plan.gate,
        seconds=costs.seconds,
        read_bytes=costs.read_bytes,
        written_bytes=costs.written_bytes,
        objects=costs.objects,
        expected_error=(),
        notes=notes,
        command=command + (f" --roi={shlex.quote(str(job.roi))}" if job.roi is not None else ""),
    )
