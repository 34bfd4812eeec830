"""Metrics: numbers for the distance between two sections.

A number is worth as much as its protocol. One and the same restored tile of a published comparison reads 24.7 dB raw and
19.3 dB after another normalisation; so each score here comes raw and after a least-squares affine fit, and each needs its
data range said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import InputError
from volumetool.evaluation.scores.ssim import TAPS, combine_scales, ms_ssim_maps, scales_that_fit, ssim_maps


@dataclass(frozen=True)
class Scores:
    """Scores of a section, or a volume, against its truth.

    Attributes
    ----------
    psnr, ssim, ms_ssim : float
        Raw: nothing is fitted. PSNR in dB, infinite where both are equal; the others at most 1.
    psnr_affine, ssim_affine : float
        The same after the affine map of the restored grey values that brings them nearest to the truth, see `fit_affine`.
    """

    psnr: float
    ssim: float
    ms_ssim: float
    psnr_affine: float
    ssim_affine: float


def psnr(restored: NDArray[Any], truth: NDArray[Any], data_range: float = 255.0) -> float:
    """Return the peak signal-to-noise ratio in dB, raw: nothing is fitted or normalised.

    Parameters
    ----------
    restored, truth : numpy.ndarray
        Same shape, same intensity scale.
    data_range : float
        Difference between the largest and the smallest possible value.

    Returns
    -------
    float
        Decibels; infinite where both are equal.
    """
    return decibels(float(np.mean((restored.astype(np.float64) - truth.astype(np.float64)) ** 2)), data_range)


def decibels(mean_square_error: float, data_range: float) -> float:
    """Return the PSNR in dB of a mean square error; infinite for 0."""
    return float("inf") if mean_square_error <= 0 else 10 * float(np.log10(data_range**2 / mean_square_error))


def fit_affine(restored: NDArray[Any], truth: NDArray[Any]) -> tuple[float, float]:
    """Return the gain a and offset b with the smallest mean square of ``a * restored + b - truth``.

    A constant `restored` gets gain 0 and the mean of the truth.
    """
    r, t = restored.astype(np.float64), truth.astype(np.float64)
    centred = r - r.mean()
    variance = float(np.mean(centred**2))
    gain = float(np.mean(centred * t)) / variance if variance > 0 else 0.0
    return gain, float(t.mean() - gain * r.mean())


def score(restored: NDArray[Any], truth: NDArray[Any], *, data_range: float) -> Scores:
    """Score one section; the affine map is fitted to this section alone.

    Parameters
    ----------
    restored, truth : numpy.ndarray, shape (y, x)
        Same shape, same intensity scale. Where the truth is of an integer dtype, `restored` is rounded and clipped to it first:
        scored is what would be stored.
    data_range : float
        Difference between the largest and the smallest possible value, such as 255.

    Returns
    -------
    Scores
        MS-SSIM takes the scales that fit: five from 176 pixels on.

    Raises
    ------
    InputError
        ``input.shape-mismatch``: other shapes, or not (y, x). ``input.too-small``: less than 11 pixels along an axis.
    """
    if restored.shape != truth.shape or truth.ndim != 2:
        raise InputError(
            "input.shape-mismatch",
            f"a restored section of shape {restored.shape} cannot be scored against a truth of shape {truth.shape}",
            hint="give two sections (y, x) of the same field",
        )
    if min(truth.shape) < TAPS:
        raise InputError(
            "input.too-small",
            f"a section of {truth.shape[0]} x {truth.shape[1]} voxels is smaller than the window of {TAPS} x {TAPS}",
            hint="score a larger field",
        )
    stored = as_stored(restored, truth.dtype)  # (y, x)
    gain, offset = fit_affine(stored, truth)
    raw, fitted = ssim_maps(stored, truth, data_range=data_range, affines=((1.0, 0.0), (gain, offset)))  # (y-6, x-6)
    scales = ms_ssim_maps(stored, truth, data_range=data_range, scales=scales_that_fit(truth.shape))  # (y-10, x-10) and coarser
    return Scores(
        psnr=psnr(stored, truth, data_range),
        ssim=float(raw.mean()),
        ms_ssim=float(combine_scales([float(each.mean()) for each in scales])),
        psnr_affine=psnr(gain * stored.astype(np.float64) + offset, truth, data_range),
        ssim_affine=float(fitted.mean()),
    )


def as_stored(restored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return grey values as a volume of this dtype would hold them: rounded half to even and clipped for integers."""
    if restored.dtype == dtype or not np.issubdtype(dtype, np.integer):
        return restored.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    stored: NDArray[Any] = np.clip(np.rint(restored), limits.min, limits.max).astype(dtype)
    return stored
