"""Quantise: network values back to intensities, rounded once, with missing voxels written as such."""

from __future__ import annotations

from typing import cast

import numpy as np

from volumetool.errors import NumericsError
from volumetool.geometry import Box
from volumetool.processing.columns import Column
from volumetool.processing.device.arrays import Array, module_of
from volumetool.processing.spec import OutputSpec


def quantise(spec: OutputSpec, channel: int, column: Column, box: Box, values: Array) -> Array:
    """Turn blended network values into voxels of the output.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    channel : int
        Channel of the output.
    column : Column
        The column that the values come from.
    box : Box
        Where the values lie, in voxels of the full output.
    values : array of float32, shape of the box
        Network values; overwritten.

    Returns
    -------
    array
        In the output's dtype: integers rounded half to even and clipped to the dtype's range.

    Raises
    ------
    NumericsError
        ``numerics.not-finite``: a value overflowed.
    """
    xp = module_of(values)
    sections = [spec.lattice.section(z) for z in range(box.start[0], box.stop[0])]
    zero, span = (part[sections, None, None] for part in spec.output_scale(channel))  # (z, 1, 1) each
    if zero.any() or (span != 1).any() or np.dtype(spec.dtype).kind == "f":  # of floats, 0 is added to make -0 a 0
        with np.errstate(over="ignore", invalid="ignore"):  # checked right below
            values *= xp.asarray(span)
            values += xp.asarray(zero)
    if spec.curves is not None:
        values = spec.curves.apply(channel // spec.per_input, sections, values, xp)  # (z, y, x)
    _check_finite(values, box)
    dtype = np.dtype(spec.dtype_of(channel))
    if dtype.kind in "iu":
        limits = np.iinfo(cast("np.dtype[np.integer]", dtype))
        xp.rint(values, out=values)
        xp.clip(values, limits.min, limits.max, out=values)
        if spec.nodata_of(channel) is not None:
            # A valid voxel never takes the value that means "no data": it moves by one, as in the pyramid.
            values[values == spec.fill] += 1 if spec.fill <= 0 else -1
    voxels = values.astype(dtype)
    if column.missing is not None:
        _write_missing(spec, column, box, voxels, spec.fill_of(channel))
    return voxels


def _check_finite(values: Array, box: Box) -> None:
    """Refuse what overflowed on its way from the network to intensities: clipped, it would pass for a voxel."""
    xp = module_of(values)
    with np.errstate(over="ignore"):
        total = values.sum()
    # A sum is finite only if all its terms are; one that is not may be an overflow.
    if not xp.isfinite(total) and not xp.isfinite(values).all():
        raise NumericsError(
            "numerics.not-finite",
            f"voxels {box} (z,y,x) of the output became NaN or infinity between the network and the disk",
            hint="nothing wrong reached the disk; look at the section statistics and at the input there",
        )


def _write_missing(spec: OutputSpec, column: Column, box: Box, voxels: Array, fill: float) -> None:
    assert column.missing is not None  # noqa: S101  (the caller asked)
    places = zip(box.start, box.stop, spec.lattice.scale, spec.lattice.shrink, column.missing_start, strict=True)
    index = [np.arange(start * n, stop * n) // factor - first for start, stop, factor, n, first in places]
    missing = column.missing[np.ix_(*index)]  # one input voxel for each output voxel, or n of them: (z, y, x) of the box
    if max(spec.lattice.shrink) > 1:  # a voxel has data where one of its block has
        blocks = [part for pair in zip(box.shape, spec.lattice.shrink, strict=True) for part in pair]
        missing = np.asarray(missing.reshape(blocks).all(axis=(1, 3, 5)))  # (z, y, x) of the box
    if missing.any():
        xp = module_of(voxels)
        voxels[xp.asarray(missing)] = fill


def integer_limits(dtype: str) -> tuple[float, float]:
    """Return the range of values that a dtype holds.

    Returns
    -------
    tuple of float
        Lowest and highest value; minus and plus infinity for a float dtype.
    """
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return -np.inf, np.inf
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)
