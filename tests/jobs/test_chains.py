"""Chains of operations: one job, no volume between, and the bytes of jobs one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from small_jobs import read_levels

import volumetool as vt
from volumetool.jobs.plan import Plan
from volumetool.testing.operation_suite import OperationSuite

FILTERS = ("gaussian:sigma=0.5,1,1.5", "median:radius=0,1,1", "unsharp:sigma=0,1,1;amount=1.5")
"""One that looks across sections, and two that do not."""


class TestFilters(OperationSuite):
    operation = " -> ".join(FILTERS)
    slow_cases = ("test_a_killed_job_goes_on_to_the_same_bytes", "test_verify_finds_a_flipped_bit_and_nothing_before")

    def check_whole(self, voxels: NDArray[Any], decided: Plan, made: NDArray[Any]) -> None:
        """Compare with three jobs, one after the other."""
        folder = Path(decided.output).parent
        source = self.write(folder / f"{voxels.shape}.zarr", voxels)
        np.testing.assert_array_equal(made, _one_after_the_other(source, folder, FILTERS), strict=True)


def _one_after_the_other(place: Path, folder: Path, operations: tuple[str, ...], **options: Any) -> NDArray[Any]:
    """Return the finest level of the last of several jobs, each of which reads the output of the one before."""
    for number, operation in enumerate(operations):
        output = folder / f"job-{number}.zarr"
        assert vt.apply(operation, place, output, device="cpu", workers=1, **options).complete
        place, options = output, {}
    return read_levels(place)[0]


def test_a_network_in_the_middle_gets_the_statistics_of_what_is_never_stored(tmp_path: Path) -> None:
    """Statistics of the second and third, and a grid that the second makes finer."""
    chain = ("destripe:length=4;width=1", "em-x2", "nlm:size=3;distance=2")
    source = OperationSuite.write(tmp_path / "in.zarr", _shapes((3, 40, 72)))
    expected = _one_after_the_other(source, tmp_path, chain)
    assert vt.apply(chain, source, tmp_path / "out.zarr", device="cpu", workers=1, shard="4,32,64", chunk="4,32,64").complete
    made = read_levels(tmp_path / "out.zarr")[0]
    assert made.shape == (3, 80, 144)
    np.testing.assert_array_equal(made, expected, strict=True)


def test_each_channel_that_an_operation_makes_is_a_volume_of_its_own_to_the_next(tmp_path: Path) -> None:
    def two(block: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([block, 255 - block])

    source = OperationSuite.write(tmp_path / "in.zarr", _shapes((2, 40, 50)))
    both = {"channels": ("same", "turned"), "halo": (0, 0, 0)}
    assert vt.apply(two, source, tmp_path / "two.zarr", device="cpu", **both).complete
    expected = _one_after_the_other(tmp_path / "two.zarr", tmp_path, ("unsharp", "median"))
    assert expected.shape == (2, 2, 40, 50)
    assert vt.apply([{two: both}, "unsharp", "median"], source, tmp_path / "out.zarr", device="cpu").complete
    np.testing.assert_array_equal(read_levels(tmp_path / "out.zarr")[0], expected, strict=True)


def _shapes(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return smooth blobs with noise, which networks and statistics find something in."""
    random = np.random.default_rng(1)
    blobs = ndimage.gaussian_filter(random.normal(size=shape), (0.5, 2, 2))
    return np.clip(128 + 300 * blobs + random.normal(0, 8, shape), 1, 255).astype(np.uint8)
