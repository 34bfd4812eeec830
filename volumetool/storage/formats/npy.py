"""Arrays of which nothing else is known: NumPy's own files (.npy), in C or Fortran order, and arrays in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import InputError
from volumetool.paths import AnyPlace, ZarrNode, open_file, zarr_place
from volumetool.storage.formats.base import Format, FoundLevel, ParsedMetadata, wrong_axes
from volumetool.storage.formats.reader import RawReader, check_length, open_reader, some_rows
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import canonical_url, is_local, local_path
from volumetool.storage.io.limits import check_array
from volumetool.units import show_shape

_NUMBERS = "buifc"
"""NumPy's kinds of types that are numbers."""


IN_MEMORY = "memory://array"
"""Stands for the place of an array that has none."""


@runtime_checkable
class AnyArray(Protocol):
    """An array, of NumPy or of another library that gives its voxels as one of NumPy; a `Volume` is one, too."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the axes."""

    @property
    def dtype(self) -> Any:
        """Data type."""

    def __getitem__(self, key: Any) -> Any: ...

    def __array__(self) -> Any: ...


AnyVolume = AnyPlace | AnyArray
"""What a volume is opened from."""


@dataclass(frozen=True)
class ArrayReader:
    """A `Reader` of an array, which is read while it is asked for: what is changed in it is changed here.

    Attributes
    ----------
    array : AnyArray
        The array. Where the reader travels to another process, all of it does.
    shape, dtype
        Its own, in native byte order.
    chunk : tuple of int
        Voxels that are read at once.
    """

    array: AnyArray = field(repr=False)
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    files: tuple[str, ...] = ()

    def read_box(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Return the voxels of a box."""
        return np.asarray(self.array[box], self.dtype)


def place_or_array(volume: AnyVolume) -> str | AnyArray:
    """Return the one spelling of a place, as `canonical_url` does; or an array as it is, if no path or URL leads to it."""
    placed = isinstance(volume, ZarrNode) and zarr_place(volume) is not None
    if isinstance(volume, AnyArray) and isinstance(volume.dtype, np.dtype) and not placed:
        return volume
    return canonical_url(volume)  # type: ignore[arg-type]  # which says of what is neither that it is none


def describe_array(array: AnyArray) -> ParsedMetadata:
    """Describe an array that `require_volume` takes.

    Its first corner lies at 0, so that arrays of one piece of tissue lie over each other whatever the size of their voxels.
    """
    shape, dtype = tuple(array.shape), array.dtype.newbyteorder("=")
    chunks: Any = getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or not all(isinstance(length, int) for length in chunks):
        chunks = some_rows(shape, dtype)
    reader = ArrayReader(array, shape, dtype, chunks)
    check_array(IN_MEMORY, open_reader(reader))
    level = FoundLevel("", (1.0, 1.0, 1.0), (0.5, 0.5, 0.5))
    axes = ("c", *SPACE)[-len(shape) :]
    return ParsedMetadata(IN_MEMORY, "array", "virtual_chunked", axes, (level,), None, reader=reader)


def require_volume(array: AnyArray, voxel_size: object, dtypes: Collection[str]) -> None:
    """Refuse an array that is no volume, or that lacks its voxel size.

    Parameters
    ----------
    array : AnyArray
        Axes z, y, x, with c in front, or y, x alone.
    voxel_size : object
        Nanometres; None where it was not given.
    dtypes : collection of str
        Names of the data types that are taken.

    Raises
    ------
    InputError
        ``input.axes``, ``input.dtype``, ``input.no-voxel-size``.
    """
    what = f"the array of {show_shape(array.shape)} {array.dtype}"
    if len(array.shape) not in (2, 3, 4) or 0 in array.shape:
        raise InputError("input.axes", f"{what} is no volume", hint="Give axes z, y, x, or c, z, y, x, or y, x.")
    if array.dtype.name not in dtypes:
        hint = f"Give array.astype(...) of one of {', '.join(dtypes)}."
        raise InputError("input.dtype", f"{what} is of a type that volumetool does not work on", hint=hint)
    if voxel_size is None:
        hint = "Give it in nanometres along z, y, x: voxel_size=(30, 8, 8)."
        raise InputError("input.no-voxel-size", f"{what} does not say how large its voxels are", hint=hint)


def find_npy(url: str) -> ParsedMetadata | None:
    """Describe the array in a NumPy file; None if there is none.

    Raises
    ------
    InputError
        ``input.dtype``: Python objects, or records. ``input.axes``: neither two or three axes, nor four with channels.
        ``input.unreadable``: the file is shorter than its header says. ``input.broken-metadata``, ``input.too-large``,
        ``input.empty``.
    """
    if not is_local(url) or not (path := local_path(url)).is_file():
        return None
    with open_file(path) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            return None
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, stored = read_header(file)
        offset = file.tell()
    if stored.kind not in _NUMBERS:
        raise InputError(
            "input.dtype",
            f"{url} holds {'Python objects, which are never unpacked' if stored.hasobject else stored}; wanted are numbers",
            hint='Save numbers: `numpy.save("FILE.npy", array.astype("uint16"))`.',
            where=url,
        )
    if len(shape) not in (2, 3, 4):
        raise wrong_axes(url, f"of an array of {len(shape)} dimensions")
    axes = ("c", *SPACE)[-len(shape) :]
    if fortran:  # the first axis is the fastest: C order of the axes turned round
        shape, axes = shape[::-1], axes[::-1]
    check_length(path, shape, stored, offset)
    reader = RawReader(str(path), shape, stored.str, offset, stored.newbyteorder("="))
    check_array(url, open_reader(reader))
    return ParsedMetadata(url, "npy", "virtual_chunked", axes, (FoundLevel("", (1.0, 1.0, 1.0)),), None, reader=reader)


NPY = Format("NumPy", find_npy, (".npy",))
