"""What this process may use of its machine: containers, batch systems and affinity allow less than the machine has.

Linux bounds groups of processes (cgroups, of version 1 or 2, one inside the other); every one from this process's own up to the
root counts. A SLURM job is bounded by what was asked for, whether or not the site enforces it by groups.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import psutil

GROUPS = Path("/sys/fs/cgroup")
"""Folder in which Linux shows its control groups."""

OWN_GROUPS = Path("/proc/self/cgroup")
"""File that names the control groups of this process."""

_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Units of memory in SLURM's variables; without a letter they are MiB."""


def usable_cores() -> int:
    """Return how many cores this process may use: by affinity, by the quotas of its groups, and of a SLURM job."""
    cores = [float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)]
    cores += _quotas()
    if asked := _slurm_cores():
        cores.append(asked)
    return max(1, math.ceil(min(cores)))


def usable_memory() -> int:
    """Return the bytes that this process may still take: of what the machine has free, and of what it is allowed."""
    return max(0, min(_limits())[0])


def memory_limit() -> str:
    """Return what bounds `usable_memory` most, by name and value, for who wants to change it."""
    return min(_limits())[1]


Left = tuple[int, str]
"""Bytes that a limit leaves to this process, and the limit by name and value."""


def _limits() -> list[Left]:
    free = psutil.virtual_memory().available, "free memory of this machine"
    return [free, *_left_in_groups(), *_left_of_slurm(), *_left_of_ulimit()]


def _left_in_groups() -> Iterator[Left]:
    """Yield what is left to each group that this process is in."""
    for folder in _folders("memory", GROUPS / "memory"):
        limit, used, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        yield from _left(folder, (limit,), used, cached)
    for folder in _folders("", GROUPS, GROUPS / "unified"):
        yield from _left(folder, ("memory.max", "memory.high"), "memory.current", "inactive_file")


def _left(folder: Path, limits: tuple[str, ...], used: str, cached: str) -> Iterator[Left]:
    """Yield what is left of the limits of a group: cached files do not count, because they are let go of first."""
    told = [(number, folder / name) for name in limits if (number := _number(folder / name))]
    if told:
        found = re.search(rf"^{cached} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
        taken = (_number(folder / used) or 0) - (int(found[1]) if found else 0)
        limit, file = min(told)
        yield int(limit - max(0, taken)), f"{file} = {int(limit)}"


def _quotas() -> Iterator[float]:
    """Yield how many cores' time each group that this process is in may take."""
    for folder in _folders("cpu", GROUPS / "cpu", GROUPS / "cpu,cpuacct"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            yield quota / period
    for folder in _folders("", GROUPS, GROUPS / "unified"):
        quota, period = (_parsed(word) for word in (*_text(folder / "cpu.max").split(), "", "")[:2])
        if quota and period:
            yield quota / period


def _folders(controller: str, *roots: Path) -> Iterator[Path]:
    """Yield the folders of this process's group and of all around it; the controller is empty for version 2.

    A container may see its own group as the root, and be told a path that leads nowhere in there.
    """
    for root in filter(Path.is_dir, roots):
        path = PurePosixPath(_own_group(controller).lstrip("/"))
        yield from dict.fromkeys(root / part for part in (path, *path.parents) if ".." not in part.parts)


def _own_group(controller: str) -> str:
    """Return the path of this process's group, which of version 2 stands where no controller is named."""
    paths: dict[str, str] = {}
    for line in _text(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    return paths.get(controller) or paths.get("") or "/"


def _left_of_slurm() -> Iterator[Left]:
    """Yield what is left of the memory that a SLURM job asked for on this node."""
    own = psutil.Process().memory_info().rss
    devices = _first_count("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS") or 1
    counted = {"SLURM_MEM_PER_NODE": 1, "SLURM_MEM_PER_CPU": _slurm_cores() or 1, "SLURM_MEM_PER_GPU": devices}
    for name, times in counted.items():
        found = re.fullmatch(r"(\d+)([KMGT]?)B?", os.environ.get(name, "").strip().upper())
        if found and int(found[1]):  # 0 stands for all that the node has
            yield int(found[1]) * _UNITS[found[2]] * times - own, f"{name}={found[0]}" + (f" x {times}" if times > 1 else "")


def _slurm_cores() -> int:
    """Return how many cores SLURM gave to this task, or to this node where it does not say that; 0 where it says nothing."""
    return _first_count("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE")


def _first_count(*names: str) -> int:
    """Return the number in the first variable that has one: 4 in ``4``, ``4(x2),3`` and ``a100:4``; 0 where none has."""
    found = (re.match(r"(?:[^:,(]+:)*(\d+)", os.environ.get(name, "").strip()) for name in names)
    return next((int(each[1]) for each in found if each and int(each[1])), 0)


def _left_of_ulimit() -> Iterator[Left]:
    """Yield what is left of the addresses that this process may have (``ulimit -v``)."""
    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            yield soft - psutil.Process().memory_info().vms, f"ulimit -v {soft // 2**10}"


def _number(file: Path) -> float | None:
    return _parsed(_text(file).strip())


def _parsed(text: str) -> float | None:
    """Return a number, None where there is none, as in ``max``."""
    return float(text) if re.fullmatch(r"-?\d+", text) else None


def _text(file: Path) -> str:
    with suppress(OSError, ValueError):
        return file.read_text()
    return ""


def existing_folder(place: Path) -> Path:
    """Return a place, or the nearest folder above it that exists."""
    while not place.exists():
        place = place.parent
    return place
