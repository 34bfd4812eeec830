"""What this process may use of its machine: containers, batch systems and affinity allow less than the machine has.

Linux bounds groups of processes (cgroups, of version 1 or 2, one inside the other); every one from this process's own up to the
root counts. A SLURM job is bounded by what was asked for, whether or not the site enforces it by groups.

Of a file system ``statvfs`` tells the room, on ext4 and XFS that of a folder's project, too. Other quotas are told by the
programs that sites have for them: ``quota``, of NFS servers, too, and ``lfs quota`` of Lustre. No other quota is known.
"""

from __future__ import annotations

import functools
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

GROUPS = Path("/sys/fs/cgroup")
"""Folder in which Linux shows its control groups."""

OWN_GROUPS = Path("/proc/self/cgroup")
"""File that names the control groups of this process."""

_NO_LIMIT = 2**60
"""Groups of version 1 that have no limit say a number above this one."""

_UNITS = {"": 2**20, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
"""Units of memory in SLURM's variables; without a letter they are MiB."""


PATIENCE = 5.0
"""Seconds for an answer: servers of quotas may be gone."""

FRESH = 30.0
"""Seconds for which an answer is used again."""

LUSTRE = "lustre"

Left = tuple[int, str]
"""Bytes, cores or files that a limit leaves to this process, and the limit by name and value."""


@dataclass(frozen=True)
class Quota:
    """A quota, and what is taken of it.

    Attributes
    ----------
    whose : str
        Such as ``user alice``.
    place : str
        Where its file system is mounted.
    kib, most_kib : int
        KiB that are stored, and that may be; 0 for no limit.
    files, most_files : int
        Files that there are, and that there may be; 0 for no limit.
    """

    whose: str
    place: str
    kib: int
    most_kib: int
    files: int
    most_files: int

    @property
    def bytes_left(self) -> Iterator[Left]:
        """What it leaves, and the quota by name and value; nothing without a limit."""
        if self.most_kib:
            yield max(0, self.most_kib - self.kib) * 1024, f"the quota of {self.whose} on {self.place}, {self.most_kib} KiB"

    @property
    def files_left(self) -> Iterator[Left]:
        """How many files it leaves, and the quota by name and value; nothing without a limit."""
        if self.most_files:
            yield max(0, self.most_files - self.files), f"the quota of {self.whose} on {self.place}, {self.most_files} files"


def usable_cores() -> int:
    """Return how many cores this process may use: the least of `core_limits`."""
    return min(core_limits())[0]


def core_limits() -> list[Left]:
    """Return the cores that each limit leaves to this process: affinity, the quotas of its groups, and a SLURM job."""
    slurm, name = _slurm_cores()
    return [_affinity(), *_quotas(), *([(slurm, name)] if slurm else [])]


def usable_memory() -> int:
    """Return the bytes that this process may still take: the least of `memory_limits`."""
    return max(0, min(memory_limits())[0])


def memory_limit() -> str:
    """Return what bounds `usable_memory` most, by name and value, for who wants to change it."""
    return min(memory_limits())[1]


def memory_limits() -> list[Left]:
    """Return the bytes that each limit leaves to this process: the machine, its groups, a SLURM job and ``ulimit``."""
    free = psutil.virtual_memory().available, "free memory of this machine"
    return [free, *_left_in_groups(), *_left_of_slurm(), *_left_of_ulimit()]


def free_files(folder: Path) -> int | None:
    """Return how many files may still be made where a folder is, or will be; None where the file system does not count them."""
    if not hasattr(os, "statvfs"):
        return None
    told = os.statvfs(existing_folder(folder))
    return told.f_favail if told.f_files else None


def byte_limits(folder: Path) -> list[Left]:
    """Return the bytes that may still be written in a folder, by its file system and by each quota.

    Parameters
    ----------
    folder : pathlib.Path
        It need not exist yet.
    """
    found = existing_folder(folder)
    room = shutil.disk_usage(found).free, "its file system"
    return [room, *(left for quota in disk_quotas(found) for left in quota.bytes_left)]


def file_limits(folder: Path) -> list[Left]:
    """Return how many files may still be made in a folder, by its file system, if it counts them, and by each quota.

    Parameters
    ----------
    folder : pathlib.Path
        It need not exist yet.
    """
    found = existing_folder(folder)
    room = free_files(found)
    counted = [] if room is None else [(room, "its file system")]
    return [*counted, *(left for quota in disk_quotas(found) for left in quota.files_left)]


def disk_quotas(folder: Path) -> list[Quota]:
    """Return the quotas of this user, of the user's groups and of a folder's project that a program tells."""
    place, kind = mount_of(folder)
    return list(_of_lustre(folder, place) if kind == LUSTRE else _of_others(place))


def mount_of(folder: Path) -> tuple[str, str]:
    """Return where the innermost file system around a folder is mounted, and its kind."""
    place = folder.resolve()
    return _mount_of(place, place.stat().st_dev if place.exists() else 0)


@functools.lru_cache(2**8)
def _mount_of(place: Path, _device: int) -> tuple[str, str]:
    mounted = [part for part in psutil.disk_partitions(all=True) if place.is_relative_to(part.mountpoint)]
    inner = max(mounted, key=lambda part: len(part.mountpoint), default=None)
    return ("/", "unknown") if inner is None else (inner.mountpoint, inner.fstype)


def _affinity() -> Left:
    """Return the cores that this process is pinned to, or all where that cannot be asked, as in some allocations."""
    whole = os.cpu_count() or 1
    if not hasattr(os, "sched_getaffinity"):
        return whole, "cores of this machine"
    try:
        return len(os.sched_getaffinity(0)), "cores that this process is pinned to"
    except OSError as error:
        return whole, f"cores of this machine: which ones are allowed cannot be asked ({error})"


def _left_in_groups() -> Iterator[Left]:
    """Yield what is left to each group that this process is in."""
    for folder in _folders("memory", GROUPS / "memory"):
        limit, used, cached = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        yield from _left(folder, (limit,), used, cached)
    for folder in _folders("", GROUPS, GROUPS / "unified"):
        yield from _left(folder, ("memory.max", "memory.high"), "memory.current", "inactive_file")


def _left(folder: Path, limits: tuple[str, ...], used: str, cached: str) -> Iterator[Left]:
    """Yield what is left of the limits of a group: cached files do not count, because they are let go of first."""
    told = [(number, folder / name) for name in limits if 0 < (number := _number(folder / name) or 0) < _NO_LIMIT]
    if told:
        found = re.search(rf"^{cached} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
        taken = (_number(folder / used) or 0) - (int(found[1]) if found else 0)
        limit, file = min(told)
        yield int(limit - max(0, taken)), f"{file} = {int(limit)}"


def _quotas() -> Iterator[Left]:
    """Yield how many cores' time each group that this process is in may take, rounded up."""
    for folder in _folders("cpu", GROUPS / "cpu", GROUPS / "cpu,cpuacct"):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            yield math.ceil(quota / period), f"{folder / 'cpu.cfs_quota_us'} = {quota:.0f} of {period:.0f}"
    for folder in _folders("", GROUPS, GROUPS / "unified"):
        quota, period = (_parsed(word) for word in (*_text(folder / "cpu.max").split(), "", "")[:2])
        if quota and period:
            yield math.ceil(quota / period), f"{folder / 'cpu.max'} = {quota:.0f} of {period:.0f}"


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
    devices = _first_count("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS")[0] or 1
    counted = {"SLURM_MEM_PER_NODE": 1, "SLURM_MEM_PER_CPU": _slurm_cores()[0] or 1, "SLURM_MEM_PER_GPU": devices}
    for name, times in counted.items():
        found = re.fullmatch(r"(\d+)([KMGT]?)B?", os.environ.get(name, "").strip().upper())
        if found and int(found[1]):  # 0 stands for all that the node has
            yield int(found[1]) * _UNITS[found[2]] * times - own, f"{name}={found[0]}" + (f" x {times}" if times > 1 else "")


def _slurm_cores() -> Left:
    """Return the cores that SLURM gave to this task, or to this node where it does not say that; 0 where it says nothing."""
    return _first_count("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE")


def _first_count(*names: str) -> Left:
    """Return the number in the first variable that has one: 4 in ``4``, ``4(x2),3`` and ``a100:4``; 0 where none has."""
    for name in names:
        found = re.match(r"(?:[^:,(]+:)*(\d+)", text := os.environ.get(name, "").strip())
        if found and int(found[1]):
            return int(found[1]), f"{name}={text}"
    return 0, ""


def _left_of_ulimit() -> Iterator[Left]:
    """Yield what is left of the addresses (``ulimit -v``) and of the memory of its own (``-d``) that this process may have."""
    if sys.platform != "win32":
        import resource

        for flag, kind, told in (("v", resource.RLIMIT_AS, "vms"), ("d", resource.RLIMIT_DATA, "data")):
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY and hasattr(
                taken := psutil.Process().memory_info(), told
            ):  # Linux alone tells data
                yield soft - getattr(taken, told), f"ulimit -{flag} {soft // 2**10}"


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


def _of_others(place: str) -> Iterator[Quota]:
    """Yield what ``quota`` tells of a file system: below a heading for each user or group a line for each file system."""
    for flag in ("-u", "-g"):
        whose = ""
        for line in _told("quota", flag, "-w", "-p", "--show-mntpoint", "--hide-device").splitlines():
            heading = re.match(r"Disk quotas for (.+?) \([a-z]+ \d+\):", line)
            whose = heading[1] if heading else whose
            where, numbers = _row(line)
            if whose and where == place:
                yield Quota(whose, place, *numbers)


def _of_lustre(folder: Path, place: str) -> Iterator[Quota]:
    """Yield what ``lfs quota`` tells of this user, this group and the project of a folder, as long as it has one."""
    project = re.match(r"\s*(\d+)", _told("lfs", "project", "-d", str(folder)))
    asked = [("user", "-u", str(os.getuid())), ("group", "-g", str(os.getgid()))]
    asked += [("project", "-p", project[1])] if project and int(project[1]) else []
    for kind, flag, number in asked:
        where, numbers = _row(" ".join(_told("lfs", "quota", "-q", flag, number, place).split()))
        if where == place:
            yield Quota(f"{kind} {number}", place, *numbers)


def _row(line: str) -> tuple[str, tuple[int, int, int, int]]:
    """Return the file system of a line, and KiB, their limit, files and their limit; no file system where it is no such line.

    A star says that the limit is exceeded, brackets that a number is not certain. Without a hard limit the soft one counts.
    """
    size = r"\[?(\d+)\]?\*?"
    found = re.fullmatch(rf"\s*(\S.*?)\s+{size}\s+{size}\s+{size}\s+\S+\s+{size}\s+{size}\s+{size}\s+\S+\s*", line)
    if found is None:
        return "", (0, 0, 0, 0)
    kib, soft, hard, files, soft_files, hard_files = map(int, found.groups()[1:])
    return found[1], (kib, hard or soft, files, hard_files or soft_files)


def _told(*command: str) -> str:
    return _asked(command, int(time.monotonic() / FRESH))


@functools.lru_cache(maxsize=32)
def _asked(command: tuple[str, ...], _now: int) -> str:
    """Return what a program prints; nothing where it is not installed or does not answer. Its exit code says who exceeds."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout
