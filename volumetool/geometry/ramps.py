"""Ramps: the weights with which a patch takes over from the one before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ramp(length: int) -> NDArray[np.float32]:
    """Return the weights of the later patch over `length` output voxels, pixel-centred.

    The later patch b replaces the earlier one a as ``a + w * (b - a)``, so that where both agree their value comes out
    exactly: no sum of weights, no division. Weights are symmetric: ``w[j] + w[length - 1 - j] == 1``.

    Parameters
    ----------
    length : int
        Output voxels shared by the two patches; 0 for a plain cut.

    Returns
    -------
    numpy.ndarray of float32, shape (length,)
        ``(j + 0.5) / length``, strictly between 0 and 1.
    """
    return ((np.arange(length, dtype=np.float64) + 0.5) / max(1, length)).astype(np.float32)
