"""How a job's speed grows with its devices: two real workers of one core each, and simulated devices that only sleep.

Simulated devices show what driver and scheduler cost, and nothing else: each region sleeps for as long as `--seconds` says
and returns a record. Dask's workers are threads of at most eight processes here: more would only fill the memory.
pytest does not collect this file. To run it::

    python tests/benchmarks/devices.py --devices 8 --devices 64
    python tests/benchmarks/devices.py --volume VOLUME --rounds 3

With a volume, one worker that may use one core and two workers of one core each enhance it in turns, from disk to disk,
starting the workers included.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from distributed import LocalCluster
from million import Some
from parts import done, plan_job
from rich.console import Console
from rich.table import Table

from volumetool.geometry import RegionTask
from volumetool.jobs.clusters import dask_driver
from volumetool.jobs.clusters.dask_driver import ThroughDask, connect
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.plan_file import open_ledger

PROCESSES = 8

JOB = """
import json, sys, time
from volumetool.jobs.job import make_job
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.run import run
decided = plan(make_job(**json.loads(sys.argv[1])))
assert decided.threads == 1
started = time.perf_counter()
assert run(decided).complete
print(time.perf_counter() - started)
"""


def main() -> None:
    """Run what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, action="append", help="simulated devices; may be given several times")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a simulated region takes")
    parser.add_argument("--regions", type=int, default=30, help="regions for each simulated device")
    parser.add_argument("--volume", default=None, help="enhance this volume with real workers instead")
    parser.add_argument("--model", default="em-x4")
    parser.add_argument("--roi", default=None, help="only this box of the volume")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    Console(width=120).print(simulated(options) if options.volume is None else real(options))


def simulated(options: argparse.Namespace) -> Table:
    """Return the efficiency of each number of simulated devices."""
    table = Table(title=f"simulated devices, regions that sleep for {options.seconds:g} s", title_justify="left")
    for column in ("devices", "regions", "seconds", "efficiency"):
        table.add_column(column)
    for devices in options.devices or (8, 64):
        regions = devices * options.regions
        with tempfile.TemporaryDirectory() as folder:
            seconds = drive(Path(folder), devices, regions, options.seconds)
        table.add_row(f"{devices}", f"{regions}", f"{seconds:.2f}", f"{options.regions * options.seconds / seconds:.1%}")
    return table


def drive(folder: Path, devices: int, regions: int, seconds: float) -> float:
    """Drive regions through simulated devices, with a ledger; return the seconds from the first region to the last record."""
    plan = plan_job(folder, 2 * regions, 2).model_copy(update={"workers": devices})
    ledger = open_ledger(plan)
    turns = Some(plan, ledger)
    processes = min(PROCESSES, devices)
    with (
        LocalCluster(
            n_workers=processes,
            threads_per_worker=devices // processes,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as local,
        connect(local, plan) as client,
    ):
        cluster = ThroughDask(client, plan)
        with mock.patch.object(dask_driver, "run_regions", functools.partial(sleep, 0.0)):
            turns.more = 4 * devices
            for record in cluster.records(turns):  # workers import what they need
                ledger.append(record)
        with mock.patch.object(dask_driver, "run_regions", functools.partial(sleep, seconds)):
            started = time.perf_counter()
            turns.more = regions
            for record in cluster.records(turns):
                ledger.append(record)
            return time.perf_counter() - started


def sleep(seconds: float, _url: str, _runtime: str, turns: list[RegionTask]) -> list[Record]:
    """Stand in for `run_regions`: the first of them."""
    time.sleep(seconds)
    return [done(turns[0].region)]


def real(options: argparse.Namespace) -> Table:
    """Return how long one and two workers of one core each take."""
    found: dict[int, list[float]] = {1: [], 2: []}
    for number in range(options.rounds):
        for workers in (1, 2) if number % 2 == 0 else (2, 1):
            found[workers].append(enhance_with(workers, options))
    table = Table(title=f"{options.model}, workers of one core each, medians of {options.rounds} rounds", title_justify="left")
    for column in ("workers", "seconds", "speed"):
        table.add_column(column)
    ratios = [one / two for one, two in zip(found[1], found[2], strict=True)]
    table.add_row("1", f"{statistics.median(found[1]):.2f}", "1")
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    table.add_row("2", f"{statistics.median(found[2]):.2f}", spread)
    return table


def enhance_with(workers: int, options: argparse.Namespace) -> float:
    """Enhance with workers of one core each, in a process of its own; return the seconds without planning."""
    cores = set(sorted(os.sched_getaffinity(0))[:workers])
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "input": options.volume,
            "output": f"{folder}/out.zarr",
            "model": options.model,
            "workers": workers,
            "roi": options.roi,
            "crop": options.roi is not None,
        }
        # All threads of a process begun like this keep to its cores; in a process that is there, the earlier ones would not.
        command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-c", JOB, json.dumps(job)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
