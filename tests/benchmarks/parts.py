"""What a job of a million regions in parts costs its drivers, and joining their ledgers: figures, no test.

Each part is driven in a process of its own, with workers that do nothing but hand back records as real ones would be. What is
timed is the driver alone: whose turn it is, lease, ledger, regions in flight. Then the whole job is owned, which joins the
ledgers. pytest does not collect this file. To run it::

    python tests/benchmarks/parts.py --regions 1000000 --parts 8 --workers 64
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from volumetool.events import ignore
from volumetool.geometry import plan_levels
from volumetool.jobs import run as running
from volumetool.jobs.execution.schedule import RegionQueue
from volumetool.jobs.job import make_job
from volumetool.jobs.part import begin_part
from volumetool.jobs.plan import WINDOW, Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.preparation import prepare
from volumetool.jobs.records.ledger import Record
from volumetool.jobs.records.parts import own_job
from volumetool.jobs.records.plan_file import open_ledger, stored_plan
from volumetool.storage.create import VolumeLayout, create_volume
from volumetool.testing import register_fakes

SHARD = (8, 64, 64)
VOXEL_SIZE = (8.0, 8.0, 8.0)


def plan_job(folder: Path, regions: int, workers: int) -> Plan:
    """Plan a job of about so many regions of one shard, over a volume that holds no chunk."""
    register_fakes()
    side = round((regions / 4) ** (1 / 2))
    shape = (4 * SHARD[0], side * SHARD[1], side * SHARD[2])
    levels = plan_levels(shape, VOXEL_SIZE, (0.0, 0.0, 0.0))
    create_volume(str(folder / "in.zarr"), VolumeLayout("uint8", levels[:1]), {})
    job = make_job(
        input=str(folder / "in.zarr"),
        output=str(folder / "out.zarr"),
        model="fake:identity?scale=1,1,1&patch=1,16,16&overlap=0,4,4&trim=0,1,1",
        chunk="2,8,8",
        shard=",".join(map(str, SHARD)),
        region="1,1,1",
        device="cpu",
        workers=workers,
        force_voxel_size=True,
    )
    decided = plan(job)
    prepare(decided)
    return decided


def done(index: int, seconds: float = 61.2345) -> Record:
    """Return the record of a finished region."""
    return Record(
        region=index,
        state="done",
        checksums=(1, 2, 3),
        stored=(("6699:deadbeef",), ("3382:819f547f",), ("632:3d6404a5",)),
        patches=4,
        seconds=seconds,
        network_seconds=seconds,
        worker="node0123:123456",
        numerics="a" * 64,
        finished=time.time(),
    )


class Simulated:
    """Workers that end each region as soon as all of them have one and another at hand.

    Parameters
    ----------
    workers : int
        How many there are.
    """

    link: str | None = None

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def records(self, turns: RegionQueue) -> Iterator[Record]:
        """Yield the records of regions in the order in which they were handed out."""
        flying: deque[int] = deque()
        while True:
            while len(flying) < WINDOW * self._workers and (turn := turns.take(flying)) is not None:
                turns.began(turn.region)
                flying.append(turn.region)
            if not flying:
                return
            yield done(flying.popleft(), 0.01)


def drive(output: str, part: str, workers: int) -> tuple[float, ...]:
    """Drive a part; return seconds until its first region, ms per region by the clock and of a core, and MiB of memory."""
    started = time.perf_counter()
    plan = _part(stored_plan(output), part)
    claim = begin_part(plan)
    assert claim is not None
    try:
        ledger = open_ledger(plan)
        ledger.begin()
        began, busy = time.perf_counter(), time.process_time()
        running._run_regions(plan, ledger, ignore, claim, Simulated(workers))
        ledger.flush()
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
    finally:
        claim.release()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return began - started, 1000 * seconds / len(plan.asked), 1000 * busy / len(plan.asked), most


def _part(plan: Plan, part: str) -> Plan:
    return plan.model_copy(update={"job": plan.job.model_copy(update={"part": part})})


def main() -> None:
    """Plan a job, drive its parts at once, join them, and print what that cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regions", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--workers", type=int, default=64, help="of all parts together")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        share = options.workers // options.parts
        plan = plan_job(Path(folder), options.regions, share)
        table = Table(title=f"{plan.grid.count} regions, {options.workers} workers that do nothing", title_justify="left")
        for column in ("part", "begun after s", "ms per region", "of a core", "largest memory, MiB"):
            table.add_column(column)
        names = [f"{number}/{options.parts}" for number in range(options.parts)]
        with ProcessPoolExecutor(options.parts, get_context("spawn")) as pool:
            asked = [pool.submit(drive, plan.job.output, name, share) for name in names]
            for name, told in zip(names, asked, strict=True):
                table.add_row(name, *(f"{figure:.3g}" for figure in told.result()))
        started, busy = time.perf_counter(), time.process_time()
        with own_job(plan.job_dir.url):
            joined, busy = time.perf_counter() - started, time.process_time() - busy
        started = time.perf_counter()
        finished = open_ledger(plan).done
        opened = time.perf_counter() - started
    assert finished == plan.grid.count
    Console(width=140).print(table)
    Console(width=140).print(
        f"ledgers joined in {joined:.1f} s, {busy:.1f} s of a core; the joined ledger opened in {opened:.1f} s"
    )


if __name__ == "__main__":
    main()
