"""One digest: whatever the regions, the workers, and however often the job was killed."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tifffile
from small_jobs import digest, run, voxels_of, write_input

from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.jobs.verification.verify import verify
from volumetool.storage.writing.names import DEFAULT, WrittenName

KILLS = 20
SECTIONS = 36
"""So many that the job outlasts all kills: every one waits for a record, and those of a second come together."""
OPTIONS: dict[str, Any] = {
    "model": "em-x4",
    "patch": "1,64,64",
    "nodata": 0,
    "chunk": "4,16,16",
    "shard": "8,64,64",
    "memory": "8GiB",
    "device": "cpu",
}
SHAPES = ("1,1,1", "1,2,9", "3,3,4")


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a crop of a real volume, with a ragged border without data and a block of constant background."""
    file = data / "fib25-fibsem" / "fib25_val_z0-199_y0-339.tif"
    voxels = np.maximum(tifffile.imread(file, key=range(SECTIONS))[:, 40:136, 100:230], 1)
    random = np.random.default_rng(3)
    for z, x in np.ndindex(SECTIONS, 130):
        voxels[z, : 4 + z // 4 + random.integers(4), x] = 0
    voxels[:, :, -5:][random.random((SECTIONS, 96, 5)) < 0.5] = 0
    voxels[:, 60:, 70:118] = 128
    return str(write_input(tmp_path_factory.mktemp("real") / "in.zarr", voxels, chunk=(8, 32, 32)))


@pytest.fixture(scope="module")
def straight(source: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the digest of the job done in one go by the process itself, in regions of the planner's choice."""
    output = str(tmp_path_factory.mktemp("straight") / "out.zarr")
    assert run(input=source, output=output, **OPTIONS).complete
    return digest(output)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("region", "workers"), list(itertools.product(SHAPES, (1, 2, 3))))
def test_region_shapes_and_workers_make_one_digest(
    source: str, straight: str, tmp_path: Path, region: str, workers: int
) -> None:
    """One worker is the process itself, more are processes of their own."""
    outcome = run(input=source, output=str(tmp_path / "out.zarr"), **OPTIONS, region=region, workers=workers)
    assert outcome.complete
    assert digest(tmp_path / "out.zarr") == straight


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("keep", "name"), [("always", DEFAULT), *(("never", name) for name in get_args(WrittenName))])
def test_a_job_that_is_killed_twenty_times_makes_the_same_digest(
    source: str, straight: str, tmp_path: Path, keep: str, name: WrittenName
) -> None:
    """SIGKILL to all its processes at random moments: what is on record is never done again, and nothing is missing."""
    output = str(tmp_path / "out")
    job = {"input": source, "output": output, **OPTIONS, "region": "1,1,1", "patch-cache": keep, "format": name}
    if name != DEFAULT:  # regions as large as one shard
        del job["shard"]
        job["region"] = "2,4,4"
    asked = {name.replace("-", "_"): value for name, value in job.items()}
    regions = plan(make_job(**asked)).grid.count
    assert regions >= 60
    random = np.random.default_rng(11)
    kills = 0
    before = 0
    while kills < KILLS:
        process = start(job, workers=1 + kills % 2, log=tmp_path / "log")
        recorded = wait_for_a_record(output, before, process)
        time.sleep(float(random.random()) * 0.3)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
        kills += 1
        assert before < recorded <= count(output) < regions
        before = count(output)
    process = start(job, workers=2, log=tmp_path / "log")
    assert process.wait() == 0, (tmp_path / "log").read_text()

    decided = stored_plan(output)
    assert decided.fingerprint == plan(make_job(**asked)).fingerprint  # the command line asked for the same job
    ledger = open_ledger(decided)
    times = Counter(record.region for record in ledger.records())
    assert set(times.values()) == {1}
    assert len(times) == ledger.done == regions
    totals = ledger.totals()
    if keep == "never":
        assert totals.patches == decided.estimates.patches
    # Of regions that run at once one may be killed; what it has in common with the others is then nobody's first.
    assert totals.patches - totals.recomputed <= decided.spec.lattice.count
    assert not Path(f"{output}.job", "patches").exists()
    assert ledger.damaged == 0
    assert voxels_of(output) == straight
    assert verify(decided).ok


def start(job: dict[str, Any], *, workers: int, log: Path) -> subprocess.Popen[bytes]:
    options = [f"--{name}={value}" for name, value in job.items() if name not in ("input", "output")]
    command = [sys.executable, "-m", "volumetool.cli.main", "enhance", job["input"], job["output"], f"--workers={workers}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VOLUMETOOL_TRACEBACK": "1"}
    with log.open("wb") as stream:
        return subprocess.Popen([*command, *options], start_new_session=True, stdout=stream, stderr=stream, env=environment)


def wait_for_a_record(output: str, before: int, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 300
    while count(output) <= before:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return count(output)


def count(output: str) -> int:
    """Return how many regions are on record, without the product's help."""
    segments = Path(f"{output}.job", "ledger").glob("*.jsonl")
    return sum(len(segment.read_bytes().splitlines()) for segment in segments)
