"""Stored shards: their keys, size and CRC-32 of the bytes that are stored under each, and torn ones that are deleted."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorstore as ts

from volumetool.errors import DataError, OutputError
from volumetool.geometry import Box, shard_boxes
from volumetool.paths import open_file
from volumetool.storage.create import array_metadata
from volumetool.storage.formats.precomputed import ScaleKeys
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.arrays import PRECOMPUTED, read_part
from volumetool.storage.io.chunk_keys import ChunkKeys
from volumetool.storage.io.kvstore import is_local, join_url, local_path, read_key
from volumetool.storage.io.limits import spec_of
from volumetool.storage.io.presence import url_of
from volumetool.storage.io.retries import STORAGE, brief, unwritable
from volumetool.storage.io.stores.traffic import count_beside
from volumetool.storage.writing.layout import VolumeLayout

NOTHING = ""
"""What is noted of a shard that is not stored: it holds the fill value alone."""

BLOCK = 2**20
"""Bytes that are read at once."""


def level_keys(layout: VolumeLayout, number: int) -> ChunkKeys | ScaleKeys:
    """Return the names of a level's shards, or of its chunks where each is stored on its own."""
    metadata, driver = array_metadata(layout, number), WRITTEN[layout.format].driver
    if driver == PRECOMPUTED:
        return ScaleKeys.of(metadata["scale_metadata"])
    return ChunkKeys.of(metadata, driver)


def shard_keys(layout: VolumeLayout, number: int, box: Box | None, channel: int) -> Iterator[str]:
    """Yield the keys of the shards of a level that share a voxel with a box, in C order.

    Parameters
    ----------
    layout : VolumeLayout
        Layout of the volume.
    number : int
        The level, counted from 0.
    box : Box, optional
        In the level's voxels; without it all of them.
    channel : int
        Index on the c axis; has no effect without one.
    """
    level, keys, axes = layout.levels[number], level_keys(layout, number), WRITTEN[layout.format].axes(layout.channels)
    for shard in shard_boxes(level, box):
        z, y, x = (a // n for a, n in zip(shard.start, level.shard, strict=True))
        place = {"c": channel, "z": z, "y": y, "x": x}
        yield keys.key(place[axis] for axis in axes)


def stored_as(url: str, key: str) -> str:
    """Return size and CRC-32 of what is stored under a key, as ``6699:deadbeef``, :data:`NOTHING` where nothing is.

    Raises
    ------
    OutputError
        ``output.unreadable``.
    """
    if not is_local(url):
        data = read_key(url, key)
        return NOTHING if data is None else f"{len(data)}:{zlib.crc32(data):08x}"
    try:
        return STORAGE.call(lambda _: _file_as(local_path(url) / key))
    except (FileNotFoundError, NotADirectoryError):
        return NOTHING
    except OSError as error:
        raise OutputError(
            "output.unreadable",
            f"{join_url(url, key)} cannot be read: {brief(error)}",
            hint="Check the disk, and that you may read what is there; what was finished is kept.",
            where=url,
        ) from error


def _file_as(file: Path) -> str:
    size = checksum = 0
    with open_file(file) as opened:
        while block := opened.read(BLOCK):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    count_beside(size)
    return f"{size}:{checksum:08x}"


def stored_shards(url: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Return :func:`stored_as` of every key."""
    return tuple(stored_as(url, key) for key in keys)


def delete_torn_shards(array: ts.TensorStore, layout: VolumeLayout, number: int, box: Box | None, channel: int = 0) -> None:
    """Delete the shards in a box that could not be replaced; the others stay until others take their place in one move.

    A shard that the volume's face cuts is read before it is written, so a torn one could never be mended. While
    this runs, or after a kill, no other voxel is missing from the volume.

    Parameters
    ----------
    array : tensorstore.TensorStore
        The stored level, with axes z, y, x.
    layout : VolumeLayout
        Layout of the volume.
    number : int
        The level, counted from 0.
    box : Box, optional
        In the level's voxels; without it the whole level.
    channel : int
        Index on the c axis; has no effect without one.

    Raises
    ------
    OutputError
        ``output.unwritable``: they cannot be deleted.
    """
    level, written = layout.levels[number], WRITTEN[layout.format]
    folder = f"{written.path.format(number)}/" if written.driver == PRECOMPUTED else ""  # its arrays lie in the volume's store
    for key, shard in zip(shard_keys(layout, number, box, channel), shard_boxes(level, box), strict=True):
        if shard.shape == level.shard or _is_absent(array, f"{folder}{key}"):
            continue
        try:
            read_part(array, shard.slices)
        except (DataError, ValueError, OSError):
            _delete(array, f"{folder}{key}")


def _is_absent(array: ts.TensorStore, key: str) -> bool:
    """Return whether nothing is stored under a key, where a look at a file tells; of other stores a read does."""
    kvstore = spec_of(array).get("kvstore")
    if not isinstance(kvstore, dict) or kvstore.get("driver") != "file":
        return False
    return not os.path.lexists(f"{kvstore['path']}/{key}")


def _delete(array: ts.TensorStore, key: str) -> None:
    store = array.kvstore
    assert store is not None  # noqa: S101  (what is stored has one)
    try:
        STORAGE.call(lambda _: store.write(key, None).result())
    except (ValueError, OSError) as error:
        raise unwritable(url_of(array), error) from error
