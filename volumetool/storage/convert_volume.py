"""Conversion with the whole pyramid: level 0 from the source, every further level from the one before."""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np

from volumetool.configuration import with_options
from volumetool.errors import ResourceError
from volumetool.events import Observer, ignore
from volumetool.machine import existing_folder
from volumetool.paths import AnyPlace
from volumetool.storage.conversion import Conversion, ConversionPlan, plan_requested
from volumetool.storage.convert import write_finest
from volumetool.storage.formats.registry import shift_notes
from volumetool.storage.images import ImageStack
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import write_status
from volumetool.storage.pyramid import build_pyramid
from volumetool.storage.volume import Volume
from volumetool.units import show_bytes, show_shape, show_size


@with_options(Conversion)
def convert(
    input: AnyPlace,  # noqa: A002  (the user's word)
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    observer: Observer = ignore,
    **options: Any,
) -> Volume:
    """Convert a volume or a stack of images to another format, with all its levels.

    Converting again goes on where it stopped, and gives the same bytes. Meanwhile the volume's own attributes call it
    unfinished.

    Parameters
    ----------
    input, output : str or path
        Paths or URLs of the volume, or stack of images, to read, and of the volume to write.
    overwrite : bool
        Delete an earlier conversion at the output and start again; anything else there is left alone and refused.
    observer : Observer, optional
        Told by `Progressed` of ``converting``, the finest level: each voxel counts once when it was read, and once when it
        was written; and of ``coarse levels``.
    **options
        Any field of :class:`volumetool.storage.conversion.Conversion`, such as ``format="n5"`` or ``dtype="uint8"``.

    Returns
    -------
    Volume
        The new volume.

    Raises
    ------
    ConfigError
        ``config.option``: unknown option, or a value that cannot be; ``config.voxel-size``: likely another unit or order.
    InputError
        As `open_volume`; ``input.changed``; ``input.range``: a value does not fit into the data type that is asked for.
    OutputError
        As `create_volume`; ``output.inside-input``, ``output.format``, ``output.exists``.
    DataError
        ``data.unreadable``: damaged chunks in the source.
    ResourceError
        ``resource.disk``: no room for a slab that is gathered.
    """
    plan = plan_requested(Conversion(input=input, output=output, **options))
    return convert_volume(plan, overwrite=overwrite, observer=observer)


def convert_volume(plan: ConversionPlan, *, overwrite: bool = False, observer: Observer = ignore) -> Volume:
    """Write a volume with all its levels.

    Parameters
    ----------
    plan : ConversionPlan
        From `plan_conversion`.
    overwrite : bool
        Delete another conversion at the output; anything else there is left alone and refused.
    observer : Observer, optional
        Told by `Progressed` of ``converting``, the finest level, and of ``coarse levels``.

    Raises
    ------
    InputError, OutputError, DataError
        As `convert`.
    ResourceError
        ``resource.disk``: no room for the slab that is gathered.
    """
    check_room(plan)
    volume = write_finest(plan, overwrite=overwrite, observer=observer)
    if volume.attributes.get("status") == "complete":
        return volume
    if len(plan.layout.levels) == 1:
        write_status(volume.url, "complete")
        return open_volume(volume.url)
    return build_pyramid(volume.url, reduction=plan.layout.reduction, observer=observer)


def check_room(plan: ConversionPlan) -> None:
    """Refuse a conversion whose slabs do not fit on the disk where they are gathered.

    Raises
    ------
    ResourceError
        ``resource.disk``.
    """
    folder = existing_folder(plan.staging_folder)
    free = shutil.disk_usage(folder).free
    if plan.staging_bytes > free:
        raise ResourceError(
            "resource.disk",
            f"{plan.slabs[0].shape[0]} sections are gathered in a temporary file of {show_bytes(plan.staging_bytes)}; "
            f"{folder} has {show_bytes(free)} free",
            hint="make room, or give more --memory: what fits into half of it needs no file",
        )


def describe_conversion(plan: ConversionPlan) -> list[tuple[str, str]]:
    """Return the lines of a plan as (name, text)."""
    source, first = plan.source, plan.layout.levels[0]
    size = f"{show_shape(first.shape)} voxels (z, y, x) of {show_size(first.voxel_size)}, {source.dtype}"
    level = f", level {plan.level}" if plan.level else ""
    part = "" if plan.is_whole else f", the box {plan.part} (z,y,x) of {show_shape(source.levels[plan.level].shape)}"
    channels = "" if plan.layout.channels is None else f", {plan.layout.channels} channels"
    stored = "chunks" if first.shard == first.chunk else "shards"
    voxels = plan.sections * first.shape[1] * first.shape[2]
    lines = [
        ("input", f"{plan.place}{level}: {size}{channels}{part}"),
        (
            "output",
            f"{plan.url}: {plan.layout.format}, {len(plan.layout.levels)} levels, {stored} of {show_shape(first.shard)}",
        ),
        (
            "write",
            f"at most {show_bytes(voxels * np.dtype(plan.layout.dtype).itemsize)} for the finest level, before compression",
        ),
        (
            "steps",
            f"{len(plan.slabs)} a channel, of up to {plan.slabs[0].shape[0]} sections; what is interrupted goes on there",
        ),
        ("memory", f"about {show_bytes(plan.peak_bytes)} of {show_bytes(plan.memory)}"),
    ]
    if isinstance(source.reader, ImageStack):
        lines.insert(1, ("files", f"{len(source.reader.files)}, each section decoded once"))
    if source.cast is not None:
        lines.insert(2, ("cast", f"{source.dtype} to {source.cast}"))
    lines += [("note", note) for note in (*source.attributes.get("notes", ()), *plan.notes, *shift_notes(plan.layout))]
    if plan.staged:
        lines.append(
            ("disk", f"{show_bytes(plan.staging_bytes)} in {plan.staging_folder} while it runs: a step exceeds the memory")
        )
    return lines
