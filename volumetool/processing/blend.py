"""Blending: patches become the finished voxels of a region, swept along x.

Patches are blended axis by axis, in the order z, y, x, each time as ``a + w * (b - a)`` in float32 with b the later patch and w
its ramp. This order is part of the result: every view of a job keeps it. Where two patches agree their value comes out
exactly; nothing is summed up or divided.

Along x a region keeps only the strip over which the next column will take over. What no later patch can touch is turned back
into intensities, rounded once, and leaves as slabs of finished shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from volumetool.configuration import planes_of
from volumetool.geometry import AxisLattice, Box, Lattice, Placement, Region, Triple, ramp
from volumetool.processing.columns import Column
from volumetool.processing.device.arrays import Array, module_of, to_host
from volumetool.processing.quantize import quantise
from volumetool.processing.spec import OutputSpec

AXES = ("z", "y", "x")
"""The order of blending."""


@dataclass(frozen=True)
class Slab:
    """Finished voxels: whole shards over the region's cross-section, one shard long in x.

    Attributes
    ----------
    box : Box
        In voxels of the output's level 0.
    voxels : numpy.ndarray, shape of the box, divided by the channel's block
        In the dtype in which the channel is stored.
    number : int
        Which of the channels that are made of the region's input channel.
    """

    box: Box
    voxels: NDArray[Any]
    number: int = 0


@dataclass
class _Band:
    """The part of a region that is open in a channel: strips that wait for the next column, slabs that are not full.

    Voxels are those of the channel: of some there is one for a block of the output's. Blocks divide the scale, on which
    patches, regions and shards begin and end.
    """

    lattice: Lattice
    core: Box
    block: Triple
    shard: int
    weights: dict[str, Array]
    strips: dict[int, Array] = field(default_factory=dict)
    slabs: dict[int, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, spec: OutputSpec, region: Region, block: Triple, xp: ModuleType) -> Self:
        """Return the empty band of a channel of a region, whose blocks have that shape."""
        lattice = spec.lattice.over_blocks(block)
        weights = {axis: xp.asarray(ramp(line.ramp_length)) for axis, line in zip(AXES, lattice.axes, strict=True)}
        return cls(lattice, spec.core(region).coarsened(block), block, spec.levels[0].shard[2] // block[2], weights)


def blend(
    spec: OutputSpec,
    region: Region,
    predicted: Iterator[tuple[Column, list[Array]]],
    xp: ModuleType,
    seen: Callable[[Column, Box, Array], None] | None = None,
    only: int | None = None,
) -> Iterator[Slab]:
    """Blend predicted columns in sweep order and yield the region's slabs along x.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    region : Region
        The region that the columns belong to.
    predicted : iterator of (Column, list of array)
        Columns with their output patches, each float32 (z, y, x), or (planes, z, y, x) where the operation names channels: they
        lie where :func:`volumetool.configuration.planes_of` says.
    xp : module
        ``numpy``, or ``cupy`` if the patches are on a GPU.
    seen : callable, optional
        Shown what each column finishes, before it is turned into intensities: the column, the box in voxels of the full output,
        and the network's values there, of several channels those of the first.
    only : int, optional
        The one of several channels that is blended; by default all are.
    """
    made, planes = spec.made, planes_of(spec.made)
    apart = max(0, len(made) - spec.per_input)  # the error that steps go by, and which is not stored, stands after the image
    numbers = range(spec.per_input) if only is None else range(only, only + 1)
    stored = {number + apart if number else 0: number for number in numbers}
    steps = 0 in stored and spec.store_error > 0  # the image's voxels are rounded by what the channel after it says
    each = dict.fromkeys((*stored, *([1] if steps else [])))
    bands = {at: _Band.open(spec, region, made[at].block if made else (1, 1, 1), xp) for at in each}
    for column, patches in predicted:
        error, boxes = None, {}
        for at in sorted(bands, reverse=steps):  # the error before the image
            band = bands[at]
            own = [_laid(patch, *planes[at], band.block) for patch in patches] if made else patches  # n times (z, y, x)
            box, values = _blended(band, column, own)
            boxes[at] = box
            if steps and at == 1:
                error = values.copy() if at in stored else values
            if box.stop[2] > box.start[2] and at in stored:
                if seen is not None and at == 0:
                    seen(column, box, values)
                channel = spec.output_channels(region.channel)[stored[at]]
                # (z, y, x), float32 -> the dtype in which the channel is stored
                voxels = quantise(spec, channel, column, box, values, None if at else error)
                _collect(band, box, to_host(voxels))
        for at, number in stored.items():
            if boxes[at].stop[0] == bands[at].core.stop[0]:
                for slab_box, voxels in _finished(region, bands[at], boxes[at].stop[2]):
                    yield Slab(slab_box, voxels, number)


def _laid(patch: Array, plane: int, place: Triple, block: Triple) -> Array:
    """Return what an operation made of a patch for a channel, (z, y, x) blocks: the voxels at one place of each block."""
    values: Array = patch[(plane, *(slice(first, None, step) for first, step in zip(place, block, strict=True)))]
    return values


def _blended(band: _Band, column: Column, patches: list[Array]) -> tuple[Box, Array]:
    """Blend the patches of a column with those before; return the box that no later column touches, and its values."""
    part, line = _sections(band.lattice, band.core, column), band.lattice.x
    low = max(band.core.start[2], line.weight_start(column.x))
    high = min(band.core.stop[2], line.weight_start(column.x + 1))
    skip = low - line.weight_start(column.x)
    slab = _blend_column(band.lattice, part, column, patches, band.weights)  # (core z, core y, patch x with weight)
    _blend_strip(line, band, column, slab, band.weights["x"])
    return Box((*part.start[:2], low), (*part.stop[:2], high)), slab[:, :, skip : skip + high - low]


def look_up(
    spec: OutputSpec, region: Region, strips: Iterator[tuple[Box, NDArray[Any]]], table: NDArray[Any]
) -> Iterator[Slab]:
    """Look the voxels of a region up in a table, and yield its slabs along x: the same as `blend` yields.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    region : Region
        The region that the strips belong to.
    strips : iterator of (Box, numpy.ndarray)
        From :func:`volumetool.processing.columns.read_strips`.
    table : numpy.ndarray, shape (grey values,)
        From :func:`volumetool.processing.quantize.tabulate`.
    """
    band = _Band.open(spec, region, (1, 1, 1), np)
    for box, voxels in strips:
        codes = voxels.view(f"u{voxels.itemsize}")  # (z, y, x): places in the table, also of signed values
        for z, section in enumerate(codes, box.start[0]):
            part = Box((z, *box.start[1:]), (z + 1, *box.stop[1:]))
            _collect(band, part, table.take(section)[None])  # (1, y, x)
        for slab_box, finished in _finished(region, band, box.stop[2]):
            yield Slab(slab_box, finished)


def _sections(lattice: Lattice, core: Box, column: Column) -> Box:
    """Return the part of the core that a column's group of sections finishes."""
    start, stop = core.start, core.stop
    if lattice.z.overlap:
        return core
    low = max(start[0], lattice.z.weight_start(column.z.start))
    high = min(stop[0], lattice.z.weight_stop(column.z[-1]))
    return Box((low, start[1], start[2]), (high, stop[1], stop[2]))


