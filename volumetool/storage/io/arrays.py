"""One stored array: opened through tensorstore, seen as z, y, x."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import DataError, InputError
from volumetool.paths import refuse_special
from volumetool.storage.io.codecs import readable_metadata
from volumetool.storage.io.kvstore import is_local, join_url, kvstore_spec, local_path, read_key, shared_context
from volumetool.storage.io.limits import check_array, read_bounded
from volumetool.storage.io.presence import METADATA, Check, gone, is_absence, read_sparse, url_of
from volumetool.storage.io.retries import STORAGE, VanishedError, brief, judge
from volumetool.storage.io.stores.traffic import pace
from volumetool.storage.io.urls import hint_of

Driver = Literal["zarr", "zarr3", "n5", "neuroglancer_precomputed", "virtual_chunked"]
SPACE = ("z", "y", "x")
PRECOMPUTED: Final = "neuroglancer_precomputed"
_IGNORED = "was ignored by server"
"""How tensorstore says that a server gave a whole file where a part was asked for."""


def open_array(
    url: str, driver: Driver, path: str = "", context: ts.Context | None = None, *, strict: bool = False
) -> ts.TensorStore:
    """Open an existing array for reading, with the axes as stored; each begins at 0.

    Parameters
    ----------
    url : str
        The volume, or the array itself.
    driver : str
        How it is stored.
    path : str
        Where the array is below the volume; of a precomputed volume, the key of a scale.
    context : tensorstore.Context, optional
        Thread pools; by default those of `shared_context`.
    strict : bool, default False
        Reading a chunk that is not stored fails: `read_part` then tells what never was from what is gone.

    Raises
    ------
    DataError
        ``data.unreadable``: not there, damaged metadata, or an unknown codec.
    InputError
        ``input.too-large``, ``input.empty``: more than this machine may be asked for. ``input.unsupported``: its metadata name
        a codec, or a member of one, that is not known. ``input.unreadable``: the server does not answer.
    """
    place, pools = join_url(url, path), context or shared_context()
    spec = {**array_spec(url, driver, path), "fill_missing_data_reads": not strict}
    if driver in METADATA and is_local(place):
        refuse_special(local_path(place) / METADATA[driver])
    try:
        array = STORAGE.call(lambda _: _open(spec, place, pools))
    except (ValueError, OSError) as error:
        if judge(error) in ("retry", "slow", "unreachable"):
            message = f"{place} cannot be read: {brief(error)}"
            raise InputError("input.unreadable", message, hint=hint_of(place, error), where=place) from error
        raise DataError(
            "data.unreadable",
            f"{place} is there but cannot be opened: {brief(error)}",
            hint="The metadata may be damaged, or the array may use a codec or dtype that volumetool does not know.",
            where=place,
        ) from error
    check_array(place, array)
    return from_zero(array, driver)


def array_spec(url: str, driver: Driver, path: str) -> dict[str, Any]:
    """Return tensorstore's spec of one array of a volume.

    Parameters
    ----------
    url, driver, path
        As for :func:`open_array`.
    """
    if driver == PRECOMPUTED:  # the metadata of all scales are the volume's
        return {"driver": driver, "kvstore": kvstore_spec(url), "scale_metadata": {"key": path}}
    return {"driver": driver, "kvstore": kvstore_spec(join_url(url, path))}


def from_zero(array: ts.TensorStore, driver: Driver) -> ts.TensorStore:
    """Return an array each of whose axes begins at 0, as those of a precomputed volume need not."""
    return array[ts.d[:].translate_to[0]] if driver == PRECOMPUTED else array


def _open(spec: dict[str, Any], place: str, pools: ts.Context) -> ts.TensorStore:
    try:
        return ts.open(spec, read=True, open=True, context=pools).result()
    except (ValueError, OSError):
        if (metadata := _corrected(place, spec["driver"])) is None:
            raise
        return ts.open({**spec, "metadata": metadata}, read=True, open=True, assume_metadata=True, context=pools).result()


def _corrected(place: str, driver: Driver) -> dict[str, Any] | None:
    """Return the metadata that tensorstore refuses as it may take them; None where nothing of them can be passed over."""
    if driver not in METADATA:
        return None
    try:
        stored = json.loads(read_key(place, METADATA[driver]) or b"{}")
    except (ValueError, RecursionError, InputError):
        return None  # what cannot be read is what tensorstore has said
    readable = readable_metadata(place, driver, stored) if isinstance(stored, dict) else stored
    return None if readable == stored else readable


def reopened(array: ts.TensorStore) -> ts.TensorStore:
    """Return another handle on a stored array or a part of it, which shares no cache with the first.

    It has as many requests in flight as the store bears for now. What is read from files opens them at every read: it stays.
    """
    if array.kvstore is None:
        return array
    pools = shared_context(STORAGE.throttle.limit)
    return ts.open(
        array.spec(), read=array.readable, write=array.writable, open=True, assume_metadata=True, context=pools
    ).result()


def read_part(array: ts.TensorStore, slices: tuple[slice, ...], check: Check | None = None) -> NDArray[Any]:
    """Read a part of a stored array; what fails is read again through another handle.

    Parameters
    ----------
    array : tensorstore.TensorStore
        The array, with any axes.
    slices : tuple of slice
        The part, in voxels along each axis of the array.
    check : callable, optional
        For a strict array: knows which chunks were stored before, see `StoredChunks.still_there`.

    Raises
    ------
    DataError
        ``data.oversized``: a chunk is made to fill the memory.
    InputError
        ``input.vanished``: a strict array, or a chunk of it that was stored before, is gone, and did not come back within
        seconds. ``input.no-ranges``: a server gives out whole files alone.
    ValueError, OSError
        From tensorstore, when it must be given up.
    """

    def read(tries: int) -> NDArray[Any]:
        fresh = tries > 0 or STORAGE.throttle.throttled
        try:
            return read_bounded((reopened(array) if fresh else array)[slices])
        except ValueError as error:
            if _IGNORED in str(error):
                raise _without_ranges(array) from error
            if not is_absence(error):
                raise
        return read_sparse(reopened(array)[slices], check)

    try:
        voxels = STORAGE.call(read)
    except VanishedError as error:
        raise gone(error) from error
    pace()
    return voxels


def _without_ranges(array: ts.TensorStore) -> InputError:
    return InputError(
        "input.no-ranges",
        f"the server of {url_of(array)} does not serve parts of files: it ignores range requests, which sharded volumes need",
        hint="Use a server that answers them (nginx, Apache, Caddy, any object store), or copy the volume to a disk.",
        where=url_of(array),
    )


def write_part(array: ts.TensorStore, slices: tuple[slice, ...], voxels: NDArray[Any]) -> None:
    """Write a part of a stored array; what fails is written again through another handle.

    Parameters
    ----------
    array : tensorstore.TensorStore
        The array, with any axes.
    slices : tuple of slice
        The part, in voxels along each axis of the array.
    voxels : numpy.ndarray, shape of the part
        What to write, in the array's dtype; not to be changed meanwhile, and afterwards only where the array has no cache.

    Raises
    ------
    ValueError, OSError
        From tensorstore, when it must be given up.
    """
    STORAGE.call(
        lambda tries: (
            (reopened(array) if tries else array)[slices].write(voxels, can_reference_source_data_indefinitely=True).result()
        )
    )


def spatial_view(array: ts.TensorStore, axes: tuple[str, ...], channel: int) -> ts.TensorStore:
    """Return the view of one channel of a stored array, at its first time point, with axes z, y, x.

    Parameters
    ----------
    array : tensorstore.TensorStore
        The array as stored.
    axes : tuple of str
        Name of each of its axes: "z", "y", "x", "c", "t". Without "z" it is one section.
    channel : int
        Index along c; has no effect without that axis.
    """
    fixed = {"c": channel}
    view = array[tuple(slice(None) if axis in SPACE else fixed.get(axis, 0) for axis in axes)]
    if "z" not in axes:  # one section
        view, axes = view[ts.newaxis], ("z", *axes)  # (y, x) -> (1, y, x)
    stored = [axis for axis in axes if axis in SPACE]
    order = tuple(stored.index(axis) for axis in SPACE)
    return view if order == (0, 1, 2) else view.transpose(order)
