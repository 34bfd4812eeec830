"""The voxels of an HDF5 dataset, read chunk by chunk.

The HDF5 library says where in the file a chunk lies; it is read and unpacked here. The library would unpack it to any size, and
load the plug-ins of filters that it does not know. Where a damaged file contradicts itself, it would write beyond a buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, prod
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import h5py
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from volumetool.errors import InputError
from volumetool.paths import open_file
from volumetool.storage.formats.hdf5.file import find_object, opened, refuse_outside
from volumetool.storage.formats.reader import RawReader, check_length

_Filter = tuple[int, int, tuple[int, ...], bytes]
"""Number, flags, values and name."""

_AT_ONCE = 2**20
"""Bytes up to which neighbours in a section are read with a chunk: for each read the file is opened."""

_SLACK = 2**16
"""Bytes by which a chunk may exceed its voxels before it is unpacked."""

_PLACE = np.dtype([("offset", np.uint64), ("length", np.uint64), ("mask", np.uint32)])
"""Where a chunk lies in the file, and which of its filters were left out."""

_NOWHERE = 2**64 - 1
"""The offset of a chunk that is not stored."""

_MOST_LISTED = 2**22
"""Chunks of a dataset of which it is remembered where they lie: 20 bytes each."""

_LISTING = Lock()
"""So that threads which begin together list a dataset once."""


@dataclass(frozen=True)
class Hdf5Reader:
    """A `Reader` of a dataset.

    Attributes
    ----------
    file, dataset : str
        Path of the file, and of the dataset inside.
    shape : tuple of int
        Voxels along the axes as stored; Imaris stores more, to fill its chunks.
    dtype : numpy.dtype
        Data type of what is read; BigDataViewer stores uint16 as int16.
    chunk : tuple of int
        Voxels of a chunk, or of some that are read at once.
    """

    file: str
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]

    @property
    def files(self) -> tuple[str]:
        """The file."""
        return (self.file,)

    def read_box(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Return the voxels of a box."""
        with opened(Path(self.file)) as file:
            dataset = find_object(file, self.dataset)
            if not isinstance(dataset, h5py.Dataset) or len(dataset.shape) != len(self.shape):
                raise ValueError(f"it was changed: {self.dataset} is no dataset of {len(self.shape)} dimensions any more")
            if any(n > m for n, m in zip(self.shape, dataset.shape, strict=True)):
                raise ValueError(f"it was changed: {self.dataset} has the shape {dataset.shape} now")
            refuse_outside(dataset)
            voxels = dataset[box] if dataset.chunks is None else _read_chunks(dataset, box)
            return voxels.astype(voxels.dtype.newbyteorder("=")).view(self.dtype)


