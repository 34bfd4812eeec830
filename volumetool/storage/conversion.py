"""The plan of a conversion: what is read, what is written, and in which steps, so that the source is read in one pass.

The source is read slab by slab: whole sections, as many as a shard is deep or a multiple of that. A slab that is larger than
the memory is gathered in a temporary file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, lcm, prod
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import model_validator

from volumetool.configuration import Bytes, Lengths, Nanometres, Natural, Options, Place, Positive, Rising
from volumetool.errors import OutputError
from volumetool.geometry.box import AskedBox, Box, Size, Triple, cut, part_inside
from volumetool.geometry.levels import LevelGrid, plan_levels
from volumetool.geometry.transforms import moved
from volumetool.machine import usable_memory
from volumetool.paths import place_text
from volumetool.storage.cast import Cast
from volumetool.storage.create import (
    VolumeLayout,
    array_metadata,
    check_layout,
    check_output_place,
    choose_format,
    group_metadata,
    open_in_memory,
    read_root,
)
from volumetool.storage.formats.base import Json
from volumetool.storage.formats.ome_zarr import name_and_rest, omero_faults, said_reduction
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.images import Gaps
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.kvstore import canonical_url, contains, is_local, local_path
from volumetool.storage.io.roles import name_roles, output_role
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.storage.writing.names import CodecName, ReductionMethod, WrittenName
from volumetool.units import check_given_size

MEMORY_BYTES = 2**30
"""To be used while converting, or half of the free memory where that is less; a single shard, or a section that can only be
decoded whole, may need more."""

_BOXES_AHEAD = 3
"""Boxes in memory at once: one is read, one waits, one is written."""

_CAST_BYTES = 8
"""Of a voxel on its way from one data type to another."""


class Conversion(Options):
    """A conversion, as a user asks for it: the options of ``volumetool convert`` and of `volumetool.convert`.

    Parameters
    ----------
    input, output : str or path
        Paths or URLs of the volume, or stack of images, to read, and of the volume to write.
    voxel_size : tuple of float, optional
        Nanometres, z, y, x; needed where the source has none, and otherwise corrects it.
    force_voxel_size : bool
        The voxel size is in nm, and in the order z, y, x, whatever it looks like.
    level : int
        Level of the input that becomes the finest of the output; 0 is the finest.
    roi : Box or str, optional
        The part to copy, ``"z0:z1,y0:y1,x0:x1"``, in voxels of that level; by default all of it.
    gaps : {"refuse", "keep", "close"}
        Of missing numbers in a folder of sections: an error, blank sections, or neighbours that touch.
    format : str, optional
        Format to write; by default what the output's name ends like, else ``ome-zarr-0.5``.
    dtype : str, optional
        Data type of the output; by default the input's, which must be one of these.
    window : tuple of float, optional
        Values that become the least and the greatest of `dtype`, 0 and 1 of float32; see `Cast`.
    levels : int, optional
        Levels to write at the most, the finest counted; by default until one fits into a chunk.
    chunk, shard : tuple of int, optional
        Of the output's finest level, in voxels; see `plan_levels`.
    codec : str, optional
        How chunks are compressed; by default the first of the format's codecs.
    reduction : {"mean", "mode"}, optional
        How a level is made of the one before; by default as the input says, else the mean.
    memory : int or str, optional
        Bytes to use, such as ``"8GiB"``; by default 1 GiB, or half of what is free where that is less. A single shard, or a
        section that can only be decoded whole, may need more.
    """

    told_by = "`volumetool convert --help`"

    input: Place
    output: Place
    voxel_size: Nanometres | None = None
    force_voxel_size: bool = False
    level: Natural = 0
    roi: AskedBox | None = None
    gaps: Gaps = "refuse"
    format: WrittenName | None = None
    dtype: Literal["uint8", "int8", "uint16", "int16", "float32"] | None = None
    window: Rising | None = None
    levels: Positive | None = None
    chunk: Lengths | None = None
    shard: Lengths | None = None
    codec: CodecName | None = None
    reduction: ReductionMethod | None = None
    memory: Bytes | None = None

    @model_validator(mode="after")
    def _check(self) -> Conversion:
        if self.window is not None and self.dtype is None:
            raise ValueError(f"window {self.window} without dtype: say into which type, such as uint8")
        check_given_size(self.voxel_size, sure=self.force_voxel_size)
        return self

    @property
    def cast(self) -> Cast | None:
        """What becomes of the voxels; None where they stay what they are."""
        return None if self.dtype is None else Cast(self.dtype, self.window)


@dataclass(frozen=True)
class ConversionPlan:
    """A conversion, planned.

    Attributes
    ----------
    source : Volume
        The volume that is read.
    url : str
        Path or URL of the new volume.
    layout : VolumeLayout
        What it will be.
    memory : int
        Bytes that reading and writing may take at once.
    notes : tuple of str
        What of the source the new volume will not have.
    level : int
        Level of the source that is copied.
    start : tuple of int
        First voxel of that level that is copied.
    """

    source: Volume
    url: str
    layout: VolumeLayout
    memory: int
    notes: tuple[str, ...] = ()
    level: int = 0
    start: Triple = (0, 0, 0)

    @property
    def chunk(self) -> Triple:
        """Shape of what is decoded of the source at once."""
        return self.source.levels[self.level].chunk

    @property
    def part(self) -> Box:
        """What is copied, in voxels of the source's level."""
        return Box.whole(self.layout.levels[0].shape).shifted(self.start)

    @property
    def is_whole(self) -> bool:
        """Whether that is all of the level."""
        return self.part == Box.whole(self.source.levels[self.level].shape)

    @property
    def place(self) -> str:
        """Place of the source."""
        return self.source.url

    @property
    def sections(self) -> int:
        """Sections of all channels together."""
        return self.layout.levels[0].shape[0] * (self.layout.channels or 1)

    @cached_property
    def provenance(self) -> Json:
        """Origin that the volume names. A conversion that was begun goes on only if it is the same."""
        layout = [group_metadata(self.layout, {}), array_metadata(self.layout, 0)]
        said: Json = {
            "source": self.place,
            "source_identity": self.source.identity,
            "layout": hashlib.sha256(json.dumps(layout, sort_keys=True).encode()).hexdigest(),
        }
        if self.source.cast is not None:
            said["cast"] = str(self.source.cast)
        if self.level:
            said["level"] = self.level
        if not self.is_whole:
            said["roi"] = str(self.part)
        first, stop = self.part.start[0], self.part.stop[0]
        if blank := [z - first for z in self.source.attributes.get("blank_sections", ()) if first <= z < stop]:
            said |= {"first_section": self.source.attributes["first_section"] + first, "blank_sections": blank}
        return said

    @cached_property
    def slabs(self) -> tuple[Box, ...]:
        """The steps of one channel: whole sections, whole shards."""
        grid = self.layout.levels[0]
        depth = self.chunk[0] + grid.shard[0] - 1  # as deep as chunks of the source, so that none is read for three slabs
        return tuple(shard_groups(grid, max(self._half, depth * grid.shape[1] * grid.shape[2])))

    @property
    def staged(self) -> bool:
        """Whether slabs are gathered on disk, because what must be read at once does not fit into memory."""
        return self._box_bytes > self.memory // 2

    @property
    def staging_bytes(self) -> int:
        """Bytes that gathered slabs take on disk."""
        return self.slabs[0].voxels * self._itemsize if self.staged else 0

    @property
    def read_step(self) -> Triple:
        """Voxels along each axis after which a shard and a chunk of the source end together."""
        grid, depth = self.layout.levels[0], self.slabs[0].shape[0]
        y, x = (min(lcm(a, b), ceil(n / a) * a) for a, b, n in zip(grid.shard[1:], self.chunk[1:], grid.shape[1:], strict=True))
        return depth, y, x

    @property
    def part_voxels(self) -> int:
        """Voxels that are read or written at once; one shard at least."""
        return max(self.memory // 8 // self._itemsize, prod(self.layout.levels[0].shard))

    @property
    def peak_bytes(self) -> int:
        """Bytes of memory at once, estimated: voxels that were read, and beside them those that are decoded or compressed."""
        held = 0 if self.staged else self._box_bytes * (_BOXES_AHEAD if self.reads_ahead else 1)
        return held + 3 * min(self.part_voxels, self.slabs[0].voxels) * self._itemsize

    @property
    def reads_ahead(self) -> bool:
        """Whether one box is read while the one before is written."""
        return not self.staged and _BOXES_AHEAD * self._box_bytes <= self.memory // 2

    @property
    def staging_folder(self) -> Path:
        """Folder in which slabs are gathered: beside the volume, or in the folder for temporary files."""
        return local_path(self.url).parent if is_local(self.url) else Path(tempfile.gettempdir())

    def boxes(self, slab: Box) -> Iterator[Box]:
        """Cut a slab into what is read at once where it is not gathered on disk."""
        return cut(slab, self.read_step, self.part_voxels)

    @property
    def _box_bytes(self) -> int:
        return next(self.boxes(self.slabs[0])).voxels * self._itemsize

    @property
    def _half(self) -> int:
        return self.memory // 2 // self._itemsize

    @property
    def _itemsize(self) -> int:
        return _CAST_BYTES if self.source.cast else np.dtype(self.layout.dtype).itemsize


def plan_requested(asked: Conversion) -> ConversionPlan:
    """Plan a conversion as a user asks for it; write nothing.

    Raises
    ------
    VolumetoolError
        As :func:`volumetool.storage.convert_volume.convert`.
    """
    source = open_volume(asked.input, voxel_size=asked.voxel_size, gaps=asked.gaps, cast=asked.cast)
    source.open(asked.level)  # refuses a level that is not there
    level = source.levels[asked.level]
    part, note = Box.whole(level.shape), None
    if asked.roi is not None:
        part, note = part_inside(asked.roi, level.shape, f"level {asked.level} of {asked.input}")
    written = WRITTEN[choose_format(asked.output, asked.format)]
    place = moved(level.translation, level.voxel_size, part.start)
    levels = written.plan_levels(part.shape, level.voxel_size, place, asked.chunk, asked.shard)[: asked.levels]
    plan = plan_conversion(source, asked.output, levels=levels, format=asked.format, memory=asked.memory)
    layout = replace(plan.layout, reduction=asked.reduction or plan.layout.reduction, codec=asked.codec)
    check_layout(plan.url, layout)
    notes = plan.notes if note is None else (*plan.notes, note)
    plan = replace(plan, layout=layout, notes=notes, level=asked.level, start=part.start)
    return replace(plan, notes=(*notes, _loss(plan))) if asked.codec == "jpeg" else plan


def _loss(plan: ConversionPlan) -> str:
    """Say what JPEG changes, by the chunk in the middle of what is copied."""
    grid = plan.layout.levels[0]
    z, y, x = (n // 2 // size * size for n, size in zip(grid.shape, grid.chunk, strict=True))
    box = Box.whole(grid.chunk).shifted((z, y, x)).intersection(Box.whole(grid.shape))
    voxels = read_part(plan.source.open(plan.level), box.shifted(plan.start).slices)
    voxels = voxels if plan.source.cast is None else plan.source.cast.apply(voxels)
    stored = open_in_memory(plan.layout, 0, 0)[box.slices]
    stored.write(voxels).result()
    change = np.abs(np.asarray(stored.read().result(), np.float64) - voxels)  # (z, y, x)
    root = float(np.sqrt((change**2).mean()))
    return f"JPEG changes voxels, in the middle by {root:.2g} grey values (root mean square), {change.max():.0f} at the most"


def plan_conversion(
    source: str | os.PathLike[str] | Volume,
    url: str | os.PathLike[str],
    *,
    voxel_size: Size | None = None,
    levels: tuple[LevelGrid, ...] | None = None,
    format: WrittenName | None = None,  # noqa: A002
    memory: int | None = None,
) -> ConversionPlan:
    """Look at the source and decide everything about a conversion; write nothing.

    Parameters
    ----------
    source : str, path-like or Volume
        A volume of any format that is read.
    url : str or path-like
        Path or URL of the new volume.
    voxel_size : tuple of float, optional
        Voxel size of the source in nm, z, y, x, in place of what the source says.
    levels : tuple of LevelGrid, optional
        Layout of the new volume, finest first; by default that of :func:`volumetool.geometry.plan_levels`.
    format : str, optional
        Format of the new volume, see :func:`volumetool.storage.create.choose_format`.
    memory : int, optional
        Bytes to use; by default `MEMORY_BYTES`, or half of the free memory where that is less.

    Raises
    ------
    VolumetoolError
        As :func:`volumetool.storage.convert_volume.convert`.
    """
    if not isinstance(source, Volume) or voxel_size is not None:
        source = open_volume(source.url if isinstance(source, Volume) else source, voxel_size=voxel_size)
    with name_roles(output_role(place_text(url))):
        place = canonical_url(url)
    check_output_place(place)
    chosen = choose_format(place, format)
    grids = levels or plan_levels(source.shape, source.voxel_size, source.translation)
    grids = WRITTEN[chosen].arranged(grids)
    memory = memory or max(1, min(MEMORY_BYTES, usable_memory() // 2))
    layout, notes = copied_layout(source, grids, chosen)
    check_layout(place, layout)
    plan = ConversionPlan(source, place, layout, memory, notes)
    if contains(plan.place, place) or contains(place, plan.place):
        raise OutputError(
            "output.inside-input",
            f"the output {place} and the input {plan.place} lie one inside the other",
            hint="Choose a place beside the input.",
            where=place,
        )
    return plan


def copied_layout(
    source: Volume,
    levels: tuple[LevelGrid, ...],
    format: WrittenName,  # noqa: A002
) -> tuple[VolumeLayout, tuple[str, ...]]:
    """Return the layout of a copy, and what of the source it will not have.

    Parameters
    ----------
    source : Volume
        The volume that is copied.
    levels : tuple of LevelGrid
        Levels of the copy.
    format : str
        Format of the copy.
    """
    name, kept, reduction = _said_of(source)
    faults = omero_faults(kept["omero"], source.channels) if "omero" in kept else ()
    if notes := tuple(f"display settings are left out: {fault}" for fault in faults):
        kept = {key: value for key, value in kept.items() if key != "omero"}
    elif "omero" in kept and source.cast is not None:
        kept = {**kept, "omero": source.cast.display(kept["omero"])}
    dtype = source.cast.dtype if source.cast else source.dtype.name
    return VolumeLayout(dtype, levels, source.channels, name=name, format=format, reduction=reduction, kept=kept), notes


def _said_of(source: Volume) -> tuple[str, Json, ReductionMethod]:
    """Return what a copy keeps: the name, by default that of the folder, attributes of others, and how levels are made."""
    root = (read_root(source.url)[1] or {}) if source.format.startswith("ome-zarr") else None
    if root is None:
        return Path(source.url).name, {}, "mean"
    name, kept = name_and_rest(root)
    return name or Path(source.url).name, kept, said_reduction(root)


def shard_groups(grid: LevelGrid, voxels: int) -> Iterator[Box]:
    """Cut a level into slabs of whole sections and whole shards, as deep as `voxels` allows, but one shard at least."""
    return cut(Box.whole(grid.shape), (grid.shard[0], *grid.shape[1:]), voxels)
