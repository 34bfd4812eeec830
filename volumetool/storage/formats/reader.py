"""Volumes that lie in files which tensorstore does not read, such as MRC files and stacks of images, seen as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import InputError
from volumetool.paths import open_file
from volumetool.storage.io.kvstore import shared_context
from volumetool.storage.io.stores.traffic import count_beside

_AT_ONCE = 2**20
"""Bytes of a section that are read at once."""


class Reader(Protocol):
    """An array in files. It travels to workers by pickle: no file stays open between two reads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the axes as stored."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type, in native byte order."""

    @property
    def chunk(self) -> tuple[int, ...]:
        """Voxels along each axis that are read at once."""

    @property
    def files(self) -> Sequence[str]:
        """Path of the file of every section; one path where all lie in one file."""

    def read_box(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Return the voxels of a box, in `dtype`.

        Parameters
        ----------
        box : tuple of slice
            Range of each axis, inside the array and without a step.

        Raises
        ------
        InputError, ValueError, OSError
            The file is damaged, or another one than it was.
        """


@dataclass(frozen=True)
class RawReader:
    """A `Reader` of voxels that stand in a file as they are, without compression and in C order.

    Attributes
    ----------
    file : str
        Path of the file.
    shape : tuple of int
        Voxels along the axes as stored, two or more.
    stored : str
        NumPy's name of the stored data type, with its byte order.
    offset : int
        Bytes before the first voxel.
    dtype : numpy.dtype
        Data type of what is read, in native byte order.
    """

    file: str
    shape: tuple[int, ...]
    stored: str
    offset: int
    dtype: np.dtype[Any]

    @property
    def files(self) -> tuple[str]:
        """The file."""
        return (self.file,)

    @property
    def chunk(self) -> tuple[int, ...]:
        """Some rows of one section."""
        return some_rows(self.shape, self.dtype)

    def read_box(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Return the voxels of a box."""
        *outer, rows, columns = box
        stored, width = np.dtype(self.stored), self.shape[-1]
        shape = tuple(part.stop - part.start for part in box)
        voxels = np.empty((prod(shape[:-2]), *shape[-2:]), self.dtype)  # (sections, rows, columns)
        with open_file(Path(self.file)) as file:
            for section, place in zip(voxels, product(*(range(part.start, part.stop) for part in outer)), strict=True):
                first = np.ravel_multi_index((*place, rows.start), self.shape[:-1])
                file.seek(self.offset + int(first) * width * stored.itemsize)
                read = file.read(shape[-2] * width * stored.itemsize)
                if len(read) < shape[-2] * width * stored.itemsize:
                    raise ValueError(f"{self.file} is shorter than it was")
                section[...] = np.frombuffer(read, stored).reshape(-1, width)[:, columns]
        count_beside(voxels.nbytes)
        return voxels.reshape(shape)


def some_rows(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the shape of some rows of one section, which are read at once where an array has no chunks."""
    rows, columns = shape[-2:]
    return (1,) * (len(shape) - 2) + (min(rows, max(1, _AT_ONCE // (columns * dtype.itemsize))), columns)


def check_length(path: Path, shape: Sequence[int], stored: np.dtype[Any], offset: int) -> None:
    """Refuse a file that ends before its last voxel.

    Parameters
    ----------
    path : Path
        The file.
    shape : sequence of int
        Voxels along each axis.
    stored : numpy.dtype
        Data type as stored.
    offset : int
        Bytes before the first voxel.

    Raises
    ------
    InputError
        ``input.unreadable``.
    """
    wanted, there = offset + prod(shape) * stored.itemsize, path.stat().st_size
    if there < wanted:
        raise InputError(
            "input.unreadable",
            f"{path} has {there} bytes; its header says {tuple(shape)} voxels of {stored}, which end at byte {wanted}",
            hint="The file was cut off: copy it again.",
            where=str(path),
        )


def open_reader(reader: Reader, context: ts.Context | None = None) -> ts.TensorStore:
    """Return what a reader reads as a read-only array, with its chunks; what is not read takes no memory.

    Parameters
    ----------
    reader : Reader
        Reads the voxels.
    context : tensorstore.Context, optional
        Thread pools and cache; by default those of `shared_context`.
    """

    def read(domain: ts.IndexDomain, array: NDArray[Any], _: Any) -> None:
        box = tuple(slice(a, b) for a, b in zip(domain.inclusive_min, domain.exclusive_max, strict=True))
        try:
            array[...] = reader.read_box(box)
        except Exception as error:  # noqa: BLE001  (tensorstore hands on text alone, and only what is valid UTF-8)
            raise ValueError(str(error).encode(errors="replace").decode()) from None

    return ts.virtual_chunked(
        read,
        dtype=reader.dtype,
        shape=reader.shape,
        chunk_layout=ts.ChunkLayout(read_chunk_shape=reader.chunk),
        context=context or shared_context(),
    )
