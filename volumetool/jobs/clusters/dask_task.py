"""Regions as a task of dask: in a worker process that may be left for good, and replaced."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from distributed import get_worker

from volumetool.errors import DeviceError, VolumetoolError
from volumetool.geometry import RegionTask
from volumetool.jobs.clusters.dask_events import say_begun
from volumetool.jobs.execution.isolated import run_alone
from volumetool.jobs.execution.supervisor import RegionSupervisor, leave
from volumetool.jobs.execution.worker import Worker, lost, worker_of
from volumetool.jobs.records.ledger import Record
from volumetool.processing.device.device_errors import kind_of

_one_at_a_time = threading.Lock()
"""A worker has the memory, the network and the device for one region, however many threads dask gives it."""


TASK_SECONDS = 0.1
"""What a task takes at least, if there is so much to do; no region begins in it later than that."""


@dataclass(frozen=True)
class RefusedWorker:
    """A worker that must not compute for a job.

    Attributes
    ----------
    worker : str
        Its address, as dask knows it.
    error : VolumetoolError
        Why: it computes other bytes, has another version, or finds another input, model or plan.
    """

    worker: str
    error: VolumetoolError


def run_regions(url: str, runtime: str, turns: Sequence[RegionTask]) -> list[Record] | RefusedWorker:
    """Run regions in a dask worker, one after the other, until `TASK_SECONDS` are over; at least one.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    runtime : str
        From :func:`volumetool.jobs.execution.worker.runtime_of`.
    turns : sequence of RegionTask
        The regions to run, in this order.

    Returns
    -------
    list of Record, or RefusedWorker
        Records of the first regions. The others did not run, because the time was over or the worker failed. The latter where
        this worker can run none.

    Raises
    ------
    VolumetoolError
        What is the trouble of the run and not the region's, where it is met at the first one.
    """
    began = time.monotonic()
    try:
        with _one_at_a_time, _leaving():
            worker_of(url, runtime)
    except VolumetoolError as error:
        return RefusedWorker(get_worker().address, error)
    records = [run_region(url, runtime, turns[0])]
    for turn in turns[1:]:
        if time.monotonic() - began > TASK_SECONDS:
            break
        try:
            records.append(run_region(url, runtime, turn))
        except VolumetoolError:  # whoever asks for it again hears of it
            break
    return records


def run_region(url: str, runtime: str, turn: RegionTask) -> Record:
    """Run a region in a dask worker.

    Parameters
    ----------
    url, runtime
        As for :func:`run_regions`.
    turn : RegionTask
        The region to run, with its neighbours.

    Raises
    ------
    VolumetoolError
        What is the worker's trouble and not the region's.
    """
    with _one_at_a_time, _leaving():
        worker = worker_of(url, runtime)
        guard = _guard(worker, json.loads(runtime).get("run"))
        say_begun(worker.plan.run_dir, turn.region)
        return guard.run(turn, lambda turn: run_alone(url, runtime, turn))


@contextmanager
def _leaving() -> Iterator[None]:
    """Leave this process where its device is lost."""
    try:
        yield
    except DeviceError as error:
        leave(error.message)
        raise
    except RuntimeError as error:
        if kind_of(error) == "lost":  # before any region: the process found no device that it can use
            leave(lost("that begins", error).message)
        raise


@functools.lru_cache(maxsize=1)
def _guard(worker: Worker, run: str | None) -> RegionSupervisor:
    return RegionSupervisor(worker, leave, run)
