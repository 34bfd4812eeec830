"""Several worker processes on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import LocalCluster
from distributed.security import Security

from volumetool.jobs.clusters import Cluster
from volumetool.jobs.clusters.closed import dashboard_token, on_loopback
from volumetool.jobs.clusters.processes import Processes
from volumetool.jobs.clusters.through_dask import ThroughDask, connect, settings
from volumetool.jobs.plan import Plan
from volumetool.scratch import scratch_folder


@contextmanager
def local_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster of `plan.workers` processes, all sockets on loopback.

    All users of a machine share its loopback, and who reaches a scheduler runs code as its user: scheduler and workers ask for
    a certificate that was made for this run alone.
    """
    security, token = Security.temporary(), dashboard_token(plan)
    with (
        scratch_folder("workers") as folder,
        settings(folder, token),
        Processes(plan.workers, folder) as processes,
        LocalCluster(
            n_workers=0,
            processes=True,
            **on_loopback(token),
            security=security,
            silence_logs=logging.CRITICAL,  # what happens to a region is in its record; what is left is noise at the end
        ) as cluster,
        connect(cluster, plan) as client,
        processes.working_for(cluster.scheduler_address, security),
    ):
        yield ThroughDask(client, plan, processes.look).wait_for_worker()
