"""The stored chunks of an array: the keys of the files or objects that it is made of, and the state of each.

A state is what a store tells without giving the bytes: size and time of change of a file, the generation (ETag) of an object.
"""

from __future__ import annotations

import hashlib
import math
import os
import posixpath
import struct
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import InputError
from volumetool.geometry.box import Box, Triple
from volumetool.storage.formats.base import read_json
from volumetool.storage.formats.precomputed import SHARDED, find_precomputed
from volumetool.storage.formats.reader import Reader
from volumetool.storage.io.arrays import open_array
from volumetool.storage.io.chunk_keys import ARRAY_METADATA, ChunkKeys
from volumetool.storage.io.kvstore import is_local, join_url, kvstore_spec, list_keys, local_path, parent_url, shared_context
from volumetool.storage.io.presence import Check, Slices, check_there, looked
from volumetool.storage.io.retries import VanishedError
from volumetool.storage.io.stores.zip_file import zip_on
from volumetool.storage.volume import Volume

AT_ONCE = 256
"""Objects that are asked for their state at the same time."""

MOST_LISTED = 2**22
"""Chunks of a channel up to which the store is asked for a list of them."""


@dataclass(frozen=True)
class StoredChunks:
    """The cut of one channel of an array into files or objects: shards where it is sharded, else chunks.

    Of sharded precomputed volumes, whose shards are no boxes, it is the chunks inside them.

    Attributes
    ----------
    url : str
        Path or URL of the array.
    size : tuple of int
        Voxels of a stored chunk, z, y, x.
    grid : tuple of int
        Chunks along z, y, x.
    key : callable
        Gives the key of a chunk, below the array, by its place in the grid (z, y, x).
    sharding : dict, optional
        How the shards of a sharded precomputed volume hold chunks: then keys are numbers in them.
    listable : bool
        Whether what lies below the array are its chunks alone.
    """

    url: str
    size: Triple
    grid: Triple
    key: Callable[[Triple], str]
    sharding: dict[str, Any] | None = None
    listable: bool = True

    def places(self, box: Box) -> Iterator[Triple]:
        """Yield the places of all chunks that share a voxel with a box, in C order."""
        inside = box.coarsened(self.size)
        yield from product(*(range(a, b) for a, b in zip(inside.start, inside.stop, strict=True)))

    def box(self, place: Triple) -> Box:
        """Return the voxels of a chunk; those of the last one may lie beyond the array."""
        start = tuple(number * size for number, size in zip(place, self.size, strict=True))
        return Box(start, tuple(a + size for a, size in zip(start, self.size, strict=True)))  # type: ignore[arg-type]

    def name(self, place: Triple) -> str:
        """Return a chunk's key and place, for people."""
        return f"chunk {self.key(place)} of {self.url} ({join_url(self.url, self.key(place))})"

    def absent(self, box: Box, among: Container[Triple]) -> NDArray[np.bool_]:
        """Return which voxels of a box lie in chunks that are not stored, given the places of those."""
        inside = box.coarsened(self.size)
        absent = np.array([place in among for place in self.places(box)], bool).reshape(inside.shape)
        indices = (np.arange(a, b) // n - c for a, b, n, c in zip(box.start, box.stop, self.size, inside.start, strict=True))
        return absent[np.ix_(*indices)]

    def listed(self) -> NDArray[np.bool_] | None:
        """Return which chunks are stored (z, y, x), by the store's own list; None where it gives none, or a very long one."""
        if self.sharding is not None or not self.listable or math.prod(self.grid) > MOST_LISTED:
            return None
        stored = np.zeros(self.grid, bool)
        try:
            for slab in self._slabs():
                keys = set(list_keys(self.url, self._folder(slab.start, _triple(n - 1 for n in slab.stop))))
                for place in map(_triple, product(*map(range, slab.start, slab.stop))):
                    stored[place] = self.key(place) in keys
        except InputError:  # plain HTTP, or a bucket that may be read and not listed
            return None
        return stored

    def _slabs(self) -> Iterator[Box]:
        """Yield parts of the grid whose chunks have a folder of their own, so that few keys are in memory at once."""
        last = _triple(n - 1 for n in self.grid)
        for axis, count in enumerate(self.grid):
            first = _triple(0 if a == axis else n for a, n in enumerate(last))
            if count > 1 and self._folder((0, 0, 0), first) != self._folder((0, 0, 0), last):
                for number in range(count):
                    start = _triple(number if a == axis else 0 for a in (0, 1, 2))
                    yield Box(start, _triple(number + 1 if a == axis else n for a, n in enumerate(self.grid)))
                return
        yield Box.whole(self.grid)

    def _folder(self, first: Triple, last: Triple) -> str:
        """Return the folder that holds two chunks, with its slash; empty for the array's own."""
        common = posixpath.commonpath([posixpath.dirname(self.key(place)) for place in (first, last)])
        return f"{common}/" if common else ""

    def never_stored(self, box: Box, array: ts.TensorStore) -> frozenset[Triple]:
        """Return the places of the chunks in a box that are not stored, though the array is there.

        Raises
        ------
        InputError
            ``input.vanished``: the array is gone.
        DataError
            ``data.unreadable``: the store does not answer.
        """
        places = list(self.places(box))

        def look(_: int) -> frozenset[Triple]:
            absent = [place for place, state in zip(places, self.states(places), strict=True) if state is None]
            if absent:
                check_there(array)
                if any(self.states(absent)):
                    raise VanishedError(f"chunks of {self.url} were absent for a while")
            return frozenset(absent)

        return looked(look, self.url)

    def still_there(self, was_stored: Callable[[Triple], bool]) -> Check:
        """Return what `read_part` asks about parts of the array that read as not stored, given which chunks were, by place."""

        def check(parts: list[Slices]) -> None:
            boxes = (Box(*map(_triple, zip(*((part.start, part.stop) for part in slices), strict=True))) for slices in parts)
            places = dict.fromkeys(place for box in boxes for place in self.places(box) if was_stored(place))
            for place, state in zip(places, self.states(places), strict=True):
                if state is None:
                    raise VanishedError(f"no longer stored: {self.name(place)}")

        return check

    def states(self, places: Iterable[Triple]) -> Iterator[bytes | None]:
        """Yield the state of each chunk, None where it is not stored.

        Raises
        ------
        DataError
            ``data.unreadable``: the store does not answer.
        """
        if is_local(self.url) and self.sharding is None and zip_on(self.url) is None:
            folder = str(local_path(self.url))
            for place in places:
                yield _state_of_file(f"{folder}/{self.key(place)}")
            return
        store = ts.KvStore.open(self._store(), context=shared_context()).result()

        def ask(place: Triple) -> Any:
            key = self.key(place) if self.sharding is None else int(self.key(place)).to_bytes(8, "big")
            return store.read(key, byte_range=slice(0, 0))

        waiting: list[tuple[Triple, Any]] = []
        for place in places:
            waiting.append((place, ask(place)))
            if len(waiting) == AT_ONCE:
                yield from (self._state_of_object(*each, ask) for each in waiting)
                waiting.clear()
        yield from (self._state_of_object(*each, ask) for each in waiting)

    def state(self, box: Box) -> tuple[str, Check]:
        """Return a digest of the states of all chunks that share a voxel with a box, and what `read_part` asks about it.

        Returns
        -------
        str
            Digest, in hexadecimal digits.
        callable
            What :func:`read_part` takes as `check`: it fails if a chunk that was stored reads as not stored.

        Raises
        ------
        DataError
            ``data.unreadable``: the store does not answer.
        """
        inside, digest = box.coarsened(self.size), hashlib.blake2b(digest_size=8)
        stored = np.zeros(math.prod(inside.shape), bool)
        for number, state in enumerate(self.states(self.places(box))):
            digest.update(b"absent " if state is None else b"%d " % len(state) + state)
            stored[number] = state is not None
        known = stored.reshape(inside.shape)

        def was_stored(place: Triple) -> bool:
            return bool(known[_triple(a - b for a, b in zip(place, inside.start, strict=True))])

        return digest.hexdigest(), self.still_there(was_stored)

    def _store(self) -> dict[str, Any]:
        files = kvstore_spec(self.url)
        return files if self.sharding is None else {"driver": SHARDED, "base": files, "metadata": self.sharding}

    def _state_of_object(self, place: Triple, asked: Any, ask: Callable[[Triple], Any]) -> bytes | None:
        def look(tries: int) -> Any:
            try:
                return (ask(place) if tries else asked).result()
            except ValueError as error:
                if self.url.startswith("http") and "PERMISSION_DENIED" in str(error):
                    return None  # how public buckets behind HTTP say that there is no such key
                raise

        found = looked(look, self.name(place))
        return None if found is None or found.state != "value" else bytes(found.stamp.generation)


def _state_of_file(path: str) -> bytes | None:
    def look(_: int) -> bytes | None:
        try:
            found = os.stat(path)  # noqa: PTH116  (half the time of a Path, and there are millions)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return struct.pack("<qq", found.st_size, found.st_mtime_ns)

    return looked(look, path)


def stored_chunks(volume: Volume, level: int, channel: int) -> StoredChunks:
    """Return how one channel of a level is cut into files or objects.

    Parameters
    ----------
    volume : Volume
        The volume, in any format that is read.
    level, channel : int
        The level, counted from 0, and the index on its c axis; 0 where it has none.

    Raises
    ------
    DataError, InputError
        The array is gone, or its metadata are damaged.
    """
    if volume.reader is not None:
        return _files_of(volume, volume.reader)
    path = volume.levels[level].path
    url, layout = join_url(volume.url, path), open_array(volume.url, volume.driver, path).chunk_layout
    precomputed = find_precomputed(volume.url) if volume.driver == "neuroglancer_precomputed" else None
    stored = (layout.write_chunk if precomputed is None else layout.read_chunk).shape or ()
    sizes = {axis: int(size or 1) for axis, size in zip(volume.axes, stored, strict=True)}
    size = (sizes.get("z", 1), sizes["y"], sizes["x"])
    grid = Box.whole(volume.levels[level].shape).coarsened(size).stop
    if precomputed is not None:
        scale = precomputed.levels[level]
        return StoredChunks(url, size, grid, lambda place: scale.chunk_key(place, size), scale.sharding)
    fixed = {axis: channel // sizes[axis] if axis == "c" else 0 for axis in volume.axes if axis not in "zyx"}
    keys = ChunkKeys.of(read_json(url, ARRAY_METADATA[volume.driver]) or {}, volume.driver)

    def key(place: Triple) -> str:
        numbers = fixed | dict(zip("zyx", place, strict=True))
        return keys.key(numbers[axis] for axis in volume.axes)

    return StoredChunks(url, size, grid, key)


def _files_of(volume: Volume, reader: Reader) -> StoredChunks:
    """Return how a volume is cut into files that hold one section each, or all of it."""
    folder = volume.url if is_local(volume.url) and local_path(volume.url).is_dir() else parent_url(reader.files[0])[0]
    names = [os.path.relpath(file, folder) for file in reader.files]
    size = volume.shape if len(names) == 1 else (1, *volume.shape[1:])
    grid = Box.whole(volume.shape).coarsened(size).stop
    return StoredChunks(folder, size, grid, lambda place: names[place[0]], listable=False)


def level_states(volume: Volume, level: int) -> list[tuple[str, Check]]:
    """Return the state of all chunks of a level, for each channel: see `StoredChunks.state`.

    Raises
    ------
    DataError, InputError
        As `stored_chunks`; ``data.unreadable``: the store does not answer.
    """
    whole = Box.whole(volume.levels[level].shape)
    return [stored_chunks(volume, level, channel).state(whole) for channel in range(volume.channels or 1)]


def level_digests(volume: Volume, level: int) -> list[str]:
    """Return the digests of `level_states` alone."""
    return [digest for digest, _ in level_states(volume, level)]


def _triple(values: Iterable[int]) -> Triple:
    z, y, x = values
    return z, y, x


def changed_while_read(place: str, again: str = "run the command again with --overwrite") -> InputError:
    """Return the error of a command whose input was not the same from its first read to its last."""
    return InputError(
        "input.changed",
        f"{place} was changed or taken away while it was read",
        hint=f"let it stand still, and {again}; what was read before may be of both",
        where=place,
    )
