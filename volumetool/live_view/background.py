"""Filling a job: its regions run while nobody waits for the network, those that were looked at first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import numpy as np

from volumetool.errors import VolumetoolError
from volumetool.events import Event
from volumetool.geometry import Box, RegionTask
from volumetool.jobs.execution.finalize import is_marked_complete, mark_incomplete
from volumetool.jobs.execution.schedule import to_do
from volumetool.jobs.execution.worker import Worker
from volumetool.jobs.records.in_flight import InFlight
from volumetool.jobs.records.ledger import DONE, Ledger
from volumetool.jobs.records.shard_digests import note_unbuilt
from volumetool.jobs.run import finish_run, write_maps
from volumetool.live_view.patch_scheduler import Closed, PatchScheduler
from volumetool.live_view.patches import PatchPosition
from volumetool.processing.columns import Column
from volumetool.processing.device.arrays import Array
from volumetool.processing.engine import Engine
from volumetool.processing.pipeline import silent
from volumetool.processing.predictor import all_outputs

LOG = logging.getLogger(__name__)


class YieldingPredictor:
    """Gives way to the live view, batch by batch, and does not ask the network again for what somebody looked at.

    Parameters
    ----------
    engine : Engine
        Engine that computes the regions.
    desk : PatchScheduler
        Lends the network, and keeps patches.
    """

    def __init__(self, engine: Engine, desk: PatchScheduler) -> None:
        self.engine, self.heartbeat = engine, silent
        self._desk = desk

    def predict(self, columns: Iterator[Column]) -> Iterator[tuple[Column, list[Array]]]:
        """Yield each column with its output patches; none waits in the network while somebody looks."""
        for column in columns:
            yield column, all_outputs(self.engine, column, self._outputs(column))

    def _outputs(self, column: Column) -> list[Array]:
        """Return the outputs of a column's active patches: those that the desk has kept, and the network's for the others."""
        made: dict[int, Array] = {}
        left = active = [int(number) for number in np.flatnonzero(column.active)]
        while left:
            with self._desk.spare():
                # Looked up again before every batch: somebody may have looked at the next ones meanwhile.
                kept = {number: self._desk.kept(PatchPosition(column.channel, *column.position(number))) for number in left}
                made |= {number: patch.values for number, patch in kept.items() if patch is not None}
                left = [number for number in left if number not in made]
                batch, left = left[: self.engine.at_once], left[self.engine.at_once :]
                places = [column.places[number] for number in batch]
                made |= zip(batch, self.engine.predict(column.patches[batch], places), strict=True)
        return [made[number] for number in active]


class BackgroundFill:
    """Runs the regions of a job in a thread, as a worker would, and records them.

    Parameters
    ----------
    worker : Worker
        Worker of the job.
    ledger : Ledger
        Ledger of the job; the process owns it.
    desk : PatchScheduler
        Owner of the network.
    """

    def __init__(self, worker: Worker, ledger: Ledger, desk: PatchScheduler) -> None:
        self._worker, self._plan, self._ledger = worker, worker.plan, ledger
        self._predictor = YieldingPredictor(worker.engine, desk)
        self._looked: dict[int, None] = {}  # the newest last
        self._tried: set[int] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="volumetool-filling", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def looked_at(self, channel: int, box: Box) -> None:
        """Move the regions of a box of level 0 to the front."""
        grid = self._plan.grid
        per_channel = grid.count // grid.channels
        for index in grid.touching(box):
            if index // per_channel == channel // self._plan.spec.per_input:
                with self._lock:
                    self._looked.pop(index, None)
                    self._looked[index] = None

    def close(self) -> None:
        """End the thread; call it after the desk was closed. A region that was under way leaves no record."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._fill()
        except Closed:
            return
        except VolumetoolError as error:
            LOG.error("%s is no longer filled: [%s] %s", self._plan.output, error.code, error.message)
        except Exception:
            LOG.exception("%s is no longer filled", self._plan.output)

    def _fill(self) -> None:
        try:
            self._run_regions()
            finish_run(self._plan, self._ledger, self._stop_when_closed)
        finally:
            self._ledger.flush()
            write_maps(self._plan, self._ledger)

    def _stop_when_closed(self, _event: Event) -> None:
        """End the coarse levels between two shards."""
        if self._closing.is_set():
            raise Closed

    def _run_regions(self) -> None:
        if self._ledger.done < self._plan.grid.count and is_marked_complete(self._plan):
            mark_incomplete(self._plan)
        before = self._ledger.done
        with InFlight(self._plan.job_dir.url) as in_flight:
            for index in in_flight.beginning(self._order()):
                record = self._worker.run(RegionTask(index), self._predictor)
                if record.state == "done" and self._ledger.done == before:
                    note_unbuilt(self._plan)
                self._ledger.append(record)
                in_flight.ended(index)
                if record.state == "failed":
                    LOG.warning("region %d failed: [%s] %s", index, record.error.get("code"), record.error.get("message"))

    def _order(self) -> Iterator[int]:
        """Yield regions that are not done: the one looked at last before all others; a failed one not again."""
        rest = to_do(self._plan, self._ledger)
        while not self._closing.is_set():
            with self._lock:
                looked = next((index for index in reversed(self._looked) if self._is_open(index)), None)
            index = next(filter(self._is_open, rest), None) if looked is None else looked
            if index is None:
                return
            self._tried.add(index)
            yield index
        raise Closed

    def _is_open(self, index: int) -> bool:
        return index not in self._tried and self._ledger.states[index] != DONE
