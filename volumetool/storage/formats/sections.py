"""Volumes that lie in files section by section, such as MRC files and stacks of images, seen as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry.box import Triple
from volumetool.storage.io.kvstore import shared_context


class Sections(Protocol):
    """Voxels that are read by rows of sections. It travels to workers by pickle: no file stays open between two reads."""

    @property
    def shape(self) -> Triple:
        """Sections, rows, columns."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type, in native byte order."""

    @property
    def rows(self) -> int:
        """Rows of a section that are read at once."""

    @property
    def files(self) -> Sequence[str]:
        """Path of the file of every section; one path where all lie in one file."""

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


def open_sections(sections: Sections, context: ts.Context | None = None) -> ts.TensorStore:
    """Return sections as a read-only array, whose chunks are rows of one section; what is not read takes no memory.

    Parameters
    ----------
    sections : Sections
        The sections that are read.
    context : tensorstore.Context, optional
        Thread pools and cache; by default those of `shared_context`.
    """

    def read(domain: ts.IndexDomain, array: NDArray[Any], _: Any) -> None:
        (start, stop), (top, bottom), (left, right) = zip(domain.inclusive_min, domain.exclusive_max, strict=True)
        try:
            array[...] = sections.read(start, stop, slice(top, bottom))[:, :, left:right]
        except Exception as error:  # noqa: BLE001  (tensorstore hands on text alone, and only what is valid UTF-8)
            raise ValueError(str(error).encode(errors="replace").decode()) from None

    return ts.virtual_chunked(
        read,
        dtype=sections.dtype,
        shape=sections.shape,
        chunk_layout=ts.ChunkLayout(read_chunk_shape=(1, sections.rows, sections.shape[2])),
        context=context or shared_context(),
    )
