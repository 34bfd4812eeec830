"""Figures that tell one microscope's image from another's: spectrum, noise against brightness, tone.

They are taken from coarse images whose content nobody knows, so they are averages over many places: of two volumes of the
same tissue they agree but for chance, of which each figure's standard error speaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, signal

from volumetool.errors import ConfigError

Floats = NDArray[np.float64]

TILE: Final = 32
"""Side of the windows whose spectra are averaged, in coarse voxels; neighbours overlap by half."""

BANDS: Final = (0, 2, 4, 7, 11, TILE // 2 + 1)
"""Edges of the bands along each frequency axis, in waves per window."""

CLASSES: Final = 6
"""Classes of brightness, each of equally many voxels, in which the noise is looked at."""

FLAT: Final = 0.3
"""Share of the voxels of a class, those with the flattest surroundings, in which it is looked at."""

SHARES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the smoothed image that describe its tone."""

_SECOND_DIFFERENCE: Final = (1.0, -2.0, 1.0)
_SLOPE: Final = (-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Moments:
    """The figures of one volume.

    Parameters
    ----------
    values : numpy.ndarray of float64, shape (figures,)
        Logarithms of the power in bands of frequency and of the fine grain in classes of brightness, then quantiles.
    covariance : numpy.ndarray of float64, shape (figures, figures)
        Covariance of their errors.
    """

    values: Floats
    covariance: Floats


def moments(image: NDArray[np.float32]) -> Moments:
    """Return the figures of a volume.

    Parameters
    ----------
    image : numpy.ndarray, shape (z, y, x)
        Coarse sections in 0..1; y and x at least twice `TILE`.

    Raises
    ------
    ConfigError
        ``config.too-small``: sections smaller than a window.
    """
    if min(image.shape[1:]) < 2 * TILE:
        raise ConfigError(
            "config.too-small",
            f"sections of {image.shape[1]} x {image.shape[2]} coarse voxels say too little of an image",
            hint=f"both volumes need {2 * TILE} x {2 * TILE} coarse voxels at least, and rather {8 * TILE} x {8 * TILE}",
        )
    parts = np.array([figures(part) for part in _parts(image)])  # (parts, figures)
    return Moments(figures(image), np.cov(parts, rowvar=False) / len(parts))


def figures(image: NDArray[np.float32]) -> Floats:
    """Return the figures of a volume without their errors, float64 (figures,); see :func:`moments`."""
    return np.concatenate([np.log(_band_powers(image)), np.log(_grain(image)), _tone(image)])


def grain_against_brightness(values: Floats) -> tuple[Floats, Floats]:
    """Return the noise and the brightness of each class of brightness.

    Parameters
    ----------
    values : numpy.ndarray of float64, shape (figures,)
        Figures of a volume, see :func:`figures`.

    Returns
    -------
    variance : numpy.ndarray of float64, shape (classes,)
        Variance of the fine grain, as if it were white noise, on 0..1.
    brightness : numpy.ndarray of float64, shape (classes,)
        Brightness in the middle of the class, in 0..1.
    """
    first = (len(BANDS) - 1) ** 2 - 1
    median = np.exp(values[first : first + CLASSES])
    quantiles = values[first + CLASSES :]
    place = (np.arange(CLASSES) + 0.5) / CLASSES
    return np.square(median / 0.6745), np.interp(place, SHARES, quantiles)  # a normal number's median size is 0.6745 sd


def _parts(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Cut into 2 x 2 to 4 x 4 pieces across y and x, whose spread tells the error; sections may be much alike."""
    rows, columns = (min(4, size // TILE) for size in image.shape[1:])
    return [part for row in np.array_split(image, rows, axis=1) for part in np.array_split(row, columns, axis=2)]


def _band_powers(image: NDArray[np.float32]) -> Floats:
    """Mean power in bands of |fy| and |fx|, the lowest of both apart, per voxel: that of white noise is its variance."""
    hann = signal.windows.hann(TILE, sym=False).astype(np.float32)
    window = np.outer(hann, hann)
    views = np.lib.stride_tricks.sliding_window_view(image, (TILE, TILE), axis=(1, 2))[:, :: TILE // 2, :: TILE // 2]
    tiles = (views - views.mean(axis=(-2, -1), keepdims=True)) * window  # (z, tiles, tiles, TILE, TILE)
    waves = fft.rfft2(tiles)  # (z, tiles, tiles, TILE, TILE // 2 + 1)
    power = (np.square(waves.real) + np.square(waves.imag)).mean(axis=(0, 1, 2), dtype=np.float64) / np.square(window).sum()
    rows = np.digitize(np.abs(fft.fftfreq(TILE, 1 / TILE)), BANDS) - 1
    columns = np.digitize(fft.rfftfreq(TILE, 1 / TILE), BANDS) - 1
    each = len(BANDS) - 1
    number = rows[:, None] * each + columns[None, :]
    sums = np.bincount(number.ravel(), power.ravel(), minlength=each * each)
    means: Floats = (sums / np.bincount(number.ravel(), minlength=each * each))[1:]
    return means


def _grain(image: NDArray[np.float32]) -> Floats:
    """Median size of the second differences along y and x, in flat places of each class of brightness.

    The double second difference is blind to ramps and nearly so to straight edges (Immerkaer, "Fast noise variance
    estimation", CVIU 1996), and the median to the few places that are neither.
    """
    rough = np.abs(ndimage.correlate1d(ndimage.correlate1d(image, _SECOND_DIFFERENCE, axis=1), _SECOND_DIFFERENCE, axis=2)) / 6
    smooth = _smooth(image)
    steep = np.abs(ndimage.correlate1d(smooth, _SLOPE, axis=1)) + np.abs(ndimage.correlate1d(smooth, _SLOPE, axis=2))
    number = np.searchsorted(np.quantile(smooth, np.arange(1, CLASSES) / CLASSES), smooth)  # (z, y, x)
    sizes = []
    for each in range(CLASSES):
        members = number == each
        slopes = steep[members]
        sizes.append(np.median(rough[members][slopes <= np.quantile(slopes, FLAT)]))
    return np.array(sizes) + 1e-6


def _tone(image: NDArray[np.float32]) -> Floats:
    quantiles: Floats = np.quantile(_smooth(image), SHARES)
    return quantiles


def _smooth(image: NDArray[np.float32]) -> NDArray[np.float32]:
    smoothed: NDArray[np.float32] = ndimage.uniform_filter(image, (0, 5, 5))
    return smoothed
