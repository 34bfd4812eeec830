"""Fleets of workers with a clock of their own: how long a job takes, and what it computes twice.

Regions and workers are numbers here, but who gets which region is decided by the very code that decides it in a job
(`volumetool/jobs/clusters/assignment.py`). The driver is one process that each region costs some time. pytest does not collect
this file; `test_assignment.py` and `test_whole_brain.py` use it. To run it::

    python tests/benchmarks/fleet.py --devices 64 --regions 1000000 --region-seconds 20
    python tests/benchmarks/fleet.py --devices 4096 --regions 100000000 --parts 64 --slow 0.05

With parts, one of them is simulated, with its share of devices and regions: parts share no driver.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console

from volumetool.jobs.clusters.assignment import ANYBODY, Assignment


@dataclass(frozen=True)
class Device:
    """A worker of a fleet.

    Attributes
    ----------
    seconds : float
        What a usual region takes on it.
    comes, goes : float
        When it is there, in seconds; what it has when it goes is begun again elsewhere.
    """

    seconds: float
    comes: float = 0.0
    goes: float = math.inf


@dataclass
class Outcome:
    """What a fleet did.

    Attributes
    ----------
    end : float
        When the last region was recorded, in seconds.
    ended : list of (float, str)
        When each region was recorded, and whose record it was.
    begun : int
        Regions that were begun, second copies and those that were begun again included.
    """

    end: float = 0.0
    ended: list[tuple[float, str]] = field(default_factory=list)
    begun: int = 0

    def rate(self, start: float, stop: float) -> float:
        """Return the regions per second that were recorded between two times."""
        return sum(start <= when < stop for when, _ in self.ended) / (stop - start)


class Fleet:
    """A job of a number of regions on workers that come, work and go.

    Parameters
    ----------
    devices : sequence of Device
        The workers.
    regions : int
        How many regions the job has.
    driver_seconds : float
        What a region costs the driver, which does one thing at a time.
    spread : float
        Standard deviation of the logarithm of what a region takes: 0 where all take the same.
    look_seconds : float
        How often the driver looks who is there, and whether a second copy pays.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        regions: int,
        *,
        driver_seconds: float = 0.0,
        spread: float = 0.0,
        look_seconds: float = 1.0,
    ) -> None:
        self._devices = {f"worker-{n}": device for n, device in enumerate(devices)}
        self._cost, self._spread, self._look = driver_seconds, spread, look_seconds
        self._assignment, self._outcome = Assignment(), Outcome()
        self._turns: Iterator[int] = iter(range(regions))
        self._left: deque[int] = deque()
        self._open = regions
        self._flying: set[int] = set()
        self._queues: dict[str, deque[int]] = {name: deque() for name in self._devices}
        self._working: dict[str, int] = {}
        self._tasks: dict[int, int] = {}  # key of each task, and its region
        self._keys = itertools.count()
        self._driver = 0.0
        self._next_look = 0.0
        self._events: list[tuple[float, int, str, int]] = []
        self._order = itertools.count()
        self._random = np.random.default_rng(0)

    def run(self) -> Outcome:
        """Run the job, and say what happened."""
        changes = {each for device in self._devices.values() for each in (device.comes, device.goes) if each < math.inf}
        for when in changes:
            self._at(math.ceil(when / self._look) * self._look, "", -1)
        while self._open and self._events:
            now, _, worker, key = heapq.heappop(self._events)
            if not worker:
                self._see(now)
            elif self._working.get(worker) == key:
                del self._working[worker]
                self._record(now, worker, key)
                self._begin_next(now, worker)
            self._hand_out(now)
        return self._outcome

    def _at(self, when: float, worker: str, key: int) -> None:
        heapq.heappush(self._events, (when, next(self._order), worker, key))

    def _see(self, now: float) -> None:
        there = {name: None for name, device in self._devices.items() if device.comes <= now < device.goes}
        gone = set(self._assignment.workers) - set(there)
        self._assignment.see(there)
        for name in gone:
            lost = [*self._queues[name], *([self._working.pop(name)] if name in self._working else [])]
            self._queues[name].clear()
            for key in filter(self._tasks.__contains__, lost):  # the other copy may have been first
                region = self._tasks.pop(key)
                self._assignment.end(key)
                if region in self._flying and not self._assignment.has(region):
                    self._left.append(region)

    def _record(self, now: float, worker: str, key: int) -> None:
        region = self._tasks.pop(key, None)
        if region is None:  # the other copy was first
            return
        self._driver = max(now, self._driver) + self._cost
        self._assignment.end(key, [self._devices[worker].seconds])
        if region in self._flying:
            self._flying.discard(region)
            self._open -= 1
            self._outcome.ended.append((self._driver, worker))
            self._outcome.end = self._driver
        for other in self._copies(region):
            self._tasks.pop(other)
            self._assignment.end(other)

    def _copies(self, region: int) -> list[int]:
        if not self._assignment.has(region):
            return []
        return [key for key, mine in self._tasks.items() if mine == region]

    def _hand_out(self, now: float) -> None:
        while (worker := self._assignment.next_worker()) is not None and worker != ANYBODY:
            region = self._left.popleft() if self._left else next(self._turns, None)
            if region is None:
                break
            self._flying.add(region)
            self._give(now, worker, region)
        else:
            return
        while (straggler := self._assignment.straggler(now)) is not None:
            key, worker = straggler
            self._give(now, worker, self._tasks[int(str(key))])
        if self._next_look <= now:
            self._next_look = now + self._look
            self._at(self._next_look, "", -1)

    def _give(self, now: float, worker: str, region: int) -> None:
        key = next(self._keys)
        self._tasks[key] = region
        self._assignment.give(key, worker, [region])
        self._queues[worker].append(key)
        if worker not in self._working:
            self._begin_next(max(now, self._driver), worker)

    def _begin_next(self, now: float, worker: str) -> None:
        queue = self._queues[worker]
        while queue:
            key = queue.popleft()
            if key in self._tasks:
                self._working[worker] = key
                self._outcome.begun += 1
                self._assignment.began(worker, self._tasks[key], now)
                usual = self._devices[worker].seconds
                self._at(now + usual * math.exp(self._random.normal(0.0, self._spread)), worker, key)
                return


