"""What is read for a box of input voxels: bad sections are left out of z contexts, and replaced by good ones around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Box, Lattice, mirror_index
from volumetool.processing.sections.repair import HALO, interpolate
from volumetool.processing.sections.tiles import Tiles, read_tiles
from volumetool.processing.spec import OutputSpec
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import valid_voxels

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Reading:
    """What is read for the patches at one position, and where its voxels go.

    Attributes
    ----------
    window : Box
        Voxels of the input to be read.
    indices : list of numpy.ndarray
        For each axis, the place in the input of each row of the block.
    apart : int
        Rows along z from the first one of a patch to that of the next.
    repaired : dict of int to tuple of int
        Bad sections of the block, with the good ones that each is made of.
    """

    window: Box
    indices: list[NDArray[np.intp]]
    apart: int
    repaired: dict[int, tuple[int, ...]] = field(default_factory=dict)


def plan_reading(spec: OutputSpec, channel: int, box: Box) -> Reading:
    """Return what is read for a box of input voxels and its z context.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    channel : int
        Channel of the input.
    box : Box
        Input voxels, without the z context; it may lie over the faces.
    """
    lattice, repair = spec.lattice, spec.repair
    indices = _indices(lattice, box)
    reading = Reading(box_of(indices), indices, lattice.stride[0])
    if repair is None or not repair.touches(channel, reading.window.start[0], reading.window.stop[0]):
        return reading
    depth, apart = lattice.shape[0], lattice.stride[0]
    if lattice.context:  # each section with a context of its own, one after the other
        sections = mirror_index(box.start[0], box.stop[0], depth).tolist()
        indices[0] = np.array([z for each in sections for z in repair.seen_from(channel, each, lattice.context, depth)])
        apart = 1 + 2 * lattice.context
    made = {z: repair.replacements(channel, z, depth) for z in indices[0].tolist()}
    repaired = {z: sides for z, sides in made.items() if sides != (z,)}
    needed = [*indices[0].tolist(), *(side for sides in repaired.values() for side in sides)]
    window = box_of([np.array(needed), *indices[1:]])
    if any(len(sides) > 1 for sides in repaired.values()):
        (z, y, x), stop = window.start, window.stop
        around = Box((z, y - HALO, x - HALO), (stop[0], stop[1] + HALO, stop[2] + HALO))
        window = around.intersection(Box.whole(lattice.shape))
    return Reading(window, indices, apart, repaired)


def repair_voxels(
    spec: OutputSpec, channel: int, reading: Reading, voxels: NDArray[Any], absent: Mask | None
) -> tuple[NDArray[Any], Mask | None]:
    """Replace the bad sections of a window that was read.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    channel : int
        Channel of the input.
    reading : Reading
        What was read.
    voxels : numpy.ndarray, shape of the window
        Grey values.
    absent : numpy.ndarray of bool, shape of the window, optional
        Which of them are not stored.

    Returns
    -------
    voxels, absent
        Copies, in which the sections of `Reading.repaired` are what stands in for them.
    """
    voxels, first = voxels.copy(), reading.window.start[0]
    valid = valid_voxels(voxels, spec.nodata) & np.isfinite(voxels)  # (z, y, x)
    if absent is not None:
        absent = absent.copy()
        valid &= ~absent
    for z, sides in reading.repaired.items():
        places = [side - first for side in sides]
        if len(sides) == 1:
            voxels[z - first] = voxels[places[0]]
        else:
            statistics = float(spec.statistics.low[channel, z]), float(spec.statistics.high[channel, z])
            grey = statistics if spec.repair is None or spec.repair.grey is None else spec.repair.grey
            shares, origin = (z - sides[0], sides[1] - z), (reading.window.start[1], reading.window.start[2])
            one, other = (np.where(valid[own], voxels[own], voxels[that]) for own, that in (places, places[::-1]))
            known = valid[places].any(axis=0)
            first_known, other_known = (np.where(known, each, 0) for each in (one, other))
            made = interpolate(first_known, other_known, shares, origin, grey)
            if voxels.dtype.kind in "iu":
                made = np.rint(made)
                if spec.nodata is not None:  # a voxel between two that hold data never takes the value that means none
                    made[made == spec.nodata] += 1 if spec.nodata <= 0 else -1
            voxels[z - first] = np.where(known, made, voxels[places[0]]).astype(voxels.dtype)
        if absent is not None:
            absent[z - first] = absent[places].all(axis=0)
    return voxels, absent


def repaired_tiles(spec: OutputSpec, volume: Volume, level: int, channel: int) -> Tiles:
    """Return what reads tiles of a channel as an operation without z context sees them: with what stands in for bad sections.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    volume, level, channel
        As for :func:`volumetool.processing.sections.tiles.read_tiles`.
    """
    read = read_tiles(volume, level, channel)

    def tiles(boxes: list[Box]) -> Iterator[tuple[Box, NDArray[Any]]]:
        for box in boxes:
            reading = plan_reading(spec, channel, box)
            for window, stored in read([reading.window]):
                voxels, _ = repair_voxels(spec, channel, reading, stored, None)
                z, y, x = window.start
                yield box, voxels[box.shifted((-z, -y, -x)).slices]

    return tiles


def _indices(lattice: Lattice, box: Box) -> list[NDArray[np.intp]]:
    """Return where the voxels of a box with its z context lie, mirrored at the faces, for each axis."""
    context = (lattice.context, 0, 0)
    return [
        mirror_index(start - more, stop + more, size)
        for start, stop, size, more in zip(box.start, box.stop, lattice.shape, context, strict=True)
    ]


def box_of(indices: list[NDArray[np.intp]]) -> Box:
    """Return the box that holds the given places of each axis."""
    start, stop = zip(*((int(index.min()), int(index.max()) + 1) for index in indices), strict=True)
    return Box(start, stop)
