"""An inbox that is a volume: OME-Zarr, Zarr or N5 that a microscope writes section by section.

A section counts as whole once every chunk of it is stored and none has changed for a while. What is not stored at all is not
there yet: a writer must store blank chunks too. Chunks must be one section thick; of thicker ones nobody can tell whether the
sections that are still blank in them will come.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.acquisition.image_source import Clock, Section, Stamp
from volumetool.errors import InputError, VolumetoolError
from volumetool.events import Observer, SectionRefused
from volumetool.geometry import Box, Size
from volumetool.storage.images.names import Pattern
from volumetool.storage.io.kvstore import local_path
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import read_voxels
from volumetool.viewer.served_keys import chunk_keys

Stamps = tuple[Stamp, ...]
METADATA = ("zarr.json", ".zgroup", ".zarray", "attributes.json")


def is_volume(place: str) -> bool:
    """Return whether a watched folder is a volume."""
    return any((local_path(place) / name).is_file() for name in METADATA)


class GrowingVolume:
    """Sections that arrive as chunks of a volume's finest level.

    Parameters
    ----------
    url : str
        The volume, on a local disk.
    settle : float
        Seconds for which a section's chunks must stand still.
    observer : Observer
        Is told by `SectionRefused` of sections that are not taken.
    voxel_size : tuple of float, optional
        Voxel size along z, y, x in nm, where the volume does not say it.
    clock : callable
        Monotonic seconds.

    Raises
    ------
    InputError
        As `open_volume`; ``input.thick-chunks``; ``input.axes``: several channels.
    """

    def __init__(
        self, url: str, settle: float, observer: Observer, voxel_size: Size | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._url, self._settle, self._observer, self._voxel_size, self._clock = url, settle, observer, voxel_size, clock
        self._open()
        self._waiting: dict[int, tuple[Stamps, float]] = {}
        self._taken: dict[int, Stamps] = {}
        self._refused: dict[int, Stamps] = {}

    def look(self, changed: Iterable[str] = ()) -> bool:
        """Look for sections that are new or have changed; say whether any waits to stand still."""
        try:
            self._open()
        except VolumetoolError:  # its metadata are being written
            return True
        again = {z for place in changed if (z := self._section_of(place)) is not None}
        for z in range(self._volume.shape[0]):
            if z not in self._taken or z in again:
                self._look_at(z)
        return bool(self._waiting)

    def take(self) -> Section | None:
        """Return the first section that is whole."""
        now = self._clock()
        for z in sorted(z for z, (_, since) in self._waiting.items() if now - since >= self._settle):
            stamps, _ = self._waiting.pop(z)
            try:
                voxels = self._read(z)
            except VolumetoolError as error:
                if error.code != "input.vanished" and self._stamps(z) == stamps:
                    self._leave(z, stamps, error.message)
                continue  # what vanished, or was written on meanwhile, is looked at again
            if self._stamps(z) != stamps:  # it was written on meanwhile
                self._look_at(z)
                continue
            self._taken[z] = stamps
            volume = self._volume
            return Section(f"section z {z}", Pattern("section z ", ""), z, voxels, volume.voxel_size, volume.translation)
        return None

    def refuse(self, section: Section, why: str) -> None:
        """Report a section, and take it again once its chunks have changed."""
        self._leave(section.number, self._taken.pop(section.number), why)

    def pass_over(self, pattern: Pattern, numbers: Container[int]) -> None:  # noqa: ARG002  (all sections have one)
        """Take sections that an earlier run has for taken, without reading them."""
        for z in range(self._volume.shape[0]):
            if z in numbers and (stamps := self._stamps(z)) is not None:
                self._taken[z] = stamps

    def _open(self) -> None:
        volume = open_volume(self._url, voxel_size=self._voxel_size)
        level = volume.levels[0]
        thick = (level.shard or level.chunk)[0]
        if thick != 1:
            raise InputError(
                "input.thick-chunks",
                f"{self._url} is stored in pieces of {thick} sections, of which nobody can tell which are there",
                hint="have the microscope store sections one by one, or wait for the end and use `volumetool enhance`",
                where=self._url,
            )
        if (volume.channels or 1) > 1 or "z" not in volume.axes:
            raise InputError(
                "input.axes",
                f"{self._url} has {volume.channels or 1} channels and the axes {', '.join(volume.axes)}",
                hint="watch a volume of one channel that grows along z",
                where=self._url,
            )
        self._volume: Volume = volume
        self._keys = chunk_keys(volume, level.path)
        self._root: Path = local_path(volume.url) / level.path

    def _look_at(self, z: int) -> None:
        stamps = self._stamps(z)
        if stamps is None or stamps in (self._refused.get(z), self._taken.get(z)):
            self._waiting.pop(z, None)
            return
        if z in self._taken:
            self._taken[z] = stamps
            self._observer(SectionRefused(f"section z {z}", "it was changed after it was taken; what was taken stays"))
            return
        known = self._waiting.get(z)
        if known is None or known[0] != stamps:
            self._waiting[z] = (stamps, self._clock())

    def _section_of(self, place: str) -> int | None:
        """Return the section whose chunk stands at a place."""
        key = place.removeprefix(f"{self._root}/")
        if key not in self._keys:
            return None
        return self._keys.place(key)[self._volume.axes.index("z")]

    def _stamps(self, z: int) -> Stamps | None:
        """Return the state of a section's chunks, None where one is not stored."""
        stamps = []
        for file in self._files(z):
            try:
                stat = file.stat()
            except OSError:
                return None
            stamps.append((stat.st_size, stat.st_mtime_ns, stat.st_ino))
        return tuple(stamps)

    def _files(self, z: int) -> Iterator[Path]:
        axes, keys = self._volume.axes, self._keys
        counts = dict(zip(axes, keys.counts, strict=True))
        for y, x in product(range(counts["y"]), range(counts["x"])):
            at = {"z": z, "y": y, "x": x}
            yield self._root / keys.key(at.get(axis, 0) for axis in axes)

    def _read(self, z: int) -> NDArray[Any]:
        _, height, width = self._volume.shape
        voxels = read_voxels(self._volume.open(strict=True), Box((z, 0, 0), (z + 1, height, width)), "arriving")
        return np.ascontiguousarray(voxels[0])

    def _leave(self, z: int, stamps: Stamps, why: str) -> None:
        self._refused[z] = stamps
        self._observer(SectionRefused(f"section z {z}", why))
