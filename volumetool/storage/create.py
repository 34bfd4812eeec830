"""Create volumes in the formats of the registry that are written; OME-Zarr 0.5 with sharded arrays by default.

The arrays are created first and the volume's metadata last, so that a volume that can be opened is complete. Creating
writes one small file per level, however large the volume.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import tensorstore as ts

from volumetool.errors import InputError, OutputError
from volumetool.storage.formats.base import Json, read_json
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.arrays import PRECOMPUTED, array_spec, from_zero, spatial_view
from volumetool.storage.io.chunk_keys import ARRAY_METADATA, VOLUME_METADATA
from volumetool.storage.io.kvstore import (
    canonical_url,
    delete_key,
    encode_json,
    is_local,
    join_url,
    list_keys,
    local_path,
    shared_context,
    write_key,
)
from volumetool.storage.io.limits import MOST_LEVELS
from volumetool.storage.io.retries import STORAGE, brief, unwritable
from volumetool.storage.io.stores.zip_file import zip_on
from volumetool.storage.open import open_volume
from volumetool.storage.volume import DTYPES, Volume
from volumetool.storage.writing.layout import OWN_KEY, VolumeLayout
from volumetool.storage.writing.names import DEFAULT, WrittenName

__all__ = [
    "OWN_KEY",
    "VolumeLayout",
    "array_metadata",
    "check_layout",
    "check_output_place",
    "choose_format",
    "create_levels",
    "create_volume",
    "group_metadata",
    "open_for_writing",
    "open_in_memory",
    "read_root",
    "write_attributes",
]

OTHER_FORMATS = (
    ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".h5", ".hdf5", ".hdf", ".ims", ".mrc", ".rec", ".nii", ".nrrd", ".czi",
    ".dm3", ".dm4", ".raw", ".npy", ".gz", ".zip", ".ozx", ".tar",
)  # fmt: skip
"""Endings of what is never written."""


_MEMBERS = ("dimension_names", "compressor", "dimension_separator", "compression", "units")
"""Members of an array's metadata by which one that was created here is known."""


def create_volume(url: str, layout: VolumeLayout, attributes: Mapping[str, Any]) -> Volume:
    """Create an empty volume.

    Creating the same volume with the same attributes again changes nothing, so that a killed program can start again.

    Parameters
    ----------
    url : str
        Local path, or URL with the scheme file, s3 or gs.
    layout : VolumeLayout
        Levels, dtype, channels and format of the volume.
    attributes : mapping
        Provenance, JSON values only; stored under the key ``volumetool``.

    Returns
    -------
    Volume
        The volume, as `open_volume` sees it.

    Raises
    ------
    OutputError
        ``output.exists``: another volume, array or file is there. ``output.unwritable``: no permission, no space.
        ``output.dtype``: the dtype is not one of the five. ``output.fill-value``, ``output.channels``: the format has no
        place for them.
    """
    place = canonical_url(url)
    check_layout(place, layout)
    written, group = WRITTEN[layout.format], group_metadata(layout, attributes)
    if not _refuse_other(place, {written.root: group, **written.beside}, written.root):
        _delete_empty_levels(place, layout)
    create_levels(place, layout, range(len(layout.levels)))
    write_key(place, written.root, encode_json(group))
    return open_volume(place)


def create_levels(url: str, layout: VolumeLayout, numbers: Iterable[int]) -> None:
    """Create the arrays of some levels, empty, and what lies beside them; those that are there and the same stay as they are.

    Parameters
    ----------
    url : str
        Where the volume is.
    layout : VolumeLayout
        All levels of the volume.
    numbers : iterable of int
        The levels to create, counted from 0, the finest.

    Raises
    ------
    OutputError
        ``output.exists``: another array is there. ``output.unwritable``.
    """
    if WRITTEN[layout.format].driver == PRECOMPUTED:
        return  # the volume's own metadata describe its levels
    for key, content in WRITTEN[layout.format].beside.items():
        write_key(canonical_url(url), key, encode_json(content))
    for level in numbers:
        _open_level(canonical_url(url), layout, level, None, create=True)


def write_attributes(url: str, attributes: Mapping[str, Any]) -> None:
    """Replace the provenance of a volume; everything else in its metadata stays. Atomic, but for one writer at a time.

    Raises
    ------
    InputError
        ``input.not-a-volume``: there is no volume.
    OutputError
        ``output.unwritable``.
    """
    place = canonical_url(url)
    key, root = read_root(place)
    if root is None or root.get("node_type") == "array":
        raise InputError(
            "input.not-a-volume",
            f"{place} is no volume that attributes can be written to",
            hint="Create the volume before noting anything in it.",
            where=place,
        )
    write_key(place, key, encode_json(with_attributes(root, attributes)))


