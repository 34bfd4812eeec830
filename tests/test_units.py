"""Units of length, and numbers in words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from volumetool.units import is_long_name, nanometres_per, show_sections


@pytest.mark.parametrize(
    ("unit", "wanted"),
    [
        ("nanometer", 1.0),
        ("nm", 1.0),
        ("Nanometers", 1.0),
        ("micrometre", 1e3),
        ("µm", 1e3),
        ("μm", 1e3),
        ("um", 1e3),
        ("micron", 1e3),
        ("microns", 1e3),
        ("angstrom", 0.1),
        ("Å", 0.1),
        ("mm", 1e6),
        ("pixel", None),
        ("", None),
        ("s", None),
        (None, None),
        (3, None),
    ],
)
def test_nanometres_per_unit(unit: object, wanted: float | None) -> None:
    assert nanometres_per(unit) == wanted


def test_only_long_names_are_conformant() -> None:
    assert is_long_name("micrometer")
    assert not any(map(is_long_name, ["um", "micron", "pixel", None]))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([3], "section 3"),
        ([3, 4], "sections 3, 4"),
        ([1, 4, 5, 6, 8], "sections 1, 4 to 6, 8"),
        (range(900), "sections 0 to 899"),
    ],
)
def test_numbers_of_sections_are_told_in_words(numbers: Sequence[int], words: str) -> None:
    assert show_sections(numbers) == words
