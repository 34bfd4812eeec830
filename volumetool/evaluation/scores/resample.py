"""Enlargement by whole factors: nearest, linear, cubic, pixel-centred, one axis after the other.

Fine voxel i has its centre at ``(i + 0.5) / f - 0.5`` coarse voxels, whatever the size of the array
(``F.interpolate(align_corners=False)`` and SciPy's ``zoom(grid_mode=True)`` place it there too). Beyond a face the last voxel
goes on.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Kind = Literal["nearest", "linear", "cubic"]

CUBIC_A = -0.75
"""Keys's parameter (1981, IEEE Trans. ASSP 29): -0.75 as in PyTorch and OpenCV."""


def enlarge(section: NDArray[Any], scale: tuple[int, ...], kind: Kind) -> Floats:
    """Enlarge an array along every axis by a whole factor.

    Parameters
    ----------
    section : numpy.ndarray
        Grey values, any number of axes.
    scale : tuple of int
        Fine voxels per coarse voxel, one factor per axis.
    kind : str
        ``"nearest"``, ``"linear"`` or ``"cubic"``.

    Returns
    -------
    numpy.ndarray of float32
        Each axis is its factor times longer.
    """
    fine = section.astype(np.float32)
    for axis, factor in enumerate(scale):
        if factor > 1:
            fine = _enlarge_axis(fine, axis, factor, kind)
    return fine


def taps(factor: int, kind: Kind) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return which coarse voxels a fine voxel is made from, and their weights.

    Returns
    -------
    offsets : numpy.ndarray of int, shape (factor, taps)
        Coarse voxels, relative to the one that fine voxel ``p`` (0 to factor - 1) lies in.
    weights : numpy.ndarray of float32, shape (factor, taps)
        Their sum is 1.
    """
    offsets, weights = _taps(factor, kind)
    return offsets, weights.astype(np.float32)


@cache
def _taps(factor: int, kind: Kind) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    place = (np.arange(factor) + 0.5) / factor - 0.5  # coarse voxels from the centre of the own one: above -0.5, below 0.5
    if kind == "nearest":
        return np.zeros((factor, 1), np.intp), np.ones((factor, 1))
    reach = 1 if kind == "linear" else 2
    first = np.floor(place).astype(np.intp)[:, None] + np.arange(1 - reach, reach + 1)  # (factor, taps)
    distance = np.abs(place[:, None] - first)
    return first, 1 - distance if kind == "linear" else _keys(distance)


def _keys(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance**2 + 1
    far = ((CUBIC_A * distance - 5 * CUBIC_A) * distance + 8 * CUBIC_A) * distance - 4 * CUBIC_A
    return np.where(distance <= 1, near, far)


def _enlarge_axis(coarse: Floats, axis: int, factor: int, kind: Kind) -> Floats:
    offsets, weights = taps(factor, kind)
    lines = np.moveaxis(coarse, axis, 0)  # (n, ...)
    count = len(lines)
    fine = np.empty((count, factor, *lines.shape[1:]), np.float32)
    for phase in range(factor):
        fine[:, phase] = sum(
            weight * lines[np.clip(np.arange(count) + offset, 0, count - 1)]
            for offset, weight in zip(offsets[phase], weights[phase], strict=True)
        )
    whole: Floats = np.moveaxis(fine.reshape(count * factor, *lines.shape[1:]), 0, axis)  # n*f along the axis
    return whole
