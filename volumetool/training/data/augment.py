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
        Decides everything that is random.

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
    return resized.clip(0, 1)


def recontrast(fine: Floats, gamma: float, contrast: float, brightness: float) -> Floats:
    """Apply a gamma to values in 0..1, then a factor around mid grey and an offset: float32, clipped to 0..1."""
    curve = (fine ** np.float32(gamma) - np.float32(0.5)) * np.float32(contrast) + np.float32(0.5 + brightness)
    recontrasted: Floats = np.clip(curve, 0, 1)
    return recontrasted


def sharpen(fine: Floats, gain: float, sigma: float) -> Floats:
    """Add `gain` times what a Gaussian of `sigma` voxels in plane takes away; a negative gain blurs."""
    blurred = ndimage.gaussian_filter(fine, (0,) * (fine.ndim - 2) + (sigma, sigma), truncate=3)
    sharpened: Floats = fine + np.float32(gain) * (fine - blurred)
    return sharpened


def add_grain(fine: Floats, sd: float, width: float, rng: np.random.Generator) -> Floats:
    """Add Gaussian texture of a standard deviation `sd` and a width of `width` voxels in plane."""
    white = rng.standard_normal(fine.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(white, (0,) * (fine.ndim - 2) + (width, width), truncate=3)
    grainy: Floats = fine + grain * np.float32(sd / max(float(grain.std()), 1e-6))
    return grainy


def draw_log(span: Range, rng: np.random.Generator) -> float:
    """Draw evenly on a log scale."""
    return float(np.exp(rng.uniform(*np.log(span))))
