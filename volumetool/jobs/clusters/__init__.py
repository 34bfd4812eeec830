"""Clusters: where regions run. Each is one module here, and one entry of `CLUSTERS`.

A cluster's module has three functions, see `ClusterModule`: `resources` says which workers there are and what they have,
before anything is planned; `make_plan` plans a job for them, on this machine or on one of theirs; `open_cluster` starts or
reaches them, and gives a `Cluster`, which takes numbers of regions and yields records. No voxel passes through it.
`volumetool.testing.cluster_suite.ClusterSuite` says what each has to keep.

A cluster of SLURM's array jobs would be `slurm.py`, whose `resources` reads what the options ask SLURM for, whose `make_plan`
is that of `local.py`, and whose `open_cluster` submits a worker for each element of the array and reads the records that they
leave in the job directory; and an entry ``"slurm"`` below.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from volumetool.errors import ConfigError
from volumetool.events import Observer, ignore
from volumetool.jobs.execution.schedule import RegionQueue
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.resources import Resources
from volumetool.jobs.records.ledger import Record


class Cluster(Protocol):
    """Runs regions. Leaving its context gives up what is in flight.

    Attributes
    ----------
    link : str, optional
        Address of a dashboard.
    """

    link: str | None

    def records(self, turns: RegionQueue) -> Iterator[Record]:
        """Run the regions whose turn comes and yield their records in the order in which they end."""
        ...


class ClusterModule(Protocol):
    """What the module of a cluster has."""

    def resources(self, job: Job) -> Resources:
        """Return the workers that a job would have.

        Raises
        ------
        ClusterError, ConfigError
            There are none, or not those that the job asks for.
        """
        ...

    def make_plan(self, job: Job, resources: Resources, observer: Observer) -> Plan:
        """Plan a job for its workers.

        Parameters
        ----------
        job : Job
            What is asked for.
        resources : Resources
            The workers, from `resources`.
        observer : Observer
            Told by `Progressed` how many sections the statistics are fitted to.

        Raises
        ------
        VolumetoolError
            As :func:`volumetool.jobs.planning.planner.plan`.
        """
        ...

    def open_cluster(self, plan: Plan) -> AbstractContextManager[Cluster]:
        """Return the cluster of a plan; entering its context waits until a worker answers, and writes nothing."""
        ...


def plan(job: Job, observer: Observer = ignore) -> Plan:
    """Decide everything about a job, for the workers that will run it, before a voxel is written.

    Planning an output that a job began before gives that job's plan again, so that running it goes on.

    Parameters
    ----------
    job : Job
        What is asked for.
    observer : Observer, optional
        Told of the sections that statistics are fitted on.

    Raises
    ------
    InputError, OutputError, ModelError, ConfigError, ResourceError
        The job cannot run; nothing was written.
    ClusterError
        Its workers cannot be asked; nothing was written.
    FingerprintError
        ``job.fingerprint``: the output belongs to a job with other settings.
    """
    cluster = cluster_module(job.cluster)
    return cluster.make_plan(job, cluster.resources(job), observer)


def open_cluster(plan: Plan) -> AbstractContextManager[Cluster]:
    """Return the cluster that a plan asks for.

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
    return cluster_module(plan.job.cluster).open_cluster(plan)


def _local() -> ClusterModule:
    from volumetool.jobs.clusters import local

    return local


def _cuda() -> ClusterModule:
    from volumetool.jobs.clusters import cuda

    return cuda


def _address() -> ClusterModule:
    from volumetool.jobs.clusters import dask_address

    return dask_address


CLUSTERS = {"local": _local, "cuda": _cuda, "tcp": _address, "tls": _address, "ucx": _address, "file": _address}
"""The module of each cluster, by its name or by the scheme of its address, ``file`` for a scheduler's file."""


def cluster_module(name: str) -> ClusterModule:
    """Return the module of a cluster.

    Raises
    ------
    ConfigError
        ``config.option``: there is no cluster of that name.
    """
    scheme = "file" if name.endswith(".json") else name.partition("://")[0]
    if scheme not in CLUSTERS or (name in (scheme, f"{scheme}://") and CLUSTERS[scheme] is _address):
        raise ConfigError(
            "config.option",
            f"there is no cluster {name!r}",
            hint="--cluster local, cuda, the address of a dask scheduler, tcp://HOST:PORT, or the file.json that it wrote",
        )
    return CLUSTERS[scheme]()
