"""Input that the strips of a region share, kept on this machine's disk: so wide chunks are read and decoded once for a region.

A region is swept along x in strips of a patch's width. A chunk that is wider than a strip, such as a whole section, would be
read again for each strip that it touches. Instead its voxels are written, uncompressed, to a folder among the temporary files.
They are deleted as soon as no later strip holds any of them. What comes back otherwise than it was written is read from the
input once more.
"""

from __future__ import annotations

import functools
import itertools
import math
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import Box, Triple
from volumetool.machine import byte_limits, mount_of
from volumetool.scratch import scratch_folder
from volumetool.storage.voxels import Source, as_bytes

FROM = 1.5
"""Times that the strips of a region would read a chunk, from which on they share what was read."""

SHARE = 0.25
"""Share of the free space of the temporary files that one worker takes for it."""

LAYER = 2**26
"""Bytes of voxels that are in memory at most on their way to the disk, or else those of one chunk."""

IN_MEMORY = ("tmpfs", "ramfs")
"""File systems whose files take memory that the plan has given away."""


def rereads(windows: Sequence[Box], chunk: Triple) -> float:
    """Return how often the windows of a region read a stored chunk on average; 1 where no two of them share one.

    Parameters
    ----------
    windows : sequence of Box
        Input voxels that the region reads, one box for each strip.
    chunk : tuple of int
        Voxels of a stored chunk, z, y, x.
    """
    read = sum(math.prod(window.coarsened(chunk).shape) for window in windows)
    return read / math.prod(functools.reduce(Box.joined, windows).coarsened(chunk).shape)


@contextmanager
def staged(source: Source, windows: Sequence[Box], chunk: Triple) -> Iterator[Source]:
    """Give the input of a region so that its windows share the chunks that they read, where that saves much and there is room.

    Parameters
    ----------
    source : Source
        The stored input.
    windows : sequence of Box
        The boxes that will be read, rising along x and alike along z and y.
    chunk : tuple of int
        Voxels of a stored chunk, z, y, x.
    """
    if rereads(windows, chunk) < FROM or not _has_room(_most_bytes(source, windows, chunk)):
        yield source
        return
    with ExitStack() as stack:
        own = source
        with suppress(OSError):  # a disk that takes no folder: each window reads for itself
            folder = stack.enter_context(scratch_folder("input"))
            own = replace(source, computed=SharedChunks(source, windows, chunk, folder))
        yield own


@dataclass(frozen=True)
class _Layer:
    """Voxels that are kept in a file, x outermost; of the voxels at each x it is known which checksum they have."""

    box: Box
    file: Path
    checksums: tuple[int, ...]


def _most_bytes(source: Source, windows: Sequence[Box], chunk: Triple) -> int:
    """Return the bytes that are kept at once, at most: of one window, all chunks that it touches."""
    return max(math.prod((*w.shape[:2], w.coarsened(chunk).shape[2] * chunk[2])) for w in windows) * _dtype(source).itemsize


def _has_room(size: int) -> bool:
    folder = Path(tempfile.gettempdir())
    return mount_of(folder)[1] not in IN_MEMORY and size <= SHARE * min(byte_limits(folder))[0]


def _dtype(source: Source) -> np.dtype[Any]:
    return np.dtype(source.voxels.dtype.numpy_dtype)


