"""SSIM and MS-SSIM as maps: what tiles of a large section add up, and what a small section averages.

SSIM: Wang et al. 2004, IEEE Trans. Image Process. 13(4), with the uniform 7 x 7 window and the sample covariance that
scikit-image takes by default. MS-SSIM: Wang, Simoncelli, Bovik 2003, Asilomar, with their Gaussian window, weights and the
product of means of their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Doubles = NDArray[np.float64]

WINDOW = 7
"""Side of the uniform window of SSIM; positions nearer than 3 pixels to a face do not count."""

TAPS = 11
"""Side of the Gaussian window of MS-SSIM (sigma 1.5); positions nearer than 5 pixels to a face do not count."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang 2003, section 3.2)."""

_K1, _K2, _SIGMA = 0.01, 0.03, 1.5


def ssim_maps(
    restored: NDArray[Any], truth: NDArray[Any], *, data_range: float, affines: Sequence[tuple[float, float]]
) -> list[Doubles]:
    """Return the SSIM at every position whose window lies inside, after each of several affine maps.

    Parameters
    ----------
    restored, truth : numpy.ndarray, shape (y, x)
        Grey values of the same scale, at least 7 x 7.
    data_range : float
        Difference between the largest and the smallest possible value.
    affines : sequence of tuple
        Gain and offset applied to `restored`; (1, 0) for raw. Local moments follow in closed form.

    Returns
    -------
    list of numpy.ndarray
        float64 (y - 6, x - 6), one per affine map.
    """
    mean_r, mean_t, var_r, var_t, cov = (_inside(part, WINDOW) for part in _moments(restored, truth, _uniform))  # (y-6, x-6)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    maps = []
    for gain, offset in affines:
        moments = (gain * mean_r + offset, mean_t, gain**2 * sample * var_r, sample * var_t, gain * sample * cov)
        luminance, structure = _terms(moments, data_range)
        maps.append(luminance * structure)
    return maps


def scales_that_fit(shape: Sequence[int]) -> int:
    """Return how many of the five scales of MS-SSIM a section of this shape has room for: 5 from 176 pixels on, 0 below 11."""
    return sum(min(shape) >> scale >= TAPS for scale in range(len(SCALE_WEIGHTS)))


def ms_ssim_maps(restored: NDArray[Any], truth: NDArray[Any], *, data_range: float, scales: int) -> list[Doubles]:
    """Return the maps whose means are the factors of MS-SSIM.

    Parameters
    ----------
    restored, truth : numpy.ndarray, shape (y, x)
        Grey values of the same scale.
    data_range : float
        Difference between the largest and the smallest possible value.
    scales : int
        Number of scales, at most what :func:`scales_that_fit` returns.

    Returns
    -------
    list of numpy.ndarray
        float64, finest first, each of (y >> scale) - 10 by (x >> scale) - 10 positions: contrast times structure, and on the
        last scale luminance too.
    """
    maps = []
    fine_r, fine_t = restored.astype(np.float64), truth.astype(np.float64)
    for scale in range(scales):
        if scale:
            fine_r, fine_t = _halved(fine_r), _halved(fine_t)  # (y // 2, x // 2)
        moments = [_inside(part, TAPS) for part in _moments(fine_r, fine_t, _gaussian)]  # (y-10, x-10)
        luminance, structure = _terms(moments, data_range)
        maps.append(luminance * structure if scale == scales - 1 else structure)
    return maps


def combine_scales(means: Sequence[Doubles | float]) -> Doubles:
    """Return MS-SSIM from the means of its maps.

    With fewer than five scales the weights are scaled to the same sum. A negative mean, which has no power, counts as 0.

    Parameters
    ----------
    means : sequence of float or of numpy.ndarray
        Mean of the map of each scale, finest first; arrays of one shape give an MS-SSIM for each of their elements.

    Returns
    -------
    numpy.ndarray of float64
        MS-SSIM, of the shape of the means.
    """
    weights = np.array(SCALE_WEIGHTS[: len(means)])
    weights *= sum(SCALE_WEIGHTS) / weights.sum()
    product = np.ones_like(np.asarray(means[0], np.float64))
    for mean, weight in zip(means, weights, strict=True):
        product = product * np.maximum(mean, 0.0) ** weight
    return product


def _moments(restored: NDArray[Any], truth: NDArray[Any], smooth: Any) -> tuple[Doubles, Doubles, Doubles, Doubles, Doubles]:
    r, t = restored.astype(np.float64), truth.astype(np.float64)
    mean_r, mean_t = smooth(r), smooth(t)
    return mean_r, mean_t, smooth(r * r) - mean_r**2, smooth(t * t) - mean_t**2, smooth(r * t) - mean_r * mean_t


def _terms(moments: Sequence[Doubles], data_range: float) -> tuple[Doubles, Doubles]:
    mean_r, mean_t, var_r, var_t, cov = moments
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    return (2 * mean_r * mean_t + c1) / (mean_r**2 + mean_t**2 + c1), (2 * cov + c2) / (var_r + var_t + c2)


def _uniform(image: Doubles) -> Doubles:
    smooth: Doubles = ndimage.uniform_filter(image, WINDOW)
    return smooth


def _gaussian(image: Doubles) -> Doubles:
    taps = np.exp(-0.5 * ((np.arange(TAPS) - TAPS // 2) / _SIGMA) ** 2)
    taps /= taps.sum()
    smooth: Doubles = ndimage.correlate1d(ndimage.correlate1d(image, taps, 0), taps, 1)
    return smooth


def _halved(image: Doubles) -> Doubles:
    y, x = (size // 2 for size in image.shape)
    means: Doubles = image[: 2 * y, : 2 * x].reshape(y, 2, x, 2).mean(axis=(1, 3))  # (y // 2, x // 2)
    return means


def _inside(values: Doubles, window: int) -> Doubles:
    edge = window // 2
    return values[edge : values.shape[0] - edge, edge : values.shape[1] - edge]
