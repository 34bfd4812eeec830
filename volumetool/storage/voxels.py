"""Stored voxels: what is written is read back, and every trouble of the storage names the voxels that it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import DataError
from volumetool.geometry import Box, Triple
from volumetool.storage.io.arrays import read_part, reopened
from volumetool.storage.io.limits import spec_of
from volumetool.storage.io.presence import Check, url_of
from volumetool.storage.io.retries import STORAGE, tried, unwritable


@dataclass(frozen=True)
class Source:
    """The input of a region.

    Parameters
    ----------
    voxels : tensorstore.TensorStore
        Input of the region's channel, z, y, x.
    mask : tensorstore.TensorStore, optional
        Zero where nothing needs enhancing; its grid is `mask_factor` times coarser than the input's.
    mask_factor : tuple of int
        Input voxels per mask voxel.
    absent : callable, optional
        Says of a box of input voxels which of them are missing because their chunks are not stored.
    bad : callable, optional
        Names the chunks of a box of input voxels that cannot be read.
    seen : callable, optional
        Told all voxels that are read of input and mask, in a fixed order.
    check, mask_check : callable, optional
        Know which chunks of input and mask were stored before; one of them that reads as not stored is gone.
    computed : callable, optional
        Gives the voxels of a box of the input where no store has them, in place of `voxels`.
    """

    voxels: ts.TensorStore
    mask: ts.TensorStore | None = None
    mask_factor: Triple = (1, 1, 1)
    absent: Callable[[Box], NDArray[np.bool_]] | None = None
    bad: Callable[[Box], str] | None = None
    seen: Callable[[NDArray[Any]], None] | None = None
    check: Check | None = None
    mask_check: Check | None = None
    computed: Callable[[Box], NDArray[Any]] | None = None

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of a box of the input.

        Raises
        ------
        DataError
            As :func:`read_voxels`.
        """
        if self.computed is not None:
            return self.computed(box)
        return read_voxels(self.voxels, box, "input", self.bad, self.check)


def read_voxels(
    store: ts.TensorStore, box: Box, what: str, bad: Callable[[Box], str] | None = None, check: Check | None = None
) -> NDArray[Any]:
    """Read a box of voxels.

    Parameters
    ----------
    store : tensorstore.TensorStore
        The stored level, with axes z, y, x.
    box : Box
        Voxels to read; all of them lie in the store.
    what : str
        Name of what is read or written, for the error.
    bad : callable, optional
        Names the chunks of a box that cannot be read.
    check : callable, optional
        Of a strict store: knows which chunks were stored before.

    Raises
    ------
    DataError
        ``data.unreadable``: a chunk is damaged or unreachable. ``data.oversized``: one is made to fill the memory.
    """
    try:
        return read_part(store, box.slices, check)
    except (ValueError, OSError) as error:
        raise DataError(
            "data.unreadable",
            f"{what} voxels {box} (z,y,x) cannot be read: {(bad and bad(box)) or error}{tried(error)}",
            hint="the chunk named above is damaged or unreachable; mend it and run the same command again",
        ) from error


class VerifiedWrite:
    """A write under way; it counts when `finish` has returned.

    Parameters
    ----------
    store : tensorstore.TensorStore
        The stored level, with axes z, y, x.
    box : Box
        Whole shards of the store.
    voxels : numpy.ndarray, shape of the box
        Not to be changed until `finish`.
    what : str
        Name of what is read or written, for the error.
    """

    def __init__(self, store: ts.TensorStore, box: Box, voxels: NDArray[Any], what: str) -> None:
        self.voxels = voxels
        self._store, self._box, self._what = store, box, what
        self._future = self._begin(store)

    def _begin(self, store: ts.TensorStore) -> Any:
        return store[self._box.slices].write(self.voxels, can_reference_source_data_indefinitely=True)

    def _wait(self, tries: int) -> None:
        if tries:
            self._future = self._begin(reopened(self._store))
        self._future.result()

    def finish(self) -> None:
        """Wait for the write, which is atomic and synced per shard, and read it back; of JPEG other voxels are expected.

        Raises
        ------
        OutputError
            ``output.full``; ``output.unwritable``: no permission, no network.
        DataError
            ``data.read-back``: other voxels came back.
        """
        try:
            STORAGE.call(self._wait)
        except (ValueError, OSError) as error:
            where = None if self._store.kvstore is None else url_of(self._store)
            what = f"{self._what} voxels {self._box} (z,y,x)"
            raise unwritable(what, error, where) from error
        back = read_voxels(self._store, self._box, self._what)
        # Bytes are compared, so that NaN equals NaN.
        if not is_lossy(self._store) and not np.array_equal(as_bytes(back), as_bytes(self.voxels)):
            raise DataError(
                "data.read-back",
                f"{self._what} voxels {self._box} (z,y,x) were written, but other ones came back",
                hint="the storage changes bytes: check the disk or network file system; nothing of them was recorded",
            )


def is_lossy(store: ts.TensorStore) -> bool:
    """Return whether a stored level gives back other voxels than were written: JPEG."""
    return bool(spec_of(store).get("scale_metadata", {}).get("encoding") == "jpeg")


def as_bytes(voxels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of an array in C order."""
    return np.ascontiguousarray(voxels).reshape(-1).view(np.uint8)


def valid_voxels(voxels: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Return where `voxels` hold data rather than `nodata`."""
    if nodata is None:
        return np.ones(voxels.shape, bool)
    valid: NDArray[np.bool_] = ~np.isnan(voxels) if np.isnan(nodata) else voxels != nodata
    return valid
