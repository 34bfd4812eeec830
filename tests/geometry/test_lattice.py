"""The lattice: which patches there are, what each weighs where, and how many a part of the axis needs."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetool.errors import ConfigError
from volumetool.geometry import AxisLattice, Lattice, balanced, joined, ramp


@st.composite
def lines(draw: st.DrawFn) -> AxisLattice:
    grain = draw(st.sampled_from([1, 1, 2, 4]))
    overlap = grain * draw(st.integers(0, 12 // grain))
    line = AxisLattice(
        size=draw(st.integers(1, 60)),
        stride=max(grain, overlap) + grain * draw(st.integers(0, 9 // grain)),
        overlap=overlap,
        trim=draw(st.integers(0, overlap // 2)),
        scale=draw(st.integers(1, 4)),
        granularity=grain,
    )
    return draw(st.sampled_from([line, line, balanced(line), joined(line)]))


def before(line: AxisLattice) -> int:
    """Input voxels of the first patch before the face, from the definition: overlap less trim, or the next multiple."""
    return next(m for m in itertools.count(line.overlap - line.trim) if m % line.granularity == 0)


def weighted(line: AxisLattice, index: int) -> range:
    """Output voxels of the axis on which a patch has weight, from the definition: its own, less the trim at both ends."""
    start = index * line.stride - before(line) + line.trim
    stop = index * line.stride - before(line) + line.stride + line.overlap - line.trim
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
def test_patches_are_those_with_weight_in_the_volume(line: AxisLattice) -> None:
    """None that weighs nothing, and none is missing."""
    assert all(len(weighted(line, index)) for index in range(line.count))
    assert not weighted(line, line.count)
    assert not weighted(line, -1)


@given(lines())
def test_full_weight_lies_as_far_from_a_patchs_border_at_the_faces_as_inside(line: AxisLattice) -> None:
    """A voxel with one patch alone is overlap - trim away from that patch's borders, or more."""
    away = line.overlap - line.trim
    starts = [line.start(index) for index in range(line.count)]
    for voxel in range(line.size):
        patches = [a for a in starts if a + line.trim <= voxel < a + line.patch - line.trim]
        if len(patches) == 1:
            assert away <= voxel - patches[0] < line.patch - away


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
        offset = (index * line.stride - before(line)) * line.scale
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
        AxisLattice(20, stride, overlap, trim, 1)
    assert caught.value.code == "config.lattice"


@pytest.mark.parametrize(("stride", "overlap"), [(6, 4), (8, 6)])
def test_patches_off_the_pooling_grid_are_refused(stride: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="multiples of 4"):
        AxisLattice(20, stride, overlap, 0, 1, 4)


@st.composite
def grained(draw: st.DrawFn) -> AxisLattice:
    """Draw patches like a model's: overlap and stride are multiples of the granularity."""
    grain = draw(st.integers(1, 8))
    overlap = grain * draw(st.integers(0, 6))
    stride = grain * draw(st.integers(1, 30)) + overlap
    return AxisLattice(draw(st.integers(1, 2000)), stride, overlap, draw(st.integers(0, overlap // 2)), 1, grain)


@given(grained())
def test_patches_start_on_multiples_of_the_granularity(line: AxisLattice) -> None:
    for each in (line, balanced(line), joined(line)):
        assert all(each.start(index) % line.granularity == 0 for index in range(each.count))
        assert each.patch % line.granularity == 0


@given(grained())
def test_balanced_patches_are_as_few_and_no_longer(line: AxisLattice) -> None:
    shorter = balanced(line)
    assert shorter.count == line.count
    assert shorter.stride <= line.stride


@given(grained())
def test_balanced_patches_are_the_shortest(line: AxisLattice) -> None:
    stride = balanced(line).stride - line.granularity
    if stride >= (line.overlap or 1):  # shorter ones would meet by threes
        assert replace(line, stride=stride).count > line.count


@given(grained())
def test_patches_are_balanced_already_on_long_axes(line: AxisLattice) -> None:
    """With as many patches as a stride has granules, no granule can be saved."""
    long = replace(line, size=line.size + line.stride * (line.stride // line.granularity))
    assert balanced(long) == long


@given(grained())
def test_one_patch_may_cover_an_axis(line: AxisLattice) -> None:
    one = joined(line)
    assert one.count == 1
    assert one.stride - line.granularity < one.reach


@given(st.tuples(lines(), lines(), lines()))
def test_a_lattice_is_its_axes(axes: tuple[AxisLattice, AxisLattice, AxisLattice]) -> None:
    lattice = Lattice(*axes)
    counted = Counter((z, y, x) for z in range(axes[0].count) for y in range(axes[1].count) for x in range(axes[2].count))
    assert lattice.count == len(counted)
    assert lattice.output_shape == tuple(line.size * line.scale for line in axes)
    assert lattice.patch == tuple(line.stride + line.overlap for line in axes)
