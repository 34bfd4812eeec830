"""Chains: lists of operations that run as one job, from a YAML file or from Python.

An entry is an operation as ``volumetool apply`` takes it, or one operation with a mapping of its options::

    - destripe
    - median: {radius: [0, 1, 1]}
    - em-x4

A list inside a list, and another file of a chain, stand for their entries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volumetool.configuration import read_list
from volumetool.errors import ConfigError
from volumetool.paths import absolute_path

ARROW = " -> "
"""What stands between the operations of a chain in its name."""

_FORM = "write one operation a line, `- median`, or with its options `- median: {radius: [0, 1, 1]}`"

_DEEPEST = 8
"""Chains inside each other, at most."""


@dataclass(frozen=True)
class Entry:
    """An operation of a chain.

    Attributes
    ----------
    where : str
        Which entry it is, for errors.
    operation : object
        A name as ``volumetool apply`` takes it, or from Python a function.
    options : dict
        Its options by name, as they were written.
    """

    where: str
    operation: Any
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def texts(self) -> tuple[str, ...]:
        """The options as texts ``NAME=VALUE``.

        Raises
        ------
        ConfigError
            ``config.chain``: a value that no operation takes.
        """
        return tuple(f"{name}={self._text(name, value)}" for name, value in self.options.items())

    def _text(self, name: str, value: Any) -> str:
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if isinstance(value, Mapping) or value is None or ";" in text or ARROW in text:
            raise ConfigError("config.chain", f"{self.where}: {name} = {value!r} is no value of an option", hint=_FORM)
        return text


def is_chain(operation: str) -> bool:
    """Return whether a text names a file of a chain; the last option of an operation may be another file."""
    return Path(operation).suffix.lower() in (".yaml", ".yml") and not re.match(r"\w+:\w+=", operation)


def read_chain(place: str, depth: int = 0) -> Iterator[Entry]:
    """Yield the entries of a YAML file.

    Parameters
    ----------
    place : str
        Path of the file.
    depth : int
        How many files this one stands in.

    Raises
    ------
    ConfigError
        ``config.file``: the file cannot be read, or holds no list. ``config.chain``: an entry is no operation.
    """
    lines, content = read_list(absolute_path(place))
    if not content:
        raise ConfigError("config.chain", f"{place} names no operation", hint=_FORM)
    for number, (line, entry) in enumerate(zip(lines, content, strict=True), start=1):
        yield from _entries(entry, f"entry {number} (line {line} of {place})", depth)


def listed(entries: Sequence[Any]) -> Iterator[Entry]:
    """Yield the entries of a list that was given in Python.

    Raises
    ------
    ConfigError
        As `read_chain`.
    """
    if not entries:
        raise ConfigError("config.chain", "the chain names no operation", hint=_FORM)
    for number, entry in enumerate(entries, start=1):
        yield from _entries(entry, f"entry {number} of the chain", 0)


def _entries(entry: Any, where: str, depth: int) -> Iterator[Entry]:
    """Yield what an entry stands for: itself, or the entries of the chain that it is."""
    if depth > _DEEPEST:
        raise ConfigError(
            "config.chain", f"{where}: more than {_DEEPEST} chains inside each other", hint="name no chain in itself"
        )
    if isinstance(entry, list | tuple) and entry:
        for number, each in enumerate(entry, start=1):
            yield from _entries(each, f"{where}, its entry {number}", depth + 1)
    elif isinstance(entry, str) and is_chain(entry):
        yield from read_chain(entry, depth + 1)
    elif isinstance(entry, Mapping) and len(entry) == 1:
        operation, options = next(iter(entry.items()))
        if not (isinstance(options, Mapping | None) and all(isinstance(name, str) for name in options or ())):
            raise ConfigError("config.chain", f"{where}: the options of {operation} are {options!r}, no mapping", hint=_FORM)
        yield from (Entry(each.where, each.operation, dict(options or {})) for each in _single(operation, where))
    else:
        yield from _single(entry, where)


def _single(operation: Any, where: str) -> Iterator[Entry]:
    if callable(operation):
        yield Entry(where, operation)
        return
    if not isinstance(operation, str) or not operation.strip() or is_chain(operation):
        raise ConfigError("config.chain", f"{where} is {operation!r}, no operation", hint=_FORM)
    yield from (Entry(where, part.strip()) for part in operation.split(ARROW))
