"""Measuring sections: noise, sharpness, contrast, and how each lies on its neighbours.

A section is looked at in two ways. Noise and sharpness are those of single voxels, so they come from pieces of it as stored.
All else comes from an overview of at most 128 x 128 voxels, means of blocks, without the slow changes of brightness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from volumetool.processing.survey import LEAST_SIDE, noise_sd

OVERVIEW: Final = 128
"""Longest side of an overview, in voxels."""

PIECE, PIECES = 64, 3
"""Noise and sharpness are measured in at most 3 x 3 pieces of 64 x 64 voxels, evenly spread."""

CELLS: Final = 8
"""Cells of an overview along y and x, whose brightness and contrast are compared with those of other sections."""

SLOW, FINE = 8.0, 1.0
"""Standard deviations of the Gaussians between which the structures lie that are compared, in voxels of the overview."""

FARTHEST: Final = 2
"""Sections up to which a section is compared with others."""


@dataclass(frozen=True)
class SectionPair:
    """How a section lies on an earlier one.

    Attributes
    ----------
    y, x : float
        By how much it lies off that one, in voxels.
    correlation : float
        Of their overviews, after that shift.
    same : float
        Correlation of their single voxels as they lie.
    """

    y: float
    x: float
    correlation: float
    same: float


@dataclass(frozen=True, eq=False)
class SectionMeasure:
    """What was measured of a section.

    Attributes
    ----------
    noise : float
        Standard deviation of the noise, in grey levels.
    sharpness : float
        Root mean square step between neighbouring voxels, without the noise, in grey levels.
    contrast : float
        Standard deviation of the overview's structures, in grey levels.
    cells : numpy.ndarray of float32, shape (2, cells y, cells x)
        Brightness and contrast of the cells of the overview, in grey levels.
    pairs : dict of int to SectionPair
        How it lies on the section that many places before it, where that one could be read.
    """

    noise: float
    sharpness: float
    contrast: float
    cells: NDArray[np.float32]
    pairs: dict[int, SectionPair]


@dataclass(frozen=True, eq=False)
class _Look:
    """What is kept of a section until those after it were compared with it."""

    z: int
    overview: NDArray[np.float32]
    spectrum: NDArray[Any]
    voxels: NDArray[np.float32]


class SectionMeter:
    """Measures the sections of a channel, as they come along z.

    Attributes
    ----------
    found : dict of int to SectionMeasure
        What was measured, by z; sections that could not be read, or are too small, have no entry.
    looked : bool
        Whether sections were handed in, or could not be.
    """

    def __init__(self) -> None:
        self.looked = False
        self.found: dict[int, SectionMeasure] = {}
        self._before: list[_Look] = []

    def add(self, z: int, section: NDArray[Any], valid: NDArray[np.bool_], fine: NDArray[Any], step: int = 1) -> None:
        """Measure a section.

        Parameters
        ----------
        z : int
            Its place; rising from call to call.
        section : numpy.ndarray, shape (y, x)
            Grey values, of all sections in the same place.
        valid : numpy.ndarray of bool, shape (y, x)
            Which of them hold data.
        fine : numpy.ndarray, shape (y, x)
            A part of the section on the level that is enhanced, of all sections in the same place.
        step : int
            Voxels of that level per voxel of `section`, along y and x.
        """
        if min(*section.shape, *fine.shape) < LEAST_SIDE:
            return
        from scipy import ndimage  # workers import this package too, and do without

        image = section.astype(np.float32)  # (y, x)
        if not valid.all():
            image[~valid] = np.median(image[valid]) if valid.any() else 0
        factor = -(-max(image.shape) // OVERVIEW)
        small = _means(image, factor)
        structure = ndimage.gaussian_filter(small, FINE) - ndimage.gaussian_filter(small, SLOW)
        window = np.outer(*(np.hanning(n + 2)[1:-1] for n in structure.shape))
        voxels = np.nan_to_num(fine.astype(np.float32))
        seen = _Look(z, structure, np.fft.rfft2(structure * window), voxels)
        noise, sharpness = _fine_detail(voxels)
        self._before = [each for each in self._before if z - each.z <= FARTHEST]
        self.found[z] = SectionMeasure(
            noise,
            sharpness,
            float(structure.std()),
            np.stack([_cells(small), np.sqrt(_cells(np.square(structure)))]),
            {z - each.z: _compare(each, seen, factor * step) for each in self._before},
        )
        self._before = [seen, *self._before]


def _means(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Return the means of blocks of `factor` x `factor` voxels; of a side shorter than a block, all of it."""
    tall, wide = (min(factor, n) for n in image.shape)
    height, width = image.shape[0] // tall, image.shape[1] // wide
    means: NDArray[np.float32] = image[: height * tall, : width * wide].reshape(height, tall, width, wide).mean(axis=(1, 3))
    return means


