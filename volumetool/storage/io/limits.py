"""Bounds on what a volume may ask of this machine, checked before memory is taken for it.

A few bytes of metadata can declare a chunk of a terabyte, and a file that takes no room on a disk can be a terabyte long. The
bound on a chunk is 512 MiB; ``VOLUMETOOL_CHUNK_LIMIT`` raises it, such as ``VOLUMETOOL_CHUNK_LIMIT=2GiB``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import ConfigError, InputError, ResourceError
from volumetool.machine import memory_limit, usable_memory
from volumetool.storage.io.chunk_files import SLACK, blosc_head, check_file, check_precomputed
from volumetool.storage.io.chunk_keys import ARRAY_METADATA, ChunkKeys
from volumetool.units import parse_bytes

MOST_LEVELS = 32
MOST_METADATA = 2**23
"""Bytes of one metadata file: as Python holds it, JSON may take 20 times as much."""

_MOST_INDEX = 2**26
"""Bytes of a shard's index."""

LONGEST_AXIS = 2**26
"""Voxels: 27 cm at 4 nm."""

MOST_SECTIONS = 2**21
"""Most sections of a volume that is enhanced, over all channels: 8 mm at 4 nm. A table in memory has a row for each."""

CHUNK_LIMIT = "VOLUMETOOL_CHUNK_LIMIT"
_INDEX_ENTRY = 16
"""Bytes of a shard's index per chunk."""

UNPACKED = 2**28
"""Bytes that the chunks of one read may take at once while they are unpacked; a single chunk may take more."""

_PER_CHUNK = 2**12
"""Bytes that reading takes for each chunk beside its voxels."""


def chunk_limit() -> int:
    """Return how many bytes a chunk may have.

    Raises
    ------
    ConfigError
        ``config.option``: the environment does not say an amount of memory.
    """
    text = os.environ.get(CHUNK_LIMIT, "512MiB")
    try:
        return int(str(parse_bytes(text)))
    except (ValueError, OverflowError) as error:
        raise ConfigError("config.option", f"{CHUNK_LIMIT}: {error}", hint=f"such as {CHUNK_LIMIT}=2GiB") from error


def check_array(url: str, array: ts.TensorStore) -> None:
    """Refuse an array that is larger than any volume can be, or whose chunks do not fit into memory.

    Raises
    ------
    InputError
        ``input.too-large``, ``input.empty``.
    """
    shape, size = array.shape, array.dtype.numpy_dtype.itemsize
    if min(shape, default=0) < 1:
        raise InputError("input.empty", f"{url} has the shape {shape}: no voxel", hint="Give another volume.", where=url)
    if max(shape) > LONGEST_AXIS or prod(shape) >= 2**63:
        raise _too_large(url, f"declares {shape} voxels; an axis has at most {LONGEST_AXIS}, all together fewer than 2^63")
    layout, limit = array.chunk_layout, chunk_limit()
    chunk, shard = (tuple(int(n or 1) for n in part.shape or ()) for part in (layout.read_chunk, layout.write_chunk))
    if prod(chunk) * size > limit:
        raise _too_large(url, f"has chunks of {chunk} voxels, {prod(chunk) * size} bytes; the limit is {limit}")
    if shard != chunk and prod(shard) // prod(chunk) * _INDEX_ENTRY > _MOST_INDEX:
        raise _too_large(url, f"has shards of {shard} voxels in chunks of {chunk}: their index exceeds {_MOST_INDEX} bytes")


def check_sections(url: str, sections: int) -> None:
    """Refuse a volume with more sections than a table of them may have rows.

    Raises
    ------
    InputError
        ``input.too-large``.
    """
    if sections > MOST_SECTIONS:
        raise InputError(
            "input.too-large",
            f"{url} has {sections} sections, all channels counted; at most {MOST_SECTIONS} are enhanced as one volume",
            hint="Metadata may be damaged or hostile. Of a volume that really has so many, take a coarser --level.",
            where=url,
        )


def check_levels(url: str, count: int) -> None:
    """Refuse a volume that lists more levels than any has.

    Raises
    ------
    InputError
        ``input.too-large``.
    """
    if count > MOST_LEVELS:
        raise _too_large(url, f"lists {count} levels; at most {MOST_LEVELS} are read")


def check_images(file: Path, shape: tuple[int, int, int], itemsize: int) -> None:
    """Refuse a file of images whose header declares more than the file can hold.

    Sections of any size are read where the file is large enough for them, and memory holds one.

    Parameters
    ----------
    file : Path
        The file; it must exist.
    shape : tuple of int
        Declared shape: sections, rows, columns.
    itemsize : int
        Bytes per pixel.

    Raises
    ------
    InputError
        ``input.too-large``, ``input.empty``.
    ResourceError
        ``resource.memory``.
    """
    section, stored = shape[1] * shape[2] * itemsize, file.stat().st_size
    if min(shape) < 1:
        raise InputError("input.empty", f"{file} has the shape {shape}: no voxel", hint="Give another file.", where=str(file))
    if max(shape) > LONGEST_AXIS or section > max(chunk_limit(), _IMAGE_RATIO * stored):
        raise _too_large(str(file), f"declares sections of {shape[1:]} pixels and has {stored} bytes")
    check_memory(str(file), section, f"a section of {shape[1:]} pixels")


