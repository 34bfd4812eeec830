"""The pyramid: every level is the mean of the stored level before it, in whichever pieces it is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from harness import Voxels, half_even_means, random_voxels
from hypothesis import given, settings
from hypothesis import strategies as st

from volumetool.geometry import Box, LevelGrid, RegionGrid, Triple, plan_levels, shard_boxes
from volumetool.storage import downsample as levels
from volumetool.storage.downsample import MEAN, Reduction, build_level
from volumetool.storage.voxels import Source

SHAPES = st.tuples(*[st.integers(1, 13)] * 3)
FACTORS = st.tuples(*[st.integers(1, 2)] * 3)
SEEDS = st.integers(0, 2**32 - 1)
INTEGERS = ("uint8", "int8", "uint16", "int16")


@given(SHAPES, FACTORS, st.sampled_from(INTEGERS), st.booleans(), SEEDS)
def test_integers_are_rounded_half_to_even(shape: Triple, factor: Triple, dtype: str, ends: bool, seed: int) -> None:  # noqa: FBT001
    """Any integer dtype, odd sizes, whole range or small values with many ties: exactly the mean, half to even."""
    voxels = random_voxels(seed, shape, np.dtype(dtype))
    voxels = voxels if ends else voxels % 4
    np.testing.assert_array_equal(MEAN(voxels, factor), half_even_means(voxels, factor), strict=True)


@given(SHAPES, FACTORS, SEEDS)
def test_floats_are_means_within_the_stated_tolerance(shape: Triple, factor: Triple, seed: int) -> None:
    voxels = random_voxels(seed, shape, np.dtype("float32"))
    padded = np.pad(
        voxels.astype(np.float64), [(0, -n % f) for n, f in zip(shape, factor, strict=True)], constant_values=np.nan
    )
    (z, y, x), (fz, fy, fx) = padded.shape, factor
    expected = np.nanmean(padded.reshape(z // fz, fz, y // fy, fy, x // fx, fx), axis=(1, 3, 5))
    means = MEAN(voxels, factor)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, expected, rtol=0, atol=1e-4 * np.abs(voxels).max())


@given(SHAPES, FACTORS, st.sampled_from([*INTEGERS, "float32"]), SEEDS)
def test_leaving_nothing_out_changes_nothing(shape: Triple, factor: Triple, dtype: str, seed: int) -> None:
    """Where no voxel is missing, the means are those of a volume that cannot miss any; floats within the tolerance."""
    voxels = random_voxels(seed, shape, np.dtype(dtype))
    if dtype == "float32":
        a, b = Reduction(nodata=float("nan"))(voxels, factor), MEAN(voxels, factor)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(voxels).max())
    else:
        low = int(np.iinfo(dtype).min)
        voxels = np.maximum(voxels, low + 1)
        np.testing.assert_array_equal(Reduction(nodata=float(low))(voxels, factor), MEAN(voxels, factor), strict=True)


@given(SHAPES, FACTORS, st.sampled_from([(dtype, n) for dtype in INTEGERS for n in (0, 2, 100)]), SEEDS)
def test_valid_voxels_never_average_to_the_missing_value(
    shape: Triple, factor: Triple, kind: tuple[str, int], seed: int
) -> None:
    """Where `nodata` lies between valid values, a mean that hits it is moved by one: only blocks without data are missing."""
    dtype, nodata = kind
    voxels = (nodata + random_voxels(seed, shape, np.dtype("uint8")) % 5 - min(2, nodata)).astype(dtype)
    means = Reduction(nodata=float(nodata))(voxels, factor)
    for place in np.ndindex(means.shape):
        block = voxels[tuple(slice(p * f, (p + 1) * f) for p, f in zip(place, factor, strict=True))]
        valid = block[block != nodata].astype(np.float64)
        assert (means[place] == nodata) == (valid.size == 0)
        if valid.size:
            mean = np.rint(valid.mean())
            assert abs(int(means[place]) - mean) == (mean == nodata)


@settings(max_examples=50)
@given(st.data(), SHAPES, st.sampled_from([*INTEGERS, "float32"]), st.none() | st.just(0.0), SEEDS)
def test_shards_one_by_one_are_the_whole_array_at_once(
    data: st.DataObject, shape: Triple, dtype: str, nodata: float | None, seed: int
) -> None:
    """The fused levels of every region together equal the levels of the whole volume, bit for bit."""
    times = data.draw(st.tuples(*[st.sampled_from([1, 2, 4])] * 3))
    size = data.draw(st.sampled_from([(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.0, 2.0, 1.0)]))
    levels = plan_levels(shape, size, (0.0, 0.0, 0.0), (1, 2, 1), (times[0], 2 * times[1], times[2]))
    fused = tuple(level for level in levels if level.fused)
    voxels = random_voxels(seed, shape, np.dtype(dtype))
    whole = list(Reduction(nodata=nodata).chain(voxels, fused))
    grid = RegionGrid(shape, fused[0].shard, (1, 1, 1))
    pieces: list[Any] = [np.zeros_like(level) for level in whole]
    for index in range(grid.count):
        box = grid.region(index).box
        for number, part in enumerate(Reduction(nodata=nodata).chain(voxels[box.slices], fused)):
            if number:
                box = box.coarsened(fused[number].factor)
            pieces[number][box.slices] = part
    for a, b in zip(pieces, whole, strict=True):
        assert a.tobytes() == b.tobytes()


def level_of(shape: Triple, factor: Triple, shard: Triple) -> LevelGrid:
    coarse = (-(-shape[0] // factor[0]), -(-shape[1] // factor[1]), -(-shape[2] // factor[2]))
    return LevelGrid(coarse, shard, shard, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), factor, fused=False)


@settings(max_examples=50)
@given(SHAPES, FACTORS, st.tuples(*[st.integers(3, 6)] * 3), st.integers(1, 200), st.none() | st.just(0.0), SEEDS)
def test_a_built_level_is_the_mean_of_the_whole_one(
    shape: Triple, factor: Triple, shard: Triple, span: int, nodata: float | None, seed: int
) -> None:
    """In any shards, and however few voxels are held at once."""
    voxels = random_voxels(seed, shape, np.dtype("uint8")) % 5
    level = level_of(shape, factor, shard)
    coarse = ts.array(np.full(level.shape, 99, np.uint8))
    steps: list[Box] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "SPAN_VOXELS", span)
        build_level(Source(ts.array(voxels)), coarse, level, reduction=Reduction(nodata=nodata), ready=steps.append)
    np.testing.assert_array_equal(np.asarray(coarse), Reduction(nodata=nodata)(voxels, factor))
    assert steps == list(shard_boxes(level))


@settings(max_examples=50)
@given(SHAPES, FACTORS, st.tuples(*[st.integers(3, 6)] * 3), SHAPES, SHAPES)
def test_within_a_box_only_its_shards_are_written(shape: Triple, factor: Triple, shard: Triple, a: Triple, b: Triple) -> None:
    voxels: Voxels = random_voxels(1, shape, np.dtype("uint8")) % 90
    level = level_of(shape, factor, shard)
    box = Box((a[0] - 2, a[1] - 2, a[2] - 2), b)
    written = np.zeros(level.shape, bool)
    grid = RegionGrid(level.shape, shard, (1, 1, 1))
    for index in range(grid.count):
        if grid.region(index).box.touches(box):
            written[grid.region(index).box.slices] = True
    coarse = ts.array(np.full(level.shape, 99, np.uint8))
    build_level(Source(ts.array(voxels)), coarse, level, within=box)
    np.testing.assert_array_equal(np.asarray(coarse), np.where(written, MEAN(voxels, factor), 99))
