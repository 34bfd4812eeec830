"""Survey: NaN and infinite voxels, exact zeros and bright membranes in the sample that statistics are fitted on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Box, Triple
from volumetool.processing.statistics import BLOCK
from volumetool.storage.voxels import valid_voxels

PIECE = 32
MOST_PIECES, FEWEST_PIECES = 256, 8
"""Membranes are looked for in at most so many pieces of 32 x 32 voxels, and nothing is said of fewer."""

MANY_ZEROS = 0.05
"""Share of exact zeros from which they are more than the darkest grey of an image."""

LIKELY, CERTAIN = 3.0, 6.0
"""Standard errors from which the sign of the mean is likely and almost certain; `tests/benchmarks/polarity.py` counts hits."""


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
    """

    asked: Box
    sections: int
    nodata: float | None = None
    voxels: int = 0
    zeros: int = 0
    strange: tuple[int, Triple, float] | None = None
    lines: list[float] = field(default_factory=list)

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
