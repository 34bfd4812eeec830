"""What must not be repeated: secrets in URLs, and control characters that a terminal would obey.

Texts come from volumes, job files and libraries made by others; they end up in messages, logs, ledgers and reports.
"""

from __future__ import annotations

import re

HIDDEN = "***"
# Passwords may hold slashes, so what stands before the last @ of a word goes if a colon is in it.
# Bounded, so that no text makes the search slow.
_USER = re.compile(r"(://)(?:[^\s/@'\"]{0,500}|[^\s@'\"/:]{0,500}:[^\s@'\"]{0,500})@")
_QUERY = re.compile(r"(://[^\s?'\"]{0,1000}\?)[^\s'\"|<>]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def redact(text: str) -> str:
    """Return a text whose URLs have neither user, password nor query: those may be signatures and keys."""
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


def printable(text: str) -> str:
    """Return a text in which control characters, but for newlines and tabs, are shown instead of obeyed."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