def _cells(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of cells."""
    edges = [np.linspace(0, n, min(CELLS, n) + 1).astype(int) for n in image.shape]
    sums = np.add.reduceat(np.add.reduceat(image, edges[0][:-1], axis=0), edges[1][:-1], axis=1)
    return np.asarray(sums / np.outer(np.diff(edges[0]), np.diff(edges[1])), np.float32)


def _fine_detail(image: NDArray[np.float32]) -> tuple[float, float]:
    """Return the standard deviation of the noise and the root mean square step between voxels without it."""
    sides = [min(PIECE, n) for n in image.shape]
    places = [np.unique(np.linspace(0, n - side, PIECES).astype(int)) for n, side in zip(image.shape, sides, strict=True)]
    found = []
    for y in places[0]:
        for x in places[1]:
            piece = image[y : y + sides[0], x : x + sides[1]].astype(np.float64)
            noise = noise_sd(piece)
            steps = float(np.mean([np.mean(np.diff(piece, axis=axis) ** 2) / 2 for axis in (0, 1)]))
            found.append((noise, max(0.0, steps - noise**2) ** 0.5))
    noise, sharpness = np.median(found, axis=0)
    return float(noise), float(sharpness)


def _compare(first: _Look, second: _Look, step: int) -> SectionPair:
    """Compare two sections, whose overviews have voxels of `step` voxels."""
    shape = first.overview.shape
    product = np.fft.irfft2(first.spectrum.conj() * second.spectrum, s=shape)  # (y, x), one value for each shift
    near = np.zeros(shape, bool)  # shifts of at most a quarter of the section
    near[np.ix_(*(np.arange(-(n // 4), n // 4 + 1) for n in shape))] = True
    at = divmod(int(np.argmax(np.where(near, product, -np.inf))), shape[1])
    y, x = (i - n if i > n // 2 else i for i, n in zip(at, shape, strict=True))
    one, other = _overlap(first.overview, second.overview, y, x)
    between = (_vertex(product[:, at[1]], at[0]), _vertex(product[at[0]], at[1]))
    alike = correlation(one, other)
    return SectionPair((y + between[0]) * step, (x + between[1]) * step, alike, correlation(first.voxels, second.voxels))


def _vertex(line: NDArray[Any], at: int) -> float:
    """Return where, from -0.5 to 0.5 around its peak, the parabola through the peak and the values beside it is highest."""
    low, peak, high = (float(line[(at + step) % len(line)]) for step in (-1, 0, 1))
    bend = 2 * peak - low - high
    return min(0.5, max(-0.5, (high - low) / (2 * bend))) if bend > 0 else 0.0


def _overlap(first: NDArray[Any], second: NDArray[Any], y: int, x: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the parts of two images that show the same, where the second lies off the first by (y, x)."""
    height, width = first.shape
    one = first[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
    return one, second[max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]


def correlation(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return Pearson's correlation of two images; 0 where one of them has one value."""
    one, other = first - first.mean(), second - second.mean()
    size = float(np.sqrt(np.square(one, dtype=np.float64).sum() * np.square(other, dtype=np.float64).sum()))
    return float((one * other).sum(dtype=np.float64)) / size if size > 0 else 0.0
