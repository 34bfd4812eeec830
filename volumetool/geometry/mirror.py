"""Mirrored faces: where a patch reaches over the volume, the input is reflected."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mirror_index(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Return for each position the voxel of the volume that stands there.

    The edge voxel is not repeated (``numpy.pad``'s mode ``reflect``), the reflection goes on as often as needed, and an
    axis of one voxel repeats it.

    Parameters
    ----------
    start, stop : int
        Half-open range of positions, in voxels; may lie outside ``0 .. size``.
    size : int
        Length of the axis, in voxels.

    Returns
    -------
    numpy.ndarray of int, shape (stop - start,)
        Indices within ``0 .. size - 1``.
    """
    positions = np.arange(start, stop, dtype=np.intp)
    if size == 1:
        return np.zeros_like(positions)
    period = 2 * (size - 1)
    phase = positions % period
    return np.minimum(phase, period - phase)
