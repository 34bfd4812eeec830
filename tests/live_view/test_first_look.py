"""The first look lies inside the volume and needs few patches."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from volumetool.geometry import Lattice
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.layout import make_lattice
from volumetool.live_view.show import FIRST_LOOK, first_look
from volumetool.models import load_model
from volumetool.storage.volume import Level

VOXEL_SIZE = (30.0, 8.0, 8.0)
CARD = load_model("em-x4").card


def lattice_of(shape: tuple[int, int, int]) -> Lattice:
    return make_lattice(make_job(input="in.zarr", output="out.zarr", model="em-x4"), CARD, shape)


def look_at(shape: tuple[int, int, int]) -> tuple[Lattice, tuple[float, float, float]]:
    """Return the lattice and the centre of the first look, in voxels from the faces."""
    lattice = lattice_of(shape)
    level = Level("0", shape, VOXEL_SIZE, (15.0, 4.0, 4.0), (1, 64, 64), None)  # its corner is at 0
    position = first_look(level, lattice).position
    assert position is not None
    z, y, x = (at / size for at, size in zip(position, VOXEL_SIZE, strict=True))
    return lattice, (z, y, x)


@given(*[st.one_of(st.integers(513, 1200), st.integers(513, 100_000))] * 2)
def test_a_large_volume_is_looked_at_through_four_patches_at_most(height: int, width: int) -> None:
    lattice, (z, *centre) = look_at((7, height, width))
    assert math.isclose(z, 3.5)  # the middle of a section
    for line, at in zip(lattice.axes[1:], centre, strict=True):
        low, high = (round((at + half) * line.scale) for half in (-FIRST_LOOK / 2, FIRST_LOOK / 2))
        assert 0 <= low < high <= line.size * line.scale
        assert len(line.touching(low, high)) == min(2, line.count)
        assert abs(at - line.size / 2) <= line.stride / 2 + 1


def test_a_small_volume_is_seen_whole() -> None:
    lattice = lattice_of((7, 300, 512))
    level = Level("0", (7, 300, 512), VOXEL_SIZE, (0.0, 0.0, 0.0), (1, 64, 64), None)
    assert first_look(level, lattice).zoom is None
