"""Regions through a dask scheduler: coordinates in, records out, a bounded number in flight.

A task is one region, but where regions take less than a moment, as those without tissue do, it is several: a task costs the
scheduler some milliseconds, whatever it does.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker
from distributed.client import ClosedClientError

from volumetool.errors import ClusterError, ClusterLostError, VolumetoolError
from volumetool.geometry import RegionTask
from volumetool.jobs.clusters.assignment import ANYBODY, Assignment
from volumetool.jobs.clusters.dask_events import topic_of
from volumetool.jobs.clusters.dask_task import TASK_SECONDS, RefusedWorker, run_regions
from volumetool.jobs.execution.schedule import RegionQueue
from volumetool.jobs.execution.worker import runtime_of
from volumetool.jobs.plan import Plan
from volumetool.jobs.records.holder import writing_run
from volumetool.jobs.records.ledger import Record
from volumetool.redaction import redact

_log = logging.getLogger(__name__)

CONNECT_SECONDS = 30

MOST = 64
"""Regions of one task."""

LOOK_SECONDS = 1.0
"""How often the driver looks which workers are still there."""

ANSWER_SECONDS = 0.1
"""How often it asks for the first worker."""

DEATHS_IN_A_ROW = 16
"""Workers that may die while no region ends: what kills so many is not a region."""

FORSAKEN_LOOKS = 600
"""Looks without a scheduler, or without any worker, after which none is expected to come."""


class ThroughDask:
    """Runs regions on the workers of a dask client.

    Parameters
    ----------
    client : distributed.Client
        A client that is connected to the scheduler.
    plan : Plan
        The job's plan; workers read it from the job's folder.
    see_to : callable, optional
        Told the names of all workers that are there, once a second: starts others for those that are gone, and returns how
        many of these never were there. Without it nothing is started here.
    reach : callable, optional
        Returns a new client, for a scheduler that went and may come back; raises `ClusterError` while there is none.
        Without it the run ends with its scheduler.
    """

    def __init__(
        self,
        client: Client,
        plan: Plan,
        see_to: Callable[[Collection[str]], int] = lambda _names: 0,
        reach: Callable[[], Client] | None = None,
    ) -> None:
        self.link: str | None = client.dashboard_link or None
        self.client = client
        self._url = plan.job_dir.url
        self._plan = plan
        self._runtime = ""
        # A region that finds patches of its neighbours takes long, and should not wait behind one of them.
        self._most = MOST if plan.keep == "none" else 1
        self._usual = TASK_SECONDS
        self._assignment = Assignment()
        self._running: dict[Future[Any], list[RegionTask]] = {}
        self._flying: dict[int, RegionTask] = {}
        self._left: deque[RegionTask] = deque()
        self._heard: SimpleQueue[Future[Any] | tuple[str, int]] = SimpleQueue()
        self._see_to, self._reach = see_to, reach
        self._refused: set[str] = set()
        self._deaths = self._forsaken = 0
        self._looked = 0.0

    def wait_for_worker(self) -> ThroughDask:
        """Wait until a worker answers.

        Raises
        ------
        ClusterError
            ``cluster.dying``: workers end before they do.
        """
        while not self.client.scheduler_info()["workers"]:
            self._look_in_time()
            time.sleep(ANSWER_SECONDS)
        return self

    def records(self, turns: RegionQueue) -> Iterator[Record]:
        """Run the regions whose turn comes and yield their records in the order in which they end.

        Raises
        ------
        ClusterError
            ``cluster.dying``: workers die one after the other, and no region ends.
        ClusterLostError
            ``cluster.lost``: the scheduler or the last worker is gone, and none came in time.
        """
        self._runtime = runtime_of(self._plan, writing_run(self._plan.run_dir))
        while True:
            try:
                yield from self._records(turns)
            except (CancelledError, ClosedClientError) as error:
                self._go_on(error)
            else:
                return

    def _records(self, turns: RegionQueue) -> Iterator[Record]:
        """Yield records until no region is left; whatever dask raises of its own means that the scheduler is gone."""

        def began(event: tuple[float, tuple[str, int]]) -> None:
            worker, region = event[1]
            turns.began(region)
            self._heard.put((worker, region))

        self.client.subscribe_topic(topic_of(self._plan.run_dir), began)
        self._look()
        self._fill(turns)
        while self._flying:
            future = self._next_ended()
            if future is not None:
                yield from self._first_records(future)
            self._fill(turns)  # only now: whose turn it is depends on what is recorded

    def _go_on(self, error: BaseException) -> None:
        """Wait for a scheduler in place of the one that is gone, and take what was under way as not begun.

        Raises
        ------
        ClusterLostError
            ``cluster.lost``: none comes in time, or none is to be waited for.
        """
        lost = ClusterLostError(
            "cluster.lost",
            f"the dask scheduler of --cluster {self._plan.job.cluster} is gone",
            hint="start it again, and run the same command to go on; what was finished is kept",
            detail=str(error),
        )
        if self._reach is None:
            raise lost from error
        seconds = FORSAKEN_LOOKS * LOOK_SECONDS
        _log.warning("%s; this run waits %.0f minutes for it to come back", lost.message, seconds / 60)
        until = time.monotonic() + seconds
        while True:
            try:
                self.client = self._reach()
                break
            except ClusterError:
                if time.monotonic() > until:
                    raise lost from error
                time.sleep(LOOK_SECONDS)
        _log.warning("the scheduler is back; %d regions that were under way are handed out again", len(self._flying))
        self._running, self._assignment, self._heard = {}, Assignment(), SimpleQueue()
        self._left = deque(self._flying.values())

    def _first_records(self, future: Future[Any]) -> Iterator[Record]:
        """Yield the records of a task that has ended, without those that another copy of it gave already or may yet give."""
        ended = self._records_of(future)
        if ended is None:
            self._heard.put(future)
            return
        if isinstance(ended, RefusedWorker):
            self._hand_out_again(future)
            self._refuse(ended)
            return
        asked = self._running.pop(future)
        self._assignment.end(future.key, [record.seconds for record in ended if record.state == "done"])
        for record in ended:
            copied = self._assignment.has(record.region)
            if record.region in self._flying and (record.state == "done" or not copied):
                self._deaths = 0
                self._usual = record.seconds
                del self._flying[record.region]
                yield record
        self._want(asked)
        self._drop_copies(asked)

    def _want(self, turns: Collection[RegionTask]) -> None:
        """Let those regions be handed out next that are wanted and with nobody."""
        wanted = [turn for turn in turns if turn.region in self._flying and not self._assignment.has(turn.region)]
        self._left.extendleft(reversed(wanted))

    def _hand_out_again(self, future: Future[Any]) -> None:
        """Give up a task whose worker is gone, or refused."""
        asked = self._running.pop(future)
        self._assignment.end(future.key)
        future.cancel()
        self._want(asked)

    def _refuse(self, refused: RefusedWorker) -> None:
        """Give a worker no regions any more.

        Raises
        ------
        VolumetoolError
            There is no other worker.
        """
        if refused.worker not in self._refused:
            _log.warning("worker %s is refused, and gets no regions: %s", refused.worker, refused.error.message)
        self._refused.add(refused.worker)
        self._see(list(self._assignment.workers))
        if not self._assignment.workers:
            raise refused.error

    def _see(self, workers: Collection[str]) -> None:
        """Take note of the workers that are there; what others had is handed out again."""
        lost = set(self._assignment.see([name for name in workers if name not in self._refused]))
        for future in [future for future in self._running if future.key in lost]:
            self._hand_out_again(future)

    def _drop_copies(self, turns: Collection[RegionTask]) -> None:
        """Give up tasks of which nothing is wanted any more; one that runs goes on until its end, and writes the same bytes."""
        regions = {turn.region for turn in turns}
        for future, asked in list(self._running.items()):
            mine = {turn.region for turn in asked}
            if mine & regions and not mine & self._flying.keys():
                del self._running[future]
                self._assignment.end(future.key)
                future.cancel()

    def _records_of(self, future: Future[Any]) -> list[Record] | RefusedWorker | None:
        """Return the records of the regions of a task that have ended: its first ones, perhaps none.

        None where they died with their worker before they were handed over: dask then does the task again.

        Raises
        ------
        VolumetoolError
            A trouble of the run.
        """
        try:
            records: list[Record] | RefusedWorker = future.result(timeout=LOOK_SECONDS)
        except CancelledError:  # with the scheduler all tasks are gone
            raise
        except Exception as error:  # noqa: BLE001  (whatever the task raised)
            # Where what it waited for was cancelled, dask finds no result of its own.
            if isinstance(error, TimeoutError | UnboundLocalError) and future.status != "error":
                _let_others_gather(self.client)
                return None
            # Workers that die are no fault of a region's.
            return [] if isinstance(error, KilledWorker) else [_failed(self._running[future][0].region, error)]
        return records

    def _next_ended(self) -> Future[Any] | None:
        """Wait for a task to end, `LOOK_SECONDS` at most; return it if it is still wanted.

        Raises
        ------
        ClusterError
            ``cluster.dying``.
        ClusterLostError
            ``cluster.lost``.
        """
        self._look_in_time()
        try:
            heard = self._heard.get(timeout=LOOK_SECONDS)
        except Empty:
            return None
        if isinstance(heard, tuple):
            self._assignment.began(*heard, time.monotonic())
            return None
        return heard if heard in self._running else None

    def _look_in_time(self) -> None:
        """Look, if the last look was `LOOK_SECONDS` ago."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            self._look()

    def _look(self) -> None:
        """Notice workers that are gone, and see to others in their place.

        Raises
        ------
        ClusterError
            ``cluster.dying``.
        ClusterLostError
            ``cluster.lost``.
        """
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        self._refused.intersection_update(workers)
        gone = set(self._assignment.workers) - set(workers)
        self._deaths += len(gone) + self._see_to({str(worker["name"]) for worker in workers.values()})
        self._forsaken = 0 if workers.keys() - self._refused else self._forsaken + 1
        self._see(workers)
        if self._deaths >= DEATHS_IN_A_ROW:
            raise ClusterError(
                "cluster.dying",
                f"{self._deaths} workers died one after the other while no region ended",
                hint="see the workers' logs: a device or a library that fails, too little memory, or somebody who ends them; "
                "what was finished is kept",
            )
        if self._forsaken >= FORSAKEN_LOOKS:
            raise ClusterLostError(
                "cluster.lost",
                f"the last worker{' that was not refused' if self._refused else ''} is gone, and for "
                f"{FORSAKEN_LOOKS * LOOK_SECONDS / 60:.0f} minutes none has come",
                hint="start workers, and run the same command to go on; what was finished is kept",
            )

    def _fill(self, turns: RegionQueue) -> None:
        """Hand out regions until every worker has a task, and another one at hand; at the end, second copies of the last."""
        while (worker := self._assignment.next_worker()) is not None:
            size = min(self._most, int(TASK_SECONDS / max(self._usual, TASK_SECONDS / MOST)))
            if not (asked := list(itertools.islice(self._order(turns), max(1, size)))):
                break
            if worker == ANYBODY and self._refused:  # nobody else is there who would get them
                self._left.extendleft(reversed(asked))
                break
            self._submit(asked, worker)
        else:
            return
        # Of two copies the one that is written last must be what the first record says.
        while self._plan.packs_alike and (straggler := self._assignment.straggler(time.monotonic())) is not None:
            key, worker = straggler
            asked = next(asked for future, asked in self._running.items() if future.key == key)
            self._submit([turn for turn in asked if turn.region in self._flying], worker)

    def _order(self, turns: RegionQueue) -> Iterator[RegionTask]:
        """Yield what was handed out and did not run, then the regions whose turn it is."""
        while self._left:
            yield self._left.popleft()
        while (turn := turns.take(self._flying)) is not None:
            self._flying[turn.region] = turn
            yield turn

    def _submit(self, asked: list[RegionTask], worker: str) -> None:
        key = f"region-{asked[0].region}-{time.monotonic_ns()}"
        where = None if worker == ANYBODY else [worker]
        future = self.client.submit(run_regions, self._url, self._runtime, asked, pure=False, key=key, retries=0, workers=where)
        self._running[future] = asked
        self._assignment.give(key, worker, [turn.region for turn in asked])
        future.add_done_callback(self._heard.put)


def _let_others_gather(client: Client) -> None:
    """Forget a request for results that was given up before it began: dask's client lets all later ones wait for it."""
    if (asked := getattr(client, "_gather_future", None)) is not None and asked.done():
        client._gather_future = None


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


def connect(address: Any) -> Client:
    """Return a client of a scheduler or cluster object.

    Raises
    ------
    ClusterError
        ``cluster.unreachable``.
    """
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # the driver says what becomes of a connection
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            "cluster.unreachable",
            f"no dask scheduler answers at {address}: {error}",
            hint="check the address, and that the scheduler's and workers' versions of dask are this one's",
        ) from error
