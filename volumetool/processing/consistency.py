"""Consistency: how far a region's output, averaged over each voxel of the input, departs from the input.

A network that sharpens moves light about inside a voxel of the input; one that invents or loses something changes the mean.
What is said is the root mean square of these changes in data windows, the network's own unit: 0.05 is a twentieth of the range
from black to white. The noise that was removed is part of it, so a place is conspicuous where it differs from its neighbours.
It is measured on the values that are about to be rounded, while they are in memory, and decides no byte.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Box, Lattice, Triple
from volumetool.processing.columns import Column
from volumetool.processing.device.arrays import Array, module_of, to_host


class Consistency:
    """Adds up how far a region's output departs from its input.

    Voxels of the input that the region has only a part of are left out, and so are those without data.

    Parameters
    ----------
    lattice : Lattice
        The job's lattice.
    """

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice
        self._squares = 0.0
        self._count = 0

    @property
    def rms(self) -> float | None:
        """Root mean square of the differences so far, in data windows; None before the first voxel, and beyond float32."""
        return math.sqrt(self._squares / self._count) if self._count and math.isfinite(self._squares) else None

    def add(self, column: Column, box: Box, values: Array) -> None:
        """Add what a column finishes.

        Parameters
        ----------
        column : Column
            The column, which holds the input.
        box : Box
            In voxels of the full output.
        values : array of float32, shape of the box
            What the network made of it, blended.
        """
        # Values near the end of float32 are legal; their sums may not be, and then nothing is said.
        with np.errstate(over="ignore", invalid="ignore"):
            pixels = _inside(box, self._lattice.scale)
            if pixels.voxels:
                low = (-box.start[0], -box.start[1], -box.start[2])
                whole = values[pixels.enlarged(self._lattice.scale).shifted(low).slices]
                for number in range(pixels.shape[0]):  # section by section: what is made of one stays in the cache
                    self._compare(column, pixels, number, whole)

    def _compare(self, column: Column, pixels: Box, number: int, values: Array) -> None:
        line, rows, depth = self._lattice.z, self._lattice.y, self._lattice.scale[0]
        part = values[number * depth : (number + 1) * depth]  # (fz, y*fy, x*fx): one section of the input
        means = to_host(block_means(part, self._lattice.scale))[0]  # (y, x), input voxels
        z = pixels.start[0] + number
        stack = line.touching(z * line.scale, (z + 1) * line.scale)[-1]
        section = z - line.start(stack) + self._lattice.context
        across = slice(*(x - self._lattice.x.start(column.x) for x in (pixels.start[2], pixels.stop[2])))
        for row, y in enumerate(column.y):
            low, high = (max(pixels.start[1], min(pixels.stop[1], rows.weight_start(i) // rows.scale)) for i in (y, y + 1))
            patch = column.patches[(stack - column.z.start) * len(column.y) + row]
            away = means[low - pixels.start[1] : high - pixels.start[1]]
            away = away - patch[section, low - rows.start(y) : high - rows.start(y), across]  # (rows of this patch, x)
            if column.missing is not None:
                # (rows, x) -> (valid voxels,)
                away = away[~_part(column.missing, Box((z, low, pixels.start[2]), (z + 1, high, pixels.stop[2])), column)]
            self._squares += float(np.vdot(away, away))
            self._count += away.size


def _inside(box: Box, scale: Triple) -> Box:
    """Return the voxels of the input that lie in a box of the output as a whole."""
    start = [-(-low // factor) for low, factor in zip(box.start, scale, strict=True)]
    stop = [high // factor for high, factor in zip(box.stop, scale, strict=True)]
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def block_means(values: Array, scale: Triple) -> Array:
    """Return the means over the voxels that one voxel of the input became.

    Parameters
    ----------
    values : array of float32, shape (..., z*fz, y*fy, x*fx)
        Output voxels, whole blocks of them.
    scale : tuple of int
        Output voxels per input voxel, fz, fy, fx.

    Returns
    -------
    array of float32, shape (..., z, y, x)
    """
    total = values
    for axis, factor in zip((-3, -2, -1), scale, strict=True):  # rows lie in one piece: x last
        if factor > 1:
            # Each part is one voxel of every block, so that their sum is shorter by the factor along this axis.
            behind = (slice(None),) * (-1 - axis)
            parts = [total[(..., slice(first, None, factor), *behind)] for first in range(factor)]
            total = parts[0] + parts[1]
            for part in parts[2:]:
                total += part
    return total * np.float32(1 / math.prod(scale))


def residuals(outputs: Array, patches: NDArray[np.float32], scale: Triple, block: Triple = (1, 1, 1)) -> Array:
    """Return how far the means of outputs depart from their inputs: the same for all voxels made of one.

    Parameters
    ----------
    outputs : array of float32, shape (n, z*fz, y*fy, x*fx)
        What the network made.
    patches : numpy.ndarray of float32, shape (n, depth, y, x)
        What it was made of; depth counts the z context on both sides.
    scale : tuple of int
        Output voxels per input voxel, fz, fy, fx.
    block : tuple of int
        Output voxels for which there is one value: a divisor of the scale.

    Returns
    -------
    array of float32, shape of `outputs`, divided by the block
    """
    means = block_means(outputs, scale)  # (n, z, y, x)
    context, xp = (patches.shape[1] - means.shape[1]) // 2, module_of(means)
    away = means - xp.asarray(patches[:, context : context + means.shape[1]])
    (n, z, y, x), times = away.shape, [factor // size for factor, size in zip(scale, block, strict=True)]
    equal = xp.broadcast_to(away[:, :, None, :, None, :, None], (n, z, times[0], y, times[1], x, times[2]))
    return equal.reshape(n, z * times[0], y * times[1], x * times[2])  # a copy where one value is for several


def _part(missing: NDArray[np.bool_], box: Box, column: Column) -> NDArray[np.bool_]:
    z, y, x = column.missing_start
    part: NDArray[np.bool_] = missing[box.shifted((-z, -y, -x)).slices][0]
    return part
