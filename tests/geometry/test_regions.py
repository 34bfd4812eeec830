"""Regions: whole shards, each voxel and each shard with one owner."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from volumetool.geometry import AxisLattice, Box, Lattice, PatchSharing, RegionGrid, Triple

SHAPES = st.tuples(*[st.integers(1, 14)] * 3)
GRIDS = st.builds(
    RegionGrid, SHAPES, st.tuples(*[st.integers(1, 6)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(1, 2)
)


def voxels(box: Box) -> list[Triple]:
    return [(z, y, x) for z, y, x in product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True)))]


@settings(max_examples=50)
@given(GRIDS)
def test_regions_tile_every_channel_exactly_once(grid: RegionGrid) -> None:
    owners: Counter[tuple[int, Triple]] = Counter()
    for index in range(grid.count):
        region = grid.region(index)
        assert region.index == index
        assert region.box.voxels > 0
        owners.update((region.channel, voxel) for voxel in voxels(region.box))
    assert set(owners.values()) == {1}
    assert len(owners) == grid.channels * Box.whole(grid.shape).voxels


@given(GRIDS)
def test_regions_are_whole_shards_cut_at_faces_alone(grid: RegionGrid) -> None:
    for index in range(grid.count):
        box = grid.region(index).box
        assert all(start % shard == 0 for start, shard in zip(box.start, grid.shard, strict=True))
        assert all(stop % s == 0 or stop == n for stop, s, n in zip(box.stop, grid.shard, grid.shape, strict=True))


@given(GRIDS)
def test_x_runs_fastest_then_y_z_and_channel(grid: RegionGrid) -> None:
    order = [(r.channel, *r.box.start) for r in map(grid.region, range(grid.count))]
    assert order == sorted(order)


@given(GRIDS, st.tuples(*[st.integers(-6, 20)] * 3), st.tuples(*[st.integers(-3, 12)] * 3))
def test_touching_names_the_regions_that_share_a_voxel(grid: RegionGrid, start: Triple, extent: Triple) -> None:
    """Also for boxes that reach over the volume, lie outside it, or are empty."""
    box = Box(start, (start[0] + extent[0], start[1] + extent[1], start[2] + extent[2]))
    expected = [index for index in range(grid.count) if grid.region(index).box.touches(box)]
    assert list(grid.touching(box)) == expected


@given(GRIDS)
def test_without_a_box_all_regions_are_named(grid: RegionGrid) -> None:
    assert list(grid.touching()) == list(range(grid.count))


@st.composite
def lattices_on_grids(draw: st.DrawFn) -> tuple[RegionGrid, Lattice, Triple]:
    grid = draw(GRIDS)
    origin = draw(st.tuples(*[st.integers(0, 5)] * 3))
    axes = []
    for n, a in zip(grid.shape, origin, strict=True):
        scale, overlap = draw(st.integers(1, 3)), draw(st.integers(0, 4))
        size = -(-(n + a) // scale) + draw(st.integers(0, 3))
        stride = max(1, overlap) + draw(st.integers(0, 4))
        axes.append(AxisLattice(size, stride, overlap, draw(st.integers(0, overlap // 2)), scale))
    return grid, Lattice(axes[0], axes[1], axes[2]), origin


@settings(max_examples=50)
@given(lattices_on_grids())
def test_patches_counts_every_patch_in_every_region_that_needs_it(case: tuple[RegionGrid, Lattice, Triple]) -> None:
    grid, lattice, origin = case

    def meets(line: AxisLattice, index: int, start: int, stop: int) -> bool:
        low = (index * line.stride - (line.overlap - line.trim) + line.trim) * line.scale
        high = (index + 1) * line.stride * line.scale
        return low < stop and high > start

    expected = 0
    for number in range(grid.count):
        box = grid.region(number).box.shifted(origin)
        per_axis = [
            sum(meets(line, index, start, stop) for index in range(line.count))
            for line, start, stop in zip(lattice.axes, box.start, box.stop, strict=True)
        ]
        expected += per_axis[0] * per_axis[1] * per_axis[2]
    assert PatchSharing(grid, lattice, origin).count() == expected
