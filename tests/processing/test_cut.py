"""The cut is invisible: output equals an independent whole-volume reference bit for bit, whatever the regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tensorstore as ts
from harness import Case, cases, flat_case, half_even_means, random_voxels, replicated, run_case, section_statistics, solid_case
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import enhance_whole, places_of, varied

from volumetool.geometry import PatchSharing
from volumetool.processing.columns import read_columns
from volumetool.storage.voxels import Source

INTEGERS = ("uint8", "int8", "uint16", "int16")
SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.thin(3)
@pytest.mark.parametrize("_hundred", range(3))
@settings(max_examples=100)
@given(case=cases(), behaviour=st.sampled_from(["position", "box"]), seed=SEEDS)
@example(case=solid_case(), behaviour="position", seed=1)  # the order of the axes shows in the last bits alone
def test_the_cut_equals_the_whole_volume_reference(_hundred: int, case: Case, behaviour: str, seed: int) -> None:
    """100 geometries at a time: every voxel is the reference's, and every patch is counted."""
    voxels = random_voxels(seed, case.lattice.shape, np.dtype("uint8")).astype(np.float32)
    outcome = run_case(case, behaviour, case.spec("float32"), voxels)
    expected = enhance_whole(voxels, case.model(behaviour).network(), case.geometry)[case.box.slices]
    assert outcome.levels[0].dtype == np.float32
    np.testing.assert_array_equal(outcome.levels[0], expected, strict=True)

    assert outcome.patches == PatchSharing(case.grid(), case.lattice, case.box.start).count()
    if not case.cropped:
        assert outcome.patches - outcome.recomputed == case.lattice.count


@pytest.mark.thin(3)
@pytest.mark.parametrize("_hundred", range(3))
@settings(max_examples=100)
@given(case=cases(), dtype=st.sampled_from([*INTEGERS, "float32"]), seed=SEEDS)
def test_identity_repeats_every_voxel(_hundred: int, case: Case, dtype: str, seed: int) -> None:
    """100 geometries at a time: normalised per section, blended and turned back, every voxel is its own again, bit for bit."""
    voxels = random_voxels(seed, case.lattice.shape, np.dtype(dtype))
    statistics = None if dtype == "float32" else section_statistics(seed, case.lattice.z.size, voxels.dtype)
    spec = case.spec(dtype, statistics)
    outcome = run_case(case, "identity", spec, voxels)
    expected = replicated(voxels, case.lattice.scale)[case.box.slices]
    assert outcome.levels[0].tobytes() == np.ascontiguousarray(expected).tobytes()

    if dtype != "float32":
        for number in range(1, len(spec.fused)):
            means = half_even_means(outcome.levels[number - 1], spec.fused[number].factor)
            np.testing.assert_array_equal(outcome.levels[number], means, strict=True)


@settings(max_examples=60)
@given(case=cases(), dtype=st.sampled_from(INTEGERS), seed=SEEDS)
def test_integers_are_the_reference_rounded_once(case: Case, dtype: str, seed: int) -> None:
    """With a network that depends on the place in its patch, integers are the blended floats rounded half to even."""
    voxels = random_voxels(seed, case.lattice.shape, np.dtype(dtype))
    statistics = section_statistics(seed, case.lattice.z.size, voxels.dtype)
    outcome = run_case(case, "position", case.spec(dtype, statistics), voxels)

    low, high = (part[0, :, None, None].astype(np.float32) for part in (statistics.low, statistics.high))
    span = (statistics.high - statistics.low)[0, :, None, None].astype(np.float32)
    assert (high > low).all()
    normal = (voxels.astype(np.float32) - low) / span
    values = enhance_whole(normal, case.model("position").network(), case.geometry, varied(voxels))
    fz = case.lattice.scale[0]
    values = values * np.repeat(span, fz, 0) + np.repeat(low, fz, 0)
    limits = np.iinfo(dtype)
    expected = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)[case.box.slices]
    np.testing.assert_array_equal(outcome.levels[0], expected, strict=True)


@settings(max_examples=60)
@given(case=cases(), span=st.tuples(*[st.integers(1, 3)] * 3), batch=st.integers(1, 9), seed=SEEDS)
def test_region_shape_and_batch_change_no_byte(case: Case, span: tuple[int, int, int], batch: int, seed: int) -> None:
    """Two cuts of one job into regions, with other batches, agree on every fused level."""
    voxels = random_voxels(seed, case.lattice.shape, np.dtype("uint16"))
    spec = case.spec("uint16", section_statistics(seed, case.lattice.z.size, voxels.dtype))
    first = run_case(case, "box", spec, voxels)
    second = run_case(replace(case, batch=batch), "box", spec, voxels, span)
    for a, b in zip(first.levels, second.levels, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


@settings(max_examples=30)
@given(case=cases(), seed=SEEDS)
def test_floats_average_alike_whatever_the_regions(case: Case, seed: int) -> None:
    """The float means of a region's shards are those of one region that holds everything, bit for bit."""
    voxels = random_voxels(seed, case.lattice.shape, np.dtype("float32"))
    spec = case.spec("float32")
    one = run_case(case, "position", spec, voxels, case.grid((1, 1, 1)).grid)
    many = run_case(case, "position", spec, voxels, (1, 1, 1))
    for a, b in zip(one.levels, many.levels, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("behaviour", ["identity", "position", "box"])
def test_running_a_region_twice_gives_the_same_checksums(behaviour: str) -> None:
    """A region that is done again leaves the same bytes and says so."""
    case = flat_case((3, 11, 17))
    voxels = random_voxels(1, case.lattice.shape, np.dtype("uint8"))
    first = run_case(case, behaviour, case.spec("uint8"), voxels)
    again = run_case(case, behaviour, case.spec("uint8"), voxels)
    assert first.checksums == again.checksums


@settings(max_examples=60)
@given(case=cases(crop=False), seed=SEEDS)
def test_the_network_sees_real_neighbours_each_normalised_by_its_own_section(case: Case, seed: int) -> None:
    """Every patch, z context and mirrored faces included, is cut from the volume normalised section by section."""
    voxels = random_voxels(seed, case.lattice.shape, np.dtype("uint8"))
    statistics = section_statistics(seed, case.lattice.z.size, voxels.dtype)
    low, high = (part[0, :, None, None] for part in (statistics.low, statistics.high))
    normal = (voxels - low) / (high - low)
    for index in range(case.grid().count):
        source = Source(ts.array(voxels))
        for column in read_columns(case.spec("uint8", statistics), case.grid().region(index), source, case.batch):
            for number, patch in enumerate(column.patches):
                z, y = column.z[number // len(column.y)], column.y[number % len(column.y)]
                expected = normal[np.ix_(*places_of((z, y, column.x), voxels.shape, case.geometry))]
                np.testing.assert_allclose(patch, expected, rtol=1e-5, atol=1e-5)
