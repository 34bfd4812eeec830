"""Tiles of a sample: read together, or computed; one that cannot be is left out with a warning in the log."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.errors import DataError, NumericsError
from volumetool.geometry import Box
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.chunks import StoredChunks, stored_chunks
from volumetool.storage.io.limits import UNPACKED, read_checked, unpacked_bytes
from volumetool.storage.io.presence import Check, check_there, looked
from volumetool.storage.volume import Compute, Volume

_log = logging.getLogger(__name__)

Tiles = Callable[[list[Box]], Iterator[tuple[Box, NDArray[Any]]]]
"""Reads the tiles of a block."""


def read_tiles(volume: Volume, level: int, channel: int, told: Callable[[bytes], None] = lambda _: None) -> Tiles:
    """Return what reads tiles of a channel, or computes them; one that cannot be is left out with a warning in the log.

    Parameters
    ----------
    volume : Volume
        The volume.
    level, channel : int
        What of it is read.
    told : callable, optional
        Told a digest of the states of stored chunks before they are read.
    """
    if volume.compute is None:
        return _stored_tiles(volume, level, channel, told)
    return _computed_tiles(volume.compute, channel)


def _stored_tiles(volume: Volume, level: int, channel: int, told: Callable[[bytes], None]) -> Tiles:
    """Return what reads tiles of a stored channel, and is told a digest of the states of their chunks."""
    store, chunks = volume.open(level, channel, strict=True), stored_chunks(volume, level, channel)

    def read(boxes: list[Box]) -> Iterator[tuple[Box, NDArray[Any]]]:
        state, check = block_state(store, chunks, boxes)
        told(state)
        return _sample(store, boxes, check)

    return read


def _computed_tiles(compute: Compute, channel: int) -> Tiles:
    """Return what computes tiles of a channel; one that cannot be is left out with a warning in the log."""

    def read(boxes: list[Box]) -> Iterator[tuple[Box, NDArray[Any]]]:
        for box in boxes:
            try:
                yield box, compute(channel, box)
            except (DataError, NumericsError) as error:
                _log.warning("voxels %s (z,y,x) are left out of the statistics: %s", box, error.message)

    return read


def _sample(store: ts.TensorStore, boxes: list[Box], check: Check) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Yield the tiles with their voxels; one that cannot be read is left out with a warning in the log."""
    at_once = max(1, UNPACKED // max(unpacked_bytes(store[box.slices]) for box in boxes))
    for first in range(0, len(boxes), at_once):
        yield from _read_tiles(store, boxes[first : first + at_once], check)


def _read_tiles(store: ts.TensorStore, boxes: list[Box], check: Check) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Read tiles together, and yield them with their voxels."""
    reads = []
    for box in boxes:
        try:
            view = store[box.slices]
            reads.append((box, read_checked(view) if unpacked_bytes(view) <= UNPACKED else None))
        except DataError as error:
            _log.warning("an input chunk is left out of the statistics: %s", error.message)
    for box, read in reads:
        try:
            voxels = _result(read, store, box, check)
        except (ValueError, OSError, DataError) as error:
            _log.warning("input voxels %s (z,y,x) cannot be read and are left out of the statistics: %s", box, error)
        else:
            yield box, voxels


def _result(read: Any, store: ts.TensorStore, box: Box, check: Check) -> NDArray[Any]:
    """Wait for a read; one that fails is started again, because a tile left out by chance would change the table.

    A tile whose chunks are too large to be unpacked together is None, and read now, chunk by chunk.
    """
    with suppress(ValueError, OSError):
        if read is not None:
            return np.asarray(read.result())
    return read_part(store, box.slices, check)


def block_state(store: ts.TensorStore, chunks: StoredChunks, boxes: list[Box]) -> tuple[bytes, Check]:
    """Return a digest of the states of the chunks of some boxes, and what `read_part` asks about them.

    Parameters
    ----------
    store : tensorstore.TensorStore
        The stored level.
    chunks : StoredChunks
        How it is stored.
    boxes : list of Box
        Voxels of it.
    """
    places = list(dict.fromkeys(place for box in boxes for place in chunks.places(box)))

    def look(_: int) -> tuple[bytes, Check]:
        states = list(chunks.states(places))
        absent = frozenset(place for place, state in zip(places, states, strict=True) if state is None)
        if absent:
            check_there(store)
        check = chunks.still_there(lambda place: place not in absent)
        return hashlib.sha256(repr(states).encode()).digest(), check

    return looked(look, chunks.url)