def with_attributes(root: Json, attributes: Mapping[str, Any]) -> Json:
    """Return the metadata of a volume with another provenance; everything else in them stays."""
    if "node_type" in root:  # of Zarr 3; all others have it at the top
        return {**root, "attributes": {**root.get("attributes", {}), OWN_KEY: dict(attributes)}}
    return {**root, OWN_KEY: dict(attributes)}


def read_root(url: str) -> tuple[str, Json | None]:
    """Return the name and the content of the file that describes a volume, whatever its format; ``("", None)`` without one."""
    for key in dict.fromkeys(written.root for written in WRITTEN.values()):
        if (content := read_json(url, key)) is not None:
            return key, content
    return "", None


def open_for_writing(
    url: str, target: VolumeLayout | Volume, level: int = 0, channel: int = 0, context: ts.Context | None = None
) -> ts.TensorStore:
    """Open one level of a created volume for reading and writing.

    Parameters
    ----------
    url : str
        Where the volume is.
    target : VolumeLayout or Volume
        What is there. With a layout, the array on disk must be exactly what the layout says.
    level, channel : int
        Level, and index on its c axis.
    context : tensorstore.Context, optional
        Thread pools; by default those of `shared_context`.

    Returns
    -------
    tensorstore.TensorStore
        View with axes z, y, x. Whole shards are written without reading; every write is atomic and synced.

    Raises
    ------
    OutputError
        ``output.unwritable``, ``output.exists`` (the array is not what the layout says), ``output.format`` (a format that is
        not written).
    """
    place = canonical_url(url)
    if isinstance(target, VolumeLayout):
        return _stored_view(_open_level(place, target, level, context, create=False), target, channel)
    if target.driver not in {written.driver for written in WRITTEN.values()}:
        raise OutputError(
            "output.format",
            f"{place} is {target.format}; written is {', '.join(WRITTEN)}",
            hint="Choose another output.",
            where=place,
        )
    array = join_url(place, target.levels[level].path)
    spec = array_spec(place, target.driver, target.levels[level].path)
    try:
        pools = context or shared_context()
        opened = STORAGE.call(lambda _: ts.open(spec, open=True, read=True, write=True, context=pools).result())
    except (ValueError, OSError) as error:
        raise unwritable(array, error) from error
    return spatial_view(from_zero(opened, target.driver), target.axes, channel)


def open_in_memory(layout: VolumeLayout, level: int, channel: int) -> ts.TensorStore:
    """Create one level in memory. It is gone when its handle is.

    Parameters
    ----------
    layout : VolumeLayout
        Layout of the whole volume, of which one level is created.
    level, channel : int
        The level, counted from 0, and the index on its c axis; 0 where it has none.

    Returns
    -------
    tensorstore.TensorStore
        View of the channel with axes z, y, x, to read and write.
    """
    written = WRITTEN[layout.format]
    spec = {"driver": written.driver, "kvstore": "memory://", **_described(layout, level)}
    array = ts.open(spec, create=True, open=True, context=ts.Context({"cache_pool": {"total_bytes_limit": 0}})).result()
    return _stored_view(array, layout, channel)


def _stored_view(array: ts.TensorStore, layout: VolumeLayout, channel: int) -> ts.TensorStore:
    written = WRITTEN[layout.format]
    return spatial_view(from_zero(array, written.driver), written.axes(layout.channels), channel)


def _described(layout: VolumeLayout, level: int) -> Json:
    """Return the members of tensorstore's spec that describe a level."""
    array = array_metadata(layout, level)
    return array if WRITTEN[layout.format].driver == PRECOMPUTED else {"metadata": array}


def _open_level(place: str, layout: VolumeLayout, level: int, context: ts.Context | None, *, create: bool) -> ts.TensorStore:
    written = WRITTEN[layout.format]
    path = written.path.format(level)
    array, spec = join_url(place, path), array_spec(place, written.driver, path) | _described(layout, level)
    pools = context or shared_context()
    try:
        return STORAGE.call(lambda _: ts.open(spec, open=True, create=create, read=True, write=True, context=pools).result())
    except (ValueError, OSError) as error:
        if ("FAILED_PRECONDITION" in str(error) and "Error writing local file" not in str(error)) or "Expected" in str(error):
            raise _exists(array, f"another array: {brief(error)}") from error
        raise unwritable(array, error) from error


def array_metadata(layout: VolumeLayout, level: int) -> Json:
    """Return the metadata of one level in the layout's format."""
    return WRITTEN[layout.format].array(layout, level)


def group_metadata(layout: VolumeLayout, attributes: Mapping[str, Any]) -> Json:
    """Return the metadata of a volume in the layout's format: its levels, and its provenance."""
    return WRITTEN[layout.format].group(layout, attributes)


