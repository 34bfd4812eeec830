"""Volumes that lie in files which tensorstore does not read, such as MRC files and stacks of images, seen as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

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
