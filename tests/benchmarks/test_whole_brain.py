"""The page on whole brains says what the arithmetic says."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole_brain import CASES, FIGURES, costs, saturation, tables

PAGE = Path(__file__).parents[2] / "examples" / "whole_brain.md"


def test_the_tables_of_the_page_are_those_of_the_arithmetic() -> None:
    assert tables() in PAGE.read_text(encoding="utf-8")


def test_every_figure_says_whether_it_was_measured_or_assumed() -> None:
    assert all(figure.source.startswith(("measured: ", "counted: ", "assumed")) for figure in FIGURES.values())


@pytest.mark.parametrize("size", CASES.values(), ids=CASES)
def test_what_saturates_first_is_what_the_page_says(size: tuple[float, float, float]) -> None:
    cost = costs(size)
    assert saturation(cost)[0][0] == "CPU cores beside the GPUs"
    assert cost["devices"] * 30 * 24 * 3600 > cost["gpu"]
