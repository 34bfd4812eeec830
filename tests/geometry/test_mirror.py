"""Mirrored faces: numpy.pad's reflection, as far as needed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from volumetool.geometry import mirror_index


@given(size=st.integers(1, 12), before=st.integers(0, 60), after=st.integers(0, 60))
def test_reflection_is_numpys_repeated_as_often_as_needed(size: int, before: int, after: int) -> None:
    expected = np.pad(np.arange(size), (before, after), mode="reflect" if size > 1 else "edge")
    np.testing.assert_array_equal(mirror_index(-before, size + after, size), expected)


@given(size=st.integers(1, 12), start=st.integers(-40, 40), length=st.integers(0, 30))
def test_a_part_is_a_part_of_the_whole(size: int, start: int, length: int) -> None:
    """What stands at a position depends on the position and the axis alone."""
    whole = mirror_index(-40, 80, size)
    np.testing.assert_array_equal(mirror_index(start, start + length, size), whole[start + 40 : start + 40 + length])
