"""The inbox: sections that have arrived whole. What is still being written is never read.

A file counts as whole once its size and time of change have stood still for a while, it is a TIFF whose every strip lies inside
it, and it can be decoded; it is looked at once more after it was read. So a file that is written slowly waits, one that is
moved to its name is taken at once, and one that is damaged is reported and waits until it changes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from volumetool.errors import InputError, VolumetoolError
from volumetool.events import Observer, SectionRefused
from volumetool.geometry import Size
from volumetool.storage.images import open_images
from volumetool.storage.images.names import Pattern, may_hold_a_section, numbered, shared_pattern

Stamp = tuple[int, int, int]
"""State of a file: its bytes, when it was changed last (ns), and its inode. A file with another state is another file."""

Clock = Callable[[], float]
"""Returns seconds; only differences count."""


@dataclass(frozen=True)
class Section:
    """A section that has arrived.

    Attributes
    ----------
    name : str
        Name of its file, or of the volume.
    pattern : Pattern
        The part of the name that all sections share.
    number : int
        Number in the name.
    voxels : numpy.ndarray, shape (y, x)
        Grey values in native byte order.
    voxel_size : tuple of float, optional
        Voxel size along z, y, x in nm, where the file says it.
    translation : tuple of float
        Position of the centre of the first voxel of section 0, in nm.
    """

    name: str
    pattern: Pattern
    number: int
    voxels: NDArray[Any]
    voxel_size: Size | None
    translation: Size = (0.0, 0.0, 0.0)


class Inbox(Protocol):
    """A source of arriving sections."""

    def look(self, changed: Iterable[str] = ()) -> bool:
        """Look for what is new; say whether anything waits to stand still.

        Parameters
        ----------
        changed : iterable of str
            Places that changed since; others that were taken are not looked at again.
        """

    def take(self) -> Section | None:
        """Return the first section, by number, that is whole and was not taken before; None where there is none."""

    def refuse(self, section: Section, why: str) -> None:
        """Refuse a section that was given out: it is reported, and taken again once its file has changed."""

    def pass_over(self, pattern: Pattern, numbers: Container[int]) -> None:
        """Take sections that an earlier run has for taken, without reading them."""


class TiffFolder:
    """Sections that arrive as TIFF files of a folder.

    Parameters
    ----------
    folder : Path
        Folder of the images; folders in it are not looked at.
    settle : float
        Seconds for which a file must stand still.
    observer : Observer
        Is told by `SectionRefused` of files that are not taken, once for every state of a file.
    clock : callable
        Monotonic seconds.
    """

    def __init__(self, folder: Path, settle: float, observer: Observer, clock: Clock = time.monotonic) -> None:
        self._folder, self._settle, self._observer, self._clock = folder, settle, observer, clock
        self._waiting: dict[str, tuple[Stamp, float]] = {}  # since when it has stood still
        self._taken: dict[str, Stamp] = {}
        self._refused: dict[str, Stamp] = {}
        self._pattern: Pattern | None = None  # that most names share

    def look(self, changed: Iterable[str] = ()) -> bool:
        """Look for files that are new or have changed; say whether any waits to stand still."""
        for place in changed:
            self._look_again(Path(place).name)
        names = self._names()
        for name in self._waiting.keys() - names:  # gone again, or moved to another name
            del self._waiting[name]
        for name in names - self._taken.keys():
            self._look_at(name)
        return bool(self._waiting)

    def take(self) -> Section | None:
        """Return the first section that is whole."""
        now = self._clock()
        still = [name for name, (_, since) in self._waiting.items() if now - since >= self._settle]
        if still and self._pattern is None:
            self._pattern = shared_pattern(self._names())
        if self._pattern is None and any(numbered(name) for name in still):
            return None  # one name with several numbers: the next one tells which of them counts
        for name in sorted(still, key=self._order):
            stamp, _ = self._waiting.pop(name)
            try:
                section = self._read(name)
            except VolumetoolError as error:
                self._leave(name, stamp, error.message)
                continue
            if self._stamp(name) != stamp:  # it was written on meanwhile
                self._look_at(name)
                continue
            self._taken[name] = stamp
            return section
        return None

    def refuse(self, section: Section, why: str) -> None:
        """Report a section, and take it again once its file has changed."""
        self._leave(section.name, self._taken.pop(section.name), why)

    def pass_over(self, pattern: Pattern, numbers: Container[int]) -> None:
        """Take sections that an earlier run has for taken, without reading them."""
        self._pattern = pattern
        for name in self._names():
            found, stamp = numbered(name, pattern), self._stamp(name)
            if stamp is not None and found is not None and found[0] == pattern and found[1] in numbers:
                self._taken[name] = stamp

    def _names(self) -> set[str]:
        with os.scandir(self._folder) as entries:
            return {entry.name for entry in entries if may_hold_a_section(entry.name)}

    def _look_at(self, name: str) -> None:
        stamp = self._stamp(name)
        if stamp is None or self._refused.get(name) == stamp:
            return
        known = self._waiting.get(name)
        if known is None or known[0] != stamp:
            self._waiting[name] = (stamp, self._clock())

    def _look_again(self, name: str) -> None:
        before = self._taken.get(name)
        now = None if before is None else self._stamp(name)
        if before is not None and now is not None and now != before:
            self._taken[name] = now
            self._observer(SectionRefused(name, "it was changed after it was taken; what was taken stays"))

    def _stamp(self, name: str) -> Stamp | None:
        try:
            stat = (self._folder / name).stat()
        except OSError:
            return None
        return stat.st_size, stat.st_mtime_ns, stat.st_ino

    def _order(self, name: str) -> tuple[int, str]:
        found = numbered(name, self._pattern)
        return (-1 if found is None else found[1], name)

    def _leave(self, name: str, stamp: Stamp, why: str) -> None:
        self._refused[name] = stamp
        self._observer(SectionRefused(name, why))

    def _read(self, name: str) -> Section:
        path = self._folder / name
        found = numbered(name, self._pattern)
        if found is None:
            raise InputError("input.section-name", "its name holds no number", where=str(path))
        stack = open_images(path)
        if stack.shape[0] != 1:
            raise InputError(
                "input.axes", f"it has {stack.shape[0]} pages; a file in a watched folder is one section", where=str(path)
            )
        return Section(name, *found, stack.read(0, 1)[0], stack.voxel_size)
