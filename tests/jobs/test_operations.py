"""Built-in operations: each keeps the promises of every operation, and is what a library makes of the whole volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.exposure import match_histograms
from skimage.measure import block_reduce
from skimage.restoration import denoise_nl_means
from skimage.transform import downscale_local_mean
from small_jobs import read_levels

import volumetool as vt
from volumetool.errors import ConfigError
from volumetool.jobs.plan import Plan
from volumetool.processing.operation import filters, open_operation, operation_name
from volumetool.processing.operations.smoothing import Median
from volumetool.testing.operation_suite import OperationSuite

Floats = NDArray[np.float32]
KILLED = ("test_a_killed_job_goes_on_to_the_same_bytes", "test_verify_finds_a_flipped_bit_and_nothing_before")
"""Of these the Gaussian runs with the fast tests."""

CUT = (*KILLED, "test_regions_patches_and_calls_change_no_byte", "test_the_live_view_shows_the_same_bytes")
"""Of these, too; and of the last two what makes blocks of voxels, or counts the grey values of all sections."""


class TestGaussian(OperationSuite):
    operation = "gaussian:sigma=0.5,1,1.5"
    dtype = "float32"
    other_patch = "8,16,24"
    tolerance = 1e-4

    def whole(self, values: Floats) -> Floats:
        return ndimage.gaussian_filter(values.astype(np.float64), (0.5, 1.0, 1.5), mode="mirror", truncate=4.0)


class TestMedian(OperationSuite):
    operation = "median:radius=1,1,2"
    slow_cases = CUT
    other_patch = "4,8,48"

    def whole(self, values: Floats) -> Floats:
        return ndimage.median_filter(values, (3, 3, 5), mode="mirror")


@pytest.mark.slow
class TestUnsharp(OperationSuite):
    operation = "unsharp:sigma=0,1,1;amount=1.5"
    dtype = "float32"
    other_patch = "1,16,32"
    tolerance = 1e-3

    def whole(self, values: Floats) -> Floats:
        wide = values.astype(np.float64)
        return wide + 1.5 * (wide - ndimage.gaussian_filter(wide, (0, 1, 1), mode="mirror", truncate=4.0))


@pytest.mark.slow
class TestDestripe(OperationSuite):
    operation = "destripe:length=8;width=2"
    dtype = "float32"
    other_patch = "1,128,32"
    tolerance = 1e-3

    def whole(self, values: Floats) -> Floats:
        wide = values.astype(np.float64)
        columns = ndimage.gaussian_filter1d(wide, 8, axis=1, mode="mirror", truncate=4.0)
        return wide - columns + ndimage.gaussian_filter1d(columns, 2, axis=2, mode="mirror", truncate=4.0)


@pytest.mark.slow
class TestNonLocalMeans(OperationSuite):
    operation = "nlm:h=0.2;size=3;distance=3"
    dtype = "float32"
    other_patch = "1,16,48"
    shape = (5, 50, 60)
    tolerance = 1e-3

    def whole(self, values: Floats) -> Floats:
        margin = 4
        wide = np.pad(values, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        means = [denoise_nl_means(each, patch_size=3, patch_distance=3, h=0.2, fast_mode=False) for each in wide]
        return np.stack(means)[:, margin:-margin, margin:-margin]


@pytest.mark.slow
class TestRescale(OperationSuite):
    operation = "rescale:window=50,200;to=0,100"
    other_patch = "1,16,16"

    def whole(self, values: Floats) -> Floats:
        return (np.clip(values, 50, 200) - 50) / np.float32(150) * 100


@pytest.mark.slow
class TestThreshold(OperationSuite):
    operation = "threshold:value=128"
    other_patch = "1,16,16"

    def whole(self, values: Floats) -> Floats:
        return values >= 128


@pytest.mark.slow
class TestEqualise(OperationSuite):
    operation = "equalise"
    dtype = "uint16"

    def whole(self, values: Floats) -> Floats:
        return values


@pytest.mark.slow
class TestRunningEqualise(OperationSuite):
    """Against the medians of the table of sections, by SciPy."""

    operation = "equalise:span=3"
    dtype = "uint16"

    def whole(self, values: Floats) -> Floats:
        return values

    def check_whole(self, voxels: NDArray[Any], decided: Plan, made: NDArray[Any]) -> None:
        low, high = decided.spec.statistics.low[0], decided.spec.statistics.high[0]
        near_low, near_high = (ndimage.median_filter(each, 3, mode="mirror") for each in (low, high))
        zero, span = (each.astype(np.float32)[:, None, None] for each in (low, high - low))
        again, wide = (each.astype(np.float32)[:, None, None] for each in (near_low, near_high - near_low))
        expected = np.clip(np.rint((voxels.astype(np.float32) - zero) / span * wide + again), 0, 65535)
        np.testing.assert_array_equal(made, expected.astype(np.uint16), strict=True)


class TestMatch(OperationSuite):
    """Against all sections together; their counts are in the plan."""

    operation = "match"
    slow_cases = KILLED
    other_patch = "1,16,16"

    def reference(self, values: NDArray[Any], _: int) -> NDArray[Any]:
        return values

    def whole(self, values: Floats) -> Floats:
        grey = values.astype(self.dtype)
        matched = [match_histograms(section[None], self.reference(grey, z)) for z, section in enumerate(grey)]
        single = [(section == section.flat[0]).all() for section in grey]  # stays as it is
        return np.stack([grey[z] if same else made[0] for z, (same, made) in enumerate(zip(single, matched, strict=True))])


@pytest.mark.slow
class TestRunningMatch(TestMatch):
    operation = "match:span=3"
    dtype = "uint16"

    def reference(self, values: NDArray[Any], z: int) -> NDArray[Any]:
        return values[max(0, z - 1) : z + 2]


@pytest.mark.slow
class TestMatchToSection(TestMatch):
    operation = "match:section=0"
    dtype = "int16"

    def reference(self, values: NDArray[Any], _: int) -> NDArray[Any]:
        return values[:1]


class TestTissue(OperationSuite):
    operation = "tissue:deviation=60;sigma=2"
    dtype = "uint16"
    other_patch = "1,32,48"
    slow_cases = CUT

    @classmethod
    def voxels(cls, shape: tuple[int, int, int]) -> NDArray[Any]:
        """Return noise with a quiet, bright half."""
        voxels = np.random.default_rng(0).normal(30000, 100, shape)
        voxels[..., shape[2] // 2 :] = np.random.default_rng(1).normal(60000, 10, voxels[..., shape[2] // 2 :].shape)
        voxels[1:2, 5:30, 10:40] = 0
        return voxels.astype(np.uint16)

    def whole(self, values: Floats) -> Floats:
        wide = values.astype(np.float64)
        mean, square = (ndimage.gaussian_filter(each, (0, 2, 2), mode="mirror") for each in (wide, wide**2))
        return square - mean**2 >= 60**2


class TestBin(OperationSuite):
    """Faces that blocks do not fill are left out."""

    operation = "bin:factor=2,3,4"
    slow_cases = KILLED
    other_patch = "2,12,16"
    shape = (13, 70, 91)
    shard = "2,16,16"
    tolerance = 0.0

    def whole(self, values: Floats) -> Floats:
        return downscale_local_mean(_whole_blocks(values, (2, 3, 4)).astype(np.float64), (2, 3, 4))


@pytest.mark.slow
class TestProject(OperationSuite):
    operation = "project:sections=3;by=max"
    dtype = "uint16"
    other_patch = "6,16,16"
    shape = (11, 70, 90)
    shard = "2,32,32"

    def whole(self, values: Floats) -> Floats:
        return block_reduce(_whole_blocks(values, (3, 1, 1)), (3, 1, 1), np.max)


def _whole_blocks(values: Floats, block: tuple[int, int, int]) -> Floats:
    return values[tuple(slice(size - size % count) for size, count in zip(values.shape, block, strict=True))]


class TestClahe(OperationSuite):
    operation = "clahe:tile=12;clip=3"
    slow_cases = CUT
    dtype = "float32"
    other_patch = "1,60,96"
    tolerance = 0.01

    def whole(self, values: Floats) -> Floats:
        """By the definition, voxel by voxel of a few lines, on tiles that mirror the faces."""
        return np.stack([_clahe(section, 12, 3.0) for section in values])


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 3, 2), (2, 1, 3, 3), (3, 1, 8, 41), (1, 4, 30, 17)])
def test_the_median_of_the_usual_box_is_that_of_scipy(shape: tuple[int, ...]) -> None:
    """Where the box lies in the patch as a whole; equal values, too."""
    for values in (np.random.default_rng(0).integers(0, 5, shape), np.random.default_rng(1).normal(size=shape)):
        patches = values.astype(np.float32)
        made = Median(radius=(0, 1, 1)).compute(patches, np)
        expected = ndimage.median_filter(patches, (1, 1, 3, 3), mode="mirror")
        np.testing.assert_array_equal(made[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], strict=True)
        assert made.shape == shape
        assert not np.shares_memory(made, patches)


def test_blocks_lie_where_they_were_and_a_cut_out_part_is_made_of_the_same_ones(tmp_path: Path) -> None:
    """Centres of voxels: of n voxels of size s the first block's lies (n - 1) / 2 * s behind the first voxel's."""
    voxels = TestBin.voxels((7, 41, 50))
    source = TestBin.write(tmp_path / "in.zarr", voxels)
    done = TestBin.perform(source, tmp_path / "all.zarr", model="bin:factor=2,3,4")
    assert done.complete
    assert "the last 1 x 2 x 2 voxels (z, y, x) fill no whole block of 2 x 3 x 4, and are left out" in done.plan.notes
    level = vt.open_volume(tmp_path / "all.zarr").levels[0]
    assert (level.shape, level.voxel_size, level.translation) == ((3, 13, 12), (60.0, 24.0, 32.0), (15.0, 8.0, 12.0))
    cut = {"model": "bin:factor=2,3,4", "roi": "2:7,10:20,9:50", "crop": True}
    assert TestBin.perform(source, tmp_path / "part.zarr", **cut).complete
    part = vt.open_volume(tmp_path / "part.zarr").levels[0]
    assert (part.shape, part.translation) == ((2, 4, 10), (15.0 + 60, 8.0 + 3 * 24, 12.0 + 2 * 32))
    whole = read_levels(tmp_path / "all.zarr")[0]
    np.testing.assert_array_equal(read_levels(tmp_path / "part.zarr")[0], whole[1:3, 3:7, 2:12], strict=True)
    asked = TestBin.perform(source, tmp_path / "some.zarr", model="bin:factor=2,3,4", roi="2:4,10:20,9:12")
    assert 0 < asked.done < asked.regions or asked.regions == 1
    with pytest.raises(ConfigError, match="become one, the volume has") as caught:
        TestBin.perform(source, tmp_path / "none.zarr", model="bin:factor=8,1,1")
    assert caught.value.code == "config.scale"


def test_a_cast_rounds_and_cuts_to_the_type_that_the_job_says(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(100, 90, (2, 40, 50)).astype(np.float32)
    source = TestGaussian.write(tmp_path / "in.zarr", voxels)
    assert TestGaussian.perform(source, tmp_path / "out.zarr", model="cast", dtype="uint8").complete
    expected = np.clip(np.rint(voxels), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(read_levels(tmp_path / "out.zarr")[0], expected, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize(
    "suite",
    [
        TestGaussian,
        TestMedian,
        TestUnsharp,
        TestDestripe,
        TestRescale,
        TestThreshold,
        TestEqualise,
        TestClahe,
        TestTissue,
        TestRunningEqualise,
        TestMatch,
        TestRunningMatch,
        TestMatchToSection,
        TestBin,
        TestProject,
    ],
)
def test_volumes_of_any_shape_are_what_the_library_makes_of_them(
    suite: type[OperationSuite], seed: int, tmp_path: Path
) -> None:
    """From a single voxel on, with chunks and shards of any size."""
    random = np.random.default_rng(seed)
    least = open_operation(suite.operation).card.shrink
    shape = tuple(int(size) for size in random.integers(least, (9, 60, 70)))
    tried, voxels = suite(), suite.voxels(shape)
    z, y, x = (int(count) for count in random.integers(1, 4, 3))
    source = suite.write(tmp_path / "in.zarr", voxels)
    done = suite().perform(source, tmp_path / "out.zarr", shard=f"{2 * z},{16 * y},{16 * x}")
    tried.check_whole(voxels, done.plan, read_levels(tmp_path / "out.zarr")[0])


OPTIONS = {
    "gaussian": ["sigma=1"],
    "median": ["radius=0,2,2"],
    "nlm": ["h=0.3", "size=3"],
    "unsharp": ["amount=2"],
    "destripe": ["width=2.5"],
    "clahe": ["tile=32"],
    "equalise": [],
    "match": ["section=3"],
    "rescale": ["window=10,20"],
    "tissue": ["deviation=5"],
    "cast": [],
    "bin": ["factor=1,4,4"],
    "project": ["sections=5", "by=mean"],
    "threshold": ["value=7"],
    "crappify": ["recipe=sem-fast", "scale=1,2,2", "seed=3"],
}


@pytest.mark.parametrize("name", list(filters()))
def test_an_operation_is_found_again_by_its_name(name: str) -> None:
    """In any process, and with other options it is another operation."""
    made = open_operation(operation_name(name, OPTIONS[name]))
    again = open_operation(made.spec)
    assert (again.card, again.identity, again.spec) == (made.card, made.identity, made.spec)


def test_two_widths_are_two_operations_and_one_of_no_depth_works_section_by_section() -> None:
    deep, flat = open_operation("gaussian:sigma=1.5"), open_operation("gaussian:sigma=0,1.5,1.5")
    assert deep.identity != flat.identity
    assert (deep.card.dims, flat.card.dims) == (3, 2)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gaussian", []),
        ("gaussian", ["sigma="]),
        ("gaussian", ["sigma=wide"]),
        ("gaussian", ["sigma=-1"]),
        ("gaussian", ["sigma=nan"]),
        ("gaussian", ["sigma=1,2"]),
        ("gaussian", ["sigma=99"]),
        ("gaussian", ["sigma=1", "width=2"]),
        ("median", ["radius"]),
        ("clahe", ["tile=33"]),
        ("rescale", ["window=20,10"]),
        ("nlm", ["size=4"]),
        ("equalise", ["span=4"]),
        ("match", ["span=4"]),
        ("match", ["span=3", "section=1"]),
        ("tissue", ["sigma=2"]),
        ("em-x4", ["sigma=1"]),
    ],
)
def test_options_that_an_operation_does_not_take_are_refused_with_those_that_it_has(name: str, options: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        operation_name(name, options)
    assert caught.value.code == "config.option"
    assert name in caught.value.message
    assert "volumetool apply --list" in caught.value.hint


def _clahe(section: Floats, tile: int, clip: float) -> Floats:
    height, width = section.shape
    margins = [(2 * tile, 3 * tile - size % tile) for size in section.shape]
    bins = np.clip(np.floor(np.pad(section, margins, mode="reflect") * 256), 0, 255).astype(int)

    def rank(row: int, column: int, value: int) -> float:
        block = bins[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        counts = np.minimum(np.histogram(block, np.arange(257))[0], clip * tile**2 / 256)
        return float((counts + (tile**2 - counts.sum()) / 256)[: value + 1].sum() / tile**2)

    ranks: dict[tuple[int, int, int], float] = {}
    made = np.zeros(section.shape, np.float32)
    for y, x in np.ndindex(height, width):
        v, u = (y + 0.5) / tile + 1.5, (x + 0.5) / tile + 1.5
        row, column, value = int(v), int(u), int(bins[y + 2 * tile, x + 2 * tile])
        for r, c in ((row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)):
            if (r, c, value) not in ranks:
                ranks[r, c, value] = rank(r, c, value)
        fy, fx = v - row, u - column
        upper = ranks[row, column, value] * (1 - fx) + ranks[row, column + 1, value] * fx
        lower = ranks[row + 1, column, value] * (1 - fx) + ranks[row + 1, column + 1, value] * fx
        made[y, x] = upper * (1 - fy) + lower * fy
    return made
