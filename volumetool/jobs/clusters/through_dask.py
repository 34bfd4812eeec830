"""Regions through a dask scheduler: one task per region, coordinates in, a record out, a bounded number in flight."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, KilledWorker, wait

from volumetool.errors import ClusterError, VolumetoolError
from volumetool.geometry import Turn
from volumetool.jobs.clusters.begun import topic_of
from volumetool.jobs.folder import job_url
from volumetool.jobs.ledger import Record
from volumetool.jobs.ownership import writing_run
from volumetool.jobs.plan import Plan
from volumetool.jobs.task import run_region
from volumetool.jobs.turns import WINDOW, Turns
from volumetool.jobs.worker import runtime_of
from volumetool.redaction import redact

CONNECT_SECONDS = 30


LOOK_SECONDS = 1.0
"""How often the driver looks which workers are still there."""

DEATHS_IN_A_ROW = 16
"""Workers that may die while no region ends: what kills so many is not a region."""

ALLOWED_FAILURES = 100
"""Dask's own count of dead workers per task also blames tasks that only waited there; attempts are counted elsewhere."""


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
        self._runtime = runtime_of(plan, writing_run(self._url))
        self._workers = plan.workers
        self._seen: set[str] = set()
        self._deaths = 0
        self._looked = 0.0

    def records(self, turns: Turns) -> Iterator[Record]:
        """Run the regions whose turn comes and yield their records in the order in which they end.

        Raises
        ------
        ClusterError
            ``cluster.dying``: workers die one after the other, and no region ends. ``cluster.lost``: the scheduler is gone.
        """
        running: dict[Any, Turn] = {}
        self._client.subscribe_topic(topic_of(self._url), lambda event: turns.began(event[1]))
        while len(running) < WINDOW * self._workers and self._next(turns, running):
            pass
        while running:
            for future in self._ended(list(running)):
                turn = running.pop(future)
                if future.status == "finished":
                    record: Record = future.result()
                elif _was_killed(future):
                    self._submit(turn, running)
                    continue
                else:
                    record = _failed(turn.region, future.exception())
                self._deaths = 0
                yield record
                # Only now: whose turn it is depends on what is recorded.
                self._next(turns, running)

    def _ended(self, futures: list[Any]) -> list[Any]:
        """Wait for regions to end, and look meanwhile who is still there.

        Raises
        ------
        ClusterError
            ``cluster.lost``: the scheduler is gone, and with it all tasks; ``cluster.dying``.
        """
        while True:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._looked = time.monotonic()
                self._count_deaths()
            try:
                with self._client.as_current():
                    return list(wait(futures, timeout=LOOK_SECONDS, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                continue
            except CancelledError as error:
                raise ClusterError(
                    "cluster.lost",
                    f"the dask scheduler is gone: {error}",
                    hint="start it again, and run the same command to go on; what was finished is kept",
                ) from error

    def _count_deaths(self) -> None:
        """Notice workers that are gone.

        Raises
        ------
        ClusterError
            ``cluster.dying``.
        """
        now = set(self._client.scheduler_info()["workers"])
        self._deaths += len(self._seen - now)
        self._seen = now
        if self._deaths >= DEATHS_IN_A_ROW:
            raise ClusterError(
                "cluster.dying",
                f"{self._deaths} workers died one after the other while no region ended",
                hint="see the workers' logs: a device or a library that fails, too little memory, or somebody who ends them; "
                "what was finished is kept",
            )

    def _next(self, turns: Turns, running: dict[Any, Turn]) -> bool:
        """Submit the region whose turn it is; say whether there was one."""
        turn = turns.take([turn.region for turn in running.values()])
        if turn is not None:
            self._submit(turn, running)
        return turn is not None

    def _submit(self, turn: Turn, running: dict[Any, Turn]) -> None:
        # Where a worker dies, dask gives its regions to another one by itself.
        key = f"region-{turn.region}-{time.monotonic_ns()}"
        running[self._client.submit(run_region, self._url, self._runtime, turn, pure=False, key=key, retries=0)] = turn


def _was_killed(future: Any) -> bool:
    """Say whether dask gave a region up because of its workers, which is no fault of the region's."""
    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _failed(index: int, error: Any) -> Record:
    """Turn the error of a failed task into a record.

    Raises
    ------
    VolumetoolError
        An error that is the worker's and not the region's, such as a wrong numerics class: it ends the run.
    """
    if isinstance(error, VolumetoolError):
        raise error
    return Record(
        region=index,
        state="failed",
        error={
            "code": "region.worker-failed",
            "message": redact(f"{type(error).__name__}: {error}"),
            "hint": "see the worker's log; the region runs again with the next run",
        },
        finished=time.time(),
    )


@contextmanager
def lenient() -> Iterator[None]:
    """Let schedulers that begin here not give regions up because workers died."""
    with dask.config.set({"distributed.scheduler.allowed-failures": ALLOWED_FAILURES}):
        yield


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
