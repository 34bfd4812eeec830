"""Levels: shapes, sizes, and which of them a region writes itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetool.errors import ConfigError
from volumetool.geometry import (
    LevelGrid,
    RegionGrid,
    Size,
    Triple,
    default_chunk,
    default_shard,
    fused_count,
    plan_levels,
    upscaled,
    whole_ratio,
)

SHAPES = st.tuples(*[st.integers(1, 3000)] * 3)
SIZES = st.tuples(*[st.floats(1.0, 60.0)] * 3)
PLACES = st.tuples(*[st.floats(-1e5, 1e5)] * 3)


@st.composite
def pyramids(draw: st.DrawFn) -> tuple[LevelGrid, ...]:
    """Draw levels with default chunks or given ones."""
    chunk = draw(st.none() | st.tuples(*[st.sampled_from([1, 2, 4, 8, 16, 3])] * 3))
    shard = None
    if chunk is not None and draw(st.booleans()):
        times = draw(st.tuples(*[st.sampled_from([1, 2, 3, 4, 8])] * 3))
        shard = (chunk[0] * times[0], chunk[1] * times[1], chunk[2] * times[2])
    shape = draw(SHAPES if chunk is None else st.tuples(*[st.integers(1, 200)] * 3))
    return plan_levels(shape, draw(SIZES), draw(PLACES), chunk, shard)


@given(pyramids())
def test_each_shape_is_the_one_before_divided_and_rounded_up(levels: tuple[LevelGrid, ...]) -> None:
    for fine, coarse in pairwise(levels):
        assert coarse.shape == tuple(-(-n // f) for n, f in zip(fine.shape, coarse.factor, strict=True))
        assert set(coarse.factor) <= {1, 2}
        assert coarse.factor != (1, 1, 1)


@given(pyramids())
def test_the_last_level_and_no_other_fits_one_chunk(levels: tuple[LevelGrid, ...]) -> None:
    fits = [all(n <= c for n, c in zip(level.shape, level.chunk, strict=True)) for level in levels]
    assert fits == [False] * (len(levels) - 1) + [True]


@given(pyramids())
def test_each_voxel_lies_over_those_that_it_is_the_mean_of(levels: tuple[LevelGrid, ...]) -> None:
    """Law 9: voxel size times the factor, translation plus half the difference to level 0, so low edges coincide."""
    base = levels[0]
    total = np.ones(3)
    for level in levels:
        total *= level.factor
        np.testing.assert_allclose(level.voxel_size, np.multiply(base.voxel_size, total), rtol=1e-12)
        by_law = np.add(base.translation, np.subtract(level.voxel_size, base.voxel_size) / 2)
        np.testing.assert_allclose(level.translation, by_law, rtol=1e-12, atol=1e-9)
        centres = np.add(base.translation, (total - 1) / 2 * base.voxel_size)
        np.testing.assert_allclose(level.translation, centres, rtol=1e-9, atol=1e-6)


@given(pyramids())
def test_an_axis_is_halved_only_while_it_is_about_as_fine_as_the_finest(levels: tuple[LevelGrid, ...]) -> None:
    for fine, coarse in pairwise(levels):
        finest = min(s for s, n in zip(fine.voxel_size, fine.shape, strict=True) if n > 1)
        for size, n, factor in zip(fine.voxel_size, fine.shape, coarse.factor, strict=True):
            assert (factor == 2) == (n > 1 and size <= 2**0.5 * finest)


def test_thick_sections_are_joined_once_pixels_are_as_large() -> None:
    """8 nm pixels in 40 nm sections: in plane first, and z once a pixel measures 32 nm."""
    factors = [level.factor for level in plan_levels((512, 8192, 8192), (40.0, 8.0, 8.0), (0.0, 0.0, 0.0))]
    assert factors[1:4] == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]


@given(pyramids())
def test_fused_levels_come_first_and_their_shards_are_shadows(levels: tuple[LevelGrid, ...]) -> None:
    """A level-0 shard's shadow on a fused level is one whole shard of whole chunks, for every shard of the volume."""
    fused = [level.fused for level in levels]
    assert fused == sorted(fused, reverse=True)
    assert fused[0]
    assert fused_count(levels) == sum(fused)
    for level in levels:
        assert all(s % c == 0 for s, c in zip(level.shard, level.chunk, strict=True))
    total = np.ones(3, int)
    for level in levels[: fused_count(levels)]:
        total *= level.factor
        assert tuple(total * level.shard) == levels[0].shard
        own = RegionGrid(level.shape, level.shard, (1, 1, 1))
        first = RegionGrid(levels[0].shape, levels[0].shard, (1, 1, 1))
        assert own.grid == first.grid
        for index in {0, first.count // 2, first.count - 1}:
            shadow = first.region(index).box.coarsened((int(total[0]), int(total[1]), int(total[2])))
            assert shadow == own.region(index).box


@given(pyramids())
def test_a_level_is_fused_as_soon_as_it_can_be(levels: tuple[LevelGrid, ...]) -> None:
    for fine, coarse in pairwise(levels):
        divides = all(s % (f * c) == 0 for s, f, c in zip(fine.shard, coarse.factor, coarse.chunk, strict=True))
        assert coarse.fused == (fine.fused and divides)


@given(SIZES)
def test_the_default_chunk_is_near_a_cube(voxel_size: Size) -> None:
    """2**18 voxels, powers of two, and no axis (that is longer than one voxel) more than twice another in nm."""
    chunk = default_chunk(voxel_size)
    assert chunk[0] * chunk[1] * chunk[2] == 2**18
    assert all(n & (n - 1) == 0 for n in chunk)
    extents = [n * size for n, size in zip(chunk, voxel_size, strict=True)]
    assert max(extents) <= 2 * min(extents) * (1 + 1e-12)


def test_chunks_of_common_volumes() -> None:
    assert default_chunk((8.0, 8.0, 8.0)) == (64, 64, 64)
    assert default_chunk((40.0, 4.0, 4.0)) == (16, 128, 128)


def test_shards_grow_with_the_volume() -> None:
    assert default_shard((64, 64, 64), (4096, 4096, 4096)) == (256, 256, 256)
    assert default_shard((64, 64, 64), (4096, 4096, 4097)) == (512, 512, 512)


def test_a_shard_that_is_not_whole_chunks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_levels((10, 10, 10), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (4, 4, 4), (8, 6, 8))
    assert caught.value.code == "config.shard"


@given(SIZES, PLACES, st.tuples(*[st.integers(1, 5)] * 3), SHAPES)
def test_upscaling_keeps_edges_and_centre_of_mass(size: Size, place: Size, scale: Triple, shape: Triple) -> None:
    fine, moved = upscaled(size, place, scale)
    for s, t, f, n, fs, ft in zip(size, place, scale, shape, fine, moved, strict=True):
        tolerance = 1e-9 * (abs(t) + n * s)
        assert ft - fs / 2 == pytest.approx(t - s / 2, abs=tolerance)
        assert ft + (n * f - 0.5) * fs == pytest.approx(t + (n - 0.5) * s, abs=tolerance)
        assert ft + (n * f - 1) / 2 * fs == pytest.approx(t + (n - 1) / 2 * s, abs=tolerance)


def test_a_region_owns_the_same_shards_on_all_fused_levels() -> None:
    """Law 4: shards of the fused levels, over all regions, have one owner each."""
    levels = plan_levels((37, 130, 70), (8.0, 4.0, 4.0), (0.0, 0.0, 0.0), (4, 8, 8), (16, 32, 32))
    grid = RegionGrid(levels[0].shape, levels[0].shard, (1, 2, 3))
    assert fused_count(levels) > 2
    total = (1, 1, 1)
    for level in levels[: fused_count(levels)]:
        total = (total[0] * level.factor[0], total[1] * level.factor[1], total[2] * level.factor[2])
        shards = RegionGrid(level.shape, level.shard, (1, 1, 1))
        owners: list[int] = []
        for index in range(grid.count):
            owners += shards.touching(grid.region(index).box.coarsened(total))
        assert sorted(owners) == list(range(shards.count))


def test_voxels_that_fit_a_whole_number_of_times_give_that_number_and_others_none() -> None:
    assert whole_ratio((40, 32, 32), (40, 8, 8), 1e-3) == (1, 4, 4)
    assert whole_ratio((40, 32.01, 32), (40, 8, 8), 1e-3) == (1, 4, 4)  # rounded where it was written
    assert whole_ratio((40, 33, 32), (40, 8, 8), 1e-3) is None
    assert whole_ratio((40, 4, 8), (40, 8, 8), 1e-3) is None  # the coarse one is the finer
