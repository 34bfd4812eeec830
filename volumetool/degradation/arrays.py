"""Array work that gives the same bits however a volume is cut.

Everything is elementwise, or a sum of shifted arrays in one fixed order. A library's sum, mean or matrix product is not used
here: its order of additions may depend on the array's shape, and so would the last bit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from volumetool.geometry import Triple, mirror_index

Array = Any
"""A NumPy array on the CPU or a CuPy array on the GPU; both have the operations used here."""


def module_of(array: Array) -> ModuleType:
    """Return the module, ``numpy`` or ``cupy``, whose functions work on an array."""
    return sys.modules[type(array).__module__.partition(".")[0]]


@dataclass(frozen=True)
class BlockPosition:
    """The position of a block while a step works on it.

    Parameters
    ----------
    origin : tuple of int
        Position of voxel (0, 0, 0) of the block, in voxels of the step's grid.
    scale : tuple of int
        Fine voxels per voxel of the step's grid: (1, 1, 1) before the reduction.
    seed, number : int
        Seed of the run, and number of the step in its recipe; together they name the step's random numbers.
    """

    origin: Triple
    scale: Triple
    seed: int
    number: int


def mirrored(image: Array, axis: int, before: int, after: int | None = None) -> Array:
    """Return an array with its faces mirrored along an axis; the edge voxel is not repeated.

    Parameters
    ----------
    image : array
        Image of any shape.
    axis : int
        Axis that grows.
    before, after : int
        Voxels that are added on each side; `after` is `before` unless given.

    Returns
    -------
    array
        The axis is ``before + after`` voxels longer; `image` itself where nothing is added.
    """
    after = before if after is None else after
    if before == after == 0:
        return image
    index = mirror_index(-before, image.shape[axis] + after, image.shape[axis])  # (n + before + after,)
    return image.take(module_of(image).asarray(index), axis=axis)


def along(array: Array, axis: int, start: int, stop: int | None = None, step: int | None = None) -> Array:
    """Return the view ``start:stop:step`` of one axis.

    Parameters
    ----------
    array : array
        Array of any shape.
    axis : int
        Axis to slice; a negative one counts from the last.
    start, stop, step : int
        As in a slice, in voxels; by default the view reaches to the end in steps of 1.
    """
    return array[(slice(None),) * (axis % array.ndim) + (slice(start, stop, step),)]


def gaussian_reach(sigma: float) -> int:
    """Return how many voxels to each side a Gaussian of `sigma` voxels is summed over: 4 sigma."""
    return int(4 * sigma + 0.5)


def gaussian(image: Array, sigma: Sequence[float]) -> Array:
    """Blur by a sampled Gaussian, axis by axis, in float32.

    Parameters
    ----------
    image : array of float32, shape (z, y, x)
        Mirrored at its faces.
    sigma : sequence of float
        Standard deviations along z, y, x in voxels; 0 leaves an axis as it is.

    Returns
    -------
    array
        float32 (z, y, x).
    """
    for axis, width in enumerate(sigma):
        reach = gaussian_reach(width)
        if reach == 0:
            continue
        weights = np.exp(-0.5 * (np.arange(reach + 1) / width) ** 2)  # (reach + 1,), from the centre outwards
        weights /= weights[0] + 2 * weights[1:].sum()
        image = _symmetric(image, axis, weights.astype(np.float32))
    return image


def _symmetric(image: Array, axis: int, weights: np.ndarray[Any, np.dtype[np.float32]]) -> Array:
    reach, size = len(weights) - 1, image.shape[axis]
    padded = mirrored(image, axis, reach)  # n + 2 reach along the axis
    blurred = image * weights[0]
    pair = module_of(image).empty_like(blurred)
    for step in range(1, reach + 1):
        first, second = reach - step, reach + step
        module_of(image).add(along(padded, axis, first, first + size), along(padded, axis, second, second + size), out=pair)
        pair *= weights[step]
        blurred += pair
    return blurred
