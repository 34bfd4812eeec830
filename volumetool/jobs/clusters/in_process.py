"""One worker, in the driver's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from volumetool.jobs.clusters import Cluster
from volumetool.jobs.ledger import Record
from volumetool.jobs.plan import Plan
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

    def records(self, regions: Iterator[int]) -> Iterator[Record]:
        """Run regions and yield their records."""
        return map(self._worker.run, regions)


@contextmanager
def in_process_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster of this process alone."""
    yield InProcess(Worker(plan))
