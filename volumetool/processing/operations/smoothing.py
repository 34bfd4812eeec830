"""Filters that smooth, sharpen and take out stripes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field
from scipy import ndimage

from volumetool.geometry import Triple
from volumetool.models.card import Normalisation
from volumetool.processing.device.arrays import Array
from volumetool.processing.operations.filter import DATA_WINDOW, Filter, check_odd

TRUNCATE = 4.0
"""Standard deviations after which a Gaussian kernel ends."""


def _read_triple(value: object) -> object:
    """Read ``"0,1.5,1.5"`` as three numbers, and one number as that of all three axes."""
    parts = value.split(",") if isinstance(value, str) else value
    return list(parts) * 3 if isinstance(parts, list) and len(parts) == 1 else parts


Sigma = Annotated[float, Field(ge=0, le=16)]
Sigmas = Annotated[tuple[Sigma, Sigma, Sigma], BeforeValidator(_read_triple)]
Radius = Annotated[int, Field(ge=0, le=8)]
Radii = Annotated[tuple[Radius, Radius, Radius], BeforeValidator(_read_triple)]


class GaussianFilter(Filter):
    """Smooth with a Gaussian."""

    kind: ClassVar[str] = "gaussian"
    sigma: Sigmas
    """Standard deviations in voxels along z, y, x, 0 to 16; 0 leaves an axis alone."""

    @property
    def reach(self) -> Triple:
        """Half a kernel."""
        z, y, x = (_reach(sigma) for sigma in self.sigma)
        return z, y, x

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the patches, smoothed."""
        return _smooth(patches, self.sigma, xp)


class Unsharp(Filter):
    """Sharpen: add what a Gaussian takes away."""

    kind: ClassVar[str] = "unsharp"
    sigma: Sigmas = (0.0, 1.0, 1.0)
    """Standard deviations of the Gaussian in voxels along z, y, x, 0 to 16."""
    amount: float = Field(1.0, ge=0, le=20)
    """How much of it is added, 0 to 20."""

    @property
    def reach(self) -> Triple:
        """Half a kernel."""
        z, y, x = (_reach(sigma) for sigma in self.sigma)
        return z, y, x

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the patches, sharpened."""
        values = xp.asarray(patches)
        return values + np.float32(self.amount) * (values - _smooth(values, self.sigma, xp))


class Destripe(Filter):
    """Take stripes along y out (curtains of a focused ion beam), section by section.

    The filter is a notch in frequency, the product of two Gaussians: it removes what changes along x within `width` and hardly
    along y within `length`. Written in space it is a difference of two Gaussian filters, so it needs no tiles.
    """

    kind: ClassVar[str] = "destripe"
    length: float = Field(32.0, ge=1, le=64)
    """Standard deviation along y, in voxels, 1 to 64: stripes are much longer, structures much shorter."""
    width: float = Field(4.0, ge=0.5, le=16)
    """Standard deviation along x, in voxels, 0.5 to 16: stripes are narrower."""

    @property
    def reach(self) -> Triple:
        """Half a kernel along y and along x."""
        return 0, _reach(self.length), _reach(self.width)

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the patches without their stripes."""
        values = xp.asarray(patches)
        columns = _smooth(values, (0.0, self.length, 0.0), xp)  # the mean along y, in which stripes remain
        return values - (columns - _smooth(columns, (0.0, 0.0, self.width), xp))