def check_memory(place: str, needed: int, what: str) -> None:
    """Refuse what takes more memory at once than this process may still use.

    Parameters
    ----------
    place : str
        Path or URL of what is read, for the error.
    needed : int
        Bytes that it takes.
    what : str
        What takes them, for the error: "a section of (512, 512) pixels".

    Raises
    ------
    ResourceError
        ``resource.memory``.
    """
    if needed > (free := usable_memory()):
        raise ResourceError(
            "resource.memory",
            f"{place}: {what} takes {needed} bytes, {free} are free (limit: {memory_limit()})",
            hint="The file may be damaged or hostile. Of one that really is so large, take a part, or more memory.",
            where=place,
        )


_IMAGE_RATIO = 200
"""Sections of electron microscopy compress twofold; blank margins more."""


def check_stored(view: ts.TensorStore) -> None:
    """Refuse stored chunks that are longer than their voxels, before they are read.

    A chunk file is read whole, and Blosc takes the memory that a chunk's head asks for. Only local files are looked at: object
    stores tell no size without another request per chunk.

    Parameters
    ----------
    view : tensorstore.TensorStore
        What is about to be read: its domain is what is wanted.

    Raises
    ------
    DataError
        ``data.oversized``.
    """
    _check_files(_stored(view), stored_range(view), view.dtype.numpy_dtype.itemsize)


