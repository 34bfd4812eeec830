"""Output of commands for people: texts, and facts as tables. What files of others say in them is shown, not obeyed."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from volumetool.redaction import printable

WIDTH, NAMES = 80, 14
"""Columns of a line, and of the names at its beginning."""

USUAL = logging.INFO + 1
"""Level of what people read without ``-v`` and ``-q``."""

_log = logging.getLogger(__name__)


@dataclass
class _Screen:
    """What stderr shows.

    Attributes
    ----------
    command : str
        Words of the command that speaks.
    level : int
        The least important that is shown, of `logging`: WARNING with ``-q``, INFO with ``-v``, else between the two.
    """

    command: str = ""
    level: int = USUAL


SCREEN = _Screen()


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a text: on a stream, or on stderr, unless that is to be quiet."""
    _log.info("%s", text)
    if stream is not None or SCREEN.level <= USUAL:
        _print(text, stream or sys.stderr)


def warn(text: str) -> None:
    """Print on stderr what is wrong."""
    _log.warning("%s", text)
    _print(text, sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    print(printable(text), file=stream, flush=True)


def print_lines(lines: Iterable[tuple[str, str]], stream: TextIO | None = None) -> None:
    """Print names with their texts, wrapped to 80 columns where words allow it; on stderr without a stream."""
    for name, text in lines:
        indent = " " * NAMES
        folded = textwrap.wrap(
            text,
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        say("\n".join([f"{name:<{NAMES}}" + (folded or [indent])[0][NAMES:], *folded[1:]]), stream)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print facts line by line, with spaces in their names; a list of mappings becomes a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.width = max(console.width, WIDTH)  # narrower terminals break lines, and nothing is left out
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            table = Table(title=_spaced(name), title_justify="left")
            for column in value[0]:
                table.add_column(_spaced(str(column)), overflow="fold")
            for row in value:
                table.add_row(*(Text(printable(show(cell))) for cell in row.values()))
            console.print(table)
        elif value not in (None, [], {}):
            console.print(printable(f"{_spaced(name):<13} {show(value)}"), markup=False, highlight=False, soft_wrap=True)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def show(value: Any) -> str:
    """Write one value for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " x ".join(show(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
