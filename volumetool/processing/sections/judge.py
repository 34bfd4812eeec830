"""Verdicts: which sections are not as their neighbours, and in what way.

Each rule compares a section with the others of its stack, so no threshold depends on microscope, tissue or voxel size;
`tests/benchmarks/sections.py` counts what they find and miss.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from volumetool.processing.sections.measure import FARTHEST, SectionMeasure, SectionPair
from volumetool.processing.sections.quality import Verdict

FEWEST = 5
"""Sections that a stack needs before one of them is called unlike the others; blank ones are found in any."""

NO_STRUCTURE = 0.25
"""Share of the stack's median contrast up to which a section is blank."""

SOFT = 0.65
"""Share of the neighbours' median sharpness below which a section is out of focus."""

DETAIL = 0.5
"""Share of the noise that sharpness must exceed, or too little is known of it."""

STRANGE_CELL, STRANGE_SHARE = 6.0, 0.1
"""A cell is strange that departs by so many standard deviations from the neighbours'; a section, with such a share of them."""

LEAST_SPREAD = 0.1, 0.05
"""Least standard deviation of a cell's brightness, in contrasts, and of the logarithm of its contrast."""

UNLIKE = 0.55
"""Share of the usual correlation below which a section shows something else than its neighbours."""

SAME_STRUCTURE, SAME_VOXELS = 0.1, 0.4
"""Shares of the usual departure from a correlation of 1, of overviews and of voxels, below which two sections are one image."""

COPY = 0.3
"""Share of the loss of correlation from one section to the next but one, by which the copy of two sections is told."""

MOVED, LEAST_MOVE = 6.0, 2.0
"""A section is shifted by more than so many times the median displacement, and so many voxels."""

RELATED = 0.1
"""Median correlation of neighbours below which nothing is said of shifts and likeness."""

REFERENCES = 4
"""Neighbours that a section is compared with, on both sides together, and how far off they may lie."""


