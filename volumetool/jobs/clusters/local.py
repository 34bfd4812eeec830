"""Several worker processes on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import LocalCluster
from distributed.security import Security

from volumetool.enhancement.allocator import environment
from volumetool.jobs.clusters import Cluster
from volumetool.jobs.clusters.through_dask import ThroughDask, connect, lenient
from volumetool.jobs.plan import Plan

QUIET = {
    "distributed.nanny.pre-spawn-environ": environment(),
    "distributed.worker.profile.enabled": False,
}
"""What dask would do beside a network that wants every core: look at its stacks 100 times a second, and give memory back."""


@contextmanager
def local_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster of `plan.workers` spawned processes, all sockets on loopback.

    All users of a machine share its loopback, and who reaches a scheduler runs code as its user: scheduler and workers ask for
    a certificate that was made for this run alone.

    Memory limits are off: the plan bounds memory, and a worker that dask pauses would only be slower.
    """
    with (
        dask.config.set(QUIET),
        lenient(),
        LocalCluster(
            n_workers=plan.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=Security.temporary(),
            memory_limit=0,
            silence_logs=logging.CRITICAL,  # what happens to a region is in its record; what is left is noise at the end
        ) as cluster,
        connect(cluster, plan) as client,
    ):
        yield ThroughDask(client, plan)