def reader_of(dataset: h5py.Dataset, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Hdf5Reader | RawReader:
    """Return what reads a dataset.

    Parameters
    ----------
    dataset : h5py.Dataset
        Two dimensions or more, of integers or floats.
    shape : tuple of int
        Voxels of the dataset that are the image.
    dtype : numpy.dtype
        What they are read as, of the size of the dataset's own type.

    Raises
    ------
    InputError
        ``input.unreadable``: the file ends before the last voxel.
    """
    path = dataset.file.filename
    offset = dataset.id.get_offset() if dataset.chunks is None and shape == dataset.shape else None
    if offset is not None:
        check_length(Path(path), dataset.shape, dataset.dtype, offset)
        return RawReader(path, dataset.shape, dataset.dtype.str, offset, dtype)
    return Hdf5Reader(path, dataset.name, shape, dtype, _read_at_once(dataset))


def _read_at_once(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return how many voxels along each axis are read at once: a chunk, or some."""
    chunk = list(dataset.chunks or dataset.shape)
    for axis in (-1, -2):
        while chunk[axis] < dataset.shape[axis] and 2 * prod(chunk) * dataset.dtype.itemsize <= _AT_ONCE:
            chunk[axis] *= 2
    return tuple(chunk)


def check_filters(dataset: h5py.Dataset) -> None:
    """Refuse a dataset that was packed by a filter that is not known here.

    Raises
    ------
    InputError
        ``input.unsupported``.
    """
    for number, _, _, name in _filters(dataset):
        if number not in _UNDO:
            shown = name.decode(errors="replace") or "no name"
            raise InputError(
                "input.unsupported",
                f"{dataset.file.filename}{dataset.name} is packed by the filter {number} ({shown}); read are gzip, LZF, "
                "shuffle and Fletcher's checksum",
                hint="Pack it anew where that filter is installed: `h5repack -f GZIP=4 FILE.h5 NEW.h5`.",
                where=dataset.file.filename,
            )


def _filters(dataset: h5py.Dataset) -> list[_Filter]:
    """Return the filters in the order in which a chunk was packed."""
    made = dataset.id.get_create_plist()
    return [made.get_filter(place) for place in range(made.get_nfilters())]


def _read_chunks(dataset: h5py.Dataset, box: tuple[slice, ...]) -> NDArray[Any]:
    """Return the voxels of a box; those of chunks that are not stored are the fill value."""
    voxels = np.full([part.stop - part.start for part in box], dataset.fillvalue, dataset.dtype)
    sizes, filters = dataset.chunks, _filters(dataset)
    within = tuple(slice(part.start // n, ceil(part.stop / n)) for part, n in zip(box, sizes, strict=True))
    with open_file(dataset.file.filename) as file:
        places = product(*(range(part.start, part.stop) for part in within))
        for place, stored in zip(places, _stored(dataset, within).flat, strict=True):
            if stored["offset"] == _NOWHERE:
                continue
            start = tuple(number * n for number, n in zip(place, sizes, strict=True))
            chunk = _unpack(file, start, stored, filters, voxels.itemsize * prod(sizes)).view(voxels.dtype).reshape(sizes)
            inside = [slice(max(a, p.start), min(a + n, p.stop)) for a, n, p in zip(start, sizes, box, strict=True)]
            target = tuple(slice(i.start - p.start, i.stop - p.start) for i, p in zip(inside, box, strict=True))
            voxels[target] = chunk[tuple(slice(i.start - a, i.stop - a) for i, a in zip(inside, start, strict=True))]
    return voxels


def _stored(dataset: h5py.Dataset, within: tuple[slice, ...]) -> NDArray[Any]:
    """Return where some chunks lie in the file, by their place in the grid of chunks.

    The library looks for a single chunk among all of them, so they are listed. The list of a whole dataset is kept until the
    file is another; of one with very many chunks, the part that is asked for is listed each time.
    """
    grid = [ceil(n / size) for n, size in zip(dataset.shape, dataset.chunks, strict=True)]
    if prod(grid) > _MOST_LISTED:
        return _list_chunks(dataset, within)
    found = Path(dataset.file.filename).stat()
    with _LISTING:
        return _listed(dataset.file.filename, dataset.name, tuple(grid), (found.st_ino, found.st_size, found.st_mtime_ns))[
            within
        ]


@lru_cache(maxsize=4)
def _listed(file: str, name: str, grid: tuple[int, ...], _: tuple[int, int, int]) -> NDArray[Any]:
    with opened(Path(file)) as again:
        return _list_chunks(again[name], tuple(slice(0, n) for n in grid))


def _list_chunks(dataset: h5py.Dataset, within: tuple[slice, ...]) -> NDArray[Any]:
    table = np.zeros([part.stop - part.start for part in within], _PLACE)
    table["offset"] = _NOWHERE

    def note(stored: h5py.h5d.StoreInfo) -> None:
        number = tuple(a // n - part.start for a, n, part in zip(stored.chunk_offset, dataset.chunks, within, strict=True))
        if all(0 <= at < count for at, count in zip(number, table.shape, strict=True)):
            table[number] = _NOWHERE if stored.byte_offset is None else stored.byte_offset, stored.size, stored.filter_mask

    dataset.id.chunk_iter(note)
    return table


def _unpack(
    file: BinaryIO, start: tuple[int, ...], stored: NDArray[Any], filters: Sequence[_Filter], size: int
) -> NDArray[np.uint8]:
    """Return the bytes of a chunk, of which it must have so many; it is whole also where it reaches beyond the dataset."""
    most, (offset, length, mask) = size + size // 8 + _SLACK, stored.item()
    if length > most:
        raise ValueError(f"the chunk at {start} has {length} bytes; its voxels take {size}")
    file.seek(offset)
    data = file.read(length)
    for place, (number, _, values, _) in reversed(list(enumerate(filters))):
        if not mask >> place & 1:
            data = _UNDO[number](data, values, most)
    if len(data) != size:
        raise ValueError(f"the chunk at {start} is damaged: it has {len(data)} bytes, its voxels take {size}")
    return np.frombuffer(data, np.uint8)


def _inflate(data: bytes, _: Sequence[int], most: int) -> bytes:
    try:
        return bytes(imagecodecs.deflate_decode(data, out=most))
    except imagecodecs.DeflateError as error:
        raise ValueError(f"a chunk is damaged, or has more than {most} bytes unpacked: {error}") from error


def _unpack_lzf(data: bytes, values: Sequence[int], most: int) -> bytes:
    size = values[2]
    if size > most:
        raise ValueError(f"a chunk is said to have {size} bytes unpacked; at most {most} can be")
    return bytes(imagecodecs.lzf_decode(data, header=False, out=size))


def _unshuffle(data: bytes, values: Sequence[int], _: int) -> bytes:
    """Put the bytes of each voxel together again; what is left over at the end was not moved."""
    whole = len(data) - len(data) % values[0]
    apart = np.frombuffer(data, np.uint8, whole).reshape(values[0], -1)  # (byte of a voxel, voxel)
    return apart.T.tobytes() + data[whole:]


def _check_sum(data: bytes, _: Sequence[int], __: int) -> bytes:
    kept, stored = data[:-4], int.from_bytes(data[-4:], "little")
    if len(data) < 4 or imagecodecs.h5checksum_fletcher32(kept) != stored:
        raise ValueError("a chunk is damaged: its checksum is another")
    return kept


_UNDO: dict[int, Callable[[bytes, Sequence[int], int], bytes]] = {
    h5py.h5z.FILTER_DEFLATE: _inflate,
    h5py.h5z.FILTER_SHUFFLE: _unshuffle,
    h5py.h5z.FILTER_FLETCHER32: _check_sum,
    h5py.h5z.FILTER_LZF: _unpack_lzf,
}
