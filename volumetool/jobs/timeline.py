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

    def throughput(self, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return how fast the machines were together, over the time in which any was at work.

        Parameters
        ----------
        steps : int
            Equal parts of that time.

        Returns
        -------
        hours : numpy.ndarray of float64, shape (steps + 1,)
            Ends of these parts; pauses in which no machine was at work are left out.
        mvox_per_s : numpy.ndarray of float64, shape (steps,)
            Millions of output voxels a second; the voxels of a region are spread over the time that it took.
        """
        start, stop = self._spans(np.ones(len(self._finished), np.bool_))
        start, stop = (np.interp(times, *self._worked(start, stop)) for times in (start, stop))
        edges = np.linspace(0.0, float(stop.max()), steps + 1)
        took = np.maximum(stop - start, 1e-9)
        done = [float((self.voxels * np.clip((edge - start) / took, 0, 1)).sum()) for edge in edges]
        return edges / 3600, np.diff(done) / np.maximum(np.diff(edges), 1e-9) / 1e6

    def _spans(self, mine: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return when some regions began and ended."""
        stop = self.finished[mine]
        return stop - self.seconds[mine], stop

    @staticmethod
    def _worked(start: NDArray[np.float64], stop: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return times at which work began or ended, and the seconds of work until then; pauses shorter than `PAUSE` count."""
        order = np.argsort(start)
        start, reached = start[order], np.maximum.accumulate(stop[order])
        pauses = np.flatnonzero(start[1:] - reached[:-1] > PAUSE)
        ends = np.stack([reached[pauses], start[pauses + 1]], axis=1).ravel()
        times = np.concatenate([start[:1], ends, reached[-1:]])
        worked = np.diff(times, prepend=times[0])
        worked[2:-1:2] = 0.0  # from the end of work to its next beginning
        return times, np.cumsum(worked)

    def _busy(self, mine: NDArray[np.bool_]) -> float:
        """Return the seconds that some regions cover together."""
        return float(self._worked(*self._spans(mine))[1][-1])
