"""Survey of the sample that statistics are fitted on: strange voxels, noise, sharpness, likeness of neighbouring sections."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from volumetool.geometry import Box, Triple
from volumetool.processing.statistics import BLOCK, fit_statistics
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import valid_voxels

LIMITS_VOXELS: Final = 2**24
LIMITS_PERCENTILES: Final = (0.1, 99.9)
"""Grey values of black and white come from the finest level with at most that many voxels, at these percentiles."""

PIECE = 32
MOST_PIECES, FEWEST_PIECES = 256, 8
"""Membranes are looked for in at most so many pieces of 32 x 32 voxels, and nothing is said of fewer."""

MANY_ZEROS = 0.05
"""Share of exact zeros from which they are more than the darkest grey of an image."""

MOST_ZEROS = 0.5
"""Share of exact zeros from which a piece is margin rather than image."""

LIKELY, CERTAIN = 3.0, 6.0
"""Standard errors from which the sign of the mean is likely and almost certain; `tests/benchmarks/polarity.py` counts hits."""

PAIR_SIDE, LEAST_SIDE = 64, 24
"""Side of the pieces of neighbouring sections that are compared, and the least one, in voxels."""

REACH = 3
"""Largest shift that is tried between neighbouring sections, in voxels along y and x."""

MOST_PAIRS, FEWEST_PAIRS = 64, 4
"""Pairs of pieces that are kept, and nothing is said of fewer."""

FIGURES = {
    "noise": "noise over contrast, dB",
    "sharpness": "steps between voxels over contrast, dB",
    "coarse detail": "power of periods of 6 to 13 voxels over those of 13 to 26, dB",
    "middle detail": "power of periods of 3.6 to 6 voxels over those of 6 to 13, dB",
    "fine detail": "power of periods of 2 to 3.6 voxels over those of 3.6 to 6, dB",
    "repeats": "share of voxels that equal the next one, in 256 grey levels",
    "skewness": "skewness of the grey values",
}
"""What `describe_piece` measures, by name."""

_BANDS = (2.5 / 64, 5 / 64, 10 / 64, 18 / 64, 0.5)  # cycles per voxel

LEAST_SIGNAL = 0.2
"""Share of a piece's variance that must be more than noise, or it shows no structure."""