def _blend_column(lattice: Lattice, part: Box, column: Column, patches: list[Array], weights: dict[str, Array]) -> Array:
    """Blend the patches of a column along z, then y; keep the x range over which its patches have weight."""
    keep = slice(lattice.x.trim * lattice.x.scale, (lattice.x.patch - lattice.x.trim) * lattice.x.scale)
    length = keep.stop - keep.start
    depth, height, _ = part.shape
    xp = module_of(patches[0])
    slab = xp.empty((depth, height, length), np.float32)
    at_z = [lattice.z.place(z, part.start[0], part.stop[0]) for z in column.z]
    for row, y in enumerate(column.y):
        at_y = lattice.y.place(y, part.start[1], part.stop[1])
        stack = [patches[n * len(column.y) + row][:, :, keep] for n in range(len(column.z))]  # each (patch z, patch y, x)
        if lattice.z.overlap:
            whole = xp.empty((depth, stack[0].shape[1], length), np.float32)  # (core z, patch y, x): one row of patches
            for place, patch in zip(at_z, stack, strict=True):
                _lay(whole, patch, place, 0, weights["z"])
            _lay(slab, whole, at_y, 1, weights["y"])
            continue
        for place, patch in zip(at_z, stack, strict=True):
            _lay(slab[place.copy_target], patch[place.copy_source], at_y, 1, weights["y"])
    return slab


def _lay(target: Array, patch: Array, where: Placement, axis: int, weights: Array) -> None:
    """Lay one patch into `target` along one axis, over the patches before it."""
    along = (slice(None),) * axis
    shape = [1, 1, 1]
    shape[axis] = -1  # the ramp lies along the axis and is the same across it
    _mix(
        target[(*along, where.ramp_target)],
        patch[(*along, where.ramp_source)],
        weights[where.ramp_weight].reshape(shape),
    )
    target[(*along, where.copy_target)] = patch[(*along, where.copy_source)]


def _mix(earlier: Array, later: Array, weights: Array) -> None:
    """Replace `earlier` by ``earlier + weights * (later - earlier)``, in place."""
    if earlier.size:
        difference = later - earlier
        difference *= weights
        earlier += difference


def _blend_strip(line: AxisLattice, band: _Band, column: Column, slab: Array, weights: Array) -> None:
    """Blend a column, in place, with the strip that the column before it left, and leave one for the next."""
    length, step = line.ramp_length, line.stride * line.scale
    strip = band.strips.get(column.z.start)
    if strip is not None and length:
        _mix(strip, slab[:, :, :length], weights)  # (z, y, ramp), in place
        slab[:, :, :length] = strip
    if length:
        band.strips[column.z.start] = slab[:, :, step : step + length].copy()  # a view would keep the slab in memory


def _collect(band: _Band, box: Box, voxels: NDArray[Any]) -> None:
    """Put finished voxels into the slabs that they belong to."""
    core, shard = band.core, band.shard
    own = box.shifted((-core.start[0], -core.start[1], -core.start[2]))
    depth, height, width = core.shape
    for number in range(own.start[2] // shard, -(-own.stop[2] // shard)):
        start, stop = number * shard, min((number + 1) * shard, width)
        if number not in band.slabs:
            band.slabs[number] = np.empty((depth, height, stop - start), voxels.dtype)  # (region z, region y, shard x)
        low, high = max(start, own.start[2]), min(stop, own.stop[2])
        target = band.slabs[number][own.start[0] : own.stop[0], own.start[1] : own.stop[1], low - start : high - start]
        target[...] = voxels[:, :, low - own.start[2] : high - own.start[2]]


def _finished(region: Region, band: _Band, reached: int) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Yield box, in voxels of the output, and voxels of slabs that end before or at the channel's voxel `reached` along x."""
    depth, height, width = band.core.shape
    done = reached - band.core.start[2]
    for number in sorted(band.slabs):
        start, stop = number * band.shard, min((number + 1) * band.shard, width)
        if stop > done:
            return
        box = Box((0, 0, start), (depth, height, stop)).enlarged(band.block).shifted(region.box.start)
        yield box, band.slabs.pop(number)
