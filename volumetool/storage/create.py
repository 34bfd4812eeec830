"""Create volumes: OME-Zarr 0.5 with sharded Zarr 3 arrays, a checksum behind every chunk.

The arrays are created first and the group's metadata last, so that a volume that can be opened is complete. Creating
writes one small file per level, however large the volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts
from yaozarrs import v05

from volumetool.errors import InputError, OutputError
from volumetool.geometry.levels import LevelGrid
from volumetool.storage.formats.base import Json, read_json
from volumetool.storage.io.arrays import SPACE, spatial_view
from volumetool.storage.io.chunk_keys import VOLUME_METADATA
from volumetool.storage.io.kvstore import (
    canonical_url,
    delete_key,
    encode_json,
    is_local,
    join_url,
    kvstore_spec,
    list_keys,
    local_path,
    shared_context,
    write_key,
)
from volumetool.storage.io.limits import MOST_LEVELS
from volumetool.storage.io.retries import STORAGE, brief, unwritable
from volumetool.storage.open import open_volume
from volumetool.storage.volume import DTYPES, Volume

OWN_KEY = "volumetool"
# Any of these says that something else lives at a place.
_ZSTD_LEVEL = 3

OTHER_FORMATS = (
    ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".n5", ".h5", ".hdf5", ".mrc", ".rec", ".nii", ".nrrd", ".czi", ".dm3",
    ".dm4", ".raw", ".npy", ".gz", ".zip", ".tar",
)  # fmt: skip
"""Endings of what is never written."""


@dataclass(frozen=True)
class VolumeLayout:
    """A volume before it exists.

    Attributes
    ----------
    dtype : str
        uint8, int8, uint16, int16 or float32.
    levels : tuple of LevelGrid
        Finest first; level n stands in the array "n".
    channels : int or None
        Length of the c axis; None for none.
    fill_value : float
        What voxels are that were never written; chunks of nothing else are not stored. NaN is allowed for float32.
    name : str
        The image's name in the metadata.
    """

    dtype: str
    levels: tuple[LevelGrid, ...]
    channels: int | None = None
    fill_value: float = 0
    name: str = "volume"

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes as stored: z, y, x, with c in front if there are channels."""
        return SPACE if self.channels is None else ("c", *SPACE)


def create_volume(url: str, layout: VolumeLayout, attributes: Mapping[str, Any]) -> Volume:
    """Create an empty OME-Zarr 0.5 volume.

    Creating the same volume with the same attributes again changes nothing, so that a killed program can start again.

    Parameters
    ----------
    url : str
        Local path, or URL with the scheme file, s3 or gs.
    layout : VolumeLayout
        Levels, dtype and channels of the volume.
    attributes : mapping
        Provenance, JSON values only; stored under the key ``volumetool`` beside ``ome``.

    Returns
    -------
    Volume
        The volume, as `open_volume` sees it.

    Raises
    ------
    OutputError
        ``output.exists``: another volume, array or file is there. ``output.unwritable``: no permission, no space.
        ``output.dtype``: the dtype is not one of the five.
    """
    place = canonical_url(url)
    _check_layout(place, layout)
    group = group_metadata(layout, attributes)
    if not _refuse_other(place, group):
        _delete_empty_levels(place)
    create_levels(place, layout, range(len(layout.levels)))
    write_key(place, "zarr.json", encode_json(group))
    return open_volume(place)


def create_levels(url: str, layout: VolumeLayout, numbers: Iterable[int]) -> None:
    """Create the arrays of some levels, empty; those that are there already and are the same stay as they are.

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
    for level in numbers:
        _open_level(canonical_url(url), layout, level, None, create=True)


def write_attributes(url: str, attributes: Mapping[str, Any]) -> None:
    """Replace the provenance of a volume; everything else in its metadata stays. Atomic, but for one writer at a time.

    Raises
    ------
    InputError
        ``input.not-a-volume``: there is no Zarr 3 group.
    OutputError
        ``output.unwritable``.
    """
    place = canonical_url(url)
    group = read_json(place, "zarr.json")
    if group is None or group.get("node_type") != "group":
        raise InputError(
            "input.not-a-volume",
            f"{place} is no Zarr 3 group",
            hint="Create the volume before noting anything in it.",
            where=place,
        )
    group["attributes"] = {**group.get("attributes", {}), OWN_KEY: dict(attributes)}
    write_key(place, "zarr.json", encode_json(group))


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
        ``output.unwritable``, ``output.exists`` (the array is not what the layout says), ``output.format`` (not
        OME-Zarr 0.5).
    """
    place = canonical_url(url)
    if isinstance(target, VolumeLayout):
        return spatial_view(_open_level(place, target, level, context, create=False), target.axes, channel)
    if target.driver != "zarr3":
        raise OutputError(
            "output.format",
            f"{place} is {target.format}; written is OME-Zarr 0.5",
            hint="Choose another output.",
            where=place,
        )
    array = join_url(place, target.levels[level].path)
    spec = {"driver": "zarr3", "kvstore": kvstore_spec(array)}
    try:
        pools = context or shared_context()
        opened = STORAGE.call(lambda _: ts.open(spec, open=True, read=True, write=True, context=pools).result())
    except (ValueError, OSError) as error:
        raise unwritable(array, error) from error
    return spatial_view(opened, target.axes, channel)


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
    spec = {"driver": "zarr3", "kvstore": "memory://", "metadata": array_metadata(layout, level)}
    array = ts.open(spec, create=True, open=True, context=ts.Context({"cache_pool": {"total_bytes_limit": 0}})).result()
    return spatial_view(array, layout.axes, channel)


