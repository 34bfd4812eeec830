"""One worker, in the driver's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from volumetool.geometry import RegionTask
from volumetool.jobs.clusters import Cluster
from volumetool.jobs.execution.isolated import run_alone
from volumetool.jobs.execution.schedule import RegionQueue
from volumetool.jobs.execution.supervisor import RegionSupervisor, leave
from volumetool.jobs.execution.worker import Worker, runtime_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.ledger import Record


class InProcess:
    """Runs regions one after the other; reading, network, blending and writing overlap within each.

    Parameters
    ----------
    worker : Worker
        Runs the regions, in the thread of the caller.
    """

    link: str | None = None

    def __init__(self, worker: Worker) -> None:
        self._plan = worker.plan
        self._guard = RegionSupervisor(worker, _end)

    def records(self, turns: RegionQueue) -> Iterator[Record]:
        """Run the regions whose turn comes and yield their records."""
        while (turn := turns.take(())) is not None:
            turns.began(turn.region)
            yield self._guard.run(turn, self._alone)

    def _alone(self, turn: RegionTask) -> Record:
        return run_alone(self._plan.job_dir.url, runtime_of(self._plan), turn)


def _end(why: str) -> None:
    leave(f"{why}; what was finished is kept. Run the same command to go on.")


@contextmanager
def in_process_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster of this process alone."""
    yield InProcess(Worker(plan))