def check_output_place(url: str) -> None:
    """Refuse a place that cannot be written to.

    Raises
    ------
    OutputError
        ``output.unwritable``: plain HTTP, or below a file, such as a zip file.
    """
    if (zipped := zip_on(url)) is not None:
        raise OutputError(
            "output.unwritable",
            f"the output {url} cannot be written: {zipped[0]} is a zip file, and those are read alone",
            hint="Write a folder, such as volume.zarr; zip it afterwards: `cd volume.zarr && zip -0 -r ../volume.ozx .`",
            where=url,
        )
    if is_local(url):
        with suppress(PermissionError):  # writing says more
            above = next(folder for folder in local_path(url).parents if folder.exists())
            if not above.is_dir():
                raise OutputError(
                    "output.unwritable",
                    f"the output {url} cannot be written: {above} is a file, not a folder",
                    hint="Choose another place.",
                    where=url,
                )
    if url.startswith(("http://", "https://")):
        raise OutputError(
            "output.unwritable",
            f"the output {url} cannot be written: plain HTTP is for reading",
            hint="Give a local path, or one in a bucket (s3:// or gs://).",
            where=url,
        )


def choose_format(url: str, asked: WrittenName | None = None) -> WrittenName:
    """Return the format of a new volume: the one that is asked for, else what its name ends like, else the default.

    Raises
    ------
    OutputError
        ``output.format``: the name ends like those of another format than is asked for, or of one that is not written.
    """
    name = url.rstrip("/").rpartition("/")[2].lower()
    if name.endswith(OTHER_FORMATS):
        raise OutputError(
            "output.format",
            f"{url} is named as a {name.rpartition('.')[2]} file; written are folders, as {', '.join(WRITTEN)}",
            hint="Name it as one, such as volume.zarr; zip it afterwards, if need be.",
            where=url,
        )
    named = next((written for written in WRITTEN.values() if name.endswith(written.endings)), None)
    chosen = WRITTEN[asked] if asked is not None else named or WRITTEN[DEFAULT]
    if named is not None and named.endings != chosen.endings:
        raise OutputError(
            "output.format",
            f"{url} is named as {named.name}, but asked for is {chosen.name}",
            hint=f"Name it with {chosen.endings[0]} at its end, or write the format that its name says.",
            where=url,
        )
    return chosen.name


def check_layout(place: str, layout: VolumeLayout) -> None:
    """Refuse what cannot be stored, or not in the layout's format.

    Raises
    ------
    OutputError
        ``output.dtype``, ``output.fill-value``, ``output.channels``, ``output.codec``.
    """
    if layout.dtype not in DTYPES:
        raise OutputError(
            "output.dtype",
            f"{layout.dtype} cannot be written; possible are {', '.join(DTYPES)}",
            hint="Choose one.",
            where=place,
        )
    if layout.dtype != "float32":
        limits = np.iinfo(layout.dtype)
        if not limits.min <= layout.fill_value <= limits.max:  # also catches NaN
            raise OutputError(
                "output.fill-value",
                f"the fill value {layout.fill_value} is no {layout.dtype} ({limits.min} to {limits.max})",
                hint="Choose a value in this range.",
                where=place,
            )
    WRITTEN[layout.format].check(place, layout)


def _refuse_other(place: str, files: Mapping[str, Json], root: str) -> bool:
    """Refuse a place where something else is; say whether the same volume is there, which may be created again."""
    if is_local(place) and local_path(place).is_file():
        raise _exists(place, "a file")
    found = False
    for key in VOLUME_METADATA:
        there = read_json(place, key)
        if there is not None and there != files.get(key):
            raise _exists(place, f"another volume or array ({key})")
        found = found or (key == root and there is not None)
    return found


def _delete_empty_levels(place: str, layout: VolumeLayout) -> None:
    """Delete the arrays that a creation left which was killed before it came to the volume's metadata: they hold no voxel."""
    written = WRITTEN[layout.format]
    if written.driver == PRECOMPUTED:
        return
    key, ours = ARRAY_METADATA[written.driver], array_metadata(layout, 0)
    for path in map(written.path.format, range(MOST_LEVELS)):
        if is_local(place) and not local_path(join_url(place, path)).is_dir():
            continue
        there = read_json(place, f"{path}/{key}")
        same = there is not None and all(there.get(name) == ours[name] for name in _MEMBERS if name in ours)
        if same and list_keys(join_url(place, path)) == [key]:
            delete_key(place, f"{path}/{key}")


def _exists(place: str, what: str) -> OutputError:
    return OutputError(
        "output.exists",
        f"at {place} there is already {what}",
        hint="Choose another place, or delete what is there (--overwrite does).",
        where=place,
    )
