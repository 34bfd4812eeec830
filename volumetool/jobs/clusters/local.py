"""Workers on this machine: this process where one is enough, else processes of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from volumetool.events import Observer
from volumetool.jobs.clusters import Cluster
from volumetool.jobs.clusters.in_process import in_process_cluster
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.resources import Resources, machine_resources
from volumetool.scratch import scratch_folder


def resources(job: Job) -> Resources:
    """Return what this machine has."""
    return machine_resources(job)


def make_plan(job: Job, resources: Resources, observer: Observer) -> Plan:
    """Plan a job for workers on this machine.

    Parameters
    ----------
    job, resources, observer
        As for :meth:`ClusterModule.make_plan`.
    """
    return plan(job, observer, resources)


def open_cluster(plan: Plan) -> AbstractContextManager[Cluster]:
    """Return a cluster of this process alone, or of `plan.workers` processes."""
    return local_cluster(plan) if plan.workers > 1 else in_process_cluster(plan)


@contextmanager
def local_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster of `plan.workers` processes, all sockets on loopback.

    All users of a machine share its loopback, and anyone who reaches a scheduler runs code as its user. So scheduler and
    workers ask for a certificate that was made for this run alone.
    """
    # dask takes as long to import as a small job of one worker, which does without.
    from distributed import LocalCluster
    from distributed.security import Security

    from volumetool.jobs.clusters.dask_driver import ThroughDask, connect
    from volumetool.jobs.clusters.dask_servers import dashboard_token, on_loopback, settings
    from volumetool.jobs.clusters.worker_processes import Processes

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
        connect(cluster) as client,
        processes.working_for(cluster.scheduler_address, security),
    ):
        yield ThroughDask(client, plan, processes.look).wait_for_worker()
