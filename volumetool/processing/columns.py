"""Columns: the input of all patches at one position along x, read, filled, normalised and cut.

A region is swept along x. Where patches of neighbouring sections do not overlap, a column is dealt out in groups of sections,
so that a group's output stays small enough for the caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import DataError
from volumetool.geometry import Box, Lattice, PatchPlace, Region, Triple, mirror_index
from volumetool.processing.sections.reading import box_of, plan_reading, repair_voxels
from volumetool.processing.spec import OutputSpec
from volumetool.storage.voxels import Source, read_voxels, valid_voxels

NAN_HINT = "if these voxels mean 'no data', run with --nodata nan"

Position = tuple[int, range, range]
"""Patch index along x, patch indices along z, patch indices along y."""


@dataclass(frozen=True)
class Column:
    """Patches at one position along x, of one group of sections.

    Attributes
    ----------
    channel : int
        Channel of the input.
    x : int
        Patch index along x.
    z, y : range
        Patch indices; patch (z, y) is number ``(z - z.start) * len(y) + y - y.start``.
    patches : numpy.ndarray of float32, shape (n, depth, y, x)
        Normalised input, (n, 2, depth, y, x) with that of a second volume, which is not normalised; depth counts the patch's
        sections and its z context.
    active : numpy.ndarray of bool, shape (n,)
        Whether the network is asked; what a skipped patch counts as, `spared_output` says.
    missing : numpy.ndarray of bool, shape (sections, y, x), optional
        Input voxels without data, of the whole block that was read; its first voxel is `missing_start`.
    missing_start : tuple of int
        First voxel of `missing` in the input, z, y, x; negative at the first faces.
    known : dict of int to numpy.ndarray
        Outputs of patches that an earlier region kept, by number: the part in their middle that has weight. The network is
        not asked for them.
    repeated : numpy.ndarray of bool, shape (n,), optional
        Patches that an earlier region needs too.
    places : tuple of PatchPlace
        Where each patch lies in the input.
    """

    channel: int
    x: int
    z: range
    y: range
    patches: NDArray[np.float32]
    active: NDArray[np.bool_]
    missing: NDArray[np.bool_] | None
    missing_start: Triple
    known: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    repeated: NDArray[np.bool_] | None = None
    places: tuple[PatchPlace, ...] = ()

    def position(self, number: int) -> Triple:
        """Return a patch's indices along z, y, x."""
        return self.z[number // len(self.y)], self.y[number % len(self.y)], self.x


def section_groups(lattice: Lattice, core: Box, batch: int) -> list[range]:
    """Return the patch indices along z, in groups that can be finished one after the other.

    Patches that overlap along z belong together. Otherwise a group is as many as make one batch.

    Parameters
    ----------
    lattice : Lattice
        Positions of all patches.
    core : Box
        Voxels of the full output that the region computes.
    batch : int
        Patches per call of the network, at least 1.

    Returns
    -------
    list of range
        Consecutive patch indices along z; together they are all patches that touch the core.
    """
    touching = lattice.z.touching(core.start[0], core.stop[0])
    if lattice.z.overlap:
        return [touching]
    rows = len(lattice.y.touching(core.start[1], core.stop[1]))
    size = max(1, batch // rows)
    return [touching[start : start + size] for start in range(0, len(touching), size)]


def read_columns(spec: OutputSpec, region: Region, source: Source, batch: int) -> Iterator[Column]:
    """Yield the columns of a region in sweep order: x outermost, then groups of sections.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    region : Region
        The region whose input is read.
    source : Source
        Input of the region's channel, and the mask if there is one.
    batch : int
        Patches per call of the network.

    Raises
    ------
    DataError
        ``data.unreadable`` where stored input cannot be decoded; ``data.not-finite`` where it holds NaN or infinity that
        was not declared as nodata.
    """
    lattice = spec.lattice
    core = spec.core(region)
    rows = lattice.y.touching(core.start[1], core.stop[1])
    groups = section_groups(lattice, core, batch)
    for x, box in _strips(spec, region):
        whole = _read(spec, region.channel, source, box)  # over all sections and rows
        for group in groups:
            first, last = (patch - groups[0].start for patch in (group.start, group[-1]))
            yield _cut(spec, region.channel, (x, group, rows), whole.part(first, last, lattice))


def read_strips(spec: OutputSpec, region: Region, source: Source) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Yield the input of a region as it is, in the order of the sweep: the voxels of all patches at one position along x.

    Parameters
    ----------
    spec, region, source
        As for :func:`read_input`; the lattice has no z context.

    Yields
    ------
    Box
        The part of the strip that is inside the volume and that no later patch takes over, in voxels of the input.
    numpy.ndarray, shape of the box
        Its voxels.

    Raises
    ------
    DataError
        ``data.unreadable``.
    """
    line, core = spec.lattice.x, spec.core(region)
    for x, box in _strips(spec, region):
        voxels = _read(spec, region.channel, source, box).voxels  # (z, y, x) of the box, which may lie over the faces
        low, high = max(core.start[2], line.weight_start(x)), min(core.stop[2], line.weight_start(x + 1))
        own = Box((*core.start[:2], low), (*core.stop[:2], high))
        if high > low:
            yield own, voxels[own.shifted((-box.start[0], -box.start[1], -box.start[2])).slices]


def read_column(spec: OutputSpec, channel: int, source: Source, position: Position) -> Column:
    """Return the patches at one position along x, of any rows and sections: the same values as in the sweep of a region.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    channel : int
        Channel whose statistics normalise the input; 0 where the volume has none.
    source : Source
        Input of that channel.
    position : tuple of (int, range, range)
        Patch index along x, patch indices along z, patch indices along y; neither range may be empty.

    Raises
    ------
    DataError
        As :func:`read_columns`.
    """
    return _cut(spec, channel, position, _read(spec, channel, source, _reach(spec.lattice, position)))


def _reach(lattice: Lattice, position: Position) -> Box:
    """Return the input voxels of all patches at a position; it may lie over the faces."""
    x, group, rows = position
    last = Box.whole(lattice.patch).shifted(lattice.start((group[-1], rows[-1], x)))
    return Box(lattice.start((group.start, rows.start, x)), last.stop)


def _strips(spec: OutputSpec, region: Region) -> Iterator[tuple[int, Box]]:
    """Yield the patch indices along x of a region's columns, with the input voxels of all their patches."""
    lattice, core = spec.lattice, spec.core(region)
    sections, rows = lattice.z.touching(core.start[0], core.stop[0]), lattice.y.touching(core.start[1], core.stop[1])
    for x in lattice.x.touching(core.start[2], core.stop[2]):
        yield x, _reach(lattice, (x, sections, rows))


def input_windows(spec: OutputSpec, region: Region) -> Iterator[Box]:
    """Yield the boxes of input voxels that a region reads, in the order of the sweep."""
    for _, box in _strips(spec, region):
        yield plan_reading(spec, region.channel, box).window


def column_window(spec: OutputSpec, channel: int, position: Position) -> Box:
    """Return the box of input voxels that `read_column` reads.

    Parameters
    ----------
    spec, channel, position
        As for :func:`read_column`.
    """
    return plan_reading(spec, channel, _reach(spec.lattice, position)).window


def read_input(spec: OutputSpec, region: Region, source: Source) -> None:
    """Read what a region reads, in the same order, and compute nothing. `source.seen` is called with all of it.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    region : Region
        The region whose input is read.
    source : Source
        Input of the region's channel, and the mask if there is one.

    Raises
    ------
    DataError
        ``data.unreadable``.
    """
    for _, box in _strips(spec, region):
        _read(spec, region.channel, source, box)


@dataclass(frozen=True)
class _Block:
    """Input of the patches at one position.

    Attributes
    ----------
    voxels : numpy.ndarray, shape (rows, y, x)
        Voxels with their z context.
    absent : numpy.ndarray of bool, shape (rows, y, x), optional
        Which of them are not stored.
    second : numpy.ndarray, shape (z, y, x), optional
        The second volume, without z context.
    sections : numpy.ndarray of int, shape (rows,)
        Sections of the input that the rows are.
    apart : int
        Rows from the first one of a patch to that of the next.
    """

    voxels: NDArray[Any]
    absent: NDArray[np.bool_] | None
    second: NDArray[Any] | None
    sections: NDArray[np.intp]
    apart: int

    def part(self, first: int, last: int, lattice: Lattice) -> _Block:
        """Return the block of the patches from `first` to `last` along z, counted from this one's first."""
        rows = slice(first * self.apart, last * self.apart + lattice.patch[0] + 2 * lattice.context)
        own = slice(first * lattice.stride[0], last * lattice.stride[0] + lattice.patch[0])
        absent, second = None if self.absent is None else self.absent[rows], None if self.second is None else self.second[own]
        return _Block(self.voxels[rows], absent, second, self.sections[rows], self.apart)


def _read(spec: OutputSpec, channel: int, source: Source, box: Box) -> _Block:
    """Read a box of input voxels with its z context, and the second volume there, mirrored at the faces."""
    reading = plan_reading(spec, channel, box)
    voxels = source.read(reading.window)  # (z, y, x) inside the volume
    if source.seen is not None:
        source.seen(voxels)
    absent = None if source.absent is None else source.absent(reading.window)
    if reading.repaired:
        voxels, absent = repair_voxels(spec, channel, reading, voxels, absent)
    second = _read_mask(source, spec.lattice, box)  # (z, y, x)
    # Larger at the faces, where voxels are mirrored: (rows, y, x).
    block = _ordered(voxels, reading.indices, reading.window)
    absent = None if absent is None else _ordered(absent, reading.indices, reading.window)
    return _Block(block, absent, second, reading.indices[0], reading.apart)


def _read_mask(source: Source, lattice: Lattice, box: Box) -> NDArray[Any] | None:
    """Read the second volume, the mask or what an operation of two inputs takes, on the input's grid, mirrored like it."""
    if source.mask is None:
        return None
    indices = [
        mirror_index(start, stop, size) // factor
        for start, stop, size, factor in zip(box.start, box.stop, lattice.shape, source.mask_factor, strict=True)
    ]
    window = box_of(indices)
    voxels = read_voxels(source.mask, window, "mask", check=source.mask_check)
    if source.seen is not None:
        source.seen(voxels)
    return _ordered(voxels, indices, window)  # each voxel for mask_factor of the input


def _ordered(voxels: NDArray[Any], indices: list[NDArray[np.intp]], window: Box) -> NDArray[Any]:
    """Return the voxels of a window in the order of the given places of each axis; where that is theirs, a view and no copy."""
    for axis, (index, first, size) in enumerate(zip(indices, window.start, window.shape, strict=True)):
        if len(index) != size or (np.diff(index) != 1).any():
            voxels = voxels.take(index - first, axis=axis)  # as long along the axis as there are places
    return voxels


def _cut(
    spec: OutputSpec,
    channel: int,
    position: Position,
    part: _Block,
) -> Column:
    """Fill, normalise and cut the patches of one group out of its block of input."""
    x, group, rows = position
    lattice = spec.lattice
    depth, height, _ = lattice.patch
    reach = depth + 2 * lattice.context
    block, handed = part.voxels, part.second if spec.inputs > 1 else None  # (z + 2 context, y, x) and (z, y, x)
    wanted = part.second if handed is None else None  # (z, y, x)
    valid = valid_voxels(block, spec.nodata) if spec.output_nodata is not None else None
    if valid is not None and part.absent is not None:
        valid &= ~part.absent
    start = lattice.start((group.start, rows.start, x))
    zero, span = (values[part.sections, None, None] for values in spec.input_scale(channel))  # (z, 1, 1)
    if valid is not None:
        block = np.where(valid, block, 0)  # NaN is no input, and the lowest float32 would overflow
    normal = block  # (z, y, x): what the network sees, once it is float32
    if zero.any() or (span != 1).any():
        normal = block.astype(np.float32)  # a copy
        normal -= zero
        normal /= span
    if np.issubdtype(block.dtype, np.floating):
        normal = normal.astype(np.float32, copy=False)
        _check_finite(normal, lattice, part.sections, start)

    inputs = () if handed is None else (2,)
    shape = (len(group) * len(rows), *inputs, reach, height, lattice.patch[2])
    patches = np.empty(shape, np.float32)  # (n, [2,] z + 2 context, y, x)
    active = np.ones(len(patches), bool)
    for number in range(len(patches)):
        z, y = divmod(number, len(rows))
        row, z, y = z * part.apart, z * lattice.stride[0], y * lattice.stride[1]
        cut = (slice(row, row + reach), slice(y, y + height))  # patches overlap, so each is a copy
        image = patches[number] if handed is None else patches[number, 0]
        image[...] = normal[cut]
        if valid is not None and not valid[cut].all():
            _fill_missing(image, valid[cut])
        if handed is not None:
            patches[number, 1] = handed[cut]
        # A patch of one value has nothing to enhance; so has one that the mask leaves out.
        seen = block[cut] if valid is None else block[cut][valid[cut]]
        flat = seen.size == 0 or (spec.spares and bool(seen.min() == seen.max()))
        active[number] = not flat and (wanted is None or bool(wanted[z : z + depth, y : y + height].any()))
    # The sections themselves, without their context.
    inner = slice(lattice.context, len(block) - lattice.context, part.apart if part.apart > depth else 1)
    volume = lattice.shape
    places = tuple(PatchPlace(channel, lattice.start((z, y, x)), volume) for z in group for y in rows)
    missing = None if valid is None else ~valid[inner]
    return Column(channel, x, group, rows, patches, active, missing, start, places=places)


def _check_finite(values: NDArray[np.float32], lattice: Lattice, sections: NDArray[np.intp], start: Triple) -> None:
    """Refuse a block of normalised voxels, of the given sections and from `start` along y and x, if one is NaN or infinite."""
    finite = np.isfinite(values)
    if not finite.all():
        row, *found = (int(at) for at in np.unravel_index(int(np.argmin(finite)), values.shape))
        places = zip(found, start[1:], lattice.shape[1:], strict=True)
        y, x = (int(mirror_index(at + first, at + first + 1, size)[0]) for at, first, size in places)
        told = f"the input holds NaN or infinity at voxel z {sections[row]}, y {y}, x {x}"
        raise DataError("data.not-finite", told, hint=NAN_HINT)


def _fill_missing(patch: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
    """Fill missing voxels of each section from the nearest valid one; a section without any becomes 0, the low percentile."""
    from scipy import ndimage  # where no voxel is missing, nothing else needs it

    for section, has in zip(patch, valid, strict=True):
        if not has.any():
            section[...] = 0.0
        elif not has.all():
            nearest = ndimage.distance_transform_edt(~has, return_distances=False, return_indices=True)
            section[...] = section[tuple(nearest)]
