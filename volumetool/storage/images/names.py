"""Names of files that hold sections: which are still being written, and which number each has.

The number of a section is the one in which the names differ; all else in them must agree. Endings such as
.tif, in capitals or not, are no part of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SUFFIXES = (".tif", ".tiff")
SINGLE = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".bmp": "bmp"}
"""Kinds of files that hold one image each, by the endings of their names."""

TEMPORARY = frozenset({".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".lock"})
"""What programs put at the end of a name while they write; some put the real ending behind it."""


@dataclass(frozen=True)
class Pattern:
    """The common parts of the names of all sections.

    Attributes
    ----------
    before, after : str
        What stands before and after the number; the ending of the file is not looked at.
    """

    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.before}NUMBER{self.after}"


def is_tiff(path: str | Path) -> bool:
    """Return whether a file has the name of a TIFF image."""
    return str(path).lower().endswith(_SUFFIXES)


def single_kind(path: str | Path) -> str:
    """Return ``png``, ``jpeg`` or ``bmp`` for a file with such a name; empty for others."""
    return SINGLE.get(Path(path).suffix.lower(), "")


def may_hold_a_section(name: str) -> bool:
    """Return whether a file has the name of a finished TIFF image: it is not hidden, and tells of no writer."""
    return is_tiff(name) and name[0] not in ".~" and not is_temporary(name)


def is_temporary(name: str) -> bool:
    """Return whether a file's name tells that a program is still writing it."""
    return bool(TEMPORARY & {each.lower() for each in Path(name).suffixes})


def shared_pattern(names: Iterable[str]) -> Pattern | None:
    """Return the pattern that most names share.

    Returns
    -------
    Pattern or None
        None where it cannot be told: no two names share one, and none of them holds a single number.
    """
    readings = [_readings(name) for name in sorted(names)]
    counts = Counter(pattern for each in readings for pattern, _ in each)
    best = max(counts, key=lambda pattern: counts[pattern], default=None)
    if best is not None and counts[best] > 1:
        return best
    return next((each[0][0] for each in readings if len(each) == 1), None)


def numbered(name: str, pattern: Pattern | None = None) -> tuple[Pattern, int] | None:
    """Return what stands around the number of a section, and that number; None where the name holds none.

    Numbers are numbers: ``s_9.tif`` comes before ``s_10.tif``.

    Parameters
    ----------
    name : str
        A file's name.
    pattern : Pattern, optional
        That of the other sections. A name that has another one is read by its last number.
    """
    readings = _readings(name)
    known = [reading for reading in readings if reading[0] == pattern]
    return next(iter(known or readings), None)


def _readings(name: str) -> list[tuple[Pattern, int]]:
    """Return every way to read a name as a pattern and a number, the last number first."""
    stem = Path(name).stem
    found = [(Pattern(stem[: match.start()], stem[match.end() :]), int(match[0])) for match in re.finditer("[0-9]+", stem)]
    return found[::-1]
