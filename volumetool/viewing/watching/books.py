"""The books of a watch, in the job's folder: how it began, what it computes, and which sections are there.

``watch/begun.json`` says how sections are counted, ``watch/fixed.json`` what decides their voxels. Two ledgers follow, of the
same kind as a job's: ``watch/landed`` of the sections whose voxels are safely in the raw volume, ``watch/enhanced`` of the
steps that are in the growing output. A record is written after its voxels were written, synced and read back.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from volumetool.errors import LedgerError
from volumetool.geometry import Size
from volumetool.jobs.ledger import DONE, FAILED, Ledger, Record
from volumetool.store.images.names import Pattern
from volumetool.store.kvstore import join_url, read_key, write_key

FOLDER = "watch"
MOST_SECTIONS = 2**20
"""Sections of one volume: at 30 nm, three centimetres."""

MERGE_RECORDS = 1000
"""Every section has a segment of the ledger of its own; after so many they are merged."""


class Begun(BaseModel):
    """How a watch began; known with its first sections, and never changed.

    Parameters
    ----------
    before, after : str
        What the names of all sections have in common.
    first : int
        Number of the section at z = 0.
    shape : tuple of int
        Of every section, y, x.
    dtype : str
        Of every section.
    voxel_size : tuple of float
        In nm, z, y, x.
    fitted : tuple of int
        The sections, by z, that the statistics are fitted to.
    count : int, optional
        Sections in all, where they were counted beforehand.
    translation : tuple of float
        Of the centre of the first voxel at z = 0, in nm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: str
    after: str
    first: int
    shape: tuple[int, int]
    dtype: str
    voxel_size: Size
    fitted: tuple[int, ...]
    count: int | None
    translation: Size = (0.0, 0.0, 0.0)

    @property
    def pattern(self) -> Pattern:
        """What the names of all sections have in common."""
        return Pattern(self.before, self.after)


class Fixed(BaseModel):
    """What decides the voxels of a watch; fixed with the first section that is enhanced, and never changed.

    Parameters
    ----------
    spec : dict
        Of the job's specification, what holds for any number of sections.
    precision : str
        Of the network's body.
    batch : int
        Patches per call.
    probe : str
        Digest of the network on fixed patches.
    low, high : tuple of float
        Statistics: one pair for all sections, or one for each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: dict[str, Any]
    precision: str
    batch: int
    probe: str
    low: tuple[float, ...]
    high: tuple[float, ...]


Kept = TypeVar("Kept", Begun, Fixed)
KEYS: dict[type[BaseModel], str] = {Begun: f"{FOLDER}/begun.json", Fixed: f"{FOLDER}/fixed.json"}


def read_kept(folder: str, kind: type[Kept]) -> Kept | None:
    """Return what a watch has fixed, None where it has not yet.

    Raises
    ------
    LedgerError
        ``ledger.plan``: it is there, but cannot be read.
    """
    raw = read_key(folder, KEYS[kind])
    if raw is None:
        return None
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise LedgerError(
            "ledger.plan",
            f"{folder}/{KEYS[kind]} is not what this version of volumetool writes: {error.error_count()} fields do not fit",
            hint="go on with the version that began the watch, or begin anew with another --into",
            where=folder,
        ) from error


def write_kept(folder: str, kept: Begun | Fixed) -> None:
    """Keep what a watch has fixed."""
    write_key(folder, KEYS[type(kept)], kept.model_dump_json(indent=1).encode())


class Tally:
    """One of the two ledgers.

    Parameters
    ----------
    folder : str
        The job's folder.
    name : {"landed", "enhanced"}
        Which.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._ledger = Ledger(join_url(folder, FOLDER, name), MOST_SECTIONS)
        self._ledger.begin()
        self._ledger.compact()
        self._fresh = 0

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and bool(self._ledger.states[index] == DONE)

    @property
    def done(self) -> int:
        """How many are done."""
        return self._ledger.done

    @property
    def failed(self) -> list[int]:
        """What failed."""
        return [int(index) for index in np.flatnonzero(self._ledger.states == FAILED)]

    @property
    def stop(self) -> int:
        """One more than the last one that is done."""
        done = np.flatnonzero(self._ledger.states == DONE)
        return int(done[-1]) + 1 if len(done) else 0

    def missing(self, stop: int) -> list[int]:
        """Return which are not done of those before `stop`."""
        return [int(index) for index in np.flatnonzero(self._ledger.states[:stop] != DONE)]

    def write(self, record: Record) -> None:
        """Write a record; it is on disk, synced, when this returns."""
        self._ledger.append(record)
        self._ledger.flush()
        self._fresh += 1
        if self._fresh >= MERGE_RECORDS:
            self._ledger.compact()
            self._fresh = 0

    def note(self, index: int, checksum: int) -> None:
        """Write that something is done that took no computing."""
        self.write(Record(region=index, state="done", checksums=(checksum,), finished=time.time()))
