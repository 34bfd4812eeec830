"""A region as a task of dask: in a worker process that may be left for good, and replaced by its nanny."""

from __future__ import annotations

import functools
import json
import threading

from volumetool.enhancement.trouble import kind_of
from volumetool.errors import DeviceError
from volumetool.geometry import Turn
from volumetool.jobs.alone import run_alone
from volumetool.jobs.guard import Guard, leave
from volumetool.jobs.ledger import Record
from volumetool.jobs.worker import Worker, lost, worker_of

_one_at_a_time = threading.Lock()
"""A worker has the memory, the network and the device for one region, however many threads dask gives it."""


def run_region(url: str, runtime: str, turn: Turn) -> Record:
    """Run a region in a dask worker.

    Parameters
    ----------
    url : str
        The job's folder.
    runtime : str
        From :func:`volumetool.jobs.worker.runtime_of`.
    turn : Turn
        The region.

    Raises
    ------
    VolumetoolError
        What is the worker's trouble and not the region's.
    """
    with _one_at_a_time:
        try:
            guard = _guard(worker_of(url, runtime), json.loads(runtime).get("run"))
            return guard.run(turn, lambda turn: run_alone(url, runtime, turn))
        except DeviceError as error:
            leave(error.message)
            raise
        except RuntimeError as error:
            if kind_of(error) == "lost":  # before any region: the process found no device that it can use
                leave(lost("that begins", error).message)
            raise


@functools.lru_cache(maxsize=1)
def _guard(worker: Worker, run: str | None) -> Guard:
    return Guard(worker, leave, run)
