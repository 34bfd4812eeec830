"""Segments: the keys of a ledger, in the job's folder and in those of its parts, and how parts become one ledger again.

A job that is run in parts has ``parts/cut.json``, which says how it is cut, and for each part a folder ``parts/2/``. There its
driver keeps what the driver of a whole job keeps in the job's folder: lease, ledger, attempts, regions in flight, patches. A
record of a part is later than those of the job's own ledger. Parts have no region in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from volumetool.errors import LedgerError
from volumetool.geometry import Box
from volumetool.jobs.job_dir import CUT, LEDGER, PARTS
from volumetool.jobs.records.lease import confirm
from volumetool.sealed import decode, encode
from volumetool.storage.io.kvstore import create_key, delete_key, join_url, list_keys, read_key, write_key

SEGMENT = re.compile(rf"(?:{PARTS}/[0-9]+/)?{LEDGER}/[0-9]{{8}}\.jsonl")

MERGED_BYTES = 2**24
"""A merged segment holds at least so much, if there is so much."""


@dataclass(frozen=True)
class PartCut:
    """How a job is cut into parts.

    Attributes
    ----------
    count : int
        Number of parts.
    box : Box, optional
        Voxels of the input that are asked for, None for all.
    """

    count: int
    box: Box | None = None

    def __str__(self) -> str:
        return f"{self.count} parts" + (f" of the box {self.box}" if self.box else "")


def read_cut(url: str) -> PartCut | None:
    """Return how the job in a folder is cut into parts, None where it is not.

    Raises
    ------
    LedgerError
        ``ledger.parts``: the note is damaged.
    """
    raw = read_key(url, CUT)
    try:
        return None if raw is None else TypeAdapter(PartCut).validate_python(decode(raw))
    except ValueError as error:
        raise LedgerError(
            "ledger.parts",
            f"{url}/{CUT} does not say into how many parts the job is cut: {error}",
            hint=f"bring it back from a backup; it holds the number of the folders in {PARTS}/",
            where=url,
        ) from error


def write_cut(url: str, cut: PartCut) -> None:
    """Note how a job is cut into parts; to be called by who owns the job."""
    confirm(url)
    write_key(url, CUT, encode(asdict(cut)))


def prefix_of(part: int | None) -> str:
    """Return what the keys of a part begin with, in the job's folder; nothing for those of the job itself."""
    return "" if part is None else f"{PARTS}/{part}/"


def segment_key(prefix: str, number: int) -> str:
    """Return the key of a segment."""
    return f"{prefix}{LEDGER}/{number:08d}.jsonl"


def number_of(key: str) -> int:
    """Return the number of a segment."""
    return int(key.rpartition("/")[2].partition(".")[0])


def own_keys(url: str, prefix: str) -> list[str]:
    """Return the keys of the segments of one driver, oldest first."""
    return sorted(key for key in list_keys(url, f"{prefix}{LEDGER}/") if SEGMENT.fullmatch(key))


def segment_keys(url: str) -> list[str]:
    """Return the keys of all segments of a job, in the order in which they are to be read."""
    cut = read_cut(url)
    # The parts' are listed first: a segment that is merged meanwhile is then seen in one place or in the other.
    of_parts = [key for part in range(cut.count if cut else 0) for key in own_keys(url, prefix_of(part))]
    return [*own_keys(url, ""), *of_parts]


def merge_parts(url: str) -> None:
    """Move the records of all parts into the job's own ledger, and forget how it was cut.

    To be called by who owns the job, while no part is run. A driver that was taken for dead cannot commit afterwards: an empty
    segment stays in its part's ledger, where it would go on. Dying half way through loses nothing.
    """
    cut = read_cut(url)
    if cut is None:
        return
    merged = [key for part in range(cut.count) for key in close_segments(url, prefix_of(part))]
    number = max(map(number_of, own_keys(url, "")), default=0)
    for lines in _joined(url, merged):
        confirm(url)
        number += 1
        while not create_key(url, segment_key("", number), lines):
            number += 1
    delete_segments(url, merged)
    confirm(url)
    delete_key(url, CUT)


def close_segments(url: str, prefix: str) -> list[str]:
    """Return the keys of the segments of one driver, which cannot commit from now on: an empty one stays where it would go on.

    A driver that has claimed its folder and not begun has none yet: it finds out as it begins, see `Ledger.begin`.
    """
    keys = own_keys(url, prefix)
    confirm(url)
    while keys and not create_key(url, segment_key(prefix, number_of(keys[-1]) + 1), b""):
        keys = own_keys(url, prefix)
    return keys


def delete_segments(url: str, keys: list[str]) -> None:
    """Delete segments, but for empty ones: these keep their numbers taken."""
    for key in keys:
        if read_key(url, key):
            confirm(join_url(url, key))
            delete_key(url, key)


def _joined(url: str, keys: list[str]) -> Iterator[bytes]:
    """Yield the lines of some segments, in few pieces; a line whose end is torn off stays a line."""
    lines = bytearray()
    for key in keys:
        lines += read_key(url, key) or b""
        if lines and not lines.endswith(b"\n"):
            lines += b"\n"
        if len(lines) >= MERGED_BYTES:
            yield bytes(lines)
            lines.clear()
    if lines:
        yield bytes(lines)
