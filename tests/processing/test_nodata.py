"""Missing voxels: filled inside the patch, written back as missing, left out of every mean."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from harness import (
    Case,
    Voxels,
    cases,
    flat_case,
    random_voxels,
    replicated,
    run_case,
    section_statistics,
    wholly,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Places, enhance_whole, places_of

from volumetool.processing.columns import read_columns
from volumetool.processing.statistics import Statistics
from volumetool.storage.voxels import Source

SEEDS = st.integers(0, 2**32 - 1)
ENDS = [("uint8", 0, 0), ("uint8", 0, 255), ("int16", -32768, -32768), ("int8", 7, -128), ("uint16", 3, 0)]
"""dtype, value of missing voxels in the input, and in the output: an end of the dtype's range."""


def ragged(seed: int, voxels: Voxels, nodata: float) -> Voxels:
    """Mark voxels as missing: a slanted border, holes, and now and then a whole section."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices(voxels.shape)
    a, b = random.uniform(-1, 1, 2)
    missing = a * (y - voxels.shape[1] / 2) + b * (x - voxels.shape[2] / 2) > random.uniform(-2, 6)
    missing |= random.random(voxels.shape) < 0.05
    lost: Voxels = np.less(random.random(voxels.shape[0]), 0.15)
    missing |= lost[z]
    return np.where(missing, nodata, voxels).astype(voxels.dtype)


def is_missing(voxels: Voxels, nodata: float) -> Voxels:
    missing: Voxels = np.isnan(voxels) if math.isnan(nodata) else np.equal(voxels, nodata)
    return missing


def mean_of_valid(voxels: Voxels, factor: tuple[int, int, int], nodata: float) -> tuple[Voxels, Voxels]:
    """Return float64 block means of valid voxels, and how many there were in each block."""
    shape = tuple(-(-n // f) for n, f in zip(voxels.shape, factor, strict=True))
    means, counts = np.full(shape, np.nan), np.zeros(shape, int)
    for place in np.ndindex(shape):
        block = voxels[tuple(slice(p * f, (p + 1) * f) for p, f in zip(place, factor, strict=True))]
        valid = block[~is_missing(block, nodata)].astype(np.float64)
        counts[place] = valid.size
        if valid.size:
            means[place] = valid.sum() / valid.size
    return means, counts


@settings(max_examples=60)
@given(case=cases(), kind=st.sampled_from(ENDS), seed=SEEDS)
def test_valid_voxels_stay_valid_and_missing_ones_missing(case: Case, kind: tuple[str, int, int], seed: int) -> None:
    """Identity: every valid voxel is its own, but for the one value that means missing; every missing one is `fill`."""
    dtype, nodata, fill = kind
    voxels = ragged(seed, random_voxels(seed, case.lattice.shape, np.dtype(dtype)), nodata)
    statistics = section_statistics(seed, case.lattice.z.size, voxels.dtype)
    spec = case.spec(dtype, statistics, nodata=float(nodata), fill=float(fill))
    level0 = run_case(case, "identity", spec, voxels).levels[0]

    missing = replicated(voxels == nodata, case.lattice.scale)[case.box.slices]
    inner = np.where(voxels == fill, fill + (1 if fill <= 0 else -1), voxels.astype(int))
    expected = np.where(missing, fill, replicated(inner, case.lattice.scale)[case.box.slices])
    np.testing.assert_array_equal(level0, expected)


@settings(max_examples=30)
@given(case=cases(), seed=SEEDS)
def test_nan_is_written_back_as_nan(case: Case, seed: int) -> None:
    """A float volume whose missing voxels are NaN keeps exactly those, and every other voxel bit for bit."""
    voxels = ragged(seed, random_voxels(seed, case.lattice.shape, np.dtype("float32")), math.nan)
    spec = case.spec("float32", nodata=math.nan, fill=math.nan)
    level0 = run_case(case, "identity", spec, voxels).levels[0]
    np.testing.assert_array_equal(level0, replicated(voxels, case.lattice.scale)[case.box.slices], strict=True)


@settings(max_examples=60)
@given(case=cases(), nodata=st.sampled_from([0.0, math.nan]), span=st.tuples(*[st.integers(1, 3)] * 3), seed=SEEDS)
def test_regions_cannot_be_seen_in_what_was_filled(case: Case, nodata: float, span: tuple[int, int, int], seed: int) -> None:
    """With a network that looks around, two cuts of a ragged volume agree on every fused level."""
    voxels = ragged(seed, random_voxels(seed, case.lattice.shape, np.dtype("uint8")).astype(np.float32), nodata)
    spec = case.spec("uint8", nodata=nodata, fill=0.0)
    first = run_case(case, "box", spec, voxels)
    second = run_case(replace(case, batch=case.batch + 1), "box", spec, voxels, span)
    for a, b in zip(first.levels, second.levels, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@settings(max_examples=40)
@given(case=cases(crop=False), nodata=st.sampled_from([0.0, math.nan]), seed=SEEDS)
def test_missing_voxels_take_the_nearest_valid_value_of_their_section(case: Case, nodata: float, seed: int) -> None:
    """By brute force over every patch: filled with a valid voxel at the least distance; 0 where a section has none."""
    voxels = ragged(seed, random_voxels(seed, case.lattice.shape, np.dtype("uint8")).astype(np.float32), nodata)
    spec = case.spec("float32", nodata=nodata, fill=0.0)
    region = wholly(case).grid().region(0)
    for column in read_columns(spec, region, Source(ts.array(voxels)), case.batch):
        for number, patch in enumerate(column.patches):
            z, y = column.z[number // len(column.y)], column.y[number % len(column.y)]
            seen = voxels[np.ix_(*places_of((z, y, column.x), voxels.shape, case.geometry))]
            for filled, section in zip(patch, seen, strict=True):
                check_filled(filled, section, is_missing(section, nodata))


def check_filled(filled: Voxels, section: Voxels, missing: Voxels) -> None:
    if missing.all():
        assert (filled == 0).all()
        return
    np.testing.assert_array_equal(filled[~missing], section[~missing])
    valid = np.argwhere(~missing)
    for place in np.argwhere(missing)[::7]:
        distance = np.square(valid - place).sum(1)
        nearest = valid[distance == distance.min()]
        assert filled[tuple(place)] in section[tuple(nearest.T)]


def test_the_network_sees_the_filled_patch() -> None:
    """At a straight border the network's values are those of the outermost column, carried on."""
    case = flat_case((2, 11, 23))
    voxels = random_voxels(4, case.lattice.shape, np.dtype("uint8")).astype(np.float32) + 1
    border, (_, fy, fx) = 9, case.lattice.scale
    carried = voxels.copy()
    carried[..., border:] = voxels[..., border - 1 : border]
    voxels[..., border:] = 0
    level0 = run_case(case, "box", case.spec("float32", nodata=0.0, fill=-1.0), voxels).levels[0]
    expected = enhance_whole(carried, case.model("box").network(), case.geometry)
    assert fy == fx
    np.testing.assert_array_equal(level0[..., : border * fx], expected[..., : border * fx])
    assert (level0[..., border * fx :] == -1).all()


