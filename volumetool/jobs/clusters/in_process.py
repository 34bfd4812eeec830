"""One worker, in the driver's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from volumetool.geometry import Turn
from volumetool.jobs.alone import run_alone
from volumetool.jobs.clusters import Cluster
from volumetool.jobs.guard import Guard, leave
from volumetool.jobs.ledger import Record
from volumetool.jobs.plan import Plan
from volumetool.jobs.turns import Turns
from volumetool.jobs.worker import Worker, runtime_of


class InProcess:
    """Runs regions one after the other; reading, network, blending and writing overlap within each.

    Parameters
    ----------
    worker : Worker
        The worker.
    """

    link: str | None = None

    def __init__(self, worker: Worker) -> None:
        self._plan = worker.plan
        self._guard = Guard(worker, _end)

    def records(self, turns: Turns) -> Iterator[Record]:
        """Run the regions whose turn comes and yield their records."""
        while (turn := turns.take(())) is not None:
            turns.began(turn.region)
            yield self._guard.run(turn, self._alone)

    def _alone(self, turn: Turn) -> Record:
        return run_alone(self._plan.job_dir.url, runtime_of(self._plan), turn)


def _end(why: str) -> None:
    leave(f"{why}; what was finished is kept. Run the same command to go on.")


@contextmanager
def in_process_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster of this process alone."""
    yield InProcess(Worker(plan))