class SharedChunks:
    """Reads windows of an input, and each column of chunks that several of them share once.

    Parameters
    ----------
    source, windows, chunk
        As for :func:`staged`.
    folder : Path
        Where the voxels of shared columns are kept, layers of chunks in a file each.
    """

    def __init__(self, source: Source, windows: Sequence[Box], chunk: Triple, folder: Path) -> None:
        self._source, self._windows, self._chunk, self._folder = source, windows, chunk, folder
        self._kept: dict[int, list[_Layer]] = {}  # of each column of chunks along x, its layers
        self._names = itertools.count()
        self._full = False

    def __call__(self, window: Box) -> NDArray[Any]:
        """Return the voxels of a window.

        Raises
        ------
        DataError
            As :meth:`Source.read`.
        """
        columns = self._columns(window)
        later = [self._columns(other).start for other in self._windows if other.start[2] > window.start[2]]
        following = min(later, default=columns.stop)  # columns before it are needed no more
        voxels = np.empty(window.shape, _dtype(self._source))
        alone = [column for column in columns if column not in self._kept and (column < following or self._full)]
        if alone:
            self._fill(voxels, window, self._slab(window, range(alone[0], alone[-1] + 1)))
        for column in columns:
            if column not in alone:
                self._share(voxels, window, column)
        for column in [column for column in self._kept if column < following]:
            self._drop(column)
        return voxels

    def _columns(self, window: Box) -> range:
        inside = window.coarsened(self._chunk)
        return range(inside.start[2], inside.stop[2])

    def _slab(self, window: Box, columns: range) -> Box:
        """Return the voxels of some columns of chunks, as far as a window along z and y."""
        first, stop = columns.start * self._chunk[2], min(columns.stop * self._chunk[2], self._source.voxels.shape[2])
        return Box((*window.start[:2], first), (*window.stop[:2], stop))

    def _fill(self, voxels: NDArray[Any], window: Box, slab: Box) -> None:
        """Read what a window and a slab share into the voxels of the window."""
        part = window.intersection(slab)
        voxels[_within(part, window)] = self._source.read(part)

    def _share(self, voxels: NDArray[Any], window: Box, column: int) -> None:
        """Take a column of chunks from where it is kept, or read it and keep it, layer by layer."""
        slab = self._slab(window, range(column, column + 1))
        if column not in self._kept:
            self._kept[column] = []
            try:
                for layer in self._layers(slab):
                    self._keep(column, layer)
            except OSError:  # no room, or the folder is gone: from now on each window reads for itself
                self._full = True
                self._drop(column)
                self._fill(voxels, window, slab)
                return
        for kept in self._kept[column]:
            part = window.intersection(kept.box)
            found = _kept_voxels(kept, part, voxels.dtype)
            voxels[_within(part, window)] = self._source.read(part) if found is None else found

    def _layers(self, slab: Box) -> Iterator[Box]:
        """Cut a slab between chunks, along z and, where `LAYER` asks for it, along y."""
        row = min(self._chunk[0], slab.shape[0]) * self._chunk[1] * slab.shape[2] * _dtype(self._source).itemsize
        steps = self._chunk[0], self._chunk[1] * max(1, LAYER // row)
        along = (_edges(*each) for each in zip(slab.start[:2], slab.stop[:2], steps, strict=True))
        for (z, z_stop), (y, y_stop) in itertools.product(*map(itertools.pairwise, along)):
            yield Box((z, y, slab.start[2]), (z_stop, y_stop, slab.stop[2]))

    def _keep(self, column: int, layer: Box) -> None:
        """Read a layer and write it to a file, x outermost: what a window takes of it lies together."""
        voxels = np.ascontiguousarray(self._source.read(layer).transpose(2, 0, 1))  # (x, z, y)
        file = self._folder / f"{next(self._names)}"
        self._kept[column].append(_Layer(layer, file, _checksums(voxels)))
        voxels.tofile(file)

    def _drop(self, column: int) -> None:
        for layer in self._kept.pop(column):
            with suppress(OSError):  # it goes with the folder
                layer.file.unlink()


def _edges(start: int, stop: int, step: int) -> list[int]:
    """Return where a range begins and ends, and the multiples of a step inside it."""
    return [start, *range((start // step + 1) * step, stop, step), stop]


def _checksums(voxels: NDArray[Any]) -> tuple[int, ...]:
    """Return the CRC-32 of the voxels at each x of an array (x, z, y)."""
    return tuple(zlib.crc32(as_bytes(each).data) for each in voxels)


def _kept_voxels(layer: _Layer, part: Box, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return voxels (z, y, x) of a part of a layer, of all its z and y; None where the file no longer holds them."""
    first, last = (x - layer.box.start[2] for x in (part.start[2], part.stop[2]))
    z, y, _ = layer.box.shape
    with suppress(OSError, ValueError):
        found = np.fromfile(layer.file, dtype, (last - first) * z * y, offset=first * z * y * dtype.itemsize)
        found = found.reshape(last - first, z, y)
        if _checksums(found) == layer.checksums[first:last]:
            return found.transpose(1, 2, 0)
    return None


def _within(part: Box, whole: Box) -> tuple[slice, slice, slice]:
    """Return the slices that cut a part out of an array that holds a box."""
    z, y, x = (-begin for begin in whole.start)
    return part.shifted((z, y, x)).slices
