"""The books of a watch, in the job's folder: how it began, what it computes, and which sections are there.

``watch/begun.json`` says how sections are counted and, once the first one is enhanced, what decides their voxels. Two ledgers
follow, of the same kind as a job's: ``watch/landed`` of the sections whose voxels are safely in the raw volume,
``watch/enhanced`` of the steps that are in the growing output. A record is written after its voxels were written, synced and
read back.
"""

from __future__ import annotations

import time

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from volumetool.errors import LedgerError
from volumetool.geometry import Size
from volumetool.jobs.job_dir import WATCH
from volumetool.jobs.records.ledger import DONE, FAILED, Ledger, Record
from volumetool.processing.spec import Numerics, OutputSpec
from volumetool.sealed import decode, encode
from volumetool.storage.images.names import Pattern
from volumetool.storage.io.kvstore import join_url, read_key, write_key

KEY = f"{WATCH}/begun.json"
MOST_SECTIONS = 2**20
"""Sections of one volume: at 30 nm, three centimetres."""

MERGE_RECORDS = 1000
"""Every section has a segment of the ledger of its own; after so many they are merged."""


class SessionHeader(BaseModel):
    """The beginning of a watch; what is written is never changed.

    Parameters
    ----------
    before, after : str
        Parts of the name before and after the number, which all sections share.
    first : int
        Number of the section at z = 0.
    shape : tuple of int
        Shape of every section, y, x.
    dtype : str
        Data type of every section.
    voxel_size : tuple of float
        Voxel size along z, y, x in nm.
    fitted : tuple of int
        The sections, by z, that the statistics are fitted to.
    count : int, optional
        Sections in all, where they were counted beforehand.
    translation : tuple of float
        Position of the centre of the first voxel at z = 0, in nm.
    spec : OutputSpec, optional
        Everything that decides the voxels, known from the first section that is enhanced, for the sections of that time. Its
        statistics have one row for all sections, or one for each.
    model : str
        Where the network is loaded from; known with the specification.
    numerics : Numerics, optional
        Precision and batch of the network; known with the specification.
    probe : str
        Digest of the network on fixed patches; known with the specification.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    before: str
    after: str
    first: int
    shape: tuple[int, int]
    dtype: str
    voxel_size: Size
    fitted: tuple[int, ...]
    count: int | None
    translation: Size = (0.0, 0.0, 0.0)
    spec: OutputSpec | None = None
    model: str = ""
    numerics: Numerics | None = None
    probe: str = ""

    @property
    def decided(self) -> OutputSpec:
        """The specification, once it is known."""
        assert self.spec is not None  # noqa: S101  (asked for once a section is enhanced)
        return self.spec

    @property
    def pattern(self) -> Pattern:
        """The common parts of the names of all sections."""
        return Pattern(self.before, self.after)


def read_header(folder: str) -> SessionHeader | None:
    """Return how a watch began, None where it has not yet.

    Raises
    ------
    LedgerError
        ``ledger.plan``: it is there, but cannot be read.
    """
    raw = read_key(folder, KEY)
    if raw is None:
        return None
    try:
        return SessionHeader.model_validate(decode(raw))
    except ValidationError as error:
        raise LedgerError(
            "ledger.plan",
            f"{folder}/{KEY} is not what this version of volumetool writes: {error.error_count()} fields do not fit",
            hint="go on with the version that began the watch, or begin again with another --into",
            where=folder,
        ) from error


def write_header(folder: str, begun: SessionHeader) -> None:
    """Write how a watch began."""
    write_key(folder, KEY, encode(begun.model_dump(mode="json")))


class SectionLedger:
    """One of the two ledgers.

    Parameters
    ----------
    folder : str
        Folder of the job.
    name : {"landed", "enhanced"}
        Name of the ledger.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._ledger = Ledger(join_url(folder, WATCH, name), MOST_SECTIONS)
        self._ledger.begin()
        self._ledger.compact()
        self._fresh = 0

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and bool(self._ledger.states[index] == DONE)

    @property
    def done(self) -> int:
        """Number that are done."""
        return self._ledger.done

    @property
    def failed(self) -> list[int]:
        """Those that failed."""
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
