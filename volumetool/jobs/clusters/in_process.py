"""One worker, in the driver's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from volumetool.jobs.clusters import Cluster
from volumetool.jobs.ledger import Record
from volumetool.jobs.plan import Plan
from volumetool.jobs.turns import Turns
from volumetool.jobs.worker import Worker


class InProcess:
    """Runs regions one after the other; reading, network, blending and writing overlap within each.

    Parameters
    ----------
    worker : Worker
        The worker.
    """

    link: str | None = None

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def records(self, turns: Turns) -> Iterator[Record]:
        """Run the regions whose turn comes and yield their records."""
        while (turn := turns.take(())) is not None:
            turns.began(turn.region)
            yield self._worker.run(turn)


@contextmanager
def in_process_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster of this process alone."""
    yield InProcess(Worker(plan))
