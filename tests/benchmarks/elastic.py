"""Workers that come and go, and one that is slower than its peers: real processes of dask on this machine.

What a region takes is mostly a pause of the network, so that the workers need not share the cores. pytest does not collect this
file; `test_elastic.py` asserts on what it measures. To run it::

    python tests/benchmarks/elastic.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distributed import Client, LocalCluster
from rich.console import Console

TESTS = Path(__file__).resolve().parents[1]
sys.path.extend(str(TESTS / folder) for folder in ("jobs", "startup"))

from small_jobs import SMALL, noise, write_input  # noqa: E402

from volumetool.events import Event, RegionEnded  # noqa: E402
from volumetool.jobs.clusters import plan  # noqa: E402
from volumetool.jobs.job import make_job  # noqa: E402
from volumetool.jobs.run import run  # noqa: E402
from volumetool.testing import register_fakes  # noqa: E402

SECONDS = 0.05
"""Pause of the network per call."""

FOLLOWS = 10.0
"""Seconds after which throughput has followed."""

TIMES = 10
"""How much slower the slow worker is."""

SLOW = f"""
import sys, time
from volumetool.testing.fakes import Fake
forward = Fake.forward
def slowly(self, x):
    time.sleep({TIMES - 1} * self.config.seconds)
    return forward(self, x)
Fake.forward = slowly
from distributed.cli.dask_worker import main
main([sys.argv[1], "--no-nanny", "--nthreads", "1", "--name", "slow", "--memory-limit", "2GiB", "--no-dashboard"])
"""


@dataclass(frozen=True)
class Ended:
    """A region that was recorded.

    Attributes
    ----------
    when : float
        The time, in seconds.
    worker : str
        Who computed it.
    seconds : float
        How long that took.
    there : int
        Workers that the scheduler knew then.
    """

    when: float
    worker: str
    seconds: float
    there: int


@contextmanager
def scheduler(workers: int) -> Iterator[LocalCluster]:
    """Run a scheduler with some worker processes that know the fake models."""
    register_fakes()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS / "startup"), os.environ.get("PYTHONPATH")]))
    with LocalCluster(
        n_workers=workers, threads_per_worker=1, protocol="tcp", host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def job(folder: Path, cluster: LocalCluster, sections: int, observer: Callable[[Ended], None]) -> list[Ended]:
    """Run a job on a cluster; return its regions as they ended. The observer is told of each, too."""
    source = write_input(folder / "in.zarr", noise((sections, 48, 48)))
    options = SMALL | {"region": "1,1,1", "model": f"{SMALL['model']}&seconds={SECONDS}"}
    ended = list[Ended]()

    def note(event: Event) -> None:
        if isinstance(event, RegionEnded):
            ended.append(Ended(time.monotonic(), event.worker, event.seconds, len(cluster.scheduler.workers)))
            observer(ended[-1])

    asked = make_job(input=str(source), output=str(folder / "out.zarr"), cluster=cluster.scheduler_address, **options)
    assert run(plan(asked), note).complete
    return ended


def follow(folder: Path) -> list[float]:
    """Measure a job that has 1, then 4, then 2 workers.

    Returns
    -------
    list of float
        Regions per second in three windows of `FOLLOWS` seconds, which begin so long after the scheduler knew one worker, four,
        and two.
    """
    began, ended = list[float](), list[Ended]()
    wanted = [1, 4, 2]
    with scheduler(wanted[0]) as cluster:

        def scale(now: Ended) -> None:
            ended.append(now)
            if len(began) < len(wanted) and now.there == wanted[len(began)]:
                began.append(now.when)
            elif began and now.when - began[-1] > 2 * FOLLOWS and now.there == wanted[len(began) - 1]:
                if len(began) == len(wanted):
                    raise KeyboardInterrupt
                cluster.scale(wanted[len(began)])

        with suppress(KeyboardInterrupt):
            job(folder, cluster, 8 * 100, scale)
    return [sum(FOLLOWS <= each.when - start < 2 * FOLLOWS for each in ended) / FOLLOWS for start in began]


def straggle(folder: Path) -> tuple[float, float]:
    """Measure a job on three workers and a fourth one that is slower.

    Returns
    -------
    tuple of float
        How long the first of the fast workers to run out of regions had to wait for the end of the job: at least as long as the
        slow one delayed it. And what a region takes a fast worker. Both in seconds.
    """
    with scheduler(3) as cluster, subprocess.Popen([sys.executable, "-c", SLOW, cluster.scheduler_address]) as slow:
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(4)
        ended = job(folder, cluster, 8 * 12, lambda _: None)
        slow.terminate()
    took = {worker: [each.seconds for each in ended if each.worker == worker] for worker in {each.worker for each in ended}}
    fast = sorted(took, key=lambda worker: statistics.median(took[worker]))[:3]
    last = [max(each.when for each in ended if each.worker == worker) for worker in fast]
    return ended[-1].when - min(last), statistics.median(each for worker in fast for each in took[worker])


def main() -> None:
    """Measure both, and print it."""
    console = Console(width=200)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        rates = follow(Path(one))
        console.print("1 -> 4 -> 2 workers: " + ", ".join(f"{rate:.2f}" for rate in rates) + " regions/s")
        waited, usual = straggle(Path(other))
        console.print(
            f"one of four workers {TIMES} times slower: the job ends {waited:.2f} s after the last record of the fast one that "
            f"ran out first; a region takes a fast one {usual:.2f} s"
        )


if __name__ == "__main__":
    main()