def _check_files(stored: _Stored, ranges: list[tuple[int, int]], itemsize: int) -> None:
    if not stored.folder:
        return
    if stored.keys is None:
        check_precomputed(Path(stored.folder), stored.spec["scale_metadata"], ranges, itemsize)
        return
    chunk = stored.keys.chunk
    voxels = prod(chunk) * itemsize
    index = prod(chunk) // max(1, prod(stored.chunk)) * (_INDEX_ENTRY + 1024)
    for place in product(*(range(a // n, (b - 1) // n + 1) for (a, b), n in zip(ranges, chunk, strict=True))):
        check_file(stored.folder + stored.keys.key(place), voxels, voxels + voxels // 8 + index + SLACK, stored.blosc)


@dataclass(frozen=True)
class _Stored:
    """The storage of an array.

    Attributes
    ----------
    spec : dict
        As tensorstore has it.
    chunk, origin : tuple of int
        Voxels of what is unpacked in one piece, and where the first one begins; along the stored axes.
    folder : str
        Where its chunks are files; empty where they are none.
    keys : ChunkKeys, optional
        The names of these files; those of a precomputed volume are others.
    blosc : int, optional
        Where in a file the head of Blosc begins.
    """

    spec: dict[str, Any]
    chunk: tuple[int, ...]
    origin: tuple[int, ...]
    folder: str = ""
    keys: ChunkKeys | None = None
    blosc: int | None = None

    @classmethod
    def of(cls, spec: dict[str, Any]) -> _Stored:
        """Return what the spec of an array tells, as tensorstore has it."""
        whole = ts.Spec({name: value for name, value in spec.items() if name != "transform"}).chunk_layout
        chunk = tuple(int(n or 1) for n in whole.read_chunk.shape or (1,) * whole.rank)
        origin = tuple(int(n or 0) for n in whole.grid_origin or (0,) * whole.rank)
        driver, kvstore = spec["driver"], spec.get("kvstore")
        if not isinstance(kvstore, dict) or kvstore.get("driver") != "file":
            return cls(spec, chunk, origin)
        folder = f"{kvstore['path'].rstrip('/')}/"
        if driver in ARRAY_METADATA:
            metadata = spec["metadata"]
            return cls(spec, chunk, origin, folder, ChunkKeys.of(metadata, driver), blosc_head(metadata, driver))
        return cls(spec, chunk, origin, folder if driver == "neuroglancer_precomputed" else "")


_known: dict[tuple[Any, ...], _Stored] = {}
_MOST_KNOWN = 1024


def _stored(view: ts.TensorStore) -> _Stored:
    """Return how the array of a view is stored; the transform may be another view's.

    tensorstore never frees the lists and dicts that ``to_json`` makes, some kilobytes a call: asked at every read, a terabyte
    would leave gigabytes of them. So it is asked once for each array.
    """
    if view.kvstore is None:
        return _of_computed(view)
    layout = view.chunk_layout
    shapes = (layout.write_chunk.shape, layout.read_chunk.shape, str(view.dimension_units))
    key = (repr(view.kvstore), repr(view.codec), view.dtype.name, _transform(view).output_rank, *shapes)
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _Stored.of(view.spec().to_json())
    return _known[key]


def _of_computed(view: ts.TensorStore) -> _Stored:
    """Return the chunks of a view of an array that is computed as it is read; an axis that is no longer there counts 1."""
    shown = [int(n or 1) for n in view.chunk_layout.read_chunk.shape or (1,) * view.rank]
    axes = [output.input_dimension for output in _transform(view).output]
    chunk = tuple(1 if axis is None else shown[int(axis)] for axis in axes)
    return _Stored({"driver": "virtual_chunked"}, chunk, (0,) * len(chunk))


def spec_of(view: ts.TensorStore) -> dict[str, Any]:
    """Return how the array of a view is stored, as tensorstore has it; the transform may be another view's."""
    return _stored(view).spec


def read_checked(view: ts.TensorStore) -> Any:
    """Begin to read a view whose stored chunks have been looked at; return the future.

    Raises
    ------
    DataError
        ``data.oversized``.
    """
    check_stored(view)
    return view.read()


def read_bounded(view: ts.TensorStore) -> NDArray[Any]:
    """Read a view, with no more of its chunks unpacked at once than `UNPACKED` bytes, but always one.

    Raises
    ------
    DataError
        ``data.oversized``.
    """
    voxels: NDArray[Any] | None = None
    first = view.domain.inclusive_min
    stored, itemsize = _stored(view), view.dtype.numpy_dtype.itemsize
    for part, ranges in _parts(view, stored):
        _check_files(stored, ranges, itemsize)
        read = np.asarray(part.read().result())
        if read.shape == view.shape:
            return read
        voxels = np.empty(view.shape, read.dtype) if voxels is None else voxels
        voxels[tuple(slice(a - f, b - f) for a, b, f in zip(part.origin, part.domain.exclusive_max, first, strict=True))] = read
    assert voxels is not None  # noqa: S101  (a view has one part at least)
    return voxels


def unpacked_chunk(view: ts.TensorStore) -> tuple[tuple[int, ...], int]:
    """Return how large the chunks of a view are.

    Returns
    -------
    tuple of int
        Voxels of a chunk, along the axes of the view.
    int
        Bytes that one chunk takes unpacked, with all its channels.
    """
    chunk = tuple(int(n or 1) for n in view.chunk_layout.read_chunk.shape or (1,) * view.rank)
    return chunk, prod(_stored(view).chunk) * view.dtype.numpy_dtype.itemsize


def unpacked_bytes(view: ts.TensorStore) -> int:
    """Return the bytes that all chunks of a view take while they are unpacked."""
    stored = _stored(view)
    return prod(_chunk_counts(stored_range(view), stored)) * _chunk_bytes(view, stored)


def _chunk_bytes(view: ts.TensorStore, stored: _Stored) -> int:
    return prod(stored.chunk) * view.dtype.numpy_dtype.itemsize + _PER_CHUNK


def _chunk_counts(ranges: list[tuple[int, int]], stored: _Stored) -> list[int]:
    """Return how many chunks a range of voxels touches along every axis of the stored array."""
    grid = zip(ranges, stored.origin, stored.chunk, strict=True)
    return [(b - 1 - origin) // n - (a - origin) // n + 1 for (a, b), origin, n in grid]


def _parts(view: ts.TensorStore, stored: _Stored) -> Iterator[tuple[ts.TensorStore, list[tuple[int, int]]]]:
    """Yield the parts of a view that are read one after the other: halves between chunks, until they are small enough.

    Each comes with its first voxel, and the end, along every axis of the stored array.
    """
    ranges = stored_range(view)
    counts = _chunk_counts(ranges, stored)
    if prod(counts) * _chunk_bytes(view, stored) <= UNPACKED or max(counts) == 1:
        yield view, ranges
        return
    axis, transform = counts.index(max(counts)), _transform(view)
    output, start = transform.output[axis], ranges[axis][0]
    n, origin = stored.chunk[axis], stored.origin[axis]
    middle = ((start - origin) // n + counts[axis] // 2) * n + origin - output.offset
    before = (slice(None),) * int(output.input_dimension or 0)
    yield from _parts(view[(*before, slice(None, middle))], stored)
    yield from _parts(view[(*before, slice(middle, None))], stored)


def stored_range(view: ts.TensorStore) -> list[tuple[int, int]]:
    """Return the first voxel of a view, and the end, along every axis of the stored array."""
    ranges = []
    for output in _transform(view).output:
        if output.input_dimension is None:
            ranges.append((output.offset, output.offset + 1))
        else:
            axis = view.domain[int(output.input_dimension)]
            ranges.append((axis.inclusive_min + output.offset, axis.exclusive_max + output.offset))
    return ranges


def _transform(view: ts.TensorStore) -> ts.IndexTransform:
    transform = view.spec().transform
    assert transform is not None  # noqa: S101  (an open array always has one)
    return transform


def _too_large(url: str, what: str) -> InputError:
    return InputError(
        "input.too-large",
        f"{url} {what}",
        hint=f"Metadata may be damaged or hostile. Chunks that really are so large: set {CHUNK_LIMIT}, such as 2GiB.",
        where=url,
    )
