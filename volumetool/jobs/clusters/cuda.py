"""One worker per GPU of this machine, by dask-cuda. The one module that imports it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from distributed.security import Security

from volumetool.errors import ClusterError, ConfigError
from volumetool.jobs.clusters import Cluster, dask_servers, local
from volumetool.jobs.clusters.dask_driver import ThroughDask, connect
from volumetool.jobs.clusters.dask_servers import dashboard_token, on_loopback, settings
from volumetool.jobs.job import Job
from volumetool.jobs.plan import Plan
from volumetool.jobs.planning.resources import Resources, machine_resources
from volumetool.processing.device.arrays import why_no_gpu
from volumetool.processing.device.gpus import DeviceName
from volumetool.scratch import scratch_folder

make_plan = local.make_plan
"""Workers on GPUs of this machine are planned for on this machine."""


def require_gpus(device: DeviceName, workers: int | None) -> None:
    """Refuse a machine on which no worker could compute on a GPU, naming all that is missing, or fewer GPUs than workers.

    Raises
    ------
    ConfigError
        ``config.option``: the network is to run on the CPU, or more `workers` are asked for than there are GPUs.
    ClusterError
        ``cluster.no-dask-cuda``: not installed. ``cluster.no-gpu``: torch sees no GPU.
    """
    if device not in ("auto", "cuda"):
        raise ConfigError(
            "config.option",
            f"--cluster cuda gives each worker a GPU, but --device {device} was asked for",
            hint="leave --device out, or run with --cluster local",
        )
    missing = [] if (reason := why_no_gpu()) is None else [reason]
    code = "cluster.no-gpu" if missing else "cluster.no-dask-cuda"
    try:
        import dask_cuda  # noqa: F401
    except ImportError as error:
        missing.append(f"dask-cuda does not import: {error}")
    if missing:
        raise ClusterError(
            code,
            f"--cluster cuda needs what is not here: {'; '.join(missing)}",
            hint="check `nvidia-smi`; pip install 'volumetool[cuda12]' or 'volumetool[cuda13]', as your driver asks; "
            "or run with --cluster local",
        )
    import torch

    if workers is not None and workers > (gpus := torch.cuda.device_count()):
        raise ConfigError(
            "config.option",
            f"--workers {workers}, but this machine shows {gpus} GPUs; with --cluster cuda each worker has one",
            hint=f"--workers {gpus}, or leave it out: every GPU gets a worker. CUDA_VISIBLE_DEVICES may hide others",
        )


def resources(job: Job) -> Resources:
    """Return the GPUs of this machine, one worker for each.

    Raises
    ------
    ClusterError, ConfigError
        As :func:`require_gpus`.
    """
    require_gpus(job.device, job.workers)
    import torch

    return machine_resources(job, workers=torch.cuda.device_count())


def _first_cause(error: BaseException) -> str:
    """Return what an error began with: dask says only that a worker failed to start."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}"


@contextmanager
def open_cluster(plan: Plan) -> Iterator[Cluster]:
    """Yield a cluster with one worker process pinned to each GPU, all sockets on loopback and closed to other users.

    Raises
    ------
    ClusterError, ConfigError
        As :func:`require_gpus`; ``cluster.no-gpu``: workers do not start on them, with the first cause.
    """
    require_gpus(plan.job.device, plan.workers)
    from dask_cuda import LocalCUDACluster

    token = dashboard_token(plan)
    with scratch_folder("workers") as folder, settings(folder, token):
        try:
            cluster = LocalCUDACluster(
                n_workers=plan.workers,
                threads_per_worker=1,
                **on_loopback(token),
                preload=[dask_servers.__name__],  # dask-cuda adds its own, and reads no more of the configuration
                security=Security.temporary(),
            )
        except Exception as error:  # the driver's library raises its own classes, which cannot be named without it
            raise ClusterError(
                "cluster.no-gpu",
                f"torch sees GPUs, but dask-cuda starts no workers on them: {_first_cause(error)}",
                hint="see `volumetool doctor`. Where this allocation lets nobody choose cores (sched_setaffinity), or shows no "
                "driver, run one part on each GPU: `volumetool slurm --gpus 1`, or --device cuda with --part I/K",
            ) from error

        def see_to(_names: Collection[str]) -> int:
            # Of a worker that died as it began, dask starts no other unless it is told again how many there should be.
            cluster.scale(plan.workers)
            return 0

        with cluster, connect(cluster) as client:
            yield ThroughDask(client, plan, see_to).wait_for_worker()
