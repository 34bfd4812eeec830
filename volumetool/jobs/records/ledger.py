"""The ledger: which regions are done, skipped by failure, or still to do.

The job directory holds ``ledger/00000001.jsonl`` and so on: segments of records, one sealed record a line. A segment is one
key, created atomically and never changed; only the job's owner writes. A later record of a region replaces an earlier one.
Where a line is damaged its region simply runs again: a region run twice gives the same bytes.

Segments are numbered upwards, and a writer creates the next one only if it does not exist. So a writer that has not seen all
others cannot commit: an owner begins with an empty segment, which stays for ever, where the one before would have gone on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import LedgerError, OutputError, VolumetoolError
from volumetool.jobs.job import Part
from volumetool.jobs.records.holder import overtaken
from volumetool.jobs.records.lease import confirm
from volumetool.jobs.records.segments import delete_segments, number_of, own_keys, prefix_of, segment_key, segment_keys
from volumetool.sealed import decode, encode_line
from volumetool.storage.io.kvstore import create_key, join_url, read_key

State = Literal["done", "failed"]
Fields = dict[str, Any]
"""Those of a record, as they stand in its line."""

TODO, DONE, FAILED = 0, 1, 2
"""States in the array over the region grid."""

QUARANTINED = "region.quarantined"
"""Code of a failed region that is not tried again unless that is asked for."""

FLUSH_RECORDS = 256
FLUSH_SECONDS = 1.0
"""Records wait at most this long for their segment: the work that a dead driver loses."""

COMPACT_SEGMENTS = 64
"""From so many segments on, beside those that are merged already, opening the ledger for writing merges them."""

NAMED = 20
"""Damaged lines whose places are remembered."""

MERGED_RECORDS = 2**16
"""Records in a merged segment: some 25 MB."""


@dataclass(frozen=True)
class Record:
    """The record of one region; written after its shards.

    Attributes
    ----------
    region : int
        Index in the job's region grid.
    state : {"done", "failed"}
        A failed region runs again with the next run, unless its error's code is `QUARANTINED`.
    checksums : tuple of int
        CRC-32 of the voxels of each fused level, in the order of the sweep; of several channels, one after the other.
    stored : tuple of tuple of str
        For each of these size and CRC-32 of the bytes of each of the region's shards, in C order.
    read : dict
        What the region read: ``voxels``, their CRC-32; ``stored``, a digest of the state of the stored chunks; ``chunks``,
        their number; ``absent``, how many of the input's were not stored.
    moved, opens : int
        Bytes that were read and written, and files that were opened for that, or requests.
    patches, recomputed, skipped : int
        Patches that the region needed and did not find kept, those of them that an earlier region needs too, and those that
        the network was not asked for.
    seconds, network_seconds : float
        Spent in all, and inside the network.
    stages : dict of str to float
        Seconds in which each stage had something to do; they run beside each other.
    consistency : float, optional
        How far the output, averaged over each voxel of the input, departs from the input: root mean square, in data windows.
        None where it was not measured: in records of before, and where the region has no valid voxel.
    worker, device : str
        Host and process, and where the network ran; no device in records of before.
    numerics : str
        Digest of the worker's probe.
    error : dict
        Code, message and hint of a failure.
    finished : float
        Unix time.
    """

    region: int
    state: State
    checksums: tuple[int, ...] = ()
    stored: tuple[tuple[str, ...], ...] = ()
    read: dict[str, Any] = field(default_factory=dict)
    moved: int = 0
    opens: int = 0
    patches: int = 0
    recomputed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    network_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    consistency: float | None = None
    worker: str = ""
    device: str = ""
    numerics: str = ""
    error: dict[str, str] = field(default_factory=dict)
    finished: float = 0.0


_FIELDS = {each.name for each in fields_of(Record)}


@dataclass
class Totals:
    """Sums over the records of finished regions.

    Attributes
    ----------
    done : int
        Finished regions.
    moved, opens, patches, recomputed, skipped, seconds, network_seconds, stages
        Sums of the fields of the same name of :class:`Record`.
    absent : int
        Chunks of the input that were not stored, added up over the regions that read them.
    """

    done: int = 0
    moved: int = 0
    opens: int = 0
    patches: int = 0
    recomputed: int = 0
    skipped: int = 0
    absent: int = 0
    seconds: float = 0.0
    network_seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def add(self, record: Record, sign: int = 1) -> None:
        """Count a finished region in, or out again with ``sign=-1``."""
        self.done += sign
        for name in ("moved", "opens", "patches", "recomputed", "skipped", "seconds", "network_seconds"):
            setattr(self, name, getattr(self, name) + sign * getattr(record, name))
        self.absent += sign * int(record.read.get("absent", 0))
        for stage, seconds in record.stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + sign * seconds


class Ledger:
    """The records of a job. One process, the driver, writes; any may read.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    regions : int
        Regions of the job.
    part : Part, optional
        The part whose driver writes, into a ledger of its own; the records of all parts are read.

    Attributes
    ----------
    states : numpy.ndarray of uint8, shape (regions,)
        0 to do, 1 done, 2 failed.
    failures : dict of int to Record
        The failed regions.
    damaged : int
        Lines that were not read because their checksum is wrong.
    places : list of str
        Segment and line of the first of them.
    """

    def __init__(self, url: str, regions: int, part: Part | None = None) -> None:
        self.url, self._prefix = url, prefix_of(None if part is None else part.number)
        self.states: NDArray[np.uint8] = np.zeros(regions, np.uint8)
        self.failures: dict[int, Record] = {}
        self.damaged = 0
        self.places: list[str] = []
        self.last_finished = 0.0
        self._waiting: list[Record] = []
        self._leaving: list[Record] = []
        self._flushed = time.monotonic()
        self._segments = 0
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._read()

    def _read(self) -> None:
        for fields in self._fields():
            self._note(fields["region"], fields["state"], fields.get("finished", 0.0), fields)

    @property
    def done(self) -> int:
        """Number of finished regions."""
        return int(np.count_nonzero(self.states == DONE))

    def records(self) -> Iterator[Record]:
        """Yield every record on disk in the order of writing; of a region's records the last one counts."""
        yield from map(_record, self._fields())

    def _fields(self) -> Iterator[Fields]:
        """Yield the fields of every record on disk, and count the lines that are none."""
        self.damaged, self.places = 0, []
        for key in segment_keys(self.url):
            for number, (fields, _) in enumerate(self._lines([key]), start=1):
                if fields is not None:
                    yield fields
                    continue
                self.damaged += 1
                if len(self.places) < NAMED:
                    self.places.append(f"{key}, line {number}")

    def _lines(self, keys: Iterable[str]) -> Iterator[tuple[Fields | None, bytes]]:
        """Yield the fields of every line of some segments, None where it is damaged, with the line itself."""
        for key in keys:
            if key == segment_key(self._prefix, number := number_of(key)):
                self._segments = max(self._segments, number)
            for line in (read_key(self.url, key) or b"").splitlines(keepends=True):
                fields = _parse(line)
                known = fields is not None and 0 <= fields["region"] < len(self.states)
                yield fields if known else None, line

    def _last(self, keys: list[str]) -> Iterator[tuple[Fields, bytes]]:
        """Yield the fields of the last record of every region that has one, with its line: two passes, bounded memory."""
        last = np.zeros(len(self.states), np.int64)  # for each region the number of its last line, from 1
        for number, (fields, _) in enumerate(self._lines(keys), start=1):
            if fields is not None:
                last[fields["region"]] = number
        for number, (fields, line) in enumerate(self._lines(keys), start=1):
            if fields is not None and last[fields["region"]] == number:
                yield fields, line

    def latest(self) -> Iterator[Record]:
        """Yield the last record of every region that has one; memory does not grow with their number."""
        for fields, _ in self._last(segment_keys(self.url)):
            yield _record(fields)

    def totals(self) -> Totals:
        """Return the sums over finished regions."""
        totals = Totals()
        for record in self.latest():
            if record.state == "done":
                totals.add(record)
        return totals

    def begin(self) -> None:
        """Begin to write as the job's new owner. Records that an earlier owner has not written yet will be refused.

        Raises
        ------
        LedgerError
            ``ledger.overtaken``: another run took the job, or the part, over since it was claimed.
        """
        own = join_url(self.url, self._prefix)
        with self._lock:
            confirm(own)  # who owns the job no more must not shut out who does
            while not create_key(self.url, segment_key(self._prefix, self._segments + 1), b""):
                self._read()
            self._segments += 1
            confirm(own)  # who owns it from now on finds this segment, and goes on after it

    def append(self, record: Record) -> None:
        """Add a record. It is on disk within a second, or with the next flush."""
        with self._lock:
            self._note(record.region, record.state, record.finished, record)
            self._waiting.append(record)
            if len(self._waiting) >= FLUSH_RECORDS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
                self.flush()
            elif self._timer is None:  # the next region may be an hour away
                self._timer = threading.Timer(FLUSH_SECONDS, self._flush_in_time)
                self._timer.daemon = True
                self._timer.start()

    def _flush_in_time(self) -> None:
        with suppress(VolumetoolError):  # the records wait on; whoever asks next is told
            self.flush()

    def flush(self) -> None:
        """Write the waiting records as a new segment, atomically and synced.

        Raises
        ------
        LedgerError
            ``ledger.overtaken``: another run has written in the meantime; nothing was written.
        OutputError
            ``output.full``, ``output.unwritable``: the records wait on.
        """
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            while self._leaving or self._waiting:
                # A segment whose writing failed is tried again with the same records: it may be there all the same.
                if not self._leaving:
                    self._leaving, self._waiting = self._waiting, []
                self._create(b"".join(map(_line, self._leaving)))
                self._leaving = []
            self._flushed = time.monotonic()

    def compact(self) -> None:
        """Merge many small segments into few large ones: the new ones are written before the old ones go.

        Damaged lines are left behind, so that they are told of once. Records are copied line by line, so that memory does not
        grow with their number.
        """
        self.flush()
        keys = own_keys(self.url, self._prefix)
        if not self.damaged and len(keys) < COMPACT_SEGMENTS + len(self.states) // MERGED_RECORDS:
            return
        kept = (line for _, line in self._last(keys))
        while merged := b"".join(islice(kept, MERGED_RECORDS)):
            self._create(merged)
        delete_segments(self.url, keys)

    def _create(self, lines: bytes) -> None:
        key = segment_key(self._prefix, self._segments + 1)
        try:
            created = create_key(self.url, key, lines)
        except OutputError:
            if read_key(self.url, key) != lines:
                raise
        else:
            # A write may take effect and yet be reported as failed, or as somebody else's when it is tried again; lines name
            # process and time, and are nobody else's.
            if not created and read_key(self.url, key) != lines:
                raise overtaken(self.url)
        self._segments += 1

    def _note(self, region: int, state: State, finished: float, content: Record | Fields) -> None:
        self.states[region] = DONE if state == "done" else FAILED
        self.failures.pop(region, None)
        if state == "failed":
            self.failures[region] = content if isinstance(content, Record) else _record(content)
        self.last_finished = max(self.last_finished, finished)


def read_segment(url: str, key: str) -> Iterator[Record]:
    """Yield the records of one segment; damaged lines are left out, and so is a segment that was merged since it was listed."""
    for line in (read_key(url, key) or b"").splitlines(keepends=True):
        if (fields := _parse(line)) is not None:
            yield _record(fields)


def _line(record: Record) -> bytes:
    return encode_line(vars(record))


def _parse(line: bytes) -> Fields | None:
    """Return the fields of a record, None where the line is damaged."""
    if not line.endswith(b"\n"):  # torn
        return None
    try:
        fields: Fields = decode(line)
    except ValueError:
        return None
    if strange := fields.keys() - _FIELDS or {"region", "state"} - fields.keys():
        raise LedgerError(
            "ledger.version",
            f"a record of this ledger has other fields than this version of volumetool writes: {', '.join(sorted(strange))}",
            hint="go on with the version that began the job, or start anew with --overwrite",
        )
    return fields


def _record(fields: Fields) -> Record:
    stored = tuple(tuple(level) for level in fields.get("stored", ()))
    return Record(**fields | {"checksums": tuple(fields.get("checksums", ())), "stored": stored})
