"""Which process is which: a number, when it was born, and where that number means something.

On Linux the birth is counted in ticks since the machine was started, which no step of its clock changes. Elsewhere it is a time
of day, which may be told otherwise once the clock was set: it can then not be said whether the process is the same one.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC = Path("/proc")
"""Folder in which Linux shows its processes."""

SAME_SECONDS = 1.0
"""Seconds that two start times of one process may differ, where they are times of day."""


@dataclass(frozen=True)
class Process:
    """A process, told from all others.

    Attributes
    ----------
    place : str
        The machine's start and process namespace, in which `pid` means something.
    pid : int
        Number of the process.
    born : float
        When it began: ticks since the machine was started; seconds of Unix time where the system does not tell these.
    """

    place: str
    pid: int
    born: float

    def lives(self) -> bool | None:
        """Return whether it still runs; None where that cannot be told from here."""
        if self.place != _place():
            return None
        now = _born(self.pid)
        if now is None:
            return False
        if _ticks_are_told():
            return now == self.born
        return True if abs(now - self.born) < SAME_SECONDS else None


def this_process() -> Process:
    """Return this process."""
    process = process_of(os.getpid())
    assert process is not None  # noqa: S101  (it runs)
    return process


def process_of(pid: int) -> Process | None:
    """Return the process of a number; None where it has ended."""
    born = _born(pid)
    return None if born is None else Process(_place(), pid, born)


def keep_within(pid: int, size: int) -> None:
    """Let a process that was just started have so much memory of its own, where the system can do that (Linux: ``ulimit -d``).

    Parameters
    ----------
    pid : int
        Its number. Processes that it starts later may have as much, each.
    size : int
        In bytes: what it may write into, without files and without addresses that are only set apart, as drivers of GPUs do.
    """
    if sys.platform == "linux":
        import resource

        with suppress(OSError):  # it has ended
            _, most = resource.prlimit(pid, resource.RLIMIT_DATA)
            size = size if most == resource.RLIM_INFINITY else min(size, most)
            resource.prlimit(pid, resource.RLIMIT_DATA, (size, size))


def _ticks_are_told() -> bool:
    return (PROC / "self" / "stat").exists()


def _place() -> str:
    if not _ticks_are_told():
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"
    boot = (PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
    return f"linux/{boot}/{(PROC / 'self' / 'ns' / 'pid').stat().st_ino}"


def _born(pid: int) -> float | None:
    """Return when a process began, None where there is none: one that has ended and is not yet buried is none, either."""
    if not _ticks_are_told():
        try:
            return psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            return None
    try:
        # The name, in brackets, may hold anything. Behind it: state, 18 numbers, and the start in ticks.
        state, *numbers = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else float(numbers[18])


def give_way(pid: int, nice: int) -> None:
    """Let a process that was just started take what others leave of the cores, as far as the system allows.

    Parameters
    ----------
    pid : int
        Its number. Threads that it begins later inherit this, and processes too.
    nice : int
        From 1, a little behind others, to 19.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        # Linux shares the cores among sessions first, where it groups by these; a session of its own has to give way as one.
        if os.getsid(pid) == pid:
            (PROC / str(pid) / "autogroup").write_text(str(nice))
