"""Fourier ring and shell correlation: up to which frequency two acquisitions agree.

FRC: Saxton and Baumeister 1982, J. Microsc. 127; FSC: Harauz and van Heel 1986, Optik 73. Both ask for two images with
independent noise. Two halves of one restored image would only agree on what the network adds to any image; so nothing here
takes a single one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Box, Triple

Doubles = NDArray[np.float64]

ONE_SEVENTH = 1 / 7
"""Rosenthal and Henderson 2003, J. Mol. Biol. 333."""

HANN_INDEPENDENT = (3 / 8) ** 2 / (35 / 128)
"""Share of independent Fourier coefficients per axis under a Hann window: (mean w^2)^2 / mean w^4."""

PATCH = 256
"""Side of the squares that sections are cut into for FRC and spectra, in voxels, where a section is that large."""

CUBE = 96
"""Side of the boxes for FSC, in voxels of the finest axis; other axes reach as far in nm."""

FEWEST = 16
"""Voxels along z below which there is no FSC."""

_LEAST_SHELL = 2  # the window smears the mean over the first shell


@dataclass(frozen=True)
class Crossing:
    """The frequency at which a correlation falls below a threshold.

    Attributes
    ----------
    threshold : str
        ``"1/7"`` or ``"half-bit"``.
    nm : float or None
        Resolution: one over the frequency of the crossing, in nanometres.
    words : str
        The resolution as text, or why there is none.
    """

    threshold: str
    nm: float | None
    words: str


@dataclass(frozen=True)
class Correlation:
    """A correlation curve, one number per ring or shell.

    Attributes
    ----------
    per_nm, per_voxel : tuple of float
        Frequency, in 1/nm and in cycles per voxel (of the coarsest axis).
    correlation : tuple of float
        1 is full agreement.
    half_bit : tuple of float
        The half-bit threshold (van Heel and Schatz 2005, J. Struct. Biol. 151, equation 17).
    crossings : tuple of Crossing
        The crossings of 1/7 and of the half-bit threshold.
    patches : int
        Squares or boxes whose Fourier coefficients were summed.
    shape : tuple of int
        Their size in voxels.
    """

    per_nm: tuple[float, ...]
    per_voxel: tuple[float, ...]
    correlation: tuple[float, ...]
    half_bit: tuple[float, ...]
    crossings: tuple[Crossing, ...]
    patches: int
    shape: tuple[int, ...]


class Shells:
    """Rings (2D) or shells (3D) of equal frequency in nm, up to the Nyquist frequency of the coarsest axis.

    Parameters
    ----------
    shape : tuple of int
        Voxels of a patch, per axis.
    voxel_size : tuple of float
        Nanometres, per axis.

    Attributes
    ----------
    per_nm, per_voxel : numpy.ndarray
        Frequency of each shell, from 0.
    counts : numpy.ndarray
        Fourier coefficients of each.
    """

    def __init__(self, shape: Sequence[int], voxel_size: Sequence[float]) -> None:
        self.shape = tuple(shape)
        axes = [np.fft.fftfreq(n, size) for n, size in zip(shape, voxel_size, strict=True)]
        radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))
        width = max(1 / (n * size) for n, size in zip(shape, voxel_size, strict=True))
        self._last = math.floor(1 / (2 * max(voxel_size)) / width + 1e-9)
        self._index = np.rint(radius / width).astype(np.intp).ravel()  # (voxels,)
        windows = np.meshgrid(*(np.hanning(n + 1)[:-1] for n in shape), indexing="ij", sparse=True)
        self._window = math.prod(windows[1:], start=windows[0])
        self.per_nm = (np.arange(self._last + 1) * width).astype(np.float64)
        self.per_voxel = self.per_nm * max(voxel_size)
        self.counts = self.sum(np.ones(self.shape))  # (shells,)

    def transform(self, patch: NDArray[Any]) -> NDArray[np.complex128]:
        """Return the Fourier transform, of the patch's own shape, of a patch without its mean and under a Hann window."""
        grey = patch.astype(np.float64)
        return np.asarray(np.fft.fftn((grey - grey.mean()) * self._window))

    def sum(self, values: Doubles) -> Doubles:
        """Return the sum of coefficients, in the order of a Fourier transform, over each shell: float64 (shells,)."""
        sums = np.bincount(self._index, values.ravel(), minlength=self._last + 1)  # (shells and the corners beyond,)
        return sums[: self._last + 1].astype(np.float64)  # (shells,)

    def power(self, patch: NDArray[Any]) -> Doubles:
        """Return the mean power of each shell, float64 (shells,), in squared grey levels per coefficient of white noise."""
        spectrum = np.abs(self.transform(patch)) ** 2 / np.sum(self._window**2)
        return self.sum(spectrum) / self.counts


