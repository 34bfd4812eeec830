"""Resources: the workers that will run a job, and what each of them has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from volumetool.jobs.job import Job
from volumetool.machine import memory_limit, usable_cores, usable_memory
from volumetool.units import show_bytes

MEMORY_SHARE = 0.7
"""Share of the free memory that a job takes unless told otherwise."""


@dataclass(frozen=True)
class Resources:
    """The workers of a cluster. A plan is made for them; where they differ, for the least of them.

    Attributes
    ----------
    workers : int
        Processes or GPUs; each computes one region at a time.
    threads : int
        CPU threads of each.
    memory : int
        Bytes that each may use.
    bound : str
        What bounds the memory, by name and value.
    notes : tuple of str
        What a user should know of them.
    rates : mapping
        Floating-point operations per second of each worker, by address, as it measured them; empty where all are alike.
    planner : str
        The worker that plans the job: a sample is timed there.
    """

    workers: int
    threads: int
    memory: int
    bound: str
    notes: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    planner: str = ""

    @property
    def pace(self) -> float:
        """How many times as fast as the worker that plans the job all of them are together."""
        own = self.rates.get(self.planner)
        return sum(self.rates.values()) / own if own else float(self.workers)


def machine_resources(job: Job, workers: int | None = None) -> Resources:
    """Return the workers of a job on this machine.

    Parameters
    ----------
    job : Job
        May say how many workers there are, and how much memory they share.
    workers : int, optional
        Their number where the job does not say it; one without it.
    """
    number = job.workers or workers or 1
    memory = (job.memory or int(MEMORY_SHARE * usable_memory())) // number
    bound = memory_limit() if job.memory is None else f"--memory {show_bytes(job.memory)}"
    return Resources(number, max(1, usable_cores() // number), memory, bound)
