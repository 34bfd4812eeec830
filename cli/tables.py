"""Facts as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volumetool.redaction import printable


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print facts line by line; a list of mappings becomes a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for name, value in facts.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            table = Table(title=name, title_justify="left")
            for column in value[0]:
                table.add_column(str(column))
            for row in value:
                table.add_row(*(Text(printable(show(cell))) for cell in row.values()))
            console.print(table)
        elif value not in (None, [], {}):
            # Names and notes come from files of others: no markup, no control characters.
            console.print(printable(f"{name:<13} {show(value)}"), markup=False, highlight=False, soft_wrap=True)


def show(value: Any) -> str:
    """Write one value for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {show(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " x ".join(show(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