class Median(Filter):
    """Take single wild voxels out: the median of a box."""

    kind: ClassVar[str] = "median"
    radius: Radii = (0, 1, 1)
    """Voxels of the box on each side, along z, y, x, 0 to 8."""

    @property
    def reach(self) -> Triple:
        """The radius."""
        return self.radius

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the medians; ``scipy.ndimage.median_filter`` on the CPU, and faster for the usual box of 3 by 3."""
        if self.radius == (0, 1, 1):
            return _median_of_nine(xp.asarray(patches), xp)
        box = (1, *(2 * radius + 1 for radius in self.radius))
        return xp.asarray(ndimage.median_filter(patches, size=box, mode="mirror"))


def _median_of_nine(patches: Array, xp: ModuleType) -> Array:
    """Return the medians of 3 by 3 voxels along y and x, of patches (n, z, y, x); the outermost voxels stay.

    Each column of three is sorted once, for three boxes. The median of a box is the median of the greatest of the least, the
    median of the middle ones, and the least of the greatest.
    """

    def middle(first: Array, second: Array, third: Array) -> Array:
        return xp.maximum(xp.minimum(first, second), xp.minimum(xp.maximum(first, second), third))

    medians = patches.copy()
    if min(patches.shape[2:]) > 2:
        rows = patches[:, :, :-2], patches[:, :, 1:-1], patches[:, :, 2:]  # (n, z, y - 2, x) each
        low, high = xp.minimum(rows[0], rows[1]), xp.maximum(rows[0], rows[1])
        least, greatest = xp.minimum(low, rows[2]), xp.maximum(high, rows[2])
        between = xp.maximum(low, xp.minimum(high, rows[2]))
        # (n, z, y - 2, x) -> (n, z, y - 2, x - 2)
        left, centre, right = (slice(first, patches.shape[3] - 2 + first) for first in range(3))
        low = xp.maximum(xp.maximum(least[..., left], least[..., centre]), least[..., right])
        high = xp.minimum(xp.minimum(greatest[..., left], greatest[..., centre]), greatest[..., right])
        medians[:, :, 1:-1, 1:-1] = middle(low, middle(between[..., left], between[..., centre], between[..., right]), high)
    return medians


class NonLocalMeans(Filter):
    """Denoise by averaging what looks alike nearby, section by section (Buades et al., CVPR 2005)."""

    kind: ClassVar[str] = "nlm"
    normalisation: ClassVar[Normalisation] = DATA_WINDOW
    h: float = Field(0.1, ge=0.001, le=10)
    """How unlike two places may be, in parts of the data window, 0.001 to 10; more smooths more."""
    sigma: float = Field(0.0, ge=0, le=10)
    """Standard deviation of the noise, in parts of the data window; 0 if not known."""
    size: Annotated[int, AfterValidator(check_odd)] = Field(5, ge=1, le=15)
    """Side of the places that are compared, in voxels, odd, 1 to 15."""
    distance: int = Field(6, ge=1, le=16)
    """How far away is looked, in voxels, 1 to 16."""

    @property
    def reach(self) -> Triple:
        """The farthest place that is compared, to its edge."""
        return 0, self.distance + self.size // 2, self.distance + self.size // 2

    def compute(self, patches: NDArray[np.float32], xp: ModuleType) -> Array:
        """Return the means; ``skimage.restoration.denoise_nl_means``, whose fast mode would round by place."""
        from skimage.restoration import denoise_nl_means

        options = {"patch_size": self.size, "patch_distance": self.distance, "h": self.h, "sigma": self.sigma}
        sections = [
            denoise_nl_means(section, fast_mode=False, **options) for section in patches.reshape(-1, *patches.shape[2:])
        ]
        return xp.asarray(np.stack(sections).reshape(patches.shape).astype(np.float32))  # (n, z, y, x)


def _reach(sigma: float) -> int:
    """Return how many voxels a Gaussian kernel reaches to each side."""
    return int(TRUNCATE * sigma + 0.5)


def _smooth(patches: Array, sigmas: Sequence[float], xp: ModuleType) -> Array:
    """Return patches, float32 (n, z, y, x), smoothed along z, y, x, and mirrored where the kernel reaches beyond them.

    The sum is made term by term in one order, so a voxel has the same bytes wherever it lies in its patch.
    """
    values = xp.asarray(patches)  # (n, z, y, x)
    for axis, sigma in enumerate(sigmas, start=1):
        weights = _weights(sigma, _reach(sigma))
        radius, length = len(weights) - 1, values.shape[axis]
        margins = [(radius, radius) if each == axis else (0, 0) for each in range(4)]
        wide = xp.pad(values, margins, mode="reflect")  # longer along the axis by the radius on either side
        moved = [wide[(slice(None),) * axis + (slice(first, first + length),)] for first in range(2 * radius + 1)]
        values = moved[radius] * weights[0]  # (n, z, y, x)
        for far, weight in enumerate(weights[1:], start=1):
            values += (moved[radius - far] + moved[radius + far]) * weight
    return values


def _weights(sigma: float, radius: int) -> list[np.float32]:
    """Return the weights of the voxels 0 to `radius` away, of which both sides together sum to 1."""
    half = [math.exp(-0.5 * (distance / sigma) ** 2) if distance else 1.0 for distance in range(radius + 1)]
    return [np.float32(weight / (2 * sum(half) - 1)) for weight in half]
