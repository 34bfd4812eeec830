"""The first sections: what they have in common is what every section must have."""

from __future__ import annotations

from collections.abc import Sequence

from volumetool.acquisition.config import WatchConfig
from volumetool.acquisition.image_source import Section
from volumetool.acquisition.state import SessionHeader
from volumetool.errors import ConfigError, InputError
from volumetool.geometry import Size
from volumetool.jobs.job import Job
from volumetool.storage.volume import DTYPES


def begin(sections: Sequence[Section], job: Job, asked: WatchConfig, count: int | None) -> SessionHeader:
    """Decide how sections are counted, from the first ones.

    Parameters
    ----------
    sections : sequence of Section
        Sections that have landed, at least one; all have one shape and dtype.
    job : Job
        May say the voxel size.
    asked : WatchConfig
        May say the first number.
    count : int, optional
        Number of sections in all.

    Raises
    ------
    InputError
        ``input.no-voxel-size``, ``input.dtype``.
    """
    first = min(sections, key=lambda section: section.number)
    dtype = first.voxels.dtype.name
    if dtype not in DTYPES:
        raise InputError(
            "input.dtype",
            f"{first.name} holds {dtype}; volumetool works on {', '.join(DTYPES)}",
            hint="have the microscope save one of these",
        )
    start = first.number if asked.first is None else asked.first
    return SessionHeader(
        before=first.pattern.before,
        after=first.pattern.after,
        first=start,
        shape=(first.voxels.shape[0], first.voxels.shape[1]),
        dtype=dtype,
        voxel_size=_voxel_size(first, job),
        fitted=tuple(sorted(section.number - start for section in sections)),
        count=count,
        translation=first.translation,
    )


def _voxel_size(section: Section, job: Job) -> Size:
    size = job.voxel_size or section.voxel_size
    if size is None:
        raise InputError(
            "input.no-voxel-size",
            f"{section.name} does not say how large its voxels are",
            hint="Give it in nanometres: --voxel-size z,y,x",
        )
    return (float(size[0]), float(size[1]), float(size[2]))


def unlike(section: Section, begun: SessionHeader) -> str | None:
    """Return why a section does not belong to a watch, None where it does."""
    shape, last = tuple(section.voxels.shape), None if begun.count is None else begun.first + begun.count - 1
    if section.pattern != begun.pattern:
        return f"it is named {section.pattern}, the others are {begun.pattern}"
    if shape != begun.shape:
        others = f"{begun.shape[0]} x {begun.shape[1]}"
        return f"it has {shape[0]} x {shape[1]} voxels (y, x), the others have {others}; replace it, and it is taken"
    if section.voxels.dtype.name != begun.dtype:
        return f"it holds {section.voxels.dtype.name}, the others {begun.dtype}; replace it, and it is taken"
    if section.number < begun.first:
        return f"its number {section.number} comes before the first section, which is {begun.first}"
    if last is not None and section.number > last:
        return f"its number {section.number} comes after the last section, which is {last}"
    return None


def total_count(asked: WatchConfig, rows: int | None, begun: SessionHeader | None) -> int | None:
    """Return how many sections there will be in all, None where nothing says so.

    Parameters
    ----------
    asked : WatchConfig
        Settings of the watch, which may hold a count.
    rows : int or None
        Rows of the table of statistics; with more than one it has a row per section.
    begun : SessionHeader or None
        Settings that the watch was begun with, None for a new one.

    Raises
    ------
    ConfigError
        ``config.option``: two of them say different counts.
    """
    table = rows if rows is not None and rows > 1 else None
    said = {
        "--count": asked.count,
        "the table of statistics": table,
        "the watch that was begun": begun.count if begun else None,
    }
    known = {name: count for name, count in said.items() if count is not None}
    if len(set(known.values())) > 1:
        clash = ", ".join(f"{name} says {count} sections" for name, count in known.items())
        raise ConfigError("config.option", clash, hint="let them agree, or give one of them alone")
    return next(iter(known.values()), None)
