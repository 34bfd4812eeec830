"""Kept patches: what the network gave for a patch that a region still to come needs too, on disk until then.

A kept patch is worth its time alone: where it is missing, torn or another one, the network is asked again and gives the same
bytes. So it is written without waiting for the disk, and never trusted without its checksum; of all that a storage may refuse
only a lack of room is an error, for the output will meet it next.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry import Lattice, PatchSharing, RegionTask, Triple
from volumetool.processing.columns import Column
from volumetool.processing.device.arrays import Array, to_host
from volumetool.storage.io.retries import is_full, unwritable
from volumetool.storage.voxels import as_bytes

HEADER = struct.Struct("<4sI")
MAGIC = b"vtkp"

BEHIND = 8
"""Kept patches that may be on their way to the disk at once."""


def kept_shape(lattice: Lattice) -> Triple:
    """Return the output voxels of a patch that have weight: all that is kept of it, of each channel."""
    z, y, x = ((line.patch - 2 * line.trim) * line.scale for line in lattice.axes)
    return z, y, x


def kept_bytes(lattice: Lattice, channels: int = 1) -> int:
    """Return the bytes of a kept patch."""
    return HEADER.size + channels * math.prod(kept_shape(lattice)) * 4


@dataclass(frozen=True)
class PatchStore:
    """The store of patches that a job keeps.

    Parameters
    ----------
    store : tensorstore.KvStore
        The place of the job's kept patches.
    probe : str
        Digest of the numerics class; classes never mix.
    fingerprint : str
        Fingerprint of the job.
    sharing : PatchSharing
        The regions that need each patch.
    channels : int, optional
        Channels of a patch's output; None where it has no c axis.
    """

    store: ts.KvStore
    probe: str
    fingerprint: str
    sharing: PatchSharing
    channels: int | None = None

    def key(self, channel: int, patch: Triple) -> str:
        """Return the name of a kept patch."""
        return f"{self.probe[:12]}/{channel}/{'-'.join(map(str, patch))}"

    def encode(self, key: str, patch: NDArray[np.float32], output: NDArray[np.float32]) -> bytes:
        """Return the bytes that are stored: a magic word, a checksum, the voxels.

        The checksum covers the job, the numerics class, the patch's name and its input as well, so that no other patch passes.

        Parameters
        ----------
        key : str
            Name of the patch, from `key`.
        patch : numpy.ndarray of float32, shape (depth, y, x)
            The network's input: normalised voxels with their z context.
        output : numpy.ndarray of float32, shape ([channels,] z, y, x)
            What the network made of it, cut to :func:`kept_shape`.
        """
        voxels = np.ascontiguousarray(output).tobytes()  # ([channels,] z, y, x) -> 4 bytes each, in C order
        return HEADER.pack(MAGIC, self._checksum(key, patch, voxels)) + voxels

    def decode(self, key: str, patch: NDArray[np.float32], stored: bytes) -> NDArray[np.float32] | None:
        """Return the voxels, or None where these are not the bytes that were stored for this patch and input.

        Parameters
        ----------
        key : str
            Name of the patch, from `key`.
        patch : numpy.ndarray of float32, shape (depth, y, x)
            The network's input: normalised voxels with their z context.
        stored : bytes
            What was read under that name.

        Returns
        -------
        numpy.ndarray of float32, shape ([channels,] z, y, x), or None
            Output voxels that have weight, of :func:`kept_shape`; read-only.
        """
        leading = () if self.channels is None else (self.channels,)
        if len(stored) != kept_bytes(self.sharing.lattice, self.channels or 1):
            return None
        voxels = memoryview(stored)[HEADER.size :]
        if HEADER.unpack_from(stored) != (MAGIC, self._checksum(key, patch, voxels)):
            return None
        return np.frombuffer(voxels, "<f4").reshape(*leading, *kept_shape(self.sharing.lattice))  # ([channels,] z, y, x)

    def _checksum(self, key: str, patch: NDArray[np.float32], voxels: bytes | memoryview) -> int:
        whose = f"{self.fingerprint} {self.probe} {key} {kept_shape(self.sharing.lattice)}"
        return zlib.crc32(voxels, zlib.crc32(as_bytes(patch).data, zlib.crc32(whose.encode())))


@dataclass
class RegionPatchCache:
    """The kept patches of one region: found before the network is asked, written behind it, deleted after the last use.

    Parameters
    ----------
    shelf : PatchStore
        The store of all kept patches of the job.
    turn : RegionTask
        The region, and which of its neighbours come before and after it.
    """

    shelf: PatchStore
    turn: RegionTask
    _writes: deque[Any] = field(default_factory=deque)

    def find(self, columns: Iterator[Column]) -> Iterator[Column]:
        """Yield columns with what earlier regions kept of them, so that the network is asked for the rest alone."""
        for column in columns:
            patches = [column.position(number) for number in range(len(column.active))]
            repeated = np.array([self._needed(patch, self.turn.earlier) for patch in patches])  # (n,)
            keys = {int(n): self.shelf.key(self._channel, patches[n]) for n in np.flatnonzero(repeated & column.active)}
            reads = {number: self.shelf.store.read(key) for number, key in keys.items()}  # all at once
            outputs = {n: self._read(keys[n], column.patches[n], read) for n, read in reads.items()}
            known = {number: output for number, output in outputs.items() if output is not None}
            active = column.active.copy()
            active[list(known)] = False
            yield replace(column, active=active, known=known, repeated=repeated)

    def keeping(self, predicted: Iterator[tuple[Column, list[Array]]]) -> Iterator[tuple[Column, list[Array]]]:
        """Yield the columns unchanged, and begin to write what the network gave for patches that later regions need."""
        for column, outputs in predicted:
            for number in np.flatnonzero(column.active):
                if self._needed(patch := column.position(int(number)), self.turn.later):
                    self._write(self.shelf.key(self._channel, patch), column.patches[number], outputs[number])
            yield column, outputs

    def finish(self) -> None:
        """Wait for the writes, and delete what no later region needs. To be called when the region's shards are stored.

        Raises
        ------
        StorageFullError
            ``output.full``.
        """
        while self._writes:
            self._await(self._writes.popleft())
        for key in self._last():
            self._begin(key, None)
        while self._writes:
            self._await(self._writes.popleft())

    @property
    def _channel(self) -> int:
        return self.shelf.sharing.position(self.turn.region)[0]

    def _needed(self, patch: Triple, regions: tuple[int, ...]) -> bool:
        """Return whether one of some neighbours needs a patch."""
        return bool(regions) and any(owner in regions for owner in self.shelf.sharing.owners(self._channel, patch))

    def _read(self, key: str, patch: NDArray[np.float32], read: Any) -> NDArray[np.float32] | None:
        try:
            found = read.result()
        except (ValueError, OSError):  # a disk that refuses it has lost it
            return None
        return None if found.state != "value" else self.shelf.decode(key, patch, found.value)

    def _write(self, key: str, patch: NDArray[np.float32], output: Array) -> None:
        kept = output[(..., *_inner(self.shelf.sharing.lattice))]  # ([channels,] z, y, x), each axis shorter by the trims
        self._begin(key, self.shelf.encode(key, patch, to_host(kept)))

    def _begin(self, key: str, stored: bytes | None) -> None:
        if len(self._writes) >= BEHIND:
            self._await(self._writes.popleft())
        self._writes.append(self.shelf.store.write(key, stored))

    def _await(self, write: Any) -> None:
        try:
            write.result()
        except (ValueError, OSError) as error:
            # Anything else costs the time of this patch, or its room until the end of the run.
            if is_full(error):
                raise unwritable("a patch that is kept for the regions to come (see --patch-cache)", error) from error

    def _last(self) -> Iterator[str]:
        """Yield the names of the patches that may be there and that no later region needs."""
        sharing = self.shelf.sharing
        _, position = sharing.position(self.turn.region)
        zs, ys, xs = (sharing.patches(axis, number) for axis, number in enumerate(position))
        for z in zs:
            for y in ys:
                for x in xs:
                    patch = (z, y, x)
                    if self._needed(patch, self.turn.earlier) and not self._needed(patch, self.turn.later):
                        yield self.shelf.key(self._channel, patch)


def _inner(lattice: Lattice) -> tuple[slice, slice, slice]:
    z, y, x = (slice(line.trim * line.scale, (line.patch - line.trim) * line.scale) for line in lattice.axes)
    return z, y, x
