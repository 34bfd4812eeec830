"""The ways to turn and mirror a section without moving its voxels off their grid."""

from __future__ import annotations

from itertools import product


def turned_ways(*, square: bool) -> list[tuple[bool, tuple[int, ...]]]:
    """Return the ways to turn and mirror a section, the first as it is: 8 of a square, 4 of another rectangle.

    Returns
    -------
    list of (bool, tuple of int)
        Whether its axes y and x are exchanged, and along which of the last two axes it is then mirrored.
    """
    return list(product((False, True) if square else (False,), ((), (-1,), (-2,), (-2, -1))))