class FourierCorrelation:
    """Adds up patches of two acquisitions.

    Parameters
    ----------
    shells : Shells
        Rings or shells over which Fourier coefficients are summed.
    """

    def __init__(self, shells: Shells) -> None:
        self.patches = 0
        self._shells = shells
        self._sums = np.zeros((3, len(shells.counts)))  # (cross, power of the first, power of the second)

    def add(self, first: NDArray[Any], second: NDArray[Any]) -> None:
        """Add a patch, seen twice with independent noise; both of the shape of the shells."""
        a, b = self._shells.transform(first), self._shells.transform(second)
        cross = np.real(a * np.conj(b))
        self._sums += [self._shells.sum(cross), self._shells.sum(np.abs(a) ** 2), self._shells.sum(np.abs(b) ** 2)]
        self.patches += 1

    def result(self, input_limit: float | None = None) -> Correlation:
        """Return the curve.

        Parameters
        ----------
        input_limit : float, optional
            Nyquist frequency of what was restored, in 1/nm. Two restored images agree beyond it on what restoring makes of the
            same structure, such as the spectral copies of an enlarged image; a crossing there says so.
        """
        cross, first, second = self._sums  # (shells,) each
        norm = np.sqrt(first * second)
        values: Doubles = np.divide(cross, norm, out=np.zeros_like(cross), where=norm > 0)
        shells = self._shells
        # Of a real image half of the coefficients are independent, and fewer under a window.
        independent = shells.counts / 2 * HANN_INDEPENDENT ** len(shells.shape) * max(self.patches, 1)
        limit = half_bit(independent)
        return Correlation(
            per_nm=tuple(shells.per_nm.tolist()),
            per_voxel=tuple(shells.per_voxel.tolist()),
            correlation=tuple(values.tolist()),
            half_bit=tuple(limit.tolist()),
            crossings=(
                _crossing("1/7", shells.per_nm, values - ONE_SEVENTH, input_limit),
                _crossing("half-bit", shells.per_nm, values - limit, input_limit),
            ),
            patches=self.patches,
            shape=shells.shape,
        )


def half_bit(independent: Doubles) -> Doubles:
    """Return the correlation that stands for half a bit of information per coefficient.

    Parameters
    ----------
    independent : numpy.ndarray of float64, shape (shells,)
        Number of independent coefficients of each shell.

    Returns
    -------
    numpy.ndarray of float64, shape (shells,)
        The threshold of each shell; 1 or less from one coefficient on.
    """
    root = np.sqrt(independent)
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


def squares(shape: Sequence[int], side: int) -> Iterator[tuple[slice, slice]]:
    """Yield the slices, along y and x, of as many squares of `side` voxels as fit into a section, around its middle."""
    starts = [
        [(size - size // side * side) // 2 + number * side for number in range(size // side)] for size in (shape[0], shape[1])
    ]
    for y in starts[0]:
        for x in starts[1]:
            yield slice(y, y + side), slice(x, x + side)


def spread_boxes(box: Box, voxel_size: Sequence[float], count: int = 8) -> list[Box]:
    """Return boxes for FSC, equally large in nm along all axes where the volume allows, spread along its diagonal.

    Parameters
    ----------
    box : Box
        The part of the volume to take them from, in voxels.
    voxel_size : sequence of float
        Nanometres along z, y, x.
    count : int
        Most boxes; there are fewer where they would overlap along every axis.

    Returns
    -------
    list of Box
        Boxes in voxels of the volume; none where `box` has fewer than `FEWEST` voxels along an axis.
    """
    reach = CUBE * min(voxel_size)
    sides = [min(n, max(FEWEST, round(reach / size))) for n, size in zip(box.shape, voxel_size, strict=True)]
    if min(box.shape) < FEWEST:
        return []
    room = [n // side for n, side in zip(box.shape, sides, strict=True)]
    number = min(count, max(room))
    boxes = []
    for index in range(number):
        # Along each axis as far from the others as there is room: the diagonal of the volume.
        part = [index * (n - side) // max(number - 1, 1) for n, side in zip(box.shape, sides, strict=True)]
        start: Triple = (box.start[0] + part[0], box.start[1] + part[1], box.start[2] + part[2])
        boxes.append(Box(start, (start[0] + sides[0], start[1] + sides[1], start[2] + sides[2])))
    return boxes


def _crossing(name: str, per_nm: Doubles, above: NDArray[Any], input_limit: float | None) -> Crossing:
    first = next((k for k in range(_LEAST_SHELL, len(above)) if above[k] >= 0), None)
    if first is None:
        return Crossing(name, None, "no frequency at which the two agree")
    for k in range(first + 1, len(above)):
        if above[k] < 0:
            share = above[k - 1] / (above[k - 1] - above[k])
            frequency = float(per_nm[k - 1] + share * (per_nm[k] - per_nm[k - 1]))
            words = f"{1 / frequency:.4g} nm"
            if input_limit is not None and frequency > input_limit:
                words += f", beyond the {1 / input_limit:.4g} nm that the input can carry"
            return Crossing(name, 1 / frequency, words)
    return Crossing(name, None, f"finer than {1 / per_nm[-1]:.4g} nm, the limit of sampling")
