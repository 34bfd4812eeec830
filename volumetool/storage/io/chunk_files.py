"""Local files of chunks, looked at before they are read whole: is each a file, and not too long."""

from __future__ import annotations

import functools
import os
import struct
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from volumetool.errors import DataError
from volumetool.paths import open_file, special_kind

_BLOSC_HEAD = struct.Struct("<BBBBIII")

SLACK = 2**16
"""Bytes by which a stored chunk may be longer than its voxels: heads, checksums, and what does not compress."""


def check_file(file: str | Path, voxels: int, most: int, blosc: int | None) -> None:
    """Refuse a stored chunk that is no file, or longer than its voxels can be; one that is not stored passes.

    Parameters
    ----------
    file : str or Path
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
        found = os.stat(file)  # noqa: PTH116  (a path object would take longer than the look)
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


def check_precomputed(folder: Path, scale: dict[str, Any], ranges: list[tuple[int, int]], itemsize: int) -> None:
    """Look at the chunk files of a precomputed scale; the chunks of a sharded one are found by their own size alone.

    Parameters
    ----------
    folder : Path
        The volume.
    scale : dict
        Metadata of the scale.
    ranges : list of tuple of int
        First voxel that is wanted, and the end, along every stored axis.
    itemsize : int
        Bytes of a voxel.

    Raises
    ------
    DataError
        ``data.oversized``, ``data.unreadable``.
    """
    if scale.get("sharding"):
        check_shards(folder / scale["key"])
        return
    size, offset, chunk = scale["size"], scale.get("voxel_offset", [0, 0, 0]), scale["chunk_size"]
    grids = [range((a - o) // n, (b - 1 - o) // n + 1) for (a, b), o, n in zip(ranges, offset, chunk, strict=False)]
    voxels = prod(chunk) * itemsize
    for place in product(*grids):
        starts = [p * n for p, n in zip(place, chunk, strict=True)]
        spans = [f"{o + a}-{o + min(a + n, m)}" for a, n, m, o in zip(starts, chunk, size, offset, strict=True)]
        check_file(folder / scale["key"] / "_".join(spans), voxels, 2 * voxels + SLACK, None)


def blosc_head(metadata: dict[str, Any], driver: str) -> int | None:
    """Return where in a stored chunk the head of Blosc begins, None where there is none."""
    if driver == "zarr3":
        return 0 if "blosc" in {codec["name"] for codec in metadata["codecs"]} else None
    if driver == "zarr":
        return 0 if (metadata.get("compressor") or {}).get("id") == "blosc" else None
    return (
        4 + 4 * len(metadata["blockSize"]) if metadata["compression"].get("type") == "blosc" else None
    )  # after the block's head


def _no_file(file: str | Path, kind: str) -> DataError:
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


def _asked_of_blosc(file: str | Path, begin: int) -> int:
    with open_file(file) as stored:
        stored.seek(begin)
        head = stored.read(_BLOSC_HEAD.size)
    return int(_BLOSC_HEAD.unpack(head)[4]) if len(head) == _BLOSC_HEAD.size else 0


def _oversized(file: str | Path, what: str, voxels: int) -> DataError:
    return DataError(
        "data.oversized",
        f"{file} {what}; its voxels have {voxels}",
        hint="The chunk is damaged, or made to fill the memory of whoever reads it: delete or replace it.",
        where=str(file),
    )
