"""Training pairs, made on the fly: random fine crops and what a fast microscope would have seen of them.

A batch holds a few simulated acquisitions. Each draws a source volume, a viewing direction, a recipe, a noise strength and a
contrast, and each is normalised by percentiles of its own coarse, noisy crops: at inference too, statistics come from the
coarse image, not from the patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from volumetool.training.crappify import RECIPES, crappify

Floats = NDArray[np.float32]


class PairsConfig(BaseModel):
    """What the training pairs look like.

    Parameters
    ----------
    scale : int
        Fine voxels per coarse one along y and x.
    crop : int
        Side of a crop in coarse voxels.
    acquisitions : int
        Simulated acquisitions per batch.
    crops : int
        Crops per acquisition; the batch size is acquisitions x crops.
    recipes : tuple of str
        Crappifiers to draw from.
    strength, gamma, contrast, brightness : tuple of float
        Ranges to draw from: noise strength, exponent, factor around mid grey, offset on 0..1.
    grain : tuple of float
        Range of the standard deviation, in grey levels, of fine texture that is added to the truth. Other tissue, stains
        and detectors are grainier than the training data; a network that has seen smooth data alone takes their texture
        for noise and wipes it off.
    percentiles : tuple of float
        Percentiles of the coarse image that become 0 and 1.
    jitter : float
        Standard deviation of a random error of these two, as a share of their distance.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: int = Field(4, ge=1)
    crop: int = Field(60, ge=8)
    acquisitions: int = Field(4, ge=1)
    crops: int = Field(2, ge=1)
    recipes: tuple[str, ...] = tuple(sorted(RECIPES))
    strength: tuple[float, float] = (0.5, 2.0)
    gamma: tuple[float, float] = (0.7, 1.4)
    contrast: tuple[float, float] = (0.6, 1.2)
    brightness: tuple[float, float] = (-0.1, 0.1)
    grain: tuple[float, float] = (0.0, 16.0)
    percentiles: tuple[float, float] = (1.0, 99.0)
    jitter: float = Field(0.03, ge=0)


def draw_batch(sources: Sequence[NDArray[np.uint8]], config: PairsConfig, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw one batch of pairs.

    Parameters
    ----------
    sources : sequence of ndarray
        uint8 (z, y, x) fine volumes with dark membranes. Those that are deep enough are cut along all three planes, so
        they should be isotropic; a single section is cut in its own plane alone.
    config : PairsConfig
        What the pairs look like.
    rng : numpy.random.Generator
        Decides everything that is random.

    Returns
    -------
    coarse : ndarray
        float32 (batch, 1, crop, crop), normalised.
    fine : ndarray
        float32 (batch, 1, crop * scale, crop * scale), on the same intensity scale.
    """
    pairs = [_acquisition(sources, config, rng) for _ in range(config.acquisitions)]
    coarse, fine = (np.concatenate(part)[:, None] for part in zip(*pairs, strict=True))
    return coarse, fine


def _acquisition(sources: Sequence[NDArray[np.uint8]], config: PairsConfig, rng: np.random.Generator) -> tuple[Floats, Floats]:
    source = sources[int(rng.integers(len(sources)))]
    side = config.crop * config.scale
    fine = np.stack([_crop(source, side, rng) for _ in range(config.crops)])  # (crops, side, side)
    fine = _add_grain(_recontrast(fine, config, rng), config, rng)
    strength = float(np.exp(rng.uniform(*np.log(config.strength))))
    recipe = config.recipes[rng.integers(len(config.recipes))]
    coarse = crappify(fine, recipe, rng, scale=config.scale, strength=strength)  # (crops, crop, crop)

    low, high = np.percentile(coarse, config.percentiles)
    span = max(high - low, 1.0)
    low, high = np.array([low, high]) + rng.normal(0, config.jitter * span, 2)
    unit = [(np.asarray(part, np.float32) - np.float32(low)) / np.float32(high - low) for part in (coarse, fine)]
    return unit[0], unit[1]


def _crop(source: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    across = [axis for axis in range(3) if min(np.delete(source.shape, axis)) >= side]
    volume = np.moveaxis(source, across[rng.integers(len(across))], 0)
    z, y, x = (int(rng.integers(size)) for size in np.subtract(volume.shape, (1, side, side)) + 1)
    crop: NDArray[np.uint8] = np.rot90(volume[z, y : y + side, x : x + side], int(rng.integers(4)))
    return crop[:, ::-1] if rng.integers(2) else crop


def _recontrast(fine: NDArray[np.uint8], config: PairsConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    gamma, contrast, brightness = (rng.uniform(*span) for span in (config.gamma, config.contrast, config.brightness))
    grey = np.arange(256, dtype=np.float32) / 255
    curve = (grey**gamma - 0.5) * contrast + 0.5 + brightness
    table = np.rint(np.clip(curve, 0, 1) * 255).astype(np.uint8)  # (256,)
    recontrasted: NDArray[np.uint8] = table[fine]
    return recontrasted


def _add_grain(fine: NDArray[np.uint8], config: PairsConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    width = rng.uniform(0.7, 2.5)  # fine voxels
    grain = ndimage.gaussian_filter(rng.standard_normal(fine.shape, dtype=np.float32), (0, width, width))
    grain *= rng.uniform(*config.grain) / max(float(grain.std()), 1e-6)
    grainy: NDArray[np.uint8] = np.rint(np.clip(fine + grain, 0, 255)).astype(np.uint8)
    return grainy
