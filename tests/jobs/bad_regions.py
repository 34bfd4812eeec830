"""Jobs with regions that go wrong on purpose: a voxel of 255 in the middle of each, which the network cannot bear."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from small_jobs import SMALL, noise, read_levels, replicated, write_input

from volumetool.jobs.run import RunResult

SHAPE = (16, 48, 64)
REGION = (8, 16, 16)
"""Input voxels of a region; patches do not overlap, so that a voxel belongs to one region alone."""

PLACES = list(itertools.product(*(range(n // m) for n, m in zip(SHAPE, REGION, strict=True))))
"""Of each region its place in the grid, in the order of their numbers."""


def bad_volume(path: Path, bad: tuple[int, ...], shape: tuple[int, int, int] = SHAPE) -> str:
    """Write noise below 255, and 255 into some regions."""
    voxels = np.minimum(noise(shape), 250)
    for number in bad:
        z, y, x = (index * size + size // 2 for index, size in zip(PLACES[number], REGION, strict=True))
        voxels[z, y, x] = 255
    return str(write_input(path, voxels, chunk=REGION))


def bad_job(source: str, output: Path, fault: str, **more: Any) -> dict[str, Any]:
    """Return the options of a job in which a fault comes where the input is 255."""
    faulty = "".join(f"&{name}={value}" for name, value in {"fault": fault, **more}.items())
    model = f"fake:identity?patch=1,16,16&overlap=0,0,0&trim=0,0,0{faulty}"
    return {**SMALL, "input": source, "output": str(output), "region": "1,1,1", "model": model}


def assert_others_are_right(outcome: RunResult, bad: tuple[int, ...]) -> None:
    """Make sure that the bad regions are named, and that nothing else is missing: exit code 3, and right voxels elsewhere."""
    assert [record.region for record in outcome.failures] == list(bad)
    assert (outcome.exit_code, outcome.complete) == (3, False)
    assert outcome.done == outcome.regions - len(bad)
    job = outcome.plan.job
    expected = replicated(read_levels(job.input)[0], (1, 4, 4))
    stored = read_levels(job.output)[0]
    for number in range(outcome.regions):
        if number not in bad:
            slices = outcome.plan.grid.region(number).box.slices
            np.testing.assert_array_equal(stored[slices], expected[slices], strict=True)
