"""Chains of operations: one job, no volume between, and the bytes of jobs one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
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
