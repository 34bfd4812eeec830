"""One stored array: opened through tensorstore, seen as z, y, x."""

from __future__ import annotations

import json
from typing import Any, Literal

import tensorstore as ts

from volumetool.errors import DataError
from volumetool.store.kvstore import brief, kvstore_spec, read_key, shared_context
from volumetool.store.limits import check_array

Driver = Literal["zarr", "zarr3", "n5"]
SPACE = ("z", "y", "x")


def open_array(url: str, driver: Driver, context: ts.Context | None = None) -> ts.TensorStore:
    """Open an existing array for reading, with the axes as stored.

    Raises
    ------
    DataError
        ``data.unreadable``: not there, damaged metadata, or an unknown codec.
    InputError
        ``input.too-large``, ``input.empty``: more than this machine may be asked for.
    """
    spec: dict[str, Any] = {"driver": driver, "kvstore": kvstore_spec(url)}
    metadata = _corrected(url) if driver == "zarr" else None
    if metadata is not None:
        spec["metadata"] = metadata
    pools = context or shared_context()
    try:
        array = ts.open(spec, read=True, open=True, assume_metadata=metadata is not None, context=pools).result()
    except (ValueError, OSError) as error:
        raise DataError(
            "data.unreadable",
            f"{url} is there but cannot be opened: {brief(error)}",
            hint="The metadata may be damaged, or the array may use a codec or dtype that volumetool does not know.",
            where=url,
        ) from error
    check_array(url, array)
    return array


def spatial_view(array: ts.TensorStore, axes: tuple[str, ...], channel: int) -> ts.TensorStore:
    """Return the z, y, x view of a stored array: one channel, first time point, axes in the project's order."""
    fixed = {"c": channel}
    view = array[tuple(slice(None) if axis in SPACE else fixed.get(axis, 0) for axis in axes)]
    stored = [axis for axis in axes if axis in SPACE]
    order = tuple(stored.index(axis) for axis in SPACE)
    return view if order == (0, 1, 2) else view.transpose(order)


def _corrected(url: str) -> dict[str, Any] | None:
    """Return Zarr 2 metadata that tensorstore accepts, where it would not accept those that are stored.

    Java's writers note the compression level "default" as -1. Decompression does not depend on the level.
    """
    stored = json.loads(read_key(url, ".zarray") or b"{}")
    compressor = stored.get("compressor")
    if not isinstance(compressor, dict) or compressor.get("level") != -1:
        return None
    return {**stored, "compressor": {**compressor, "level": 1}}
