"""Sealed documents: JSON objects that carry the checksum of their own content.

There is one rule for all that a job keeps beside its output, and for what an output says of its own making: the member
``checksum`` is the CRC-32 of the object without it, written as JSON with sorted keys and no spaces. So a document may be laid
out in lines for people or in one line of a ledger, and another program may write it out again: what counts is the content.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"
"""Name of the member that seals a document."""


def checksum(document: Mapping[str, Any]) -> str:
    """Return the CRC-32 of a document's content as eight hexadecimal digits; a checksum that it carries does not count."""
    return f"{zlib.crc32(_text({name: value for name, value in document.items() if name != CHECKSUM})):08x}"


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with its checksum as its last member."""
    return {**document, CHECKSUM: checksum(document)}


def is_sound(document: Mapping[str, Any]) -> bool:
    """Return whether a document carries the checksum of its own content."""
    return document.get(CHECKSUM) == checksum(document)


def encode(document: Mapping[str, Any]) -> bytes:
    """Return a sealed document as JSON in lines, for a file of its own that people read."""
    return json.dumps(seal(document), indent=1).encode() + b"\n"


def encode_line(document: Mapping[str, Any]) -> bytes:
    """Return a sealed document as one line of a file that holds many."""
    text = _text(document)
    comma = b"," if document else b""
    return b'%s%s"%s":"%08x"}\n' % (text[:-1], comma, CHECKSUM.encode(), zlib.crc32(text))


def decode(raw: bytes) -> dict[str, Any]:
    """Return the content of a document that was sealed, without its checksum.

    Raises
    ------
    ValueError
        It is no JSON object, carries no checksum, or another one than that of its content.
    """
    head, mark, tail = raw.rpartition(b',"%s":"' % CHECKSUM.encode())
    # A line as `encode_line` writes it is compared as it stands: a ledger has millions.
    as_written = bool(mark) and tail == b'%08x"}\n' % zlib.crc32(head + b"}")
    try:
        document = json.loads(raw)
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
        if CHECKSUM not in document:
            raise ValueError("it carries no checksum")
        if not as_written and not is_sound(document):
            raise ValueError("its content does not fit its own checksum")
    except RecursionError as error:
        raise ValueError("its lists and objects lie too deep inside each other") from error
    del document[CHECKSUM]
    return document


def _text(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
