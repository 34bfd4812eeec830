"""Names of files that hold sections: which are still being written, and which number each has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from volumetool.store.images import is_tiff

TEMPORARY = frozenset({".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".lock"})
"""What programs put at the end of a name while they write; some put the real ending behind it."""

_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)


@dataclass(frozen=True)
class Pattern:
    """What the names of all sections have in common.

    Attributes
    ----------
    before, after : str
        What stands before and after the number; the ending of the file is not looked at.
    """

    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.before}NUMBER{self.after}"


def may_hold_a_section(name: str) -> bool:
    """Say whether a file has the name of a finished TIFF image: it is not hidden, and tells of no writer."""
    path = Path(name)
    return is_tiff(path) and name[0] not in ".~" and not TEMPORARY & {each.lower() for each in path.suffixes}


def numbered(name: str) -> tuple[Pattern, int] | None:
    """Return what stands around the last number of a file's name, and that number; None where there is none.

    Numbers are numbers: ``s_9.tif`` comes before ``s_10.tif``.
    """
    match = _NUMBERED.fullmatch(Path(name).stem)
    return None if match is None else (Pattern(match[1], match[3]), int(match[2]))
