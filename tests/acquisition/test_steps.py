"""A step is enhanced when all that its patches see is there, and no sooner."""

from __future__ import annotations

import pytest

from volumetool.acquisition.steps import Steps
from volumetool.geometry import AxisLattice, Lattice

FACE = AxisLattice(40, 12, 4, 1, 4)


def flat(context: int) -> Lattice:
    return Lattice(AxisLattice(9, 1, 0, 0, 1), FACE, FACE, context)


@pytest.mark.parametrize(
    ("context", "count", "step", "needs"),
    [
        (0, None, 0, {0}),
        (0, None, 5, {5}),
        (2, None, 0, {0, 1, 2}),  # mirrored before the first
        (2, None, 5, {3, 4, 5, 6, 7}),
        (2, 8, 6, {4, 5, 6, 7}),  # mirrored after the last, which is known
        (2, 8, 7, {5, 6, 7}),
        (2, None, 7, {5, 6, 7, 8, 9}),
    ],
)
def test_a_section_needs_its_context(context: int, count: int | None, step: int, needs: set[int]) -> None:
    assert Steps(flat(context), count).needs(step) == needs


def test_a_3d_step_needs_the_patches_on_both_sides() -> None:
    steps = Steps(Lattice(AxisLattice(20, 6, 4, 1, 2), FACE, FACE), 20)
    assert list(steps.sections(1)) == [6, 7, 8, 9, 10, 11]
    # Patches 1 and 2 cover 3 to 13 and 9 to 19; their trims weigh nothing, but the network sees them.
    assert steps.needs(1) == set(range(3, 19))
    assert steps.sections(3) == range(18, 20)
    assert steps.box(3).start[0] == 36
    assert steps.box(3).stop[0] == 40
