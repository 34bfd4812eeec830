"""Noise: counted electrons, the amplifier, broken pixels, a line's own level."""

# ruff: noqa: ARG002  (every step is handed what any step may need)

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field

from volumetool.degradation.arrays import Array, BlockPosition, gaussian, gaussian_reach, module_of
from volumetool.degradation.counter_rng import hashes, normal, poisson, uniform
from volumetool.degradation.step import Step
from volumetool.geometry import Triple

WHITE = 255.0
"""Grey levels between black and white, the unit of the noises that are given in grey levels."""


class Poisson(Step):
    """PSSR2's default noise: a Poisson number of the grey value on 0..255, mixed with the image.

    Parameters
    ----------
    kind : {"poisson"}
        Names the step.
    intensity : float
        0 keeps the image, 1 takes the drawn number, more exaggerates it (PSSR2, class ``Poisson``).
    """

    kind: Literal["poisson"] = "poisson"
    intensity: float = Field(1.0, ge=0)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Draw the number of every voxel and mix it with the image."""
        drawn = _counted(image, WHITE, 0, place)
        return image + module_of(image).float32(self.intensity) * (drawn - image)

    def varied(self, noise: float, blur: float) -> Self:
        """Mix in `noise` times as much."""
        return self.model_copy(update={"intensity": self.intensity * noise})


class Shot(Step):
    """Shot noise: a detector counts electrons, and counts of independent events are Poisson numbers.

    Parameters
    ----------
    kind : {"shot"}
        Names the step.
    dose : float
        Electrons detected per voxel between black and white; the variance, on 0..1, rises by 1 / dose from the one to the
        other. Infinite: no noise.
    background : float
        Electrons detected per voxel where the signal is 0, such as those of bare resin.
    inverted : bool
        The image is shown inverted, as backscattered electrons are where membranes are to be dark: black is where most
        electrons come from.
    """

    kind: Literal["shot"] = "shot"
    dose: float = Field(gt=0)
    background: float = Field(0.0, ge=0)
    inverted: bool = False

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Replace every voxel by its count, as a share of the dose."""
        if math.isinf(self.dose):
            return image
        one = module_of(image).float32(1)
        counted = _counted(one - image if self.inverted else image, self.dose, self.background, place)
        return one - counted if self.inverted else counted

    def varied(self, noise: float, blur: float) -> Self:
        """Count so many fewer electrons that the noise is `noise` times as strong."""
        if noise == 0:
            return self.model_copy(update={"dose": math.inf})
        return self.model_copy(update={"dose": self.dose / noise**2, "background": self.background / noise**2})


def _counted(image: Array, white: float, black: float, place: BlockPosition) -> Array:
    xp = module_of(image)
    mean = xp.maximum(image * xp.float32(white) + xp.float32(black), xp.float32(0))
    return (poisson(mean, hashes(image, place)) - xp.float32(black)) / xp.float32(white)


class Gaussian(Step):
    """The detector's own noise: amplifier and digitiser, the same at every brightness.

    Parameters
    ----------
    kind : {"gaussian"}
        Names the step.
    sd : float
        Standard deviation in grey levels of 255.
    """

    kind: Literal["gaussian"] = "gaussian"
    sd: float = Field(ge=0)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Add the noise to every voxel."""
        return image + module_of(image).float32(self.sd / WHITE) * normal(hashes(image, place))

    def varied(self, noise: float, blur: float) -> Self:
        """Make the noise `noise` times as strong."""
        return self.model_copy(update={"sd": self.sd * noise})


class LocalGaussian(Step):
    """PSSR's noise: Gaussian, with a variance that follows the blurred image, so that brighter is noisier.

    Parameters
    ----------
    kind : {"local-gaussian"}
        Names the step.
    factor : float
        Variance over brightness, on 0..1; 0.05 in PSSR's EM recipe ``em_AG_D_sameas_preprint``.
    sigma : float
        Standard deviation of the Gaussian blur along y and x, in fine voxels; 3 there.
    """

    kind: Literal["local-gaussian"] = "local-gaussian"
    factor: float = Field(0.05, ge=0)
    sigma: float = Field(3.0, ge=0)

    def reach(self, scale: Triple) -> Triple:
        """Return how far the Gaussian is summed."""
        return 0, gaussian_reach(self.sigma / scale[1]), gaussian_reach(self.sigma / scale[2])

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Add the noise to every voxel."""
        xp = module_of(image)
        variance = gaussian(image, (0.0, self.sigma / place.scale[1], self.sigma / place.scale[2]))
        variance *= xp.float32(self.factor)
        noise = normal(hashes(image, place))  # (z, y, x)
        noise *= xp.sqrt(xp.maximum(variance, xp.float32(0)))
        noise += image
        return noise

    def varied(self, noise: float, blur: float) -> Self:
        """Make the noise `noise` times as strong; its blur is no property of the probe."""
        return self.model_copy(update={"factor": self.factor * noise**2})


class SaltAndPepper(Step):
    """Single voxels that are white or black, as from discharges or lost bits.

    Parameters
    ----------
    kind : {"salt-and-pepper"}
        Names the step.
    share : float
        Share of all voxels, in 0..1; half of them turn white, half black.
    """

    kind: Literal["salt-and-pepper"] = "salt-and-pepper"
    share: float = Field(0.005, ge=0, le=1)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Turn the drawn voxels white or black."""
        xp = module_of(image)
        drawn = uniform(hashes(image, place))  # (z, y, x)
        salted = xp.where(drawn < self.share / 2, xp.float32(1), image)
        return xp.where(drawn > 1 - self.share / 2, xp.float32(0), salted)

    def varied(self, noise: float, blur: float) -> Self:
        """Take as many voxels as make the standard deviation `noise` times as large."""
        return self.model_copy(update={"share": min(1.0, self.share * noise**2)})


class LineOffset(Step):
    """Each scan line's own level: the beam current and the amplifier's zero drift from line to line.

    Parameters
    ----------
    kind : {"line-offset"}
        Names the step.
    sd : float
        Standard deviation in grey levels of 255, independent for every line (z, y).
    """

    kind: Literal["line-offset"] = "line-offset"
    sd: float = Field(ge=0)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Add its offset to every line."""
        lines = normal(hashes(image, _first_column(place), (*image.shape[:2], 1)))  # (z, y, 1)
        return image + module_of(image).float32(self.sd / WHITE) * lines

    def varied(self, noise: float, blur: float) -> Self:
        """Make the levels differ `noise` times as much."""
        return self.model_copy(update={"sd": self.sd * noise})


def _first_column(place: BlockPosition) -> BlockPosition:
    return BlockPosition((place.origin[0], place.origin[1], 0), place.scale, place.seed, place.number)


class Clip(Step):
    """The end of the digitiser's range: what is below black is black, what is above white is white.

    Parameters
    ----------
    kind : {"clip"}
        Names the step.
    """

    kind: Literal["clip"] = "clip"

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Clip to 0..1."""
        return image.clip(0, 1)