class Evidence(BaseModel):
    """What a sample shows of a volume's quality. Contrast is the standard deviation of its grey values without their noise.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise, as a share of the contrast.
    sharpness : float
        Difference of neighbouring voxels of a section, without their noise, as a share of the contrast: 0 where all is blurred.
    neighbours : float, optional
        Correlation of neighbouring sections as they lie, without their noise; None where there are none.
    aligned : float, optional
        The same after the best shift of each piece, by at most `REACH` voxels.
    shift : float, optional
        Median length of that shift, in voxels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise: float
    sharpness: float
    neighbours: float | None = None
    aligned: float | None = None
    shift: float | None = None


@dataclass
class Survey:
    """Adds up what the tiles of a sample show.

    Parameters
    ----------
    asked : Box
        Input voxels that will be enhanced: elsewhere a NaN does no harm.
    sections : int
        Sections of all channels together.
    nodata : float, optional
        Value of voxels without data.

    Attributes
    ----------
    voxels, zeros : int
        Seen with data, and those of them that are exactly 0.
    strange : tuple, optional
        Channel, place (z, y, x) and value of the first voxel that is NaN or infinite.
    lines : list of float
        For each piece of a section how much more of its lines is dark than bright, from -1 to 1.
    pairs : list of tuple of float
        For each pair of pieces of neighbouring sections: variances of noise and of steps between voxels, as shares of that of
        the structure; correlation as they lie and after the best shift; length of the shift.
    pieces : list of dict
        The `FIGURES` of each piece.
    noises : list of float
        Standard deviation of the noise of each piece, in grey values.
    """

    asked: Box
    sections: int
    nodata: float | None = None
    voxels: int = 0
    zeros: int = 0
    strange: tuple[int, Triple, float] | None = None
    lines: list[float] = field(default_factory=list)
    pairs: list[tuple[float, ...]] = field(default_factory=list)
    pieces: list[dict[str, float]] = field(default_factory=list)
    noises: list[float] = field(default_factory=list)
    _passed: int = 0
    _every: int = 1

    def add(self, channel: int, box: Box, voxels: NDArray[Any]) -> None:
        """Add up what a tile shows.

        Parameters
        ----------
        channel : int
            Channel of the tile.
        box : Box
            Where it lies, in input voxels.
        voxels : numpy.ndarray, shape of the box
            Voxels of the tile, as stored.
        """
        valid = valid_voxels(voxels, self.nodata)
        self.voxels += int(valid.sum())
        self.zeros += int(np.count_nonzero(valid & (voxels == 0)))
        if voxels.dtype.kind == "f" and self.strange is None:
            inside = self.asked.intersection(box).shifted((-box.start[0], -box.start[1], -box.start[2]))
            found = first_not_finite(np.where(valid, voxels, 0)[inside.slices])
            if found is not None:
                z, y, x = (a + b + c for a, b, c in zip(found, inside.start, box.start, strict=True))
                at = (z - box.start[0], y - box.start[1], x - box.start[2])
                self.strange = channel, (z, y, x), float(voxels[at])
        middle = len(voxels) // 2
        self._look_for_lines(voxels[middle], valid[middle])
        two = slice(max(0, middle - 1), middle + 1)
        self._compare_sections(voxels[two], valid[two])

    def _look_for_lines(self, section: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Look at pieces of one section, evenly spread over it."""
        rows, columns = (n // PIECE for n in section.shape)
        places = [(PIECE * y, PIECE * x) for y in range(rows) for x in range(columns)]
        wanted = max(1, MOST_PIECES * BLOCK // self.sections)
        for y, x in places[:: max(1, len(places) // wanted)]:
            if len(self.lines) >= MOST_PIECES:
                return
            cut = slice(y, y + PIECE), slice(x, x + PIECE)
            piece = section[cut].astype(np.float64)
            if valid[cut].all() and np.isfinite(piece).all() and np.count_nonzero(piece == 0) < MANY_ZEROS * piece.size:
                share = dark_lines(piece)
                self.lines += [] if share is None else [share]

    def _compare_sections(self, sections: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Look at pieces of two neighbouring sections, or of one that has none, evenly spread over the whole sample."""
        height, width = (min(PAIR_SIDE, size) for size in sections.shape[1:])
        if min(height, width) < LEAST_SIDE:
            return
        for y in range(0, sections.shape[1] - height + 1, height):
            for x in range(0, sections.shape[2] - width + 1, width):
                self._passed += 1
                if self._passed % self._every:
                    continue
                cut = slice(None), slice(y, y + height), slice(x, x + width)
                pieces = sections[cut].astype(np.float64)  # (2, y, x), or (1, y, x)
                if not valid[cut].all() or not np.isfinite(pieces).all():
                    continue
                zeros = np.count_nonzero(pieces == 0) / pieces.size
                if zeros < MANY_ZEROS:
                    self.pairs += compare_pieces(pieces)
                if zeros < MOST_ZEROS and (found := describe_piece(pieces[0])) is not None:
                    self.pieces.append(found)
                    self.noises.append(noise_sd(pieces[0]))
                if len(self.pieces) >= MOST_PAIRS:
                    self.pairs, self.pieces, self.noises = self.pairs[::2], self.pieces[::2], self.noises[::2]
                    self._every *= 2

    @property
    def evidence(self) -> Evidence | None:
        """Noise, sharpness and likeness of neighbours, medians over `pairs`; None where those are too few."""
        if len(self.pairs) < FEWEST_PAIRS:
            return None
        table = np.array(self.pairs)  # (pairs, 5)
        noise, step = (float(share) ** 0.5 for share in np.median(table[:, :2], axis=0))
        found = {"noise": noise, "sharpness": step}
        both = table[np.isfinite(table[:, 2]), 2:]  # (pairs, 3)
        if len(both) >= FEWEST_PAIRS:
            found |= dict(zip(("neighbours", "aligned", "shift"), np.median(both, axis=0).tolist(), strict=True))
        return Evidence(**{name: round(value, 3) for name, value in found.items()})

    @property
    def figures(self) -> dict[str, float]:
        """The `FIGURES` of the volume, medians over `pieces`; empty where those are too few."""
        if len(self.pieces) < FEWEST_PAIRS:
            return {}
        return {name: round(float(np.median([piece[name] for piece in self.pieces])), 3) for name in FIGURES}

    @property
    def noise(self) -> float | None:
        """Standard deviation of the volume's noise, in grey values, the median over `noises`; None where those are too few."""
        return round(float(np.median(self.noises)), 4) if len(self.noises) >= FEWEST_PAIRS else None

    @property
    def zero_share(self) -> float:
        """Share of exact zeros."""
        return self.zeros / self.voxels if self.voxels else 0.0

    @property
    def polarity(self) -> float:
        """Mean of `lines` in its standard errors: well above 0 for dark membranes, well below for bright ones."""
        if len(self.lines) < FEWEST_PIECES:
            return 0.0
        return float(np.mean(self.lines)) / max(float(np.std(self.lines)) / math.sqrt(len(self.lines)), 1e-9)


def first_not_finite(values: NDArray[Any]) -> Triple | None:
    """Return the place, in C order, of the first value that is NaN or infinite; None where all are finite."""
    finite = np.isfinite(values)
    if finite.all():
        return None
    z, y, x = np.unravel_index(int(np.argmin(finite)), values.shape)
    return int(z), int(y), int(x)


def dark_lines(piece: NDArray[np.float64]) -> float | None:
    """Return how much more of the lines in a piece of a section is dark than bright.

    A line is where the second derivative across it is at least twice that along it. An inverted piece has the negative value,
    and symmetric noise has 0 on average.

    Parameters
    ----------
    piece : numpy.ndarray, shape (y, x)
        Grey values.

    Returns
    -------
    float or None
        From -1, all lines bright, to 1, all dark; None where there are none.
    """
    from scipy import ndimage  # workers import this module too, and do without

    yy, xx, xy = (ndimage.gaussian_filter(piece, 1.0, order)[4:-4, 4:-4] for order in ((2, 0), (0, 2), (1, 1)))
    mean, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    large, small = mean + spread, mean - spread  # the two curvatures
    dark = float(np.square(large[(large > 0) & (abs(small) < large / 2)]).sum())
    bright = float(np.square(small[(small < 0) & (abs(large) < -small / 2)]).sum())
    return (dark - bright) / (dark + bright) if dark + bright else None


def compare_pieces(pieces: NDArray[np.float64]) -> list[tuple[float, ...]]:
    """Compare two pieces of neighbouring sections.

    Correlations are those of the structure: the variance of the noise, which both have of their own, is taken off.

    Parameters
    ----------
    pieces : numpy.ndarray, shape (2, y, x)
        Grey values; (1, y, x) for a section without neighbours, whose correlations are NaN.

    Returns
    -------
    list of tuple
        One row of `Survey.pairs`; none where a piece shows no structure.
    """
    noise = [noise_sd(piece) ** 2 for piece in pieces]
    structure = [float(piece.var()) - own for piece, own in zip(pieces, noise, strict=True)]
    if any(own <= LEAST_SIGNAL * float(piece.var()) for own, piece in zip(structure, pieces, strict=True)):
        return []
    steps = float(np.mean([np.mean(np.diff(pieces[0], axis=axis) ** 2) / 2 for axis in (0, 1)])) - noise[0]
    row = noise[0] / structure[0], max(0.0, steps) / structure[0]
    if len(pieces) == 1:
        return [(*row, np.nan, np.nan, np.nan)]
    inner = pieces[0][REACH:-REACH, REACH:-REACH]
    inner = inner - inner.mean()  # (y, x)
    shifted = sliding_window_view(pieces[1], inner.shape)  # (2 * REACH + 1, 2 * REACH + 1, y, x)
    covariances = np.einsum("ijyx,yx->ij", shifted, inner) / inner.size
    correlations = np.clip(covariances / math.sqrt(structure[0] * structure[1]), -1, 1)
    y, x = np.unravel_index(int(np.argmax(covariances)), covariances.shape)
    return [(*row, float(correlations[REACH, REACH]), float(correlations[y, x]), math.hypot(y - REACH, x - REACH))]


def describe_piece(piece: NDArray[np.float64]) -> dict[str, float] | None:
    """Return the `FIGURES` of a piece of a section; None where all its voxels are equal.

    None of them changes with brightness or contrast.

    Parameters
    ----------
    piece : numpy.ndarray, shape (y, x)
        Grey values; at least `LEAST_SIDE` voxels along each axis.
    """
    variance = float(piece.var())
    if variance == 0:
        return None
    piece = piece - piece.mean()
    noise = noise_sd(piece) ** 2
    structure = max(variance - noise, 1e-3 * variance)
    steps = float(np.mean([np.mean(np.diff(piece, axis=axis) ** 2) / 2 for axis in (0, 1)])) - noise
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in piece.shape))  # (y, x)
    power = np.abs(np.fft.fft2(piece * window)) ** 2
    frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, piece.shape), indexing="ij"))
    bands = [float(power[(low <= frequency) & (frequency < high)].mean()) for low, high in pairwise(_BANDS)]
    low, high = np.percentile(piece, (1, 99))
    levels = np.rint((piece - low) * (255 / max(high - low, 1e-12)))
    coarse, middle, fine = (_decibels(b / max(a, 1e-12)) for a, b in pairwise(bands))
    figures = (
        _decibels(noise / structure),
        _decibels(max(0.0, steps) / structure),
        coarse,
        middle,
        fine,
        float(np.mean(np.diff(levels, axis=1) == 0)),
        float(np.mean(piece**3)) / variance**1.5,
    )
    return dict(zip(FIGURES, figures, strict=True))


