"""What a disk holds after the power failed: all that was synced, and any part of the rest.

The model is harsher than most file systems. The bytes of a file are safe once the file was synced: else it may be whole, short
or empty. A name is safe once its folder was synced: else it may be as at any time since the last sync, each name for itself,
so that a later change may survive where an earlier one does not. As on ext4, XFS and btrfs, syncing a folder saves its own
name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from volumetool.testing.crash import Ended, inodes
from volumetool.testing.disk import DiskEvent

_FOLDER = -1


@dataclass
class Loss:
    """The losses of a power cut.

    Attributes
    ----------
    names : list of str
        Paths that went back to what they were.
    torn : list of str
        Files that are short or empty.
    at_risk : int
        Names and files that might have been lost.
    """

    names: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    at_risk: int = 0


@dataclass
class _Disk:
    """Possible contents of the disk: of every path those since the last sync, oldest first, and files that are not synced."""

    versions: dict[str, list[int | None]]
    unsynced: set[int] = field(default_factory=set)

    def take(self, event: DiskEvent) -> None:
        """Take one operation in."""
        if event.result < 0:
            return
        if event.kind == "create" and event.result:
            self._name(event.path, event.inode)
            self.unsynced.add(event.inode)
        elif event.kind == "write":
            self.unsynced.add(event.inode)
        elif event.kind == "rename":
            self._name(event.other, event.inode)
            self._name(event.path, None)
        elif event.kind == "remove":
            self._name(event.path, None)
        elif event.kind == "mkdir":
            self._name(event.path, _FOLDER)
        elif event.kind == "sync":
            self._sync(event)

    def _name(self, path: str, content: int | None) -> None:
        self.versions.setdefault(path, [None]).append(content)

    def _sync(self, event: DiskEvent) -> None:
        if event.path and self.versions.get(event.path, [None])[-1] != _FOLDER:
            self.unsynced.discard(event.inode)
            return
        safe = [path for path in self.versions if path.rpartition("/")[0] == event.path]
        place = event.path
        while place:
            safe.append(place)
            place = place.rpartition("/")[0]
        for path in safe:
            if path in self.versions:
                self.versions[path] = self.versions[path][-1:]


def lose_power(root: Path, ended: Ended, random: Random, share: float = 0.5) -> Loss:
    """Make a folder what it may be after a loss of power at the end of a run.

    Parameters
    ----------
    root : Path
        The watched folder; what was there before the run counts as synced.
    ended : Ended
        Result of :meth:`CrashRunner.run` with ``keep=True``.
    random : random.Random
        Decides what is lost.
    share : float, default 0.5
        Share of what can be lost that is lost, in 0..1.
    """
    disk = _Disk({path: [inode] for path, inode in ended.before.items()})
    for event in ended.events:
        disk.take(event)
    loss = Loss()
    left: dict[str, int] = {}
    for path, versions in sorted(disk.versions.items()):
        chosen = versions[-1]
        if len(versions) > 1:
            loss.at_risk += 1
            if random.random() < share and (chosen := random.choice(versions[:-1])) != versions[-1]:
                loss.names.append(path)
        if chosen is not None and _held(path, left):
            left[path] = chosen
    _rebuild(root, left, _Bytes(root, ended.graves, disk.unsynced, random, share), loss)
    return loss


def _held(path: str, left: dict[str, int]) -> bool:
    parent = path.rpartition("/")[0]
    return not parent or left.get(parent) == _FOLDER


class _Bytes:
    """Gives the bytes of a file as the disk may have them."""

    def __init__(self, root: Path, graves: Path | None, unsynced: Iterable[int], random: Random, share: float) -> None:
        self._files = {inode: root / path[1:] for path, inode in inodes(root).items() if inode != _FOLDER}
        if graves is not None:
            self._files = {int(file.name): file for file in graves.iterdir()} | self._files
        self._unsynced, self._random, self._share = set(unsynced), random, share

    def of(self, inode: int, path: str, loss: Loss) -> bytes:
        whole = self._files[inode].read_bytes()
        if inode not in self._unsynced or not whole:
            return whole
        loss.at_risk += 1
        if self._random.random() >= self._share:
            return whole
        loss.torn.append(path)
        return whole[: self._random.choice((0, len(whole) // 2, len(whole) - 1))]


def _rebuild(root: Path, left: dict[str, int], contents: _Bytes, loss: Loss) -> None:
    fresh = root.with_name(f"{root.name}.after")
    fresh.mkdir()
    for path, inode in left.items():  # sorted: a folder comes before what is in it
        place = fresh / path[1:]
        if inode == _FOLDER:
            place.mkdir()
        else:
            place.write_bytes(contents.of(inode, path, loss))
    shutil.rmtree(root)
    fresh.rename(root)
