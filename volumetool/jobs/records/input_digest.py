"""Digests of what a region read of the input: noted in its record, and compared before a run goes on.

Two things are noted. The state of the stored chunks (size and time of change, or ETag) is cheap to ask for again. The CRC-32
of the voxels themselves decides where states differ: a file system that touches its files changes no voxel.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import DataError, InputError
from volumetool.geometry import Box, Region, Triple
from volumetool.jobs.job import Job
from volumetool.jobs.job_dir import JobDir
from volumetool.jobs.records.inventory import MASK, input_name, read_inventory
from volumetool.jobs.records.staging import staged
from volumetool.processing.columns import input_windows, read_input
from volumetool.processing.spec import OutputSpec
from volumetool.storage.io.chunks import StoredChunks, stored_chunks
from volumetool.storage.io.limits import read_checked
from volumetool.storage.io.presence import check_there, looked
from volumetool.storage.io.retries import VanishedError
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import Source, as_bytes

NAMED = 3
"""Chunks that an error names."""

READINGS = 3
"""How often a region is read if its chunks are written to while it is read."""

T = TypeVar("T")


class VoxelCrc:
    """The CRC-32 of all voxels that went by."""

    def __init__(self) -> None:
        self.checksum = 0

    def __call__(self, voxels: NDArray[Any]) -> None:
        """Take voxels in, in C order."""
        self.checksum = zlib.crc32(as_bytes(voxels).data, self.checksum)


@dataclass(frozen=True)
class ChunkStates:
    """The stored chunks that a region reads, as the store describes them.

    Attributes
    ----------
    digest : str
        Digest of the states of all of them.
    chunks : int
        How many there are.
    absent, mask_absent : tuple of int triples
        Chunks of the input, and of the mask, that are not stored: places in its grid.
    gone : tuple of str
        The first chunks of input and mask that are not stored, but were, by name.
    """

    digest: str
    chunks: int
    absent: tuple[Triple, ...]
    mask_absent: tuple[Triple, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RegionInput:
    """The input of a job's regions: where they read, and what is stored there.

    Parameters
    ----------
    job : Job
        Names level and policies.
    volume, mask : Volume
        The input volume, and the mask if there is one.
    mask_factor : tuple of int
        Input voxels per voxel of the mask.
    """

    job: Job
    volume: Volume
    mask: Volume | None
    mask_factor: Triple

    @functools.cached_property
    def source(self) -> Callable[[int], Source]:
        """Opens the input of a channel."""
        return functools.cache(self._source)

    def _source(self, channel: int) -> Source:
        mask = None if self.mask is None else self.mask.open(strict=True)
        voxels = self.volume.open(self.job.level, channel, strict=True)
        return Source(voxels, mask, self.mask_factor, bad=functools.partial(_name_bad, voxels, self.chunks(channel)))

    @functools.cached_property
    def chunks(self) -> Callable[[int], StoredChunks]:
        """Tells how the input of a channel is stored."""
        return functools.cache(lambda channel: stored_chunks(self.volume, self.job.level, channel))

    @functools.cached_property
    def _mask_chunks(self) -> StoredChunks | None:
        return None if self.mask is None else stored_chunks(self.mask, 0, 0)

    @functools.cached_property
    def _known(self) -> Callable[[str, Triple], NDArray[np.bool_] | None]:
        """Tells which chunks are known to have been stored: when the job began, or when this process met them."""
        return functools.cache(functools.partial(read_inventory, JobDir(self.job.output).url))

    def state(self, channel: int, windows: list[Box]) -> ChunkStates:
        """Return the state of all stored chunks of some windows of the input, and of the mask there.

        Raises
        ------
        DataError
            ``data.unreadable``: the store does not answer.
        """
        digest = hashlib.blake2b(digest_size=8)
        absent: list[Triple] = []
        mask_absent: list[Triple] = []
        lost: list[str] = []
        number = 0
        own = input_name(channel), self.chunks(channel), (1, 1, 1), absent
        for name, chunks, factor, blank in (own, (MASK, self._mask_chunks, self.mask_factor, mask_absent)):
            if chunks is None:
                continue
            known = self._known(name, chunks.grid)
            places = _places(chunks, windows, factor)
            number += len(places)
            for place, state in zip(places, chunks.states(places), strict=True):
                digest.update(b"%d,%d,%d " % place + (b"absent" if state is None else state))
                if known is not None and state is not None:
                    known[place] = True
                elif known is not None and known[place] and len(lost) < NAMED:
                    lost.append(chunks.name(place))
                if state is None:
                    blank.append(place)
        return ChunkStates(digest.hexdigest(), number, tuple(absent), tuple(mask_absent), tuple(lost))

    def checked(self, source: Source, channel: int, state: ChunkStates) -> Source:
        """Return a source that fails if a chunk that was stored reads as not stored, instead of giving the fill value.

        Parameters
        ----------
        source : Source
            The input of a channel.
        channel : int
            The channel; 0 where the volume has none.
        state : ChunkStates
            Which chunks were stored, from `state` or `settled`.
        """
        absent, mask_absent = frozenset(state.absent), frozenset(state.mask_absent)
        check = self.chunks(channel).still_there(lambda place: place not in absent)
        masks = self._mask_chunks
        masked = None if masks is None else masks.still_there(lambda place: place not in mask_absent)
        return replace(source, check=check, mask_check=masked)

    def read_in_one_state(self, spec: OutputSpec, region: Region, make: Callable[[Source], T]) -> tuple[T, dict[str, Any]]:
        """Make something of a region's input that is all read from the same stored chunks.

        Parameters
        ----------
        spec : OutputSpec
            What decides the bytes of the job's output.
        region : Region
            The region whose input is read.
        make : callable
            Called with the input, and again if a chunk was written, or was absent for a while, between first and last read.

        Returns
        -------
        tuple
            What was made, and what the region's record says of its input.

        Raises
        ------
        InputError
            ``input.vanished``: chunks, or the whole input, are gone. ``input.changed``: it is written to again and again.
        DataError
            ``data.missing``; ``data.unreadable``: the store does not answer.
        """
        windows = list(input_windows(spec, region))
        for _ in range(READINGS):
            state, seen = self.settled(region.channel, windows), VoxelCrc()
            self._check_missing(region, state)
            absent = functools.partial(self.chunks(region.channel).absent, among=frozenset(state.absent))
            skipped = absent if self.job.missing == "skip" else None
            source = self.checked(self.source(region.channel), region.channel, state)
            with staged(replace(source, seen=seen, absent=skipped), windows, self.volume.levels[self.job.level].chunk) as own:
                made = make(own)
            if self.state(region.channel, windows).digest == state.digest:
                return made, _note(state, seen)
        raise InputError(
            "input.changed",
            f"the input of region {region.index} ({region.box}) was written to while it was read, {READINGS} times in a row",
            hint="nothing of it is recorded: let whatever writes there end, and run the same command again",
            where=self.volume.url,
        )

    def settled(self, channel: int, windows: list[Box]) -> ChunkStates:
        """Return the state of some windows; what is gone is waited for some seconds.

        Raises
        ------
        InputError
            ``input.vanished``.
        DataError
            ``data.unreadable``: the store does not answer.
        """

        def look(_: int) -> ChunkStates:
            state = self.state(channel, windows)
            if state.gone:
                raise VanishedError(f"no longer stored: {'; '.join(state.gone)}")
            if state.absent:
                check_there(self.source(channel).voxels)
            return state

        return looked(look, self.volume.url)

    def _check_missing(self, region: Region, state: ChunkStates) -> None:
        """Refuse chunks that are not stored, where the job says so."""
        if self.job.missing == "fail" and state.absent:
            names = "; ".join(map(self.chunks(region.channel).name, state.absent[:NAMED]))
            raise DataError(
                "data.missing",
                f"{len(state.absent)} input chunks of the region are not stored: {names}",
                hint="bring them back and run the same command again; --missing fill takes them for the array's fill value, "
                "--missing skip for voxels without data",
                where=self.volume.url,
            )

    def content(self, spec: OutputSpec, region: Region, state: ChunkStates) -> int:
        """Read what a region reads, and return its checksum.

        Parameters
        ----------
        spec : OutputSpec
            What decides the bytes of the job's output.
        region : Region
            The region whose input is read.
        state : ChunkStates
            The chunks that must still be stored, from `state`.

        Returns
        -------
        int
            CRC-32 of all voxels of input and mask, in the order of reading.

        Raises
        ------
        DataError
            ``data.unreadable``.
        """
        seen = VoxelCrc()
        source = self.checked(self.source(region.channel), region.channel, state)
        read_input(spec, region, replace(source, seen=seen))
        return seen.checksum


def _places(chunks: StoredChunks, windows: list[Box], factor: Triple) -> list[Triple]:
    """Return the places of all chunks that hold a voxel of some windows, each once, in the windows' order."""
    return list(dict.fromkeys(place for window in windows for place in chunks.places(window.coarsened(factor))))


def _name_bad(voxels: Any, chunks: StoredChunks, box: Box) -> str:
    """Name the chunks of a box that cannot be read, with what the store says of the first."""
    names, reason = [], ""
    for place in chunks.places(box):
        try:
            read_checked(voxels[chunks.box(place).intersection(Box.whole(tuple(voxels.shape))).slices]).result()
        except (ValueError, OSError, DataError) as error:
            names.append(chunks.name(place))
            reason = reason or str(error).partition(" [")[0]
        if len(names) == NAMED:
            break
    return f"{'; '.join(names)}: {reason}" if names else ""


def _note(state: ChunkStates, seen: VoxelCrc) -> dict[str, Any]:
    """Return what a region's record says of its input."""
    return {"voxels": seen.checksum, "stored": state.digest, "chunks": state.chunks, "absent": len(state.absent)}
