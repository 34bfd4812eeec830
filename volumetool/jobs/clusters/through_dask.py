"""Regions through a dask scheduler: one task per region, coordinates in, a record out, a bounded number in flight."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from distributed import Client, as_completed

from volumetool.errors import ClusterError, VolumetoolError
from volumetool.jobs.clusters.begun import topic_of
from volumetool.jobs.folder import job_url, plan_digest
from volumetool.jobs.ledger import Record
from volumetool.jobs.plan import Plan
from volumetool.jobs.turns import WINDOW, Turns
from volumetool.jobs.worker import run_region
from volumetool.store.kvstore import canonical_url

CONNECT_SECONDS = 30


class ThroughDask:
    """Runs regions on the workers of a dask client.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    plan : Plan
        The job's plan; workers read it from the job's folder.
    """

    def __init__(self, client: Client, plan: Plan) -> None:
        self.link: str | None = client.dashboard_link or None
        self._client = client
        self._url = job_url(plan.job.output)
        job = plan.job.model_dump(mode="json")
        # Workers may have been started in another directory.
        job |= {name: canonical_url(job[name]) for name in ("input", "output", "mask") if job[name] is not None}
        running = {"threads": plan.threads, "streams": plan.streams}
        self._runtime = json.dumps({"job": job, "running": running, "plan": plan_digest(self._url)})
        self._workers = plan.workers

    def records(self, turns: Turns) -> Iterator[Record]:
        """Run the regions whose turn comes and yield their records in the order in which they end."""
        running: dict[Any, int] = {}
        self._client.subscribe_topic(topic_of(self._url), lambda event: turns.began(event[1]))
        while len(running) < WINDOW * self._workers and (future := self._next(turns, running)) is not None:
            pass
        if not running:
            return
        ended = as_completed(list(running), loop=self._client.loop, with_results=True, raise_errors=False)
        for future, result in ended:
            index = running.pop(future)
            yield result if isinstance(result, Record) else _failed(index, result)
            # Only now: whose turn it is depends on what is recorded.
            if (future := self._next(turns, running)) is not None:
                ended.add(future)

    def _next(self, turns: Turns, running: dict[Any, int]) -> Any:
        """Submit the region whose turn it is and note it as running; return its future, None where none is left."""
        turn = turns.take(running.values())
        if turn is None:
            return None
        # Retries are the ledger's business: a dead worker's region is tried on another one by dask itself.
        key = f"region-{turn.region}-{time.monotonic_ns()}"
        future = self._client.submit(run_region, self._url, self._runtime, turn, pure=False, key=key)
        running[future] = turn.region
        return future


def _failed(index: int, result: Any) -> Record:
    """Turn what dask gives for a failed task, (type, exception, traceback), into a record.

    Raises
    ------
    VolumetoolError
        An error that is the worker's and not the region's, such as a wrong numerics class: it ends the run.
    """
    error = result[1] if isinstance(result, tuple) else result
    if isinstance(error, VolumetoolError):
        raise error
    return Record(
        region=index,
        state="failed",
        error={
            "code": "region.worker-died",
            "message": f"{type(error).__name__}: {error}",
            "hint": "see the worker's log; the region runs again with the next run",
        },
        finished=time.time(),
    )


def connect(address: Any, plan: Plan) -> Client:
    """Return a client of a scheduler or cluster object.

    Raises
    ------
    ClusterError
        ``cluster.unreachable``.
    """
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            "cluster.unreachable",
            f"no dask scheduler answers at {plan.job.cluster}: {error}",
            hint="check the address, and that the scheduler's and workers' versions of dask are this one's",
        ) from error
