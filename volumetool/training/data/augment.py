"""Varying fine crops: contrast, sharpness and texture of other tissue, stains and detectors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F  # noqa: N812  (the name every PyTorch reader expects)

from volumetool.training.config import AugmentationConfig, Range

Floats = NDArray[np.float32]


def augment(fine: Floats, config: AugmentationConfig, rng: np.random.Generator) -> Floats:
    """Vary the crops of one acquisition, all in the same way.

    Parameters
    ----------
    fine : ndarray
        float32 (sections, y, x) in 0..1.
    config : AugmentationConfig
        What to vary, and how far.
    rng : numpy.random.Generator
        Source of all random numbers.

    Returns
    -------
    ndarray
        float32 (sections, y, x), clipped to 0..1.
    """
    varied = recontrast(fine, rng.uniform(*config.gamma), draw_log(config.contrast, rng), rng.uniform(*config.brightness))
    if config.sharpness != (0.0, 0.0):
        varied = sharpen(varied, gain=rng.uniform(*config.sharpness), sigma=rng.uniform(0.7, 2.0))
    if config.grain[1] > 0:
        varied = add_grain(varied, sd=rng.uniform(*config.grain) / 255, width=rng.uniform(0.7, 2.5), rng=rng)
    return np.clip(varied, 0, 1)


def resize(fine: Floats, size: tuple[int, int]) -> Floats:
    """Enlarge or reduce sections (sections, y, x) to `size` voxels in plane: bicubic, pixel-centred, without aliasing."""
    if fine.shape[-2:] == size:
        return fine
    sections = torch.from_numpy(fine)[:, None]  # (sections, 1, y, x)
    resized: Floats = F.interpolate(sections, size, mode="bicubic", align_corners=False, antialias=True)[:, 0].numpy()
    return resized.clip(0, 1)  # (sections, *size)


def recontrast(fine: Floats, gamma: float, contrast: float, brightness: float) -> Floats:
    """Apply a gamma, then a factor around mid grey and an offset.

    Parameters
    ----------
    fine : ndarray
        float32 of any shape, values in 0..1.
    gamma : float
        Exponent of the values, above 0; 1 leaves them as they are.
    contrast : float
        Factor on the distance from 0.5; 1 leaves it as it is.
    brightness : float
        Offset added at the end, as a share of the range 0..1.

    Returns
    -------
    ndarray
        float32 of the same shape, clipped to 0..1.
    """
    curve = (fine ** np.float32(gamma) - np.float32(0.5)) * np.float32(contrast) + np.float32(0.5 + brightness)
    recontrasted: Floats = np.clip(curve, 0, 1)
    return recontrasted


def sharpen(fine: Floats, gain: float, sigma: float) -> Floats:
    """Add to each section a multiple of its difference from the same section blurred.

    Parameters
    ----------
    fine : ndarray
        float32 (..., y, x).
    gain : float
        Factor on the difference; a negative one blurs.
    sigma : float
        Standard deviation of the Gaussian blur along y and x, in voxels.

    Returns
    -------
    ndarray
        float32 (..., y, x), not clipped.
    """
    blurred = ndimage.gaussian_filter(fine, (0,) * (fine.ndim - 2) + (sigma, sigma), truncate=3)
    sharpened: Floats = fine + np.float32(gain) * (fine - blurred)
    return sharpened


def add_grain(fine: Floats, sd: float, width: float, rng: np.random.Generator) -> Floats:
    """Add smooth Gaussian noise, which looks like the texture of stained tissue.

    Parameters
    ----------
    fine : ndarray
        float32 (..., y, x).
    sd : float
        Standard deviation of the noise, in the units of `fine`.
    width : float
        Standard deviation of the Gaussian that smooths the noise along y and x, in voxels.
    rng : numpy.random.Generator
        Source of the noise.

    Returns
    -------
    ndarray
        float32 (..., y, x), not clipped.
    """
    white = rng.standard_normal(fine.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(white, (0,) * (fine.ndim - 2) + (width, width), truncate=3)
    grainy: Floats = fine + grain * np.float32(sd / max(float(grain.std()), 1e-6))
    return grainy


def draw_log(span: Range, rng: np.random.Generator) -> float:
    """Draw a number from a range above 0, evenly on a log scale."""
    return float(np.exp(rng.uniform(*np.log(span))))