def main() -> None:
    """Simulate a fleet and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--regions", type=int, default=1_000_000)
    parser.add_argument("--parts", type=int, default=1, help="drivers that share the regions; one of them is simulated")
    parser.add_argument("--region-seconds", type=float, default=20.0, help="of a usual device")
    parser.add_argument("--spread", type=float, default=0.2, help="of the logarithm of these seconds")
    parser.add_argument("--slow", type=float, default=0.0, help="share of devices that are ten times slower")
    parser.add_argument("--driver-ms", type=float, default=1.0, help="what a region costs the driver")
    asked = parser.parse_args()
    number, regions = asked.devices // asked.parts, asked.regions // asked.parts
    slow = round(asked.slow * number)
    devices = [Device(asked.region_seconds * (10 if n < slow else 1)) for n in range(number)]
    began = time.perf_counter()
    done = Fleet(devices, regions, driver_seconds=asked.driver_ms / 1000, spread=asked.spread).run()
    ideal = regions * asked.region_seconds * math.exp(asked.spread**2 / 2) / (number - slow + slow / 10)
    Console(width=200).print(
        f"{number} devices, {regions} regions: {done.end / 3600:.2f} h, where {ideal / 3600:.2f} h would keep all busy; "
        f"{len(done.ended) / done.end:.1f} regions/s; {done.begun - regions} begun twice "
        f"({time.perf_counter() - began:.0f} s to simulate)"
    )


if __name__ == "__main__":
    main()
