"""The workers of a dask scheduler that was started elsewhere.

Their machines may be other ones than this: so they are asked what they have, and one of them makes the plan, with its own
timings and its own numerics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client

from volumetool.errors import ClusterError
from volumetool.events import Observer, Waiting
from volumetool.jobs.clusters import Cluster
from volumetool.jobs.clusters.dask_driver import ThroughDask, connect
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.resources import MEMORY_SHARE, Resources
from volumetool.machine import usable_memory
from volumetool.units import show_bytes


def resources(job: Job) -> Resources:
    """Ask the scheduler for its workers, and these for their memory; the least of them counts.

    Raises
    ------
    ClusterError
        ``cluster.unreachable``, or ``cluster.no-workers``: no worker is connected.
    """
    with connect(job.cluster) as client:
        workers = _workers(client, job.cluster)
        free = client.run(usable_memory)
    beside = Counter(each["host"] for each in workers.values())
    limits = {
        name: each["memory_limit"] or free[name] // beside[each["host"]] for name, each in workers.items() if name in free
    }
    least = min(limits, key=lambda name: limits[name])
    threads = sorted({int(each["nthreads"]) for each in workers.values()})
    if job.memory is None:
        memory, bound = int(MEMORY_SHARE * limits[least]), f"the memory of worker {least}, {show_bytes(limits[least])}"
    else:
        memory, bound = job.memory // len(workers), f"--memory {show_bytes(job.memory)}"
    differ = len(threads) > 1
    note = f"the workers of {job.cluster} have {threads[0]} to {threads[-1]} threads: all are planned with {threads[0]}"
    return Resources(len(workers), threads[0], memory, bound, (note,) if differ else ())


def make_plan(job: Job, resources: Resources, observer: Observer) -> Plan:
    """Have a worker plan the job, because the job's regions will run on its processor, GPU and disk.

    Parameters
    ----------
    job : Job
        What is asked for; its `cluster` is the address of the scheduler.
    resources, observer
        As for :meth:`ClusterModule.make_plan`; the observer is told that a worker is at it, by `Waiting`.
    """
    observer(Waiting(f"a worker of {job.cluster} plans the job"))
    with connect(job.cluster) as client:
        text = client.submit(_plan_here, job.placed.model_dump_json(), resources, pure=False).result()
    return Plan.model_validate_json(text).model_copy(update={"job": job})


def _plan_here(text: str, resources: Resources) -> str:
    return plan(Job.model_validate_json(text), resources=resources).model_dump_json()


@contextmanager
def open_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield the workers that are connected to the scheduler at `plan.job.cluster`.

    Raises
    ------
    ClusterError
        ``cluster.unreachable``, or ``cluster.no-workers``: no worker is connected.
    """
    with connect(plan.job.cluster) as client:
        _workers(client, plan.job.cluster)
        yield ThroughDask(client, plan)


def _workers(client: Client, address: str) -> dict[str, dict[str, Any]]:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise ClusterError(
            "cluster.no-workers",
            f"the scheduler at {address} has no workers",
            hint=f"start some: dask worker {address}",
        )
    return dict(workers)
