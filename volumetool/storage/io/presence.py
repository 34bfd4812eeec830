"""Chunks that are not stored: told apart are those that never were, and those that are gone.

Formats leave blank chunks out, and a chunk that was deleted, or whose disk is not mounted, looks just like them. So arrays that
are a job's input are opened ``strict``: reading a chunk that is not stored fails. Such chunks are then looked for twice, and
between the two looks the array's metadata must be there, and all chunks that are known to have been stored. One of the three
notices a chunk that is absent for a while.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from typing import Any, Final, TypeVar

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import DataError, InputError
from volumetool.storage.io.codecs import readable_metadata
from volumetool.storage.io.limits import UNPACKED, check_stored, spec_of, stored_range, unpacked_chunk
from volumetool.storage.io.retries import STORAGE, VanishedError, brief, tried

AT_ONCE: Final = 64
"""Chunks that are read at the same time."""

METADATA: Final = {"zarr": ".zarray", "zarr3": "zarr.json", "n5": "attributes.json"}
"""Where an array describes itself, by tensorstore's driver; the scales of a precomputed volume do so together."""

_DECISIVE: Final = {
    "zarr": ("dtype", "chunks", "order", "dimension_separator", "compressor", "filters", "fill_value"),
    "zarr3": ("data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value", "dimension_names"),
    "n5": ("dataType", "blockSize", "compression"),
    "neuroglancer_precomputed": (
        *("data_type", "num_channels", "chunk_size", "voxel_offset", "encoding", "sharding"),
        "compressed_segmentation_block_size",
    ),
}
"""Members of the metadata by which stored bytes become voxels, by tensorstore's driver."""

Slices = tuple[slice, ...]
Check = Callable[[list[Slices]], None]
"""Told of parts of an array, one in each chunk, that read as not stored; raises VanishedError where they were stored before."""

T = TypeVar("T")


def is_absence(error: Exception) -> bool:
    """Return whether a strict read failed because a chunk is not stored."""
    text = str(error)
    return text.startswith("NOT_FOUND: chunk ") and "is missing" in text


def read_sparse(view: ts.TensorStore, check: Check | None = None) -> NDArray[Any]:
    """Read a part of a strict array some of whose chunks are not stored: their voxels are the array's fill value.

    Parameters
    ----------
    view : tensorstore.TensorStore
        The part; opened ``strict``, and without a cache.
    check : callable, optional
        Knows which chunks were stored before.

    Raises
    ------
    VanishedError
        The array is gone, or a chunk was absent only for a while.
    ValueError, OSError
        From tensorstore.
    """
    check_stored(view)
    fill = 0 if view.fill_value is None else view.fill_value
    voxels: NDArray[Any] = np.full(view.shape, fill, view.dtype.numpy_dtype)
    absent = []
    for chunk, found in _read_chunks(view, list(_chunks(view))):
        if found is None:
            absent.append(chunk)
        else:
            inside = zip(chunk, view.domain.inclusive_min, strict=True)
            voxels[tuple(slice(part.start - first, part.stop - first) for part, first in inside)] = found
    check_there(view)
    if check is not None:
        check(absent)
    for _, found in _read_chunks(view, absent):
        if found is not None:
            raise VanishedError(f"a chunk of {url_of(view)} was absent for a while")
    return voxels


def _chunks(view: ts.TensorStore) -> Iterator[Slices]:
    """Yield the parts of a view that lie in one chunk each."""
    origins = view.chunk_layout.grid_origin or (0,) * view.rank
    grids = []
    for axis, size, origin in zip(view.domain, unpacked_chunk(view)[0], origins, strict=True):
        first = axis.inclusive_min - (axis.inclusive_min - int(origin or 0)) % size
        begins = range(first, axis.exclusive_max, size)
        grids.append([slice(max(at, axis.inclusive_min), min(at + size, axis.exclusive_max)) for at in begins])
    yield from product(*grids)


