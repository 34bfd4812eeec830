"""Quantise: network values back to intensities, rounded once, with missing voxels written as such.

Where a voxel's grey value alone decides what it becomes, a table says it of all grey values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import NumericsError
from volumetool.geometry import Box, Lattice
from volumetool.processing.columns import Column
from volumetool.processing.device.arrays import Array, module_of, to_host
from volumetool.processing.spec import OutputSpec
from volumetool.storage.voxels import valid_voxels

if TYPE_CHECKING:  # it loads torch, which whoever verifies does without
    from volumetool.processing.engine import Engine


def quantise(spec: OutputSpec, channel: int, column: Column, box: Box, values: Array, error: Array | None = None) -> Array:
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
        Where the values lie, in voxels of the full output, or in blocks of them, as the channel has them.
    values : array of float32, shape of the box
        Network values; overwritten.
    error : array of float32, shape of the box, optional
        The expected error of each, in the network's unit: they are rounded to steps of at most `spec.store_error` times it.

    Returns
    -------
    array
        In the output's dtype: integers rounded half to even and clipped to the dtype's range.

    Raises
    ------
    NumericsError
        ``numerics.not-finite``: a value overflowed.
    """
    voxels = round_values(spec, channel, box, values, error)
    if column.missing is not None:
        _write_missing(spec.lattice.over_blocks(spec.block_of(channel)), column, box, voxels, spec.fill_of(channel))
    return voxels


def round_values(spec: OutputSpec, channel: int, box: Box, values: Array, error: Array | None = None) -> Array:
    """Turn network values into voxels of the output, wherever the input has data.

    Parameters
    ----------
    spec, channel, box, values, error
        As for :func:`quantise`.

    Returns
    -------
    array
        In the output's dtype.

    Raises
    ------
    NumericsError
        ``numerics.not-finite``.
    """
    xp = module_of(values)
    lattice = spec.lattice.over_blocks(spec.block_of(channel))
    sections = [lattice.section(z) for z in range(box.start[0], box.stop[0])]
    zero, span = (part[sections, None, None] for part in spec.output_scale(channel))  # (z, 1, 1) each
    if zero.any() or (span != 1).any() or np.dtype(spec.dtype).kind == "f":  # of floats, 0 is added to make -0 a 0
        with np.errstate(over="ignore", invalid="ignore"):  # checked right below
            values *= xp.asarray(span)
            values += xp.asarray(zero)
    if spec.curves is not None:
        values = spec.curves.apply(channel // spec.per_input, sections, values, xp)  # (z, y, x)
    whole = box.enlarged(spec.block_of(channel))
    _check_finite(values, whole)
    dtype = np.dtype(spec.dtype_of(channel))
    if error is not None:
        most = error * xp.asarray(abs(span) * np.float32(spec.store_error))  # (z, y, x), grey values
        _round_to_steps(values, most, dtype, spec.nodata_of(channel))
        _check_finite(values, whole)
    if dtype.kind in "iu":
        limits = np.iinfo(cast("np.dtype[np.integer]", dtype))
        xp.rint(values, out=values)
        xp.clip(values, limits.min, limits.max, out=values)
        if spec.nodata_of(channel) is not None:
            # A valid voxel never takes the value that means "no data": it moves by one, as in the pyramid.
            values[values == spec.fill] += 1 if spec.fill <= 0 else -1
    return values.astype(dtype)


def tabulate(spec: OutputSpec, channel: int, engine: Engine, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return what each grey value of the input becomes; None where that is not all that decides a voxel, or there are too many.

    Parameters
    ----------
    spec : OutputSpec
        What decides the bytes.
    channel : int
        Channel of the input.
    engine : Engine
        The operation on its device.
    dtype : numpy.dtype
        Of the input.

    Returns
    -------
    numpy.ndarray, shape (grey values,)
        In the output's dtype. A signed value stands where the unsigned one of the same bits would.
    """
    scales = (*spec.input_scale(channel), *spec.output_scale(channel))  # zero and span of all sections, twice
    trivial = all((part == each).all() for part, each in zip(scales, (0, 1, 0, 1), strict=True))
    by_place = spec.spares or spec.outputs or spec.curves is not None or spec.mask is not None
    if not engine.card.pointwise or dtype.kind not in "iu" or dtype.itemsize > 2 or not trivial or by_place:
        return None
    grey = np.arange(2 ** (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)
    (values,) = engine.predict(grey.astype(np.float32).reshape(1, 1, 1, -1))  # (1, 1, grey values)
    start = spec.box.start
    box = Box(start, (start[0] + 1, start[1] + 1, start[2] + len(grey)))
    table: NDArray[Any] = to_host(round_values(spec, channel, box, values)).reshape(-1)  # (grey values,)
    if spec.nodata is not None:
        table[~valid_voxels(grey, spec.nodata)] = spec.fill_of(channel)
    return table


def _round_to_steps(values: Array, most: Array, dtype: np.dtype[Any], nodata: float | None) -> None:
    """Round values, in place, to multiples of the largest power of two that is not above `most`: at most half of that off.

    Powers of two, because the multiples of one are multiples of all smaller ones: where steps change from voxel to voxel, few
    values occur all the same, and those compress. Multiplying by one and dividing are exact, so that the value is rounded once.
    Of integers no step is below 1. Of floats a voxel keeps its value where `most` is 0, and where its step would mean no data.
    """
    xp, whole = module_of(values), dtype.kind in "iu"
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
        _, exponents = xp.frexp(most)  # most = mantissa * 2 ** exponent, mantissa from a half to below 1
        steps = xp.ldexp(xp.ones_like(most), exponents - 1)  # (z, y, x)
        steps = xp.maximum(steps, np.float32(1)) if whole else steps
        rounded = xp.rint(values / steps) * steps
    if not whole:
        rounded += np.float32(0)  # what was rounded to -0 is a 0
        follows = most > 0 if nodata is None else (most > 0) & (rounded != nodata)
        rounded = xp.where(follows, rounded, values)
    values[...] = rounded


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


def _write_missing(lattice: Lattice, column: Column, box: Box, voxels: Array, fill: float) -> None:
    assert column.missing is not None  # noqa: S101  (the caller asked)
    places = zip(box.start, box.stop, lattice.scale, lattice.shrink, column.missing_start, strict=True)
    index = [np.arange(start * n, stop * n) // factor - first for start, stop, factor, n, first in places]
    missing = column.missing[np.ix_(*index)]  # one input voxel for each output voxel, or n of them: (z, y, x) of the box
    if max(lattice.shrink) > 1:  # a voxel has data where one of its block has
        blocks = [part for pair in zip(box.shape, lattice.shrink, strict=True) for part in pair]
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
