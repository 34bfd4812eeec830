"""One worker per GPU of this machine, by dask-cuda. The one module that imports it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from distributed.security import Security

from volumetool.errors import ClusterError
from volumetool.jobs.clusters import Cluster
from volumetool.jobs.clusters.through_dask import ThroughDask, connect, settings
from volumetool.jobs.plan import Plan
from volumetool.scratch import scratch_folder


@contextmanager
def cuda_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster with one worker process pinned to each GPU, all sockets on loopback and closed to other users.

    Raises
    ------
    ClusterError
        ``cluster.no-dask-cuda``: not installed. ``cluster.no-gpu``: the driver shows no GPU.
    """
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ClusterError(
            "cluster.no-dask-cuda",
            f"--cluster cuda needs dask-cuda, which does not import: {error}",
            hint="pip install 'volumetool[cuda12]' or 'volumetool[cuda13]', as your driver asks; or run with --cluster local",
        ) from error
    with scratch_folder("workers") as folder, settings(folder):
        try:
            cluster = LocalCUDACluster(
                n_workers=plan.workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                security=Security.temporary(),
            )
        except Exception as error:  # the driver's library raises its own classes, which cannot be named without it
            raise ClusterError(
                "cluster.no-gpu",
                f"--cluster cuda found no usable NVIDIA GPU: {type(error).__name__}: {error}",
                hint="check `nvidia-smi`, or run with --cluster local",
            ) from error

        def see_to(_names: Collection[str]) -> int:
            # Of a worker that died as it began, dask starts no other unless it is told again how many there should be.
            cluster.scale(plan.workers)
            return 0

        with cluster, connect(cluster, plan) as client:
            yield ThroughDask(client, plan, see_to).wait_for_worker()
