"""What a job of a million regions costs beside its regions: planning, scheduling, the ledger, going on with half of it done.

The regions do nothing (they say that they begin, and return a record), so what is timed is driver and scheduler alone, on one
machine: once with a task for each region, as regions of a second or a minute have it, and once with as many to a task as
regions without work get. Beside them stands what a task costs of dask alone. Each size is driven for as many regions as
`--sample` says, from the job's middle on, with the states and the ledger of the whole job. pytest does not collect this
file. To run it::

    python tests/benchmarks/million.py --regions 1000 --regions 1000000 --sample 10000

The input is a volume of which no chunk is stored: all voxels are the fill value, and reading them costs next to nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from unittest import mock

import psutil
from distributed import as_completed
from parts import done, plan_job
from rich.console import Console
from rich.table import Table

from volumetool.geometry import RegionTask
from volumetool.jobs.clusters import dask_driver, local
from volumetool.jobs.clusters.dask_events import say_begun
from volumetool.jobs.execution.schedule import RegionQueue
from volumetool.jobs.plan import WINDOW, Plan
from volumetool.jobs.records.ledger import DONE, Ledger, Record
from volumetool.jobs.records.plan_file import open_ledger

WORKERS = 2


def main() -> None:
    """Plan, drive and take up again a job of each size; print what each cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, action="append", help="may be given several times")
    parser.add_argument("--sample", type=int, default=10_000, help="regions that are driven of each size")
    options = parser.parse_args()
    table = Table(title=f"driver and scheduler, {WORKERS} workers that do nothing", title_justify="left")
    columns = (
        "regions",
        "planned in s",
        "ms per task of dask alone",
        "ms per region, one a task",
        "ms per region, several a task",
        "half done: opened and counted in s",
        "largest memory, MiB",
    )
    for column in columns:
        table.add_column(column)
    for regions in options.regions or (1_000, 10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            table.add_row(*measure(Path(folder), regions, options.sample))
    Console(width=140).print(table)


def measure(folder: Path, regions: int, sample: int) -> tuple[str, ...]:
    """Return a row of the table."""
    started = time.perf_counter()
    plan = plan_job(folder, regions, WORKERS)
    planned = time.perf_counter() - started

    half = plan.grid.count // 2
    write_half(plan, half)
    started = time.perf_counter()
    ledger = open_ledger(plan)
    ledger.compact()
    left = RegionQueue(plan, ledger).count
    resumed = time.perf_counter() - started
    assert left == plan.grid.count - half

    costs = [bare(plan, min(sample, 2000)), *(drive(plan, ledger, min(sample, left // 2), how) for how in (one, nothing))]
    memory = psutil.Process().memory_info().rss / 2**20
    return f"{plan.grid.count}", f"{planned:.1f}", *(f"{cost:.2f}" for cost in costs), f"{resumed:.1f}", f"{memory:.0f}"


class Some(RegionQueue):
    """Gives out only so many regions at a time.

    Attributes
    ----------
    more : int
        Regions that may still be given out.
    """

    more = 0

    def take(self, flying: Collection[int]) -> RegionTask | None:
        """Return whose turn it is."""
        self.more -= 1
        return super().take(flying) if self.more >= 0 else None


def nothing(url: str, _runtime: str, turns: list[RegionTask]) -> list[Record]:
    """Stand in for `run_regions`: regions that begin and end at once, with records as real ones would give."""
    for turn in turns:
        say_begun(url, turn.region)
    return [done(turn.region, 0.0) for turn in turns]


def one(url: str, runtime: str, turns: list[RegionTask]) -> list[Record]:
    """Stand in for `run_regions` with regions that count as long ones, so that each is a task of its own."""
    return [replace(record, seconds=61.2345) for record in nothing(url, runtime, turns)]


def write_half(plan: Plan, half: int) -> None:
    """Write the ledger of a job that was killed in its middle, as the driver writes it."""
    ledger = Ledger(plan.job_dir.url, plan.grid.count)
    for index in range(half):
        ledger.append(done(index))
    ledger.flush()


Stand = Callable[[str, str, list[RegionTask]], list[Record]]


def bare(plan: Plan, tasks: int) -> float:
    """Return the milliseconds of a task of dask that returns a number, as many in flight as of a job."""
    flying = WINDOW * WORKERS
    with local.local_cluster(plan) as cluster:
        client = cluster.client
        client.wait_for_workers(WORKERS)
        started = time.perf_counter()
        ended = as_completed([client.submit(int, n, pure=False) for n in range(flying)], loop=client.loop, with_results=True)
        for number, _ in enumerate(ended):
            if number + flying < tasks:
                ended.add(client.submit(int, number, pure=False))
        return 1000 * (time.perf_counter() - started) / tasks


def drive(plan: Plan, ledger: Ledger, sample: int, how: Stand) -> float:
    """Run a sample of what is left through dask, as `run` does; return the milliseconds per region."""
    turns = Some(plan, ledger)
    before = ledger.done
    with mock.patch.object(dask_driver, "run_regions", how), local.local_cluster(plan) as cluster:
        cluster.client.wait_for_workers(WORKERS)
        turns.more = 100
        for record in cluster.records(turns):  # workers import what they need
            ledger.append(record)
        warm = ledger.done
        started = time.perf_counter()
        turns.more = sample - 100
        for record in cluster.records(turns):
            ledger.append(record)
        ledger.flush()
        seconds = time.perf_counter() - started
    assert int((ledger.states == DONE).sum()) == ledger.done > warm > before
    return 1000 * seconds / (ledger.done - warm)


if __name__ == "__main__":
    main()
