"""The guard of a worker: regions that hang, break the device or end the process cost themselves, not the job.

A region that was begun twice and not finished is begun a third time in a process of its own (`isolated.py`), which shows
whether it was the region: workers are killed for many reasons. What ends that process too, and what twice had a known reason,
is set aside: its record says so, the other regions go on, and only ``--retry-quarantined`` begins it again.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from volumetool.errors import DeviceError
from volumetool.geometry import RegionTask
from volumetool.jobs.execution.worker import Worker
from volumetool.jobs.records.attempts import Attempts
from volumetool.jobs.records.holder import lease_lost, writing_run
from volumetool.jobs.records.ledger import QUARANTINED, Record
from volumetool.processing.predictor import BatchPredictor

DEATHS = 2
"""Unfinished attempts after which a region is no longer trusted."""

PATIENCE = 10
"""Usual regions that may pass without a sign of life, if that is longer than the job's hang_timeout."""

OWNER_SECONDS = 5.0

Leave = Callable[[str], None]
"""Leaves the process, and says why; it does not return."""


def leave(why: str) -> None:
    """End this process: a thread that hangs, or a device that is lost, ends with nothing less."""
    sys.stderr.write(f"{why}\n")
    sys.stderr.flush()
    os._exit(DeviceError.exit_code)


class Watch:
    """Waits for signs of life in a thread of its own while a region runs.

    Parameters
    ----------
    seconds : float
        Longest time in seconds between two signs of life.
    leave : callable
        Called when that time has passed.
    """

    def __init__(self, seconds: float, leave: Leave) -> None:
        self._seconds, self._leave = seconds, leave
        self._heard = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True, name="volumetool-watch")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def beat(self) -> None:
        """Note a sign of life."""
        self._heard = True

    def _wait(self) -> None:
        # Its own pauses are counted, no clock: a process that was stopped for an hour has not been silent.
        pause, silent = min(1.0, self._seconds / 4), 0.0
        while not self._over.wait(pause):
            silent = 0.0 if self._heard else silent + pause
            self._heard = False
            if silent > self._seconds:
                self._leave(f"no sign of life for {self._seconds:.0f} s")


class RegionSupervisor:
    """Runs the regions of a worker, and remembers those that ended a process.

    Parameters
    ----------
    worker : Worker
        The worker of this process.
    leave : callable
        How this process is left when a region hangs.
    run : str, optional
        The run that the worker works for; a job that another one took over is left alone.
    """

    def __init__(self, worker: Worker, leave: Leave, run: str | None = None) -> None:
        self._worker, self._leave, self._run = worker, leave, run
        self._url = worker.plan.run_dir
        self._attempts = Attempts(self._url)
        self._seconds: list[float] = []
        self._asked = 0.0

    def run(self, turn: RegionTask, alone: Callable[[RegionTask], Record]) -> Record:
        """Run a region.

        Parameters
        ----------
        turn : RegionTask
            The region to run, with its neighbours.
        alone : callable
            Runs it in a process of its own; returns its record, whatever happens there.

        Raises
        ------
        DeviceError
            ``device.lost``: this process must be left.
        LedgerError
            ``ledger.overtaken``, ``ledger.lost``.
        """
        self._check_owner(0.0)
        earlier = self._attempts.begin(turn.region, self._worker.name)
        if len(earlier) < DEATHS:
            record = self._watched(turn)
        elif all(earlier[-DEATHS:]):
            record = quarantined(turn.region, earlier[-DEATHS:])
        else:
            record = alone(turn)
        self._attempts.end(turn.region)
        return record

    def _watched(self, turn: RegionTask) -> Record:
        usual = statistics.median(self._seconds) if self._seconds else 0.0
        with Watch(max(self._worker.plan.job.hang_timeout, PATIENCE * usual), self._leaver(turn)) as watch:

            def beat() -> None:
                watch.beat()
                self._check_owner(OWNER_SECONDS)

            try:
                record = self._worker.run(turn, BatchPredictor(self._worker.engine, beat))
            except DeviceError as error:
                self._attempts.explain(turn.region, error.message)
                raise
        if record.state == "done":
            self._seconds = [*self._seconds[-98:], record.seconds]
        return record

    def _leaver(self, turn: RegionTask) -> Leave:
        def leave(why: str) -> None:
            self._attempts.explain(turn.region, why)
            self._leave(f"region {turn.region}: {why}")

        return leave

    def _check_owner(self, seconds: float) -> None:
        """Make sure, if the last time is so long ago, that the job is still the run's: it may have begun anew meanwhile.

        Raises
        ------
        LedgerError
            ``ledger.overtaken``, ``ledger.lost``.
        """
        if self._run is None or time.monotonic() - self._asked < seconds:
            return
        self._asked = time.monotonic()
        if writing_run(self._url) != self._run:
            raise lease_lost(self._url)


def quarantined(region: int, reasons: tuple[str, ...]) -> Record:
    """Return the record of a region that is set aside."""
    known = "; ".join(dict.fromkeys(filter(None, reasons))) or "nobody saw why"
    return Record(
        region=region,
        state="failed",
        error={
            "code": QUARANTINED,
            "message": f"set aside, because it ended or hung its process again and again: {known}",
            "hint": "look at this part of the input and at the worker's log; the same command with --retry-quarantined tries "
            "it again",
        },
        finished=time.time(),
    )