class SectionJudge:
    """Judges the sections of a channel.

    Parameters
    ----------
    found : mapping of int to SectionMeasure
        What was measured, by z.
    """

    def __init__(self, found: Mapping[int, SectionMeasure]) -> None:
        self._found = found
        self._contrast = float(np.median([each.contrast for each in found.values()])) if found else 0.0
        self._cells = {z: self._normal(each.cells.astype(np.float64)) for z, each in found.items()}

    def verdicts(self) -> dict[int, Verdict]:
        """Return the sections that are not ok, with what they are.

        Sections are judged twice: the second time each is compared with those alone that passed the first time.
        """
        least = NO_STRUCTURE * self._contrast
        blank: dict[int, Verdict] = {z: "blank" for z, each in self._found.items() if each.contrast <= least}
        if len(self._found) - len(blank) < FEWEST:
            return blank
        suspects = self._unlike(blank, blank)
        return blank | self._unlike(blank, {**blank, **suspects})

    def displacement(self, z: int, bad: Collection[int] = ()) -> tuple[float, float, float, float]:
        """Return how a section lies on its neighbours.

        Parameters
        ----------
        z : int
            The section.
        bad : collection of int
            Sections that it is not compared with.

        Returns
        -------
        tuple of float
            By how much it lies off them, along y and x, and how far they disagree on that, in voxels; the better correlation
            after that shift. All 0 without neighbours.
        """
        pairs = [(1 if z > other else -1, pair) for other, pair in self._sides(z, bad)]
        if not pairs:
            return 0.0, 0.0, 0.0, 0.0
        ys, xs = (
            [sign * value for sign, value in axis] for axis in zip(*(((s, p.y), (s, p.x)) for s, p in pairs), strict=True)
        )
        apart = math.hypot(max(ys) - min(ys), max(xs) - min(xs))
        return sum(ys) / len(ys), sum(xs) / len(xs), apart, max(pair.correlation for _, pair in pairs)

    def _normal(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take off cells (2, y, x) what brightness and contrast of the whole section make of them."""
        bright = (cells[0] - np.median(cells[0])) / max(self._contrast, 1e-9)
        varied = np.log(np.maximum(cells[1], 1e-3)) - np.log(max(float(np.median(cells[1])), 1e-3))
        return np.stack([bright, varied])

    def _pair(self, z: int, other: int) -> SectionPair | None:
        later = self._found.get(max(z, other))
        return None if later is None else later.pairs.get(abs(z - other))

    def _sides(self, z: int, bad: Collection[int]) -> list[tuple[int, SectionPair]]:
        """Return the nearest neighbours on both sides with which a section was compared; at an end the two nearest."""
        sides: list[list[tuple[int, SectionPair]]] = [[], []]
        for side, sign in zip(sides, (-1, 1), strict=True):
            for k in range(1, FARTHEST + 1):
                if z + sign * k not in bad and (pair := self._pair(z, z + sign * k)) is not None:
                    side.append((z + sign * k, pair))
        return [side[0] for side in sides] if all(sides) else [*sides[0], *sides[1]]

    def _unlike(self, blank: Collection[int], bad: Collection[int]) -> dict[int, Verdict]:
        """Return the verdicts of sections that are not blank, compared with those that are not bad."""
        good = [z for z in self._found if z not in bad]
        usual = {k: self._usual(good, k) for k in range(1, FARTHEST + 1)}
        moves = [math.hypot(*self.displacement(z, bad)[:2]) for z in good]
        least_move = max(LEAST_MOVE, MOVED * float(np.median(moves)) if moves else 0.0)
        strange = self._strange_shares([z for z in self._found if z not in blank], bad)
        verdicts: dict[int, Verdict] = {}
        for z, share in strange.items():
            y, x, apart, _ = self.displacement(z, bad)
            related = usual[1].correlation > RELATED
            like = (
                [pair.correlation / usual[abs(z - other)].correlation for other, pair in self._sides(z, bad)] if related else []
            )
            if like and min(like) >= UNLIKE and math.hypot(y, x) > max(least_move, 2 * apart):
                verdicts[z] = "shifted"
            elif share > STRANGE_SHARE or (like and max(like) < UNLIKE):
                verdicts[z] = "damaged"
            elif related and self._is_copy(z, usual, blank):
                verdicts[z] = "doubled"
            elif self._found[z].sharpness < SOFT * self._detail_around(z, bad):
                verdicts[z] = "soft"
        return verdicts

    def _usual(self, good: list[int], k: int) -> SectionPair:
        """Return the median likeness of sections that are k apart."""
        pairs = [pair for z in good if z - k in good and (pair := self._pair(z, z - k)) is not None]
        if not pairs:
            return SectionPair(0.0, 0.0, 0.0, 0.0)
        correlation, same = np.median([(pair.correlation, pair.same) for pair in pairs], axis=0)
        return SectionPair(0.0, 0.0, max(float(correlation), 1e-9), float(same))

    def _around(self, z: int, bad: Collection[int]) -> Iterator[int]:
        """Yield the nearest good sections, at most `REFERENCES` of them and as far off."""
        near = [z + sign * k for k in range(1, REFERENCES + 1) for sign in (-1, 1)]
        yield from [each for each in near if each in self._found and each not in bad][:REFERENCES]

    def _strange_shares(self, sections: list[int], bad: Collection[int]) -> dict[int, float]:
        """Return the share of strange cells, in brightness or in contrast, of some sections."""
        apart = {}
        for z in sections:
            around = [self._cells[each] for each in self._around(z, bad)]
            apart[z] = self._cells[z] - np.median(around, axis=0) if around else np.zeros_like(self._cells[z])  # (2, y, x)
        sizes = np.abs(np.array([each for z, each in apart.items() if z not in bad] or list(apart.values())))  # (z, 2, y, x)
        spread = np.maximum(1.4826 * np.median(sizes, axis=(0, 2, 3)), LEAST_SPREAD)[:, None, None]  # (2, 1, 1)
        return {z: float((np.abs(each) > STRANGE_CELL * spread).mean(axis=(1, 2)).max()) for z, each in apart.items()}

    def _is_copy(self, z: int, usual: Mapping[int, SectionPair], blank: Collection[int]) -> bool:
        """Return whether a section repeats one beside it: of the two, the one that fits less to what lies on its other side."""
        one, two = usual[1], usual[2]
        for other in (z - 1, z + 1):
            pair = None if other in blank else self._pair(z, other)
            if pair is None or 1 - pair.correlation >= SAME_STRUCTURE * (1 - one.correlation):
                continue
            if 1 - pair.same < SAME_VOXELS * (1 - one.same):
                outer = self._pair(z, 2 * z - other), self._pair(other, 2 * other - z)
                mine, its = (one.correlation if each is None else each.correlation for each in outer)
                # A copy is two sections away from what lies beside it. Of a section that was imaged twice, the later image.
                clear = COPY * (one.correlation - two.correlation)
                if its - mine > clear or (z > other and its - mine > -clear):
                    return True
        return False

    def _detail_around(self, z: int, bad: Collection[int]) -> float:
        """Return the sharpness of the neighbours; 0 where it cannot be told from their noise."""
        around = [(self._found[each].sharpness, self._found[each].noise) for each in self._around(z, bad)]
        if not around:
            return 0.0
        sharpness, noise = np.median(around, axis=0)
        return float(sharpness) if sharpness > DETAIL * noise else 0.0
