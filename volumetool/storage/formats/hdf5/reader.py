"""The voxels of an HDF5 dataset, read chunk by chunk.

The HDF5 library says where in the file a chunk lies; it is read and unpacked here. The library would unpack it to any size, and
load the plug-ins of filters that it does not know. Where a damaged file contradicts itself, it would write beyond a buffer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from volumetool.errors import InputError
from volumetool.paths import open_file
from volumetool.storage.formats.hdf5.file import find_object, opened, refuse_outside
from volumetool.storage.formats.reader import RawReader, check_length

_SLACK = 2**16
"""Bytes by which a chunk may exceed its voxels before it is unpacked."""


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
        Voxels of a chunk.
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
    return Hdf5Reader(path, dataset.name, shape, dtype, dataset.chunks or dataset.shape)


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


def _filters(dataset: h5py.Dataset) -> list[tuple[int, int, tuple[int, ...], bytes]]:
    """Return number, flags, values and name of each filter, in the order in which a chunk was packed."""
    made = dataset.id.get_create_plist()
    return [made.get_filter(place) for place in range(made.get_nfilters())]


def _read_chunks(dataset: h5py.Dataset, box: tuple[slice, ...]) -> NDArray[Any]:
    """Return the voxels of a box; those of chunks that are not stored are the fill value."""
    voxels = np.full([part.stop - part.start for part in box], dataset.fillvalue, dataset.dtype)
    sizes = dataset.chunks
    for place in product(*(range(part.start // n, ceil(part.stop / n)) for part, n in zip(box, sizes, strict=True))):
        start = tuple(number * n for number, n in zip(place, sizes, strict=True))
        if (chunk := _read_chunk(dataset, start)) is None:
            continue
        inside = [slice(max(a, p.start), min(a + n, p.stop)) for a, n, p in zip(start, sizes, box, strict=True)]
        target = tuple(slice(i.start - p.start, i.stop - p.start) for i, p in zip(inside, box, strict=True))
        voxels[target] = chunk[tuple(slice(i.start - a, i.stop - a) for i, a in zip(inside, start, strict=True))]
    return voxels


def _read_chunk(dataset: h5py.Dataset, start: tuple[int, ...]) -> NDArray[Any] | None:
    """Return a chunk, whole also where it reaches beyond the dataset; None if it is not stored."""
    stored, size = dataset.id.get_chunk_info_by_coord(start), prod(dataset.chunks) * dataset.dtype.itemsize
    if stored.byte_offset is None:
        return None
    most = size + size // 8 + _SLACK
    if stored.size > most:
        raise ValueError(f"the chunk at {start} has {stored.size} bytes; its voxels take {size}")
    with open_file(dataset.file.filename) as file:
        file.seek(stored.byte_offset)
        data = file.read(stored.size)
    for place, (number, _, values, _) in reversed(list(enumerate(_filters(dataset)))):
        if not stored.filter_mask >> place & 1:
            data = _UNDO[number](data, values, most)
    if len(data) != size:
        raise ValueError(f"the chunk at {start} is damaged: it has {len(data)} bytes, and its voxels take {size}")
    return np.frombuffer(data, dataset.dtype).reshape(dataset.chunks)


def _inflate(data: bytes, _: Sequence[int], most: int) -> bytes:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, most)
    if not unpacker.eof:
        raise ValueError(f"a chunk is cut off, or has more than {most} bytes unpacked")
    return unpacked


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
