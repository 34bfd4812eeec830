"""The first look lies inside the volume and needs few patches."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from volumetool.geometry import AxisLattice, Lattice, balanced
from volumetool.store.volume import Level
from volumetool.viewing.live.show import FIRST_LOOK, first_look

VOXEL_SIZE = (30.0, 8.0, 8.0)
Z = AxisLattice(7, 1, 0, 0, 1)


def axis(size: int) -> AxisLattice:
    """Return the patches of the built-in 2D models along an axis."""
    return balanced(AxisLattice(size, 384, 48, 22, 4, 4))


def look_at(shape: tuple[int, int, int]) -> tuple[Lattice, tuple[float, float, float]]:
    """Return the lattice and the centre of the first look, in voxels from the faces."""
    lattice = Lattice(Z, axis(shape[1]), axis(shape[2]))
    level = Level("0", shape, VOXEL_SIZE, (15.0, 4.0, 4.0), (1, 64, 64), None)  # its corner is at 0
    position = first_look(level, lattice).position
    assert position is not None
    z, y, x = (at / size for at, size in zip(position, VOXEL_SIZE, strict=True))
    return lattice, (z, y, x)


@given(st.integers(800, 100_000), st.integers(800, 100_000))
def test_a_large_volume_is_looked_at_through_four_patches(height: int, width: int) -> None:
    lattice, (z, *centre) = look_at((7, height, width))
    assert math.isclose(z, 3.5)  # the middle of a section
    for line, at in zip(lattice.axes[1:], centre, strict=True):
        low, high = (round((at + half) * line.scale) for half in (-FIRST_LOOK / 2, FIRST_LOOK / 2))
        assert 0 <= low < high <= line.size * line.scale
        assert len(line.touching(low, high)) == 2
        assert abs(at - line.size / 2) <= line.stride / 2 + 1


def test_a_small_volume_is_seen_whole() -> None:
    lattice = Lattice(Z, axis(300), axis(512))
    level = Level("0", (7, 300, 512), VOXEL_SIZE, (0.0, 0.0, 0.0), (1, 64, 64), None)
    assert first_look(level, lattice).zoom is None
