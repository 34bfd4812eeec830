"""Stored shards: their keys, size and CRC-32 of the bytes that are stored under each, and torn ones that are deleted."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorstore as ts

from volumetool.errors import DataError, OutputError
from volumetool.geometry import Box, LevelGrid, shard_boxes
from volumetool.paths import open_file
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.chunk_keys import ChunkKeys
from volumetool.storage.io.kvstore import is_local, join_url, local_path, read_key
from volumetool.storage.io.presence import url_of
from volumetool.storage.io.retries import STORAGE, brief, unwritable

NOTHING = ""
"""What is noted of a shard that is not stored: it holds the fill value alone."""

BLOCK = 2**20
"""Bytes that are read at once."""


def level_keys(level: LevelGrid, channels: int | None) -> ChunkKeys:
    """Return the names of a level's shards in an output of so many channels, None where it has no such axis."""
    counts = tuple(-(-n // size) for n, size in zip(level.shape, level.shard, strict=True))
    return ChunkKeys(level.shard, counts) if channels is None else ChunkKeys((1, *level.shard), (channels, *counts))


def shard_keys(level: LevelGrid, box: Box | None, channel: int | None) -> Iterator[str]:
    """Yield the keys of the shards of a level that share a voxel with a box, in C order.

    Parameters
    ----------
    level : LevelGrid
        The level's grid.
    box : Box, optional
        In the level's voxels; without it all of them.
    channel : int, optional
        None where the volume has no channels.
    """
    first, keys = () if channel is None else (channel,), level_keys(level, None)
    for shard in shard_boxes(level, box):
        yield keys.key((*first, *(a // n for a, n in zip(shard.start, level.shard, strict=True))))


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
    return f"{size}:{checksum:08x}"


def stored_shards(url: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Return :func:`stored_as` of every key."""
    return tuple(stored_as(url, key) for key in keys)


def delete_torn_shards(array: ts.TensorStore, level: LevelGrid, box: Box | None, channel: int | None) -> None:
    """Delete the shards in a box that could not be replaced; the others stay until others take their place in one move.

    A shard that the volume's face cuts is read before it is written, so a torn one could never be mended. While
    this runs, or after a kill, no other voxel is missing from the volume.

    Parameters
    ----------
    array : tensorstore.TensorStore
        The stored level, with axes z, y, x.
    level : LevelGrid
        Shape and shards of that level.
    box : Box, optional
        In the level's voxels; without it the whole level.
    channel : int, optional
        None where the volume has no channels.

    Raises
    ------
    OutputError
        ``output.unwritable``: they cannot be deleted.
    """
    for key, shard in zip(shard_keys(level, box, channel), shard_boxes(level, box), strict=True):
        if shard.shape == level.shard:
            continue
        try:
            read_part(array, shard.slices)
        except (DataError, ValueError, OSError):
            _delete(array, key)


def _delete(array: ts.TensorStore, key: str) -> None:
    store = array.kvstore
    assert store is not None  # noqa: S101  (zarr3 always has one)
    try:
        STORAGE.call(lambda _: store.write(key, None).result())
    except (ValueError, OSError) as error:
        raise unwritable(url_of(array), error) from error
