"""What a job asks of a file system that others use, too: files opened as the plan says, and bytes as the limit says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_jobs import SMALL, noise, run, write_input

import volumetool as vt
from volumetool.events import Event, RegionEnded, RunStarted
from volumetool.jobs.inspection import status

REGIONS = """
import sys
from volumetool.geometry import RegionTask
from volumetool.jobs.clusters import plan
from volumetool.jobs.execution.worker import Worker
from volumetool.jobs.job import read_job
from volumetool.jobs.preparation import prepare

decided = plan(read_job(sys.argv[1]))
prepare(decided)
worker = Worker(decided)
print(decided.estimates.opens, sum(worker.run(RegionTask(number)).opens for number in range(decided.grid.count)))
"""
"""A program that computes all regions of a job, and says how many opens were planned and counted."""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Give a job of 32 regions, most of which lie at a face of the volume."""
    source = write_input(tmp_path / "in.zarr", noise((16, 60, 64)))
    return SMALL | {"region": "1,1,1", "input": str(source), "output": str(tmp_path / "out.zarr")}


@pytest.mark.parametrize("name", [pytest.param("in.zarr", marks=pytest.mark.slow), "sharded.zarr"])
def test_files_are_opened_as_often_as_the_plan_says(options: dict[str, Any], tmp_path: Path, name: str) -> None:
    if name == "sharded.zarr":
        vt.convert(options["input"], tmp_path / name, chunk="4,16,16", shard="8,32,32")
    outcome = run(**options | {"input": str(tmp_path / name)})
    assert status(outcome.output).opens == pytest.approx(outcome.plan.estimates.opens, rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_system_is_asked_for_as_many_files_as_are_counted(options: dict[str, Any], tmp_path: Path) -> None:
    job, trace = tmp_path / "job.yaml", tmp_path / "trace.txt"
    job.write_text("".join(f"{name}: {value!r}\n" for name, value in options.items()))
    command = ["strace", "-f", "-e", "trace=open,openat,creat", "-o", str(trace), sys.executable, "-c", REGIONS, str(job)]
    planned, found = map(int, subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split())
    real = len(re.findall(r'"[^"]*(?:in|out)\.zarr/\d/c\b', trace.read_text()))
    assert real == pytest.approx(found, rel=0.1)
    assert planned == pytest.approx(found, rel=0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rate_of_a_real_job_stays_within_a_tenth_of_its_limit(tmp_path: Path) -> None:
    """Some 20 s of it, from the first region to the last."""
    source = write_input(tmp_path / "in.zarr", noise((32, 256, 256)), chunk=(8, 64, 64))
    large = {"model": "fake:identity?patch=1,64,64&overlap=0,4,4&trim=0,1,1", "chunk": "2,64,64", "shard": "8,256,256"}
    options = SMALL | large | {"input": str(source)}
    free = run(**options, output=str(tmp_path / "free.zarr"))
    limit = status(free.output).moved // 20
    times = list[float]()

    def note(event: Event) -> None:
        if isinstance(event, RunStarted | RegionEnded):
            times.append(time.monotonic())

    outcome = run(note, **options, output=str(tmp_path / "limited.zarr"), io_limit=limit)
    measured = status(outcome.output).moved / (times[-1] - times[0])
    assert measured == pytest.approx(limit, rel=0.1)