@settings(max_examples=40)
@given(case=cases(), seed=SEEDS)
def test_patches_without_two_values_are_skipped(case: Case, seed: int) -> None:
    """A patch whose valid voxels are all alike, or that has none, is not asked of the network; each is counted."""
    voxels = ragged(seed, random_voxels(seed, case.lattice.shape, np.dtype("uint8")), 0)
    voxels[..., : voxels.shape[2] // 2] = 0
    skipped = run_case(wholly(case), "box", case.spec("uint8", nodata=0.0, fill=0.0), voxels).skipped
    region = wholly(case).grid().region(0)
    expected = 0
    for index in np.ndindex(*(line.count for line in case.lattice.axes)):
        touched = [line.touching(a, b) for line, a, b in zip(case.lattice.axes, case.box.start, case.box.stop, strict=True)]
        if all(i in line for i, line in zip(index, touched, strict=True)):
            z, y, x = (int(i) for i in index)
            seen = voxels[np.ix_(*places_of((z, y, x), voxels.shape, case.geometry))]
            expected += len(np.unique(seen[seen != 0])) < 2
    assert region.box.voxels == case.box.voxels
    assert skipped == expected


@settings(max_examples=30)
@given(case=cases(), kind=st.sampled_from(ENDS), seed=SEEDS)
def test_missing_voxels_are_left_out_of_every_mean(case: Case, kind: tuple[str, int, int], seed: int) -> None:
    """Fused levels: the mean of valid voxels, half to even; missing where there is none, and only there."""
    dtype, nodata, fill = kind
    voxels = ragged(seed, random_voxels(seed, case.lattice.shape, np.dtype(dtype)), nodata)
    spec = case.spec(dtype, nodata=float(nodata), fill=float(fill))
    levels = run_case(case, "identity", spec, voxels).levels
    for number in range(1, len(levels)):
        means, counts = mean_of_valid(levels[number - 1], spec.fused[number].factor, fill)
        np.testing.assert_array_equal(levels[number] == fill, counts == 0)
        np.testing.assert_array_equal(levels[number][counts > 0], np.rint(means[counts > 0]))


def background(seed: int, voxels: Voxels) -> Voxels:
    """Set two corners to a constant each: resin around a sample."""
    random = np.random.default_rng(seed)
    y, x = (int(random.integers(0, n + 1)) for n in voxels.shape[1:])
    result = voxels.copy()
    result[:, :y, :x] = 200
    result[:, y:, x:] = 10
    return result


@settings(max_examples=60)
@given(case=cases(), masked=st.booleans(), seed=SEEDS)
def test_whether_a_patch_is_skipped_depends_on_its_input_alone(case: Case, masked: bool, seed: int) -> None:  # noqa: FBT001
    """Constant patches and those outside the mask count as their input, enlarged, wherever regions are cut."""
    voxels = background(seed, random_voxels(seed, case.lattice.shape, np.dtype("uint8"))).astype(np.float32)
    factor = (1, 2, 3)
    random = np.random.default_rng(seed)
    mask = random.random([-(-n // f) for n, f in zip(voxels.shape, factor, strict=True)]) < 0.05
    wanted = replicated(mask, factor)[tuple(slice(0, n) for n in voxels.shape)]
    context = case.lattice.context

    def asked(places: Places) -> bool:
        own = (places[0][context : len(places[0]) - context], places[1], places[2])
        varied = len(np.unique(voxels[np.ix_(*places)])) > 1
        return varied and (not masked or bool(wanted[np.ix_(*own)].any()))

    source = Source(ts.array(voxels), ts.array(mask.astype(np.uint8)) if masked else None, factor)
    outcome = run_case(case, "position", case.spec("float32"), source)
    expected = enhance_whole(voxels, case.model("position").network(), case.geometry, asked)[case.box.slices]
    np.testing.assert_array_equal(outcome.levels[0], expected, strict=True)


@pytest.mark.parametrize("behaviour", ["identity", "box"])
def test_a_volume_without_contrast_comes_back_enlarged(behaviour: str) -> None:
    """A constant volume is never asked of the network, not even a network that pads with zeros."""
    case = flat_case((2, 11, 17))
    voxels = np.full(case.lattice.shape, 90, np.uint8)
    outcome = run_case(case, behaviour, case.spec("uint8"), voxels)
    assert (outcome.levels[0] == 90).all()
    assert outcome.skipped == outcome.patches > 0


def test_inverted_polarity_is_turned_there_and_back() -> None:
    """The identity stays the identity, and the network sees dark as bright."""
    case = flat_case((4, 11, 17))
    voxels = random_voxels(3, case.lattice.shape, np.dtype("uint8"))
    statistics = section_statistics(5, 4, voxels.dtype)
    spec = case.spec("uint8", statistics, invert=True)
    np.testing.assert_array_equal(run_case(case, "identity", spec, voxels).levels[0], replicated(voxels, case.lattice.scale))
    columns = list(read_columns(spec, wholly(case).grid().region(0), Source(ts.array(voxels)), 3))
    plain = list(
        read_columns(spec.model_copy(update={"invert": False}), wholly(case).grid().region(0), Source(ts.array(voxels)), 3)
    )
    for turned, straight in zip(columns, plain, strict=True):
        np.testing.assert_allclose(turned.patches, 1 - straight.patches, rtol=1e-4, atol=1e-4)


def test_equalising_gives_all_sections_the_median_contrast() -> None:
    """Sections that show the same tissue with other gain and offset come out alike; without it each keeps its own."""
    case = flat_case((5, 12, 20))
    tissue = np.random.default_rng(2).random(case.lattice.shape[1:])
    low, gain = np.array([10.0, 30.0, 20.0, 5.0, 40.0]), np.array([100.0, 150.0, 120.0, 90.0, 200.0])
    voxels = (low[:, None, None] + gain[:, None, None] * tissue).astype(np.float32)
    statistics = Statistics(low[None], (low + gain)[None])
    flat: dict[bool, Any] = {
        on: run_case(case, "identity", case.spec("float32", statistics, equalise_sections=on), voxels).levels[0]
        for on in (True, False)
    }
    expected = replicated(np.median(low) + (np.median(low + gain) - np.median(low)) * tissue[None], (1, 2, 2))
    np.testing.assert_allclose(flat[True], np.repeat(expected, 5, 0), atol=1e-3)
    np.testing.assert_allclose(flat[False], replicated(voxels, (1, 2, 2)), atol=1e-3)


def test_a_volume_without_data_comes_back_as_such() -> None:
    """A volume of missing voxels alone is written as missing, and the network is never asked."""
    case = flat_case((2, 9, 9))
    voxels = np.zeros(case.lattice.shape, np.uint8)
    outcome = run_case(case, "box", case.spec("uint8", nodata=0.0, fill=255.0), voxels)
    assert (outcome.levels[0] == 255).all()
    assert outcome.skipped == outcome.patches


@pytest.mark.parametrize("nodata", [float(np.finfo(np.float32).min), math.inf, -math.inf, math.nan])
def test_extreme_marks_of_missing_voxels_do_no_harm(nodata: float) -> None:
    """The lowest float32, infinity, NaN: whatever marks a missing voxel, no number is made of it."""
    case = flat_case((2, 9, 17))
    voxels = np.random.default_rng(6).random(case.lattice.shape, np.float32)
    statistics = Statistics(np.full((1, 2), 0.1), np.full((1, 2), 0.6))
    spec = case.spec("float32", statistics, nodata=nodata, fill=-1.0)
    level0 = run_case(case, "box", spec, ragged(2, voxels, nodata)).levels[0]
    marked = replicated(ragged(2, voxels, -1.0) == -1, case.lattice.scale)
    np.testing.assert_array_equal(level0 == -1, marked)
    assert np.isfinite(level0).all()