def _open_level(place: str, layout: VolumeLayout, level: int, context: ts.Context | None, *, create: bool) -> ts.TensorStore:
    array = join_url(place, str(level))
    spec = {"driver": "zarr3", "kvstore": kvstore_spec(array), "metadata": array_metadata(layout, level)}
    pools = context or shared_context()
    try:
        return STORAGE.call(lambda _: ts.open(spec, open=True, create=create, read=True, write=True, context=pools).result())
    except (ValueError, OSError) as error:
        if ("FAILED_PRECONDITION" in str(error) and "Error writing local file" not in str(error)) or "Expected" in str(error):
            raise _exists(array, f"another array: {brief(error)}") from error
        raise unwritable(array, error) from error


def array_metadata(layout: VolumeLayout, level: int) -> Json:
    """Return the Zarr 3 metadata of one level.

    Always sharded, so that there is one layout to read, verify and explain. Inside a shard each chunk is little-endian
    bytes, zstd, then crc32c over the compressed bytes: without it a flipped bit reads as a wrong voxel.
    """
    grid = layout.levels[level]
    extra = () if layout.channels is None else (1,)
    little: Json = {"name": "bytes", "configuration": {"endian": "little"}}
    compressed = [
        little,
        {"name": "zstd", "configuration": {"level": _ZSTD_LEVEL, "checksum": False}},
        {"name": "crc32c"},
    ]
    sharding = {
        "chunk_shape": [*extra, *grid.chunk],
        "codecs": compressed,
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "shape": [*(() if layout.channels is None else (layout.channels,)), *grid.shape],
        "data_type": layout.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*extra, *grid.shard]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill_value(layout),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": list(layout.axes),
    }


def _fill_value(layout: VolumeLayout) -> int | float | str:
    if layout.dtype != "float32":
        return int(layout.fill_value)
    return "NaN" if math.isnan(layout.fill_value) else float(layout.fill_value)


def group_metadata(layout: VolumeLayout, attributes: Mapping[str, Any]) -> Json:
    """Return the Zarr 3 metadata of a volume's group: its levels as OME-Zarr 0.5, and its provenance."""
    image = v05.Image(multiscales=[_multiscale(layout)])
    ome = image.model_dump(mode="json", exclude_none=True)
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, OWN_KEY: dict(attributes)}}


def _multiscale(layout: VolumeLayout) -> v05.Multiscale:
    channel = [] if layout.channels is None else [v05.ChannelAxis(name="c", type="channel")]
    space = [v05.SpaceAxis(name=axis, type="space", unit="nanometer") for axis in SPACE]
    one, zero = [1.0] * len(channel), [0.0] * len(channel)
    datasets = [
        v05.Dataset(
            path=str(number),
            coordinateTransformations=[
                v05.ScaleTransformation(scale=[*one, *grid.voxel_size]),
                v05.TranslationTransformation(translation=[*zero, *grid.translation]),
            ],
        )
        for number, grid in enumerate(layout.levels)
    ]
    return v05.Multiscale(
        name=layout.name,
        axes=[*channel, *space],
        datasets=datasets,
        type="mean",
        metadata={
            "description": "Each level is the mean of the stored level before, rounded half to even for integers; its "
            "shape is the shape before, divided by the factor and rounded up. Translations are those of voxel centres.",
            "method": "tensorstore.downsample",
            "kwargs": {"method": "mean"},
            "factors": [list(grid.factor) for grid in layout.levels[1:]],
        },
    )


def check_output_place(url: str) -> None:
    """Refuse a place that cannot be written to, and one whose name says that another format is wanted.

    Raises
    ------
    OutputError
        ``output.format``; ``output.unwritable``: plain HTTP, or below a file.
    """
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
    name = url.rstrip("/").rpartition("/")[2].lower()
    if name.endswith(OTHER_FORMATS):
        raise OutputError(
            "output.format",
            f"{url} is named as a {name.rpartition('.')[2]} file; written is OME-Zarr 0.5, a folder",
            hint="Name it as one, such as volume.zarr.",
            where=url,
        )


def _check_layout(place: str, layout: VolumeLayout) -> None:
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


def _refuse_other(place: str, group: Json) -> bool:
    """Refuse a place where something else is; say whether the same volume is there, which may be created again."""
    if is_local(place) and local_path(place).is_file():
        raise _exists(place, "a file")
    found = False
    for key in VOLUME_METADATA:
        there = read_json(place, key)
        if there is not None and there != group:
            raise _exists(place, f"another volume or array ({key})")
        found = found or there is not None
    return found


def _delete_empty_levels(place: str) -> None:
    """Delete the arrays that a creation left which was killed before it came to the volume's metadata: they hold no voxel."""
    for level in map(str, range(MOST_LEVELS)):
        metadata = read_json(place, f"{level}/zarr.json") or {}
        ours = "sharding_indexed" in str(metadata.get("codecs")) and metadata.get("dimension_names", [])[-3:] == list(SPACE)
        if ours and list_keys(join_url(place, level)) == ["zarr.json"]:
            delete_key(place, f"{level}/zarr.json")


def _exists(place: str, what: str) -> OutputError:
    return OutputError(
        "output.exists",
        f"at {place} there is already {what}",
        hint="Choose another place, or delete what is there (--overwrite does).",
        where=place,
    )
