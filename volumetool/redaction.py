"""What must not be repeated: secrets in URLs, and what a terminal or a notebook would obey: control characters and markup.

Texts come from volumes, job files and libraries made by others; they end up in messages, logs, ledgers and reports.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping

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


def fact_table(title: str, facts: Mapping[str, object], picture: bytes = b"") -> str:
    """Return HTML of a title, facts and a picture.

    Parameters
    ----------
    title : str
        What the object is.
    facts : mapping
        Values by name; their text is shown, without secrets of URLs.
    picture : bytes
        A PNG file; empty where there is none.
    """
    rows = "".join(
        f"<tr><th style='text-align:left'>{_escaped(name)}</th><td>{_escaped(facts[name])}</td></tr>" for name in facts
    )
    shown = f"<img src='data:image/png;base64,{base64.b64encode(picture).decode()}' alt=''>" if picture else ""
    return f"<div><b>{_escaped(title)}</b><table>{rows}</table>{shown}</div>"


def _escaped(value: object) -> str:
    return html.escape(printable(redact(str(value))))
