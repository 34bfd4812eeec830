"""Clusters: where regions run. One thin file each; all take numbers of regions and yield records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from volumetool.jobs.ledger import Record
from volumetool.jobs.plan import Plan
from volumetool.jobs.turns import Turns


class Cluster(Protocol):
    """Runs regions. Leaving its context gives up what is in flight.

    Attributes
    ----------
    link : str, optional
        Address of a dashboard.
    """

    link: str | None

    def records(self, turns: Turns) -> Iterator[Record]:
        """Run the regions whose turn comes and yield their records in the order in which they end."""
        ...


def open_cluster(plan: Plan) -> AbstractContextManager[Cluster]:
    """Return the cluster that a plan asks for: in-process where one local worker is enough.

    Entering its context waits until a worker answers, and writes nothing.

    Parameters
    ----------
    plan : Plan
        The job's plan.

    Raises
    ------
    ClusterError
        Workers cannot be started or reached.
    """
    if plan.job.cluster == "cuda":
        from volumetool.jobs.clusters.cuda import cuda_cluster

        return cuda_cluster(plan)
    if plan.job.cluster != "local":
        from volumetool.jobs.clusters.address import address_cluster

        return address_cluster(plan)
    if plan.workers > 1:
        from volumetool.jobs.clusters.local import local_cluster

        return local_cluster(plan)
    from volumetool.jobs.clusters.in_process import in_process_cluster

    return in_process_cluster(plan)
