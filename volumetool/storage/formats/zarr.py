"""A bare Zarr array, version 2 or 3: axes from its dimension names if it has them, otherwise by rank.

Voxel size and offset are read where daisy or funlib noted them.
"""

from __future__ import annotations

import re
from itertools import islice

from volumetool.storage.formats.base import Format, FoundLevel, Json, ParsedMetadata, are_axes, broken, read_json, wrong_axes
from volumetool.storage.formats.ome_zarr import find_level
from volumetool.storage.formats.voxel_sizes import UNKNOWN, contradiction, daisy_axes, read_offset, stated_by_daisy
from volumetool.storage.io.arrays import SPACE, Driver
from volumetool.storage.io.kvstore import is_local, join_url, local_path, read_key
from volumetool.storage.io.stores.zip_file import zip_on

_FLAT = re.compile(r"[0-9]+(\.[0-9]+)+")
_LOOKED_AT = 1024
"""Entries of an array's folder."""


def find_zarr_array(url: str) -> ParsedMetadata | None:
    """Describe a Zarr array: by the OME-Zarr image that it is a level of, otherwise by its own attributes.

    Raises
    ------
    InputError
        ``input.axes``: neither two or three axes, nor four with channels.
    """
    described = _description(url)
    if described is None:
        return None
    if (of_image := find_level(url)) is not None:
        return of_image
    array, driver = described
    shape = array.get("shape")
    if not isinstance(shape, list):
        raise broken(url, "describes an array without a shape")
    own = (array.get("attributes") if driver == "zarr3" else read_json(url, ".zattrs")) or {}
    names = array.get("dimension_names") or own.get("_ARRAY_DIMENSIONS") or daisy_axes(own)
    axes = _axes(url, len(shape), names)
    stated = list(stated_by_daisy(own, axes))
    size = stated[0] if stated else UNKNOWN
    offset = read_offset(axes, own["offset"]) if stated and "offset" in own else (0.0, 0.0, 0.0)
    level = FoundLevel("", size.scale, offset)
    return ParsedMetadata(url, "zarr", driver, axes, (level,), size.unit, conflict=contradiction(stated))


def _description(url: str) -> tuple[Json, Driver] | None:
    node = read_json(url, "zarr.json")
    if node is not None:
        return (node, "zarr3") if node.get("node_type") == "array" else None
    array = read_json(url, ".zarray")
    return None if array is None else (array, "zarr")


def refuse_unsaid_nesting(url: str) -> None:
    """Refuse a version 2 array whose chunks lie in folders though its metadata do not say so: all would count as not stored.

    Raises
    ------
    InputError
        ``input.broken-metadata``.
    """
    array = read_json(url, ".zarray") or {}
    rank = len(array.get("shape") or ())
    if rank < 2 or "dimension_separator" in array:
        return
    flat, nested = (separator.join("0" * rank) for separator in "./")
    if is_local(url) and zip_on(url) is None:
        names = [entry.name for entry in islice(local_path(url).iterdir(), _LOOKED_AT)]
        wrong = any(map(str.isdecimal, names)) and not any(_FLAT.fullmatch(name) for name in names)
    else:
        wrong = read_key(url, flat) is None and read_key(url, nested) is not None
    if wrong:
        raise broken(
            join_url(url, ".zarray"),
            'does not say that its chunks lie in folders, as old writers did: add the member "dimension_separator": "/"',
        )


def _axes(url: str, rank: int, names: object) -> tuple[str, ...]:
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        axes = tuple(str(name).lower() for name in names)
        if len(axes) == rank and are_axes(axes):
            return axes
        # Names such as dim_0 say nothing; names that speak of space say what the array is.
        if set(axes) & {*SPACE, "c", "t"}:
            raise wrong_axes(url, axes)
    if rank in (2, 3, 4):
        return ("c", *SPACE)[-rank:]
    raise wrong_axes(url, f"of an array of {rank} dimensions")


ZARR_ARRAY = Format("a Zarr array", find_zarr_array)
