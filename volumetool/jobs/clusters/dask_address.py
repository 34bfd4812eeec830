"""The workers of a dask scheduler that was started elsewhere.

Their machines may be other ones than this: so they are asked what they have, and one of them makes the plan, with its own
timings and its own numerics.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from distributed import Client, get_worker

from volumetool.errors import ClusterError, ConfigError, NumericsError, VolumetoolError
from volumetool.events import Observer, Waiting
from volumetool.jobs.clusters import Cluster
from volumetool.jobs.clusters.dask_driver import ThroughDask, connect
from volumetool.jobs.execution.worker import SOFTWARE
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.planner import plan
from volumetool.jobs.planning.resources import MEMORY_SHARE, Resources
from volumetool.machine import usable_memory
from volumetool.processing.device.arrays import resolve_device
from volumetool.processing.device.gpus import DeviceName
from volumetool.processing.device.speed import convolution_rate
from volumetool.units import show_bytes

T = TypeVar("T")


def resources(job: Job) -> Resources:
    """Ask the scheduler for its workers, and these for their memory, of which the least counts, and for their rate.

    Raises
    ------
    ClusterError
        ``cluster.unreachable``, or ``cluster.no-workers``: no worker is connected. ``cluster.other-version``: one has another
        version of volumetool than this process.
    NumericsError
        ``numerics.other-class``: some compute on a GPU, others do not.
    ResourceError
        ``resource.no-gpu``: one has no GPU, and the job asks for it.
    """
    with connect(scheduler_address(job.cluster)) as client:
        workers = _workers(client, job.cluster)
        threads = sorted({int(each["nthreads"]) for each in workers.values()})
        said = _asked(job.cluster, lambda: client.run(announce, job.device, threads[0]))
    _check_alike(said, job)
    free = {name: int(each["memory"]) for name, each in said.items()}
    if job.workers not in (None, len(workers)):
        raise ConfigError(
            "config.option",
            f"--workers {job.workers}, but the scheduler at {job.cluster} has {len(workers)} workers, and each gets regions",
            hint="leave --workers out, or start as many workers as you want",
        )
    beside = Counter(each["host"] for each in workers.values())
    limits = {
        name: each["memory_limit"] or free[name] // beside[each["host"]] for name, each in workers.items() if name in free
    }
    if not limits:
        raise _no_workers(job.cluster)
    least = min(limits, key=lambda name: limits[name])
    memory, bound = int(MEMORY_SHARE * limits[least]), f"the memory of worker {least}, {show_bytes(limits[least])}"
    if job.memory is not None and job.memory // len(workers) < limits[least]:
        memory, bound = job.memory // len(workers), f"--memory {show_bytes(job.memory)}"
    notes = []
    if len(threads) > 1:
        notes.append(f"the workers of {job.cluster} have {threads[0]} to {threads[-1]} threads: the plan takes {threads[0]}")
    if len(set(limits.values())) > 1:
        most = show_bytes(max(limits.values()))
        notes.append(
            f"the workers of {job.cluster} have {show_bytes(limits[least])} to {most} of memory: the plan takes the least"
        )
    rates = {name: float(each["rate"]) for name, each in said.items()}
    return Resources(len(workers), threads[0], memory, bound, tuple(notes), rates)


def announce(device: DeviceName, threads: int) -> dict[str, str | float]:
    """Return what a worker says of itself before anything is planned.

    Parameters
    ----------
    device : str
        The device that the job asks for.
    threads : int
        CPU threads with which the job computes.

    Returns
    -------
    dict
        ``version`` of volumetool with that of its numerics, ``device`` on which the worker would compute, the ``memory`` that
        it may use, in bytes, and its ``rate``, in floating-point operations per second of a convolution. All workers are asked
        at once, so that those of one machine share it as they do while the job runs.

    Raises
    ------
    ResourceError
        ``resource.no-gpu``.
    """
    place = resolve_device(device)
    rate = convolution_rate(place, threads)
    return {"version": SOFTWARE, "device": place.type, "memory": usable_memory(), "rate": rate}


def _check_alike(said: dict[str, dict[str, str | float]], job: Job) -> None:
    """Refuse workers of another version than this process, and workers on unlike devices, before anything is planned.

    Raises
    ------
    ClusterError
        ``cluster.other-version``.
    NumericsError
        ``numerics.other-class``.
    """
    for name, each in said.items():
        if each["version"] != SOFTWARE:
            raise ClusterError(
                "cluster.other-version",
                f"worker {name} of {job.cluster} has volumetool {each['version']}, and this process has {SOFTWARE}",
                hint="install one version on all machines; nothing was begun",
            )
    by_device = {str(each["device"]): name for name, each in said.items()}
    if len(by_device) > 1 and not job.allow_mixed_numerics:
        described = ", ".join(f"worker {name} computes on {device}" for device, name in sorted(by_device.items()))
        raise NumericsError(
            "numerics.other-class",
            f"the workers of {job.cluster} would give other bytes than each other: {described}",
            hint="--device cpu, workers with the same device, or --allow-mixed-numerics, which records the class per region",
        )


def scheduler_address(cluster: str) -> str:
    """Return the address of a scheduler: as it is given, or as the scheduler wrote it to its file, read anew each time.

    Parameters
    ----------
    cluster : str
        An address, or the path of a file as `dask scheduler --scheduler-file` writes it; ``file:`` may stand before it.

    Raises
    ------
    ClusterError
        ``cluster.unreachable``: there is no such file, or it names no scheduler.
    """
    if not cluster.endswith(".json"):
        return cluster
    path = Path(cluster.removeprefix("file:").removeprefix("//"))
    try:
        return str(json.loads(path.read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            "cluster.unreachable",
            f"{path} names no dask scheduler: {type(error).__name__}: {error}",
            hint="start one that writes it: dask scheduler --scheduler-file FILE, and give that file",
        ) from error


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
    with connect(scheduler_address(job.cluster)) as client:
        future = client.submit(_plan_here, job.placed.model_dump_json(), resources, pure=False)
        text = _asked(job.cluster, future.result)
    return Plan.model_validate_json(text).model_copy(update={"job": job})


def _plan_here(text: str, resources: Resources) -> str:
    here = replace(resources, planner=get_worker().address)
    return plan(Job.model_validate_json(text), resources=here).model_dump_json()


@contextmanager
def open_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield the workers that are connected to the scheduler at `plan.job.cluster`.

    Raises
    ------
    ClusterError
        ``cluster.unreachable``, or ``cluster.no-workers``: no worker is connected.
    """
    with ExitStack() as stack:

        def reach() -> Client:
            stack.close()  # the client of a scheduler that is gone
            client = connect(scheduler_address(plan.job.cluster))
            stack.enter_context(client)
            return client

        first = reach()
        _workers(first, plan.job.cluster)
        yield ThroughDask(first, plan, reach=reach)


def _workers(client: Client, address: str) -> dict[str, dict[str, Any]]:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise _no_workers(address)
    return dict(workers)


def _no_workers(address: str) -> ClusterError:
    return ClusterError(
        "cluster.no-workers", f"the scheduler at {address} has no workers", hint=f"start some: dask worker {address}"
    )


def _asked(address: str, ask: Callable[[], T]) -> T:
    """Return what workers answer; errors of dask, of a worker that died and of one with other software get a code."""
    try:
        return ask()
    except VolumetoolError:
        raise
    except Exception as error:
        raise ClusterError(
            "cluster.no-answer",
            f"no worker of {address} answered: {type(error).__name__}: {error}",
            hint="nothing was begun; look at the workers' logs: each needs this version of volumetool, and enough memory",
        ) from error
