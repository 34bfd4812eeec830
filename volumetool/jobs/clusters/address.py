"""The workers of a dask scheduler that somebody else started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from volumetool.errors import ClusterError
from volumetool.jobs.clusters import Cluster
from volumetool.jobs.clusters.through_dask import ThroughDask, connect
from volumetool.jobs.plan import Plan


@contextmanager
def address_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield the workers that are connected to the scheduler at `plan.job.cluster`.

    Raises
    ------
    ClusterError
        ``cluster.unreachable``, or ``cluster.no-workers``: no worker is connected.
    """
    with connect(plan.job.cluster, plan) as client:
        processes = len(client.nthreads())  # each computes one region at a time, whatever its threads
        if not processes:
            raise ClusterError(
                "cluster.no-workers",
                f"the scheduler at {plan.job.cluster} has no workers",
                hint=f"start some: dask worker {plan.job.cluster}",
            )
        yield ThroughDask(client, plan.model_copy(update={"workers": processes}))