def _decibels(ratio: float) -> float:
    return 10 * math.log10(max(ratio, 1e-6))


def noise_sd(section: NDArray[Any]) -> float:
    """Return the standard deviation of the noise in a section, in grey levels.

    Second differences along both axes remove smooth structure (Immerkaer 1996, Comput. Vis. Image Underst. 64); the median of
    their size, unlike the mean, ignores edges.
    """
    from scipy import ndimage  # as in `dark_lines`

    rows = ndimage.correlate1d(section.astype(np.float32), (1.0, -2.0, 1.0), 0)
    differences = ndimage.correlate1d(rows, (1.0, -2.0, 1.0), 1)
    return float(np.median(np.abs(differences))) / (6 * 0.6745)


def grey_limits(volume: Volume, level: int, nodata: float | None = None) -> tuple[float, float]:
    """Return the grey values of black and white: uint8's whole range, else percentiles of a level.

    Parameters
    ----------
    volume : Volume
        The volume.
    level : int
        Its level that is meant; a coarser one is looked at where it is large.
    nodata : float, optional
        Value left out.
    """
    if volume.dtype == np.uint8:
        return 0.0, 255.0
    small = [n for n, grid in enumerate(volume.levels) if n >= level and Box.whole(grid.shape).voxels <= LIMITS_VOXELS]
    statistics = fit_statistics(volume, small[0] if small else len(volume.levels) - 1, LIMITS_PERCENTILES, nodata=nodata)
    return float(statistics.low.min()), float(statistics.high.max())
