"""Metrics: numbers for the distance between two sections."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def psnr(restored: NDArray[Any], truth: NDArray[Any], data_range: float = 255.0) -> float:
    """Return the peak signal-to-noise ratio in dB, raw: nothing is fitted or normalised.

    Parameters
    ----------
    restored, truth : numpy.ndarray
        Same shape, same intensity scale.
    data_range : float
        Difference between the largest and the smallest possible value.
    """
    error = float(np.mean((restored.astype(np.float64) - truth.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(data_range**2 / error))
