"""The keys that a volume on disk is made of: its metadata, and the chunks of its grids.

A key is looked up, never trusted: it is one of the metadata keys, or the name of a chunk inside a grid, letter by letter as
the format spells it. What lies beside the volume has no name here. A link that leads out of the volume is not followed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from volumetool.errors import DataError
from volumetool.paths import open_file
from volumetool.storage.formats.base import read_json
from volumetool.storage.formats.precomputed import Precomputed, find_precomputed
from volumetool.storage.io.chunk_keys import ARRAY_METADATA, METADATA, ChunkKeys
from volumetool.storage.io.kvstore import join_url, local_path
from volumetool.storage.io.urls import check_below
from volumetool.storage.volume import Volume
from volumetool.viewer.server import Content, InMemory


@dataclass(frozen=True)
class StoredFile:
    """A file as it was when its key was found.

    Attributes
    ----------
    path : Path
        Path of the file.
    stat : os.stat_result
        State of the file. A file that was replaced in the meantime is not read on, so that no answer mixes two.
    """

    path: Path
    stat: os.stat_result

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.stat.st_size

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`.

        Raises
        ------
        DataError
            ``data.changed``: the file was replaced since its key was found.
        """
        with open_file(self.path) as file:
            now = os.fstat(file.fileno())
            if (now.st_ino, now.st_mtime_ns, now.st_size) != (self.stat.st_ino, self.stat.st_mtime_ns, self.stat.st_size):
                raise DataError("data.changed", f"{self.path} was replaced while it was read", hint="ask again")
            file.seek(start)
            return file.read(stop - start)


@dataclass(frozen=True)
class FilesOfVolume:
    """Reads the keys of one volume on a local disk; a `KeyReader`.

    Attributes
    ----------
    root : Path
        Folder of the volume.
    metadata : frozenset of str
        Keys of its metadata.
    chunks : callable
        Says whether a key is a chunk's.
    instead : mapping of str to bytes
        Metadata that are given in place of those on disk.
    """

    root: Path
    metadata: frozenset[str]
    chunks: Callable[[str], bool] = field(repr=False)
    instead: Mapping[str, bytes] = field(default_factory=dict)

    async def __call__(self, key: str) -> Content | None:
        """Find the content of a key."""
        return await asyncio.to_thread(self.find, key)

    def find(self, key: str) -> Content | None:
        """Return the content of a key; None where the volume has no such key, or nothing is stored under it."""
        if key in self.instead:
            return InMemory(self.instead[key])
        if key not in self.metadata and not self.chunks(key):
            return None
        try:
            path = (self.root / key).resolve(strict=True)
        except OSError:
            return None
        return StoredFile(path, path.stat()) if path.is_file() and path.is_relative_to(self.root.resolve()) else None


def files_of(volume: Volume | Precomputed) -> FilesOfVolume:
    """Return the reader of a local volume's keys.

    Raises
    ------
    InputError
        ``input.broken-metadata``: the metadata place a level outside the volume.
    """
    for level in volume.levels:
        check_below(volume.url, level.path)
    root = local_path(volume.url)
    if isinstance(volume, Precomputed) or volume.driver == "neuroglancer_precomputed":
        stored = volume if isinstance(volume, Precomputed) else find_precomputed(volume.url)
        return FilesOfVolume(root, frozenset({"info"}), lambda key: stored is not None and stored.has_chunk(key))
    paths = [level.path.strip("/") for level in volume.levels]
    grids = {path: chunk_keys(volume, path) for path in paths}

    def is_chunk(key: str) -> bool:
        return any(key.startswith(_below(path)) and key.removeprefix(_below(path)) in grid for path, grid in grids.items())

    names = METADATA[volume.driver]
    return FilesOfVolume(root, frozenset(_below(group) + name for group in _groups(paths) for name in names), is_chunk)


def _below(path: str) -> str:
    return f"{path}/" if path else ""


def _groups(paths: list[str]) -> set[str]:
    """Return the arrays and every group above them, down from the volume itself."""
    return {""} | {group for path in paths for group in accumulate(path.split("/"), "{}/{}".format)}


def chunk_keys(volume: Volume, path: str) -> ChunkKeys:
    """Return how the array at `path` below a local volume names its chunks, as its metadata say now."""
    return ChunkKeys.of(read_json(join_url(volume.url, path), ARRAY_METADATA[volume.driver]) or {}, volume.driver)
