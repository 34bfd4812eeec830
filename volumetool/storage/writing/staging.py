"""A temporary file in which a slab of sections is gathered, to be taken out shard by shard."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from volumetool.geometry.box import Box, Triple
from volumetool.storage.io.retries import unwritable


class Staging:
    """A slab on disk. What was not put there is zero.

    The file has no name: whatever ends this process, nothing of it is left. Columns as wide as a shard stand one behind the
    other, so that a band of rows is written, and a shard read, in long pieces.

    Parameters
    ----------
    folder : Path
        On a disk with room for the slab.
    shape : tuple of int
        Voxels, z, y, x.
    dtype : numpy.dtype
        Data type of the voxels.
    width : int
        Voxels along x that are taken out together.

    Raises
    ------
    OutputError
        ``output.full``, ``output.unwritable``.
    """

    def __init__(self, folder: Path, shape: Triple, dtype: np.dtype[Any], width: int) -> None:
        self._folder, self._shape, self._dtype, self._width = folder, shape, dtype, width
        self._lock = threading.Lock()
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  (closed by `__exit__`)
        except OSError as error:
            raise unwritable(f"a temporary file in {folder}", error) from error
        self._file.truncate(Box.whole(shape).voxels * dtype.itemsize)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, box: Box, voxels: npt.NDArray[Any]) -> None:
        """Store voxels (z, y, x) at their place in the slab; in several threads at once, too.

        Raises
        ------
        OutputError
            ``output.full``, ``output.unwritable``: no room.
        """
        for first in range(box.start[2] // self._width * self._width, box.stop[2], self._width):
            left, right = max(first, box.start[2]), min(first + self._width, box.stop[2])
            part = voxels[:, :, left - box.start[2] : right - box.start[2]]
            whole = right - left == self._columns(first)
            for z, plane in enumerate(part, start=box.start[0]):
                # A part of a column is written row by row.
                pieces = [plane] if whole else plane[:, np.newaxis]
                for n, piece in enumerate(pieces):
                    self._write(self._at(first, z, box.start[1] + n) + left - first, piece)

    def take(self, box: Box) -> npt.NDArray[Any]:
        """Return the voxels (z, y, x) of a box."""
        voxels = np.empty(box.shape, self._dtype)
        for first in range(box.start[2] // self._width * self._width, box.stop[2], self._width):
            left, right = max(first, box.start[2]), min(first + self._width, box.stop[2])
            rows = np.empty((box.shape[1], self._columns(first)), self._dtype)
            for z in range(box.start[0], box.stop[0]):
                self._read(self._at(first, z, box.start[1]), rows)
                voxels[z - box.start[0], :, left - box.start[2] : right - box.start[2]] = rows[:, left - first : right - first]
        return voxels

    def _columns(self, first: int) -> int:
        return min(self._width, self._shape[2] - first)

    def _at(self, first: int, z: int, y: int) -> int:
        """Return which voxel of the file is the first one of a row of a column."""
        depth, height, _ = self._shape
        return first * depth * height + (z * height + y) * self._columns(first)

    def _write(self, voxel: int, piece: npt.NDArray[Any]) -> None:
        data = np.ascontiguousarray(piece, self._dtype).data.cast("B")
        try:
            with self._lock:
                self._file.seek(voxel * self._dtype.itemsize)
                while data:
                    data = data[self._file.write(data) :]
        except OSError as error:
            raise unwritable(f"a temporary file in {self._folder}", error) from error

    def _read(self, voxel: int, rows: npt.NDArray[Any]) -> None:
        data = rows.data.cast("B")
        with self._lock:
            self._file.seek(voxel * self._dtype.itemsize)
            while data:
                if not (count := self._file.readinto(data)):
                    raise OSError("the temporary file ends too early")
                data = data[count:]
