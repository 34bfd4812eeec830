"""The lattice: which patches there are, what each weighs where, and how many a part of the axis needs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetool.errors import ConfigError
from volumetool.geometry import AxisLattice, Lattice, balanced_stride, ramp


@st.composite
def lines(draw: st.DrawFn) -> AxisLattice:
    overlap = draw(st.integers(0, 12))
    return AxisLattice(
        size=draw(st.integers(1, 60)),
        stride=draw(st.integers(max(1, overlap), overlap + 9)),
        overlap=overlap,
        trim=draw(st.integers(0, overlap // 2)),
        scale=draw(st.integers(1, 4)),
    )


def weighted(line: AxisLattice, index: int) -> range:
    """Output voxels of the axis on which a patch has weight, from the definition: its own, less the trim at both ends."""
    start, stop = index * line.stride - line.overlap + line.trim, index * line.stride + line.stride - line.trim
    return range(max(0, start * line.scale), min(line.size * line.scale, stop * line.scale))


@given(lines())
def test_every_output_voxel_has_one_patch_or_two_neighbours(line: AxisLattice) -> None:
    """No voxel is left out, none is blended from more than two, and two are next to each other."""
    owners: dict[int, list[int]] = {voxel: [] for voxel in range(line.size * line.scale)}
    for index in range(line.count):
        for voxel in weighted(line, index):
            owners[voxel].append(index)
    for patches in owners.values():
        assert len(patches) in (1, 2)
        assert patches == list(range(patches[0], patches[0] + len(patches)))


@given(lines())
def test_count_is_law_one_without_patches_that_weigh_nothing(line: AxisLattice) -> None:
    """Of the ceil((n + o) / s) patches of the law, those with weight in the volume are counted; all where trim is 0."""
    law = -(-(line.size + line.overlap) // line.stride)
    assert line.count == sum(1 for index in range(law) if len(weighted(line, index)))
    assert not weighted(line, line.count)
    if line.trim == 0:
        assert line.count == law


@given(lines(), st.data())
def test_touching_names_the_patches_with_weight_there(line: AxisLattice, data: st.DataObject) -> None:
    end = line.size * line.scale
    start = data.draw(st.integers(0, end - 1))
    stop = data.draw(st.integers(start + 1, end))
    expected = [i for i in range(line.count) if set(weighted(line, i)) & set(range(start, stop))]
    assert list(line.touching(start, stop)) == expected


@given(lines(), st.data())
def test_laying_patches_into_a_core_gives_every_voxel_a_whole_weight(line: AxisLattice, data: st.DataObject) -> None:
    """Placing by `place` reproduces the weights by their definition: complementary ramps, the rest 1."""
    end = line.size * line.scale
    start = data.draw(st.integers(0, end - 1))
    stop = data.draw(st.integers(start + 1, end))
    weights = ramp(line.ramp_length).astype(np.float64)
    touching = line.touching(start, stop)
    share = np.zeros((len(touching), stop - start))
    for row, index in enumerate(touching):
        where = line.place(index, start, stop)
        share[:row, where.ramp_target] *= 1 - weights[where.ramp_weight]
        share[row, where.ramp_target] = weights[where.ramp_weight]
        share[row, where.copy_target] = 1
        share[:row, where.copy_target] = 0
        offset = index * line.stride * line.scale - line.overlap * line.scale
        for source, target in ((where.ramp_source, where.ramp_target), (where.copy_source, where.copy_target)):
            if target.stop > target.start:
                assert source.stop - source.start == target.stop - target.start
                assert source.start + offset == target.start + start
                assert source.stop <= line.patch * line.scale
    np.testing.assert_allclose(share.sum(0), 1, atol=1e-7)
    for row, index in enumerate(touching):
        inside = set(weighted(line, index))
        assert all((voxel in inside) == (share[row, voxel - start] > 0) for voxel in range(start, stop))


@given(lines(), st.data())
def test_weights_do_not_depend_on_the_core(line: AxisLattice, data: st.DataObject) -> None:
    """A voxel's ramp weight is the same in a core that begins at it as in the whole axis."""
    end = line.size * line.scale
    voxel = data.draw(st.integers(0, end - 1))
    for index in line.touching(voxel, voxel + 1):
        alone, whole = line.place(index, voxel, voxel + 1), line.place(index, 0, end)
        if alone.ramp_target.stop > alone.ramp_target.start:
            assert alone.ramp_weight.start - whole.ramp_weight.start == voxel - whole.ramp_target.start


@given(st.integers(0, 200))
def test_ramps_are_symmetric_and_strictly_between_0_and_1(length: int) -> None:
    weights = ramp(length)
    assert weights.dtype == np.float32
    assert weights.shape == (length,)
    assert ((weights > 0) & (weights < 1)).all()
    assert (np.diff(weights) > 0).all()
    np.testing.assert_allclose(weights + weights[::-1], 1, atol=1e-7)


@pytest.mark.parametrize(("stride", "overlap", "trim"), [(0, 0, 0), (4, 5, 0), (8, 4, 3), (8, 4, -1), (-2, 0, 0)])
def test_an_impossible_lattice_is_refused_by_name(stride: int, overlap: int, trim: int) -> None:
    with pytest.raises(ConfigError) as caught:
        AxisLattice(10, stride, overlap, trim, 1)
    assert caught.value.code == "config.lattice"


@st.composite
def balances(draw: st.DrawFn) -> tuple[int, int, tuple[int, int], int]:
    grain = draw(st.integers(1, 8))
    overlap = grain * draw(st.integers(0, 6))
    stride = grain * draw(st.integers(1, 30)) + overlap
    return draw(st.integers(1, 2000)), stride, (overlap, draw(st.integers(0, overlap // 2))), grain


@given(balances())
def test_balanced_stride_asks_for_no_more_patches(case: tuple[int, int, tuple[int, int], int]) -> None:
    size, stride, (overlap, trim), grain = case
    balanced = balanced_stride(*case)
    assert AxisLattice(size, balanced, overlap, trim, 1).count == AxisLattice(size, stride, overlap, trim, 1).count
    assert overlap <= balanced <= stride
    assert balanced % grain == 0


@given(balances())
def test_balanced_stride_is_the_least_that_does(case: tuple[int, int, tuple[int, int], int]) -> None:
    size, stride, (overlap, trim), grain = case
    shorter = balanced_stride(*case) - grain
    if shorter >= max(overlap, grain):
        assert AxisLattice(size, shorter, overlap, trim, 1).count > AxisLattice(size, stride, overlap, trim, 1).count


@given(balances())
def test_balanced_stride_is_the_given_one_on_long_axes(case: tuple[int, int, tuple[int, int], int]) -> None:
    """With as many patches as a stride has granules, no granule can be saved."""
    size, stride, margin, grain = case
    long = size + stride * (stride // grain)
    assert balanced_stride(long, stride, margin, grain) == stride


@given(st.tuples(lines(), lines(), lines()))
def test_a_lattice_is_its_axes(axes: tuple[AxisLattice, AxisLattice, AxisLattice]) -> None:
    lattice = Lattice(*axes)
    counted = Counter((z, y, x) for z in range(axes[0].count) for y in range(axes[1].count) for x in range(axes[2].count))
    assert lattice.count == len(counted)
    assert lattice.output_shape == tuple(line.size * line.scale for line in axes)
    assert lattice.patch == tuple(line.stride + line.overlap for line in axes)
