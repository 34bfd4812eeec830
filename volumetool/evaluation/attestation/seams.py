"""Seams: whether an output steps more across the borders of regions than its input does there, and than it does inside.

A step is the difference of two neighbouring voxels across a plane. Two figures tell a seam. The ratio says how rough a plane
is: the mean size of its steps over that of the planes beside it, as a multiple of the same ratio of the input. The shift says
how far one side is brighter: the step between the means of both sides, less that of the input, in data windows. What the tissue
shows at a plane, and sections that differ, are in both and cancel. Planes inside say how much the figures vary elsewhere.

Planes that are compared lie whole voxels of the input apart, because a network that makes several voxels of one steps
differently between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Box, Triple
from volumetool.geometry.box import cut

PIECE = 2**16
"""Voxels of a border that are compared together, about: of larger ones each piece is, so that a short seam counts."""

ENOUGH = 64 * 64
"""Voxels of a piece from which its figures count in full; those of smaller pieces vary more, with the root of their number."""

EPSILON = 0.002
"""Half a grey level of 256, in data windows, which rounding adds to every step: where nothing is to be seen, ratios stay 1."""

FAINT, PLAIN = 1.05, 1.2
"""Ratios from which borders are seams, all of them together and one of them.

Together: the median border is 5 % rougher than the median plane inside, and that by more than chance. One: it is 20 % rougher
than any plane inside.
"""

LEVEL, FARTHER = 0.01, 2.0
"""Shift from which a border is a seam, in data windows and as a multiple of the largest one inside: of outputs of real data,
pieces shift by up to 0.005 at either, and by 0.024 and 0.016 where a network took the strongest noise of the recipes off."""

CERTAIN = 4.0
"""Standard errors that the medians must be apart."""

Read = Callable[[Box], NDArray[Any]]


@dataclass
class Compared:
    """A figure of planes: at borders and inside.

    Attributes
    ----------
    borders, inside : list of float
        The figure of each plane.
    largest : float
        The largest figure of a border.
    worst : Box, optional
        Voxels just behind that border.
    """

    borders: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    largest: float = 0.0
    worst: Box | None = None

    @property
    def medians(self) -> tuple[float, float]:
        """Of borders and of planes inside."""
        return float(np.median(self.borders)), float(np.median(self.inside))

    @property
    def error(self) -> float:
        """Standard error of the difference of the medians."""
        return 1.25 * math.sqrt(sum(float(np.var(each)) / len(each) for each in (self.borders, self.inside)))

    def add(self, figure: float, box: Box) -> None:
        """Add a border."""
        if self.worst is None or figure > self.largest:
            self.worst, self.largest = box, figure
        self.borders.append(figure)


@dataclass
class Seams:
    """Planes across one axis: borders of regions, and planes inside.

    Parameters
    ----------
    chunk : tuple of int
        Chunk of the output, in voxels: borders are cut into pieces of whole chunks.

    Attributes
    ----------
    ratios, shifts : Compared
        How rough each plane is, and how far one side is brighter.
    """

    chunk: Triple
    ratios: Compared = field(default_factory=Compared)
    shifts: Compared = field(default_factory=Compared)

    @property
    def found(self) -> list[Box]:
        """Where seams are: the worst border of each kind, none where there are no seams."""
        ratios, shifts = self.ratios, self.shifts
        if not ratios.inside or not ratios.borders:
            return []
        borders, inside = ratios.medians
        faint = borders > FAINT * inside and borders - inside > CERTAIN * ratios.error
        rough = faint or ratios.largest > PLAIN * max(ratios.inside)
        shifted = shifts.largest > max(LEVEL, FARTHER * max(shifts.inside))
        return [each.worst for each, shown in ((ratios, rough), (shifts, shifted)) if shown and each.worst is not None]

    def add(self, axis: int, border: Box, period: int, voxels: Read, given: Read) -> None:
        """Look at a border, and at planes on both sides of it.

        Parameters
        ----------
        axis : int
            Across which the border lies: 0 for z, 1 for y, 2 for x.
        border : Box
            The region behind the border, which begins with it, in voxels of the output.
        period : int
            Voxels of the output along the axis that whole voxels of the input become; the border lies at a multiple of it.
        voxels, given : callable
            Give the voxels of a box of the output, and those of the input that become it, in data windows; NaN where there are
            no data.
        """
        start = border.start[axis]
        room = min(start, border.shape[axis]) // period
        beside = 4 if room >= 4 else 2  # periods on each side
        if room < beside:
            return  # too thin to hold planes to compare with
        for piece in cut(_thin(border, axis, start, start + 1), self.chunk, PIECE):
            box = _thin(piece, axis, start - beside * period, start + beside * period)
            (size, mean), (size_given, mean_given) = (_steps(read(box), axis, 2 * beside) for read in (voxels, given))
            ratios = size / size_given  # (planes,): one between each two periods
            shifts = np.abs(mean - mean_given)
            if not np.isfinite(ratios).all():
                continue
            middle, weight = beside - 1, min(1.0, math.sqrt(piece.voxels / ENOUGH))
            self.ratios.add(_beside(ratios, middle, weight), piece)
            self.shifts.add(weight * float(shifts[middle]), piece)
            for plane in (middle - 2, middle + 2) if beside == 4 else ():
                self.ratios.inside.append(_beside(ratios, plane, weight))
                self.shifts.inside.append(weight * float(shifts[plane]))


def _steps(voxels: NDArray[Any], axis: int, periods: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean size of the steps across each plane between two periods, and the step between their means."""
    planes = np.moveaxis(voxels, axis, 0).astype(np.float64).reshape(periods, -1, *np.delete(voxels.shape, axis))
    sizes = np.abs(planes[1:, 0] - planes[:-1, -1]).mean(axis=(1, 2)) + EPSILON  # (periods, period, y, x) -> (periods - 1,)
    return sizes, np.diff(planes.mean(axis=(1, 2, 3)))


def _beside(ratios: NDArray[np.float64], at: int, weight: float) -> float:
    """Return the figure of a plane over the mean of those beside it, nearer to 1 by a weight."""
    return 1 + weight * float(ratios[at] / ((ratios[at - 1] + ratios[at + 1]) / 2) - 1)


def _thin(box: Box, axis: int, start: int, stop: int) -> Box:
    """Return a box with other bounds along one axis."""
    low, high = list(box.start), list(box.stop)
    low[axis], high[axis] = start, stop
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
