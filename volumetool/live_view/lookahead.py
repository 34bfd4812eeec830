"""Looking ahead: who scrolls through sections wants the next ones."""

from __future__ import annotations

from collections.abc import Sequence

from volumetool.geometry import Lattice
from volumetool.live_view.patches import PatchPosition

FARTHEST_STEP = 8
"""A jump over more patches along z is no scrolling."""


class Lookahead:
    """Guesses from the patches looked at so far which come next.

    Parameters
    ----------
    lattice : Lattice
        The job's lattice.
    steps : int
        Steps of scrolling to guess; 0 guesses nothing.
    most : int
        Patches to guess at once: as many as can be kept without losing those that are looked at.
    """

    def __init__(self, lattice: Lattice, steps: int, most: int) -> None:
        self._sections = range(lattice.z.count)
        self._steps = steps
        self._most = most
        self._at: tuple[int, int] | None = None  # channel and z
        self._step = 0
        self._seen: list[set[tuple[int, int]]] = [set(), set()]  # (y, x) in the section before, and in this one

    def seen(self, places: Sequence[PatchPosition]) -> list[PatchPosition]:
        """Note what is looked at, and return what probably follows, nearest first."""
        at = (places[0].channel, places[0].z)
        if at != self._at:
            self._turn(at)
        self._seen[1].update((place.y, place.x) for place in places)
        if not self._step:
            return []
        columns = sorted(self._seen[0] | self._seen[1])
        sections = [at[1] + self._step * n for n in range(self._steps + 1)]
        return [PatchPosition(at[0], z, y, x) for z in sections if z in self._sections for y, x in columns][: self._most]

    def _turn(self, at: tuple[int, int]) -> None:
        """Go to another section: the view that was complete in the one before is what the next ones will show."""
        step = 0 if self._at is None or self._at[0] != at[0] else at[1] - self._at[1]
        self._step = step if self._steps and abs(step) <= FARTHEST_STEP else 0
        self._at = at
        self._seen = [self._seen[1] if self._step else set(), set()]
