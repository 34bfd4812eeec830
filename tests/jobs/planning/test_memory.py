"""Memory does not grow with the output, and is what the plan said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_jobs import write_input

from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.processing.device.arrays import computes_bfloat16, resolve_device

# Runs in a process of its own: peak memory is the process's, and nothing gives it back.
JOB = """
import json, re, sys
from pathlib import Path
from volumetool.jobs.job import make_job
from volumetool.jobs.api import run
outcome = run(make_job(**json.loads(sys.argv[1])))
# Not getrusage: what a process had before it became this one, its parent's memory, counts there.
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({"complete": outcome.complete, "peak": peak, "planned": outcome.plan.estimates.worker_bytes,
                  "regions": outcome.regions}))
"""


def measure(folder: Path, width: int) -> dict[str, int]:
    """Enhance a volume of repeated noise to 16 times its size, in a process of its own; return what it took."""
    tile = np.random.default_rng(0).integers(1, 255, (32, 64, 64), dtype=np.uint8)
    shape = (256, 256, width)
    voxels = np.tile(tile, tuple(-(-n // t) for n, t in zip(shape, tile.shape, strict=True)))
    source = write_input(folder / "in.zarr", voxels, chunk=(64, 128, 128))
    return run_alone(folder, source, model="fake:identity?patch=1,144,144&overlap=0,16,16&trim=0,4,4", threads=1)


def run_alone(folder: Path, source: Path, model: str, threads: int = 2, **options: Any) -> dict[str, int]:
    """Run a job in a process of its own; return what it took."""
    options |= {"input": str(source), "output": str(folder / "out.zarr"), "model": model, "memory": "4GiB", "device": "cpu"}
    ran = subprocess.run(
        [sys.executable, "-c", JOB, json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    measured: dict[str, int] = json.loads(ran.stdout)
    assert measured["complete"]
    return measured


@pytest.mark.slow
def test_four_times_the_output_takes_no_more_memory(tmp_path: Path) -> None:
    """1 and 4 GiB of output, 16 and 64 slabs along the sweep: peaks within 15 %, both near the plan's figure and below it."""
    (tmp_path / "one").mkdir()
    (tmp_path / "four").mkdir()
    one = measure(tmp_path / "one", 1024)
    four = measure(tmp_path / "four", 4096)
    figures = f"1 GiB: {one}, 4 GiB: {four}"
    assert abs(four["peak"] / one["peak"] - 1) <= 0.15, figures
    for found in (one, four):
        assert 0.8 * found["planned"] <= found["peak"] <= found["planned"], figures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "precision", "most"),
    [
        ("em-denoise", "float32", 1.0),
        ("em-denoise", "bfloat16", 1.0),
        ("em-z4", "float32", 1.2),  # its largest blocks lie differently in the heap from run to run
        ("em-z4", "bfloat16", 1.0),
    ],
)
def test_a_network_takes_what_was_planned(tmp_path: Path, model: str, precision: str, most: float) -> None:
    """Where the model was planned with before: at least 0.75 times the figure of the plan, and at most `most` times it."""
    if precision == "bfloat16" and not computes_bfloat16(resolve_device("cpu")):
        pytest.skip("this processor does not compute bfloat16")
    voxels = np.random.default_rng(0).integers(1, 255, (48, 480, 512), dtype=np.uint8)
    source = write_input(tmp_path / "in.zarr", voxels, chunk=(16, 128, 128))
    options = {"precision": precision, "force_voxel_size": True}
    # The ways to run the network are tried here, and known to the job, whose peak they would be.
    plan(make_job(input=str(source), output=str(tmp_path / "no.zarr"), model=model, device="cpu", **options))
    found = run_alone(tmp_path, source, model, **options)
    assert 0.75 * found["planned"] <= found["peak"] <= most * found["planned"], found
