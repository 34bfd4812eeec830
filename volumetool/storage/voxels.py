"""Stored voxels: what is written is read back, and every trouble of the storage names the voxels that it is about.

Also a level as an array: read where it is indexed, and what dask and zarr-python make of it.
"""

from __future__ import annotations

import io
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import DataError, InputError, ResourceError
from volumetool.geometry import Box, Triple
from volumetool.machine import usable_memory
from volumetool.storage.formats.npy import IN_MEMORY
from volumetool.storage.io.arrays import SPACE, read_part, reopened
from volumetool.storage.io.kvstore import is_local, join_url
from volumetool.storage.io.limits import spec_of
from volumetool.storage.io.presence import Check, url_of
from volumetool.storage.io.retries import STORAGE, tried, unwritable
from volumetool.storage.io.stores.zip_file import zip_on
from volumetool.units import show_bytes

if TYPE_CHECKING:
    import dask.array as da
    import zarr

    from volumetool.storage.volume import Volume

THUMBNAIL = 128
"""Longest side of the picture of a volume, in voxels."""


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


class LevelArray:
    """One level, indexed as a NumPy array by integers and slices. It travels by pickle, as its coordinates alone.

    Parameters
    ----------
    volume : Volume
        The volume.
    level : int
        0 is the finest.

    Attributes
    ----------
    axes : tuple of str
        ``("z", "y", "x")``, with ``"c"`` in front where the volume has channels.
    shape : tuple of int
        Voxels along these axes.
    chunks : tuple of int
        The unit of compression, in voxels.
    shards : tuple of int or None
        The unit of storage, in voxels; None where each chunk is stored on its own.
    dtype : numpy.dtype
        The volume's.

    Raises
    ------
    InputError
        ``input.level``: the volume has no such level.
    """

    def __init__(self, volume: Volume, level: int = 0) -> None:
        volume.check(level)
        facts, channels = volume.levels[level], () if volume.channels is None else (volume.channels,)
        single = (1,) * len(channels)
        self._volume, self._level = volume, level
        self.axes = (*("c",) * len(channels), *SPACE)
        self.dtype = volume.dtype
        self.shape = (*channels, *facts.shape)
        self.chunks = (*single, *_within(facts.chunk, facts.shape))
        self.shards = None if facts.shard is None else (*single, *_within(facts.shard, facts.shape))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @cached_property
    def _stores(self) -> dict[int, ts.TensorStore]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_stores"}

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read the voxels that integers and slices name.

        Raises
        ------
        IndexError
            An index lies outside the array, or is neither an integer nor a slice.
        ResourceError
            ``resource.memory``: they do not fit into the memory that is free.
        DataError
            ``data.unreadable``: a chunk is damaged or unreachable.
        """
        ranges, dropped = self._ranges(key if isinstance(key, tuple) else (key,))
        self._check_memory(math.prod(map(len, ranges)))
        channels, inside = (ranges[0], ranges[1:]) if self.axes[0] == "c" else (range(1), ranges)
        boxes = [_covered(each) for each in inside]
        voxels = np.empty((len(channels), *(len(each) for each in inside)), self.dtype)  # (c, z, y, x)
        if voxels.size:
            box = Box((boxes[0].start, boxes[1].start, boxes[2].start), (boxes[0].stop, boxes[1].stop, boxes[2].stop))
            steps = tuple(slice(None, None, each.step) for each in inside)
            for place, channel in zip(voxels, channels, strict=True):
                place[...] = read_voxels(self._store(channel), box, f"{self._volume.url}:")[steps]
        return voxels.reshape([len(each) for axis, each in enumerate(ranges) if axis not in dropped])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001  (NumPy's protocol)
        if copy is False:
            raise ValueError("the voxels are read from a file: they cannot be had without a copy")
        return self[...].astype(dtype or self.dtype, copy=False)

    def _store(self, channel: int) -> ts.TensorStore:
        if channel not in self._stores:
            self._stores[channel] = self._volume.open(self._level, channel)
        return self._stores[channel]

    def _ranges(self, key: tuple[Any, ...]) -> tuple[list[range], set[int]]:
        """Return the range of every axis that a key names, and the axes that integers take away."""
        missing = self.ndim - sum(each is not Ellipsis for each in key)
        if missing < 0 or sum(each is Ellipsis for each in key) > 1:
            raise IndexError(f"{len(key)} indices for an array of {self.ndim} axes ({', '.join(self.axes)})")
        cut = next((at for at, each in enumerate(key) if each is Ellipsis), len(key))
        full = (*key[:cut], *(slice(None),) * missing, *key[cut + 1 :])
        ranges, dropped = [], set()
        for axis, (part, length) in enumerate(zip(full, self.shape, strict=True)):
            if isinstance(part, slice):
                ranges.append(range(*part.indices(length)))
                continue
            try:
                at = operator.index(part)
            except TypeError:
                raise IndexError(f"{part!r}: a volume is indexed by integers and slices; to_dask() takes more") from None
            if not -length <= at < length:
                raise IndexError(f"index {at} is outside axis {self.axes[axis]} of {length} voxels")
            ranges.append(range(at % length, at % length + 1))
            dropped.add(axis)
        return ranges, dropped

    def _check_memory(self, voxels: int) -> None:
        wanted, free = voxels * self.dtype.itemsize, usable_memory()
        if wanted > free:
            raise ResourceError(
                "resource.memory",
                f"{show_bytes(wanted)} of {self._volume.url} were asked for at once; {show_bytes(free)} of memory are free",
                hint="read a part, volume[10:20, :500, :500], or a coarser level; or compute by volume.to_dask()",
                where=self._volume.url,
            )


def dask_array(volume: Volume, level: int, chunks: Any) -> da.Array:
    """Return a level as a dask array.

    Parameters
    ----------
    volume : Volume
        The volume.
    level : int
        0 is the finest.
    chunks : int, tuple, str or None
        As for `Volume.to_dask`.
    """
    import dask.array as da

    array = LevelArray(volume, level)
    unit = (array.shards or array.chunks) if chunks is None else chunks
    meta = np.empty((0,) * array.ndim, array.dtype)
    # A name of its own each time: voxels may have been written since the last time. Where the array stands in every task, a
    # slice reads what it needs of a block and makes no other task, however many there are; one in memory is not copied so.
    inline = volume.url != IN_MEMORY
    blocks: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        array, chunks=unit, name=False, inline_array=inline, meta=meta
    )
    return blocks


def thumbnail(volume: Volume) -> bytes:
    """Return a PNG file of the middle section of a coarse level: `THUMBNAIL` voxels a side at most are read.

    Raises
    ------
    InputError, DataError
        The voxels cannot be read.
    """
    from PIL import Image

    wide = [number for number, each in enumerate(volume.levels) if max(each.shape[1:]) >= THUMBNAIL]
    array = LevelArray(volume, max(wide, default=0))
    depth, *sides = array.shape[-3:]
    middle = (slice((n - THUMBNAIL) // 2, (n + THUMBNAIL) // 2) if n > THUMBNAIL else slice(None) for n in sides)
    voxels = array[(*(0,) * (array.ndim - 3), depth // 2, *middle)].astype(np.float32)  # (y, x)
    seen = voxels[np.isfinite(voxels)]
    low, high = np.percentile(seen, (0.5, 99.5)) if seen.size else (0.0, 1.0)
    grey = np.nan_to_num((voxels - low) / max(high - low, 1e-6)).clip(0, 1) * 255
    file = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def zarr_array(volume: Volume, level: int) -> zarr.Array[Any]:
    """Return a level as an array of zarr-python; see `Volume.to_zarr`."""
    volume.check(level)
    if volume.driver not in ("zarr", "zarr3"):
        raise _no_zarr(volume, f"{volume.url} is {volume.format}, which zarr-python does not read")
    try:
        import zarr
    except ImportError as error:
        raise _no_zarr(volume, "zarr-python is not installed: pip install 'zarr>=3'") from error
    place = join_url(volume.url, volume.levels[level].path)
    if not is_local(place):  # zarr-python knows neither the endpoints nor the credentials of a bucket that volumetool does
        raise _no_zarr(volume, f"{place} is not on a disk of this machine")
    if (packed := zip_on(place)) is not None:
        return zarr.open_array(zarr.storage.ZipStore(packed[0], mode="r"), path=packed[1], mode="r")
    return zarr.open_array(place, mode="r")


def _no_zarr(volume: Volume, why: str) -> InputError:
    return InputError("input.no-zarr", why, hint="volume.to_dask() opens volumes of every format and place.", where=volume.url)


def _within(unit: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(min(size, length) for size, length in zip(unit, shape, strict=True))


def _covered(taken: range) -> range:
    """Return the range from the least to the greatest index, which a range with a step takes some of."""
    return range(min(taken), max(taken) + 1) if taken else range(0)