def _read_chunks(view: ts.TensorStore, chunks: list[Slices]) -> Iterator[tuple[Slices, NDArray[Any] | None]]:
    """Yield chunks with their voxels, None where one is not stored."""
    at_once = max(1, min(AT_ONCE, UNPACKED // unpacked_chunk(view)[1]))
    for first in range(0, len(chunks), at_once):
        group = chunks[first : first + at_once]
        reads = [view[chunk].read() for chunk in group]
        for chunk, read in zip(group, reads, strict=True):
            try:
                yield chunk, np.asarray(read.result())
            except ValueError as error:
                if not is_absence(error):
                    raise
                yield chunk, None


def check_there(array: ts.TensorStore) -> None:
    """Make sure that the metadata of an open array are still stored, and still speak of its voxels.

    Chunks, codecs and fill value are the same, and at least as many voxels are there.

    Raises
    ------
    VanishedError
        They are gone, or another array's.
    ValueError, OSError
        From tensorstore.
    """
    spec, store = spec_of(array), array.kvstore
    if store is None:  # read from files, which describe themselves
        array[tuple(axis.inclusive_min for axis in array.domain)].read().result()
        return
    driver = spec["driver"]
    key = METADATA.get(driver, "info")
    found = store.read(key).result()
    if found.state != "value":
        raise VanishedError(f"{url_of(array)} is gone: it has no {key} any more")
    try:
        stops, decisive = _described(driver, found.value, spec.get("scale_metadata", {}).get("key"))
    except (ValueError, LookupError, TypeError, InputError) as error:
        raise VanishedError(f"the metadata of {url_of(array)} are no longer those of an array: {error!r}") from error
    before = _decisive(spec)
    if before != decisive:  # what is remembered may be of an array that lay there earlier still
        before = _decisive(array.spec().to_json())
    if other := [name for name in before if before[name] != decisive.get(name)]:
        said = ", ".join(f"{name} {decisive.get(name)} and not {before[name]}" for name in other)
        raise VanishedError(f"another array lies at {url_of(array)} now: {said}")
    if not all(stop <= size for (_, stop), size in zip(stored_range(array), stops, strict=False)):
        raise VanishedError(f"another array lies at {url_of(array)} now: its voxels end at {stops}")


@lru_cache(maxsize=64)
def _described(driver: str, metadata: bytes, scale: str | None) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return where the voxels of an array end, which may grow, and what its metadata say of its chunks, which stays.

    Tensorstore itself reads them, out of its own memory, so that what they leave out is what it takes for it.
    """
    context = ts.Context()
    ts.KvStore.open("memory://", context=context).result().write(METADATA.get(driver, "info"), metadata).result()
    spec: dict[str, Any] = {"driver": driver, "kvstore": "memory://"}
    spec |= {} if scale is None else {"scale_metadata": {"key": scale}}
    try:
        array = ts.open(spec, open=True, read=True, context=context).result()
    except ValueError:
        if driver not in METADATA:
            raise
        spec["metadata"] = readable_metadata("", driver, json.loads(metadata))
        array = ts.open(spec, open=True, read=True, assume_metadata=True, context=context).result()
    return tuple(array.domain.exclusive_max), _decisive(array.spec().to_json())


def _decisive(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the members of an array's metadata that decide which bytes are which voxels, in one spelling.

    Tensorstore spells what an array was created with, opened with or opened again with in different ways.
    """
    kept = {name: value for name, value in spec.items() if name in ("driver", "dtype") or name.endswith("metadata")}
    return _spelled(json.dumps(kept | {"kvstore": "memory://"}, sort_keys=True))


@lru_cache(maxsize=64)
def _spelled(text: str) -> dict[str, Any]:
    array = ts.open(json.loads(text), open=True, read=True, assume_metadata=True, context=ts.Context()).result()
    spec = array.spec().to_json()
    metadata = {**spec.get("metadata", {}), **spec.get("multiscale_metadata", {}), **spec.get("scale_metadata", {})}
    named: dict[str, Any] = {name: metadata.get(name) for name in _DECISIVE[spec["driver"]]}
    return {"dtype": spec["dtype"], **named}


def url_of(array: ts.TensorStore) -> str:
    """Return where an open array lies: a path, or a URL."""
    assert array.kvstore is not None  # noqa: S101  (what has chunks has a place)
    place = spec_of(array)["kvstore"]
    if isinstance(place, dict) and place["driver"] == "s3":  # of one with an endpoint tensorstore gives no URL
        return f"s3://{place['bucket']}/{place['path']}".rstrip("/")
    return str(array.kvstore.url).removeprefix("file://").rstrip("/")


def looked(look: Callable[[int], T], place: str) -> T:
    """Look at an input until nothing of it is gone, or some seconds have passed; other trouble that passes is waited for, too.

    Parameters
    ----------
    look : callable
        Told how often it looked before; raises VanishedError where something is gone.
    place : str
        The input, for the error.

    Raises
    ------
    InputError
        ``input.vanished``.
    DataError
        ``data.unreadable``: the store does not answer, or refuses to.
    """
    try:
        return STORAGE.call(look)
    except VanishedError as error:
        raise gone(error) from error
    except (ValueError, OSError, NotImplementedError) as error:  # some servers know GET alone
        raise DataError(
            "data.unreadable",
            f"{place} cannot be asked for: {brief(error)}",
            hint="check the connection, the disk and the permissions, and run the same command again",
            where=place,
        ) from error


def gone(error: VanishedError) -> InputError:
    """Return the error of a command whose input vanished and did not come back."""
    return InputError(
        "input.vanished",
        f"{error}{tried(error)}",
        hint="it was there when the command began: bring it back and run the same command again; nothing that was read "
        "meanwhile counts",
    )
