"""Local files of chunks, looked at before they are read whole: is each a file, and not too long."""

from __future__ import annotations

import functools
import struct
from pathlib import Path

from volumetool.errors import DataError
from volumetool.paths import open_file, special_kind

_BLOSC_HEAD = struct.Struct("<BBBBIII")


def check_file(file: Path, voxels: int, most: int, blosc: int | None) -> None:
    """Refuse a stored chunk that is no file, or longer than its voxels can be; one that is not stored passes.

    Parameters
    ----------
    file : Path
        Where the chunk is stored.
    voxels : int
        Bytes of its voxels.
    most : int
        Bytes that it may have, stored and unpacked.
    blosc : int, optional
        Where the head of Blosc begins that says how long it is unpacked.

    Raises
    ------
    DataError
        ``data.oversized``, ``data.unreadable``.
    """
    try:
        found = file.stat()
        kind, stored = special_kind(found.st_mode), found.st_size
        asked = 0 if blosc is None or kind is not None else _asked_of_blosc(file, blosc)
    except OSError:
        return  # not stored, or not readable: reading says so
    if kind is not None:
        raise _no_file(file, kind)
    if stored > most:
        raise _oversized(file, f"has {stored} bytes", voxels)
    if asked > most:
        raise _oversized(file, f"unpacks to {asked} bytes, says its head", voxels)


def _no_file(file: Path, kind: str) -> DataError:
    return DataError(
        "data.unreadable",
        f"{file} is a {kind}, not a regular file",
        hint="Only regular files are read: remove it, or put the chunk there that belongs there.",
        where=str(file),
    )


@functools.cache
def check_shards(folder: Path) -> None:
    """Refuse a folder of shards in which something is no file, once for each folder.

    Raises
    ------
    DataError
        ``data.unreadable``.
    """
    for file in folder.glob("*.shard"):
        if file.exists() and (kind := special_kind(file.stat().st_mode)) is not None:
            raise _no_file(file, kind)


def _asked_of_blosc(file: Path, begin: int) -> int:
    with open_file(file) as stored:
        stored.seek(begin)
        head = stored.read(_BLOSC_HEAD.size)
    return int(_BLOSC_HEAD.unpack(head)[4]) if len(head) == _BLOSC_HEAD.size else 0


def _oversized(file: Path, what: str, voxels: int) -> DataError:
    return DataError(
        "data.oversized",
        f"{file} {what}; its voxels have {voxels}",
        hint="The chunk is damaged, or made to fill the memory of whoever reads it: delete or replace it.",
        where=str(file),
    )
