"""Crappifiers: make from a fine image the coarse, noisy one that a fast microscope would have taken.

The recipes are those of PSSR (Fang et al., Nature Methods 2021) and of its successor PSSR2, with one difference: every
reduction is pixel-centred. Output pixel i stands for the input block [i*f, i*f + f), and its centre is the block's centre,
whatever the size of the image. (The original pins the end points of each image together, so that the grid depends on the
size of the array, and the noise shows a slow moire.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volumetool.errors import ConfigError

Floats = NDArray[np.float32]
Recipe = Callable[[Floats, int, float, np.random.Generator], Floats]


def crappify(
    image: NDArray[np.uint8], recipe: str, rng: np.random.Generator, *, scale: int = 4, strength: float = 1.0
) -> NDArray[np.uint8]:
    """Degrade fine sections to coarse, noisy ones.

    Parameters
    ----------
    image : ndarray
        uint8 (..., y, x), fine sections. Voxels beyond the last whole block of `scale` are left out.
    recipe : str
        One of `RECIPES`.
    rng : numpy.random.Generator
        Source of the noise; the same state gives the same bytes.
    scale : int
        Fine voxels per coarse one along y and along x.
    strength : float
        Factor on the standard deviation of the noise; 1 is the published recipe, 0 no noise.

    Returns
    -------
    ndarray
        uint8 (..., y // scale, x // scale).
    """
    if recipe not in RECIPES:
        raise ConfigError(
            "config.recipe", f"there is no crappifier {recipe!r}", hint=f"take one of: {', '.join(sorted(RECIPES))}"
        )
    degraded = RECIPES[recipe](image.astype(np.float32) / np.float32(255), scale, strength, rng)
    return np.rint(np.clip(degraded, 0, 1) * 255).astype(np.uint8)


def pssr_em(image: Floats, scale: int, strength: float, rng: np.random.Generator) -> Floats:
    """PSSR's EM recipe: noise on the fine image, brighter means noisier, then reduction without a filter.

    The noise is Gaussian with variance 0.05 x (image blurred by sigma 3) on 0..1, clipped to 0..1, as in
    ``em_AG_D_sameas_preprint``. Reduction samples linearly at the block centre: the mean of the 2 x 2 central pixels.

    Parameters
    ----------
    image : ndarray
        float32 (..., y, x) in 0..1.
    scale, strength, rng
        As in `crappify`.

    Returns
    -------
    ndarray
        float32 (..., y // scale, x // scale) in 0..1.
    """
    in_plane = (0,) * (image.ndim - 2) + (3, 3)
    sd = strength * np.sqrt(0.05 * ndimage.gaussian_filter(image, in_plane))
    noisy = (image + sd * rng.standard_normal(image.shape, dtype=np.float32)).astype(np.float32)
    return sample_centres(np.clip(noisy, 0, 1), scale)


def pssr2_poisson(image: Floats, scale: int, strength: float, rng: np.random.Generator) -> Floats:
    """PSSR2's default: reduction by the mean of each block, then Poisson noise on 0..255 at the coarse grid.

    Parameters
    ----------
    image : ndarray
        float32 (..., y, x) in 0..1.
    scale, strength, rng
        As in `crappify`. Between image and noise the strength mixes linearly, as PSSR2's ``intensity`` does.

    Returns
    -------
    ndarray
        float32 (..., y // scale, x // scale); may exceed 1.
    """
    coarse = block_mean(image, scale)
    drawn = rng.poisson(coarse * 255).astype(np.float32) / np.float32(255)
    mixed: Floats = coarse + np.float32(strength) * (drawn - coarse)
    return mixed


def sample_centres(image: Floats, scale: int) -> Floats:
    """Reduce by linear sampling at the centre of each block of scale x scale pixels.

    For an even scale the centre lies between pixels, and the sample is the mean of the 2 x 2 around it; for an odd one it
    is the central pixel.

    Parameters
    ----------
    image : ndarray
        float32 (..., y, x).
    scale : int
        Pixels per block along y and along x.

    Returns
    -------
    ndarray
        float32 (..., y // scale, x // scale).
    """
    blocks = _blocks(image, scale)  # (..., y, f, x, f)
    low, high = (scale - 1) // 2, scale // 2 + 1
    centres: Floats = blocks[..., low:high, :, low:high].mean(axis=(-3, -1), dtype=np.float32)  # (..., y, x)
    return centres


def block_mean(image: Floats, scale: int) -> Floats:
    """Reduce by the mean of each block of scale x scale pixels.

    Parameters
    ----------
    image : ndarray
        float32 (..., y, x).
    scale : int
        Pixels per block along y and along x.

    Returns
    -------
    ndarray
        float32 (..., y // scale, x // scale).
    """
    means: Floats = _blocks(image, scale).mean(axis=(-3, -1), dtype=np.float32)  # (..., y, x)
    return means


def _blocks(image: Floats, scale: int) -> Floats:
    y, x = (size // scale for size in image.shape[-2:])
    return image[..., : y * scale, : x * scale].reshape(*image.shape[:-2], y, scale, x, scale)


RECIPES: Mapping[str, Recipe] = MappingProxyType({"pssr-em": pssr_em, "pssr2-poisson": pssr2_poisson})
