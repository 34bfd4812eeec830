"""Which regions need which patches, against a count of every patch in every region."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from volumetool.geometry import AxisLattice, Box, Lattice, PatchSharing, RegionGrid, Triple

GRIDS = st.builds(
    RegionGrid, st.tuples(*[st.integers(1, 7)] * 3), st.tuples(*[st.integers(1, 4)] * 3), st.just((1, 1, 1)), st.integers(1, 2)
)


@st.composite
def sharings(draw: st.DrawFn) -> PatchSharing:
    """Draw lattices and regions of any size: patches may reach over many regions."""
    grid = draw(GRIDS)
    origin = draw(st.tuples(*[st.integers(0, 4)] * 3))
    axes = []
    for n, a in zip(grid.shape, origin, strict=True):
        scale, overlap = draw(st.integers(1, 2)), draw(st.integers(0, 4))
        size = -(-(n + a) // scale) + draw(st.integers(0, 2))
        stride = max(1, overlap) + draw(st.integers(0, 4))
        axes.append(AxisLattice(size, stride, overlap, draw(st.integers(0, overlap // 2)), scale))
    return PatchSharing(grid, Lattice(axes[0], axes[1], axes[2]), origin)


def needed(sharing: PatchSharing, index: int) -> set[Triple]:
    """Return the patches that a region needs, by trying every one along each axis."""
    box = sharing.grid.region(index).box.shifted(sharing.origin)
    axes = [
        [i for i in range(line.count) if line.weight_start(i) < high and low < line.weight_stop(i)]
        for line, low, high in zip(sharing.lattice.axes, box.start, box.stop, strict=True)
    ]
    return {(z, y, x) for z, y, x in product(*axes)}


@settings(max_examples=30)
@given(sharings())
def test_owners_and_neighbours_are_those_that_need_the_same_patches(sharing: PatchSharing) -> None:
    regions = range(sharing.grid.count)
    wants = [needed(sharing, index) for index in regions]
    for index in regions:
        channel, _ = sharing.position(index)
        alike = [other for other in regions if sharing.position(other)[0] == channel]
        assert list(sharing.neighbours(index)) == [n for n in alike if n != index and wants[n] & wants[index]]
        for patch in wants[index]:
            assert list(sharing.owners(channel, patch)) == [n for n in alike if patch in wants[n]]
        assert sharing.index(*sharing.position(index)) == index
        assert sharing.grid.region(index).channel == channel


@settings(max_examples=30)
@given(sharings(), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_patches_count_once_along_the_axes_that_are_named(sharing: PatchSharing, once: tuple[bool, bool, bool]) -> None:
    seen = set()
    for index in range(sharing.grid.count):
        channel, position = sharing.position(index)
        for patch in needed(sharing, index):
            # What counts once along an axis is the same whatever the region's number along it.
            seen.add((channel, patch, tuple(-1 if one else n for one, n in zip(once, position, strict=True))))
    assert sharing.count(once) == len(seen)


@settings(max_examples=25)
@given(sharing=sharings(), layers=st.booleans(), start=st.tuples(*[st.integers(0, 9)] * 3))
def test_no_more_patches_are_kept_at_once_than_the_bound_says(sharing: PatchSharing, *, layers: bool, start: Triple) -> None:
    """Regions run in order; each keeps what a later one needs and, at its end, deletes what none needs any more."""
    start = (min(start[0], sharing.grid.shape[0] - 1), start[1] % sharing.grid.shape[1], start[2] % sharing.grid.shape[2])
    asked = Box(start, sharing.grid.shape)
    order = list(sharing.grid.touching(asked))
    wants = {index: needed(sharing, index) for index in order}
    kept: set[tuple[int, Triple]] = set()
    peak = 0
    for number, index in enumerate(order):
        channel, _ = sharing.position(index)
        later = set()
        for other in order[number + 1 :]:
            if sharing.position(other)[0] == channel and (layers or sharing.layer(other) == sharing.layer(index)):
                later |= wants[other]
        mine = wants[index]
        kept |= {(channel, patch) for patch in mine & later}
        peak = max(peak, len(kept))
        kept -= {(channel, patch) for patch in mine - later}
    assert peak <= sharing.peak((layers, True, True), within=asked)
    assert not kept
