"""A disk that fails on request: the library that stands in front of libc, and how it is told what to do."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from volumetool.configuration import cache_folder
from volumetool.errors import ResourceError

Kind = Literal["create", "write", "sync", "rename", "remove", "mkdir", "open", "read"]
"""What a process does to files; ``open`` is that for reading, and of folders."""

Action = Literal[
    "nothing",
    "kill-before",
    "kill-after",
    "kill-within",
    "fail-before",
    "fail-after",
    "fall-short",
    "lie",
    "wait",
    "fail-either",
]

CHANGES: tuple[Kind, ...] = ("create", "write", "sync", "rename", "remove", "mkdir")
"""The operations after which a disk may look different."""

FULL: tuple[Kind, ...] = ("create", "write", "mkdir")
"""The operations that a full disk refuses."""

_KINDS: tuple[Kind, ...] = get_args(Kind)
_ACTIONS: tuple[Action, ...] = get_args(Action)
_SOURCE = Path(__file__).with_name("disk.c")
_FOREVER = 2**62


@dataclass(frozen=True)
class DiskFault:
    """A fault of the disk, and the operations at which it happens.

    Operations of `kinds` below the watched folder are numbered from 1, over all threads of the process.

    Parameters
    ----------
    action : str
        ``kill-before`` and ``kill-after`` an operation, ``kill-within`` a write, half of which is done; ``fail-before`` it
        takes effect, or ``fail-after``; ``fall-short``: half of the bytes are read or written, and the process is told so;
        ``lie``: one bit of what is written is another one, or of all that is read until the file is opened again; ``wait``.
        ``fail-either`` is before or after, by chance. ``nothing`` counts alone.
    first : int
        The first operation that goes wrong.
    last : int, optional
        The last one; by default `first` alone.
    kinds : tuple of str
        Kinds of operations that are counted.
    error : int
        The errno of a failure.
    seconds : float
        Time that ``wait`` waits, in seconds.
    share : float
        Share of the operations that go wrong by chance, in 0..1; it takes the place of `first` and `last`.
    seed : int
        Seed of these random numbers.
    most : int
        Most operations that go wrong; 0 for any number.
    """

    action: Action = "nothing"
    first: int = 0
    last: int | None = None
    kinds: tuple[Kind, ...] = CHANGES
    error: int = errno.EIO
    seconds: float = 0.0
    share: float = 0.0
    seed: int = 0
    most: int = 0

    @classmethod
    def full(cls, first: int) -> DiskFault:
        """Return the fault of a disk that is full from an operation on."""
        return cls("fail-before", first, _FOREVER, kinds=FULL, error=errno.ENOSPC)


@dataclass(frozen=True)
class DiskEvent:
    """One operation.

    Attributes
    ----------
    number : int
        Number of the operation, as `DiskFault` counts.
    kind : str
        Kind of the operation.
    inode : int
        Inode of the file; 0 where it does not matter.
    result : int
        Bytes of a read or write; 1 for a file that was created, 0 for one that was there; -1 for an operation that failed.
    path, other : str
        Below the watched folder; `other` is a rename's target.
    """

    number: int
    kind: Kind
    inode: int
    result: int
    path: str
    other: str


def can_fail() -> bool:
    """Return whether disks of this machine can be made to fail: Linux, and a C compiler."""
    return sys.platform == "linux" and shutil.which("cc") is not None


@functools.cache
def library() -> Path:
    """Return the library to load in front of libc, compiled once per version of its source.

    Raises
    ------
    ResourceError
        ``resource.no-compiler``.
    """
    if not can_fail():
        raise ResourceError(
            "resource.no-compiler",
            f"a failing disk needs Linux and a C compiler; this is {sys.platform}, `cc` is {shutil.which('cc') or 'missing'}",
            hint="skip these tests here: volumetool.testing.can_fail() says whether they can run",
        )
    made = cache_folder() / f"disk-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        fresh = made.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", fresh, _SOURCE, "-ldl", "-lpthread"], check=True)  # noqa: S603, S607
        fresh.replace(made)
    return made


def arm(fault: DiskFault, root: Path, grave: Path | None, log: int) -> None:
    """Watch a folder from now on, in a process that was started with the library.

    Parameters
    ----------
    fault : DiskFault
        Fault of the disk.
    root : Path
        Folder that is watched.
    grave : Path, optional
        Folder that keeps files which lose their names.
    log : int
        Descriptor of a file that takes the events; -1 for none.
    """
    last = fault.last if fault.last is not None else fault.first
    ctypes.CDLL(None).volumetool_disk_arm(
        *(os.fsencode(root), os.fsencode(grave or ""), log),
        *(sum(1 << _KINDS.index(kind) for kind in fault.kinds), _ACTIONS.index(fault.action), fault.error),
        *(ctypes.c_long(fault.first), ctypes.c_long(last), ctypes.c_long(round(fault.seconds * 1000))),
        *(ctypes.c_double(fault.share), ctypes.c_uint64(fault.seed), ctypes.c_long(fault.most)),
    )


def hits() -> int:
    """Return how many operations of this process went wrong so far."""
    counted = ctypes.CDLL(None).volumetool_disk_hits
    counted.restype = ctypes.c_long
    return int(counted())


def read_events(log: Path) -> tuple[DiskEvent, ...]:
    """Return the events that a process left in its log."""
    rows = (line.split("\t") for line in log.read_text().splitlines())
    kinds = {kind: kind for kind in _KINDS}
    return tuple(DiskEvent(int(n), kinds[k], int(inode), int(result), a, b) for n, k, inode, result, a, b in rows)  # type: ignore[index]
