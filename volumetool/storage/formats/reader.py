"""Volumes that lie in files which tensorstore does not read, such as MRC files and stacks of images, seen as arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry.box import Triple
from volumetool.storage.io.kvstore import shared_context


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


class Sections(ABC):
    """A `Reader` of voxels that are read by rows of sections.

    Attributes
    ----------
    shape : tuple of int
        Sections, rows, columns.
    dtype : numpy.dtype
        Data type, in native byte order.
    rows : int
        Rows of a section that are read at once.
    """

    shape: Triple
    dtype: np.dtype[Any]
    rows: int

    @property
    def chunk(self) -> Triple:
        """Some rows of one section."""
        return (1, self.rows, self.shape[2])

    @property
    @abstractmethod
    def files(self) -> Sequence[str]:
        """As of a `Reader`."""

    @abstractmethod
    def read(self, start: int, stop: int, rows: slice = slice(None)) -> NDArray[Any]:
        """Return some rows of some sections.

        Parameters
        ----------
        start, stop : int
            The sections ``start <= number < stop``, counted from 0.
        rows : slice, optional
            Range of y in each section, without a step; all rows by default.

        Returns
        -------
        numpy.ndarray, shape (stop - start, rows, columns)
            In `dtype`.

        Raises
        ------
        InputError, ValueError, OSError
            The file is damaged, or another one than it was.
        """

    def read_box(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Return the voxels of a box."""
        sections, rows, columns = box
        return self.read(sections.start, sections.stop, rows)[:, :, columns]


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
