"""When regions ended, where, and how fast: what a status and a report say about the machines of a job."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volumetool.jobs.records.ledger import Record

PAUSE = 60.0
"""A machine that ended no region for so many seconds, apart from the one that it ended next, was not at work."""

MOST_WORKERS = 64
"""Workers that are told of: those that ended a region last."""


@dataclass(frozen=True)
class WorkerState:
    """What a worker has done.

    Attributes
    ----------
    worker : str
        Host and process.
    device : str
        Where its network runs; empty in records of before.
    regions : int
        Regions that it finished.
    mvox_per_s : float, optional
        Millions of output voxels a second, while it was at a region; None where that took no time.
    idle_seconds : float
        Since it last ended a region.
    """

    worker: str
    device: str
    regions: int
    mvox_per_s: float | None
    idle_seconds: float

    def __str__(self) -> str:
        rate = "" if self.mvox_per_s is None else f", {self.mvox_per_s:.3g} million output voxels a second"
        device = f" on {self.device}" if self.device else ""
        return f"{self.worker}{device}: {self.regions} regions{rate}; the last one ended {self.idle_seconds:.0f} s ago"


class Timeline:
    """The finished regions of a job, some 28 bytes each."""

    def __init__(self) -> None:
        self._finished, self._seconds, self._voxels = array("d"), array("d"), array("d")
        self._who = array("L")
        self._workers: dict[tuple[str, str], int] = {}

    def add(self, record: Record, voxels: int) -> None:
        """Add a finished region of so many output voxels."""
        self._finished.append(record.finished)
        self._seconds.append(record.seconds)
        self._voxels.append(voxels)
        self._who.append(self._workers.setdefault((record.worker, record.device), len(self._workers)))

    @property
    def finished(self) -> NDArray[np.float64]:
        """Unix times at which regions ended."""
        return np.asarray(self._finished)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """How long regions took."""
        return np.asarray(self._seconds)

    @property
    def voxels(self) -> NDArray[np.float64]:
        """Output voxels of regions."""
        return np.asarray(self._voxels)

    def workers(self, now: float) -> list[WorkerState]:
        """Return what each worker has done, those first that ended a region last.

        Parameters
        ----------
        now : float
            Unix time.
        """
        who, count = np.asarray(self._who), len(self._workers)
        regions = np.bincount(who, minlength=count)
        voxels, seconds = (np.bincount(who, values, count) for values in (self.voxels, self.seconds))
        last = np.full(count, -np.inf)
        np.maximum.at(last, who, self.finished)
        names = list(self._workers)
        return [
            WorkerState(
                worker=names[index][0],
                device=names[index][1],
                regions=int(regions[index]),
                mvox_per_s=float(voxels[index] / seconds[index] / 1e6) if seconds[index] else None,
                idle_seconds=max(0.0, now - float(last[index])),
            )
            for index in np.argsort(-last, kind="stable")[:MOST_WORKERS].tolist()
        ]

    @property
    def node_hours(self) -> float:
        """Hours in which machines were at work, added up over the machines, however many workers each had."""
        hosts: dict[str, list[int]] = {}
        for (worker, _), index in self._workers.items():
            hosts.setdefault(worker.rpartition(":")[0], []).append(index)
        who = np.asarray(self._who)
        return sum(self._busy(np.isin(who, workers)) for workers in hosts.values()) / 3600

    def _busy(self, mine: NDArray[np.bool_]) -> float:
        """Return the seconds that some regions cover together; pauses shorter than `PAUSE` count."""
        stop = self.finished[mine]
        start = stop - self.seconds[mine]
        order = np.argsort(start)
        start, reached = start[order], np.maximum.accumulate(stop[order])
        gaps = start[1:] - reached[:-1]
        return float(reached[-1] - start[0] - gaps[gaps > PAUSE].sum())
