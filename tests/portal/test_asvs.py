"""The table of the standard: every item of levels 1 and 2 stands in it once, and its tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "volumetool" / "portal" / "ASVS.md"

LAST = {
    "V1": (2, 9, 11, 3, 2), "V2": (3, 3, 4, 1), "V3": (0, 2, 4, 6, 5, 0, 2), "V4": (3, 1, 2, 4), "V5": (1, 3, 2, 3),
    "V6": (3, 12, 4, 4, 5, 3, 0, 4), "V7": (3, 4, 2, 5, 2, 2), "V8": (2, 3, 1, 1), "V9": (3, 4),
    "V10": (2, 2, 4, 11, 5, 2, 3), "V11": (2, 3, 3, 4, 1, 1), "V12": (3, 2, 4), "V13": (1, 5, 2, 5), "V14": (2, 4, 3),
    "V15": (3, 3, 7), "V16": (1, 5, 4, 3, 3), "V17": (1, 4, 2),
}  # fmt: skip
"""ASVS 5.0.0: by chapter and section, the last item of levels 1 and 2; those of level 3 follow them."""


def test_each_item_stands_once_and_its_tests_exist() -> None:
    wanted = [f"{chapter}.{section}.{item}" for chapter, lasts in LAST.items() for section, last in enumerate(lasts, 1)
              for item in range(1, last + 1)]  # fmt: skip
    assert len(wanted) == 253
    rows = [line.split("|") for line in TABLE.read_text().splitlines() if line.startswith("| V")]
    items = [item for row in rows for item in row[1].split()]
    assert sorted(items) == sorted(wanted)
    for row in rows:
        for name in re.findall(r"`([\w/.]+)`", row[3]):
            place = ROOT / name if "/" in name else ROOT / "tests" / "portal" / name
            assert place.exists(), f"{row[1]}: {name}"
