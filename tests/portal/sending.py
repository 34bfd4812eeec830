"""A client of tus 1.0.0 that can be cut anywhere, and a portal that it sends to."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from browsing import TLS, Visitor

from volumetool.portal.web import COOKIE, UPLOADS

TUS = {"tus-resumable": "1.0.0"}
BYTES = {"content-type": "application/offset+octet-stream"}


def metadata(**fields: str) -> str:
    """Return fields as the header Upload-Metadata has them."""
    return ",".join(f"{name} {base64.b64encode(value.encode()).decode()}".strip() for name, value in fields.items())


def tus(visitor: Visitor, method: str, place: str, body: bytes = b"", **headers: str) -> httpx.Response:
    """Send a request of the protocol."""
    sent = {"origin": visitor.url, "x-form-token": visitor.form_token, "cookie": f"{COOKIE}={visitor.token}", **TUS}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, visitor.url + place, content=body, headers=sent | given, timeout=120, verify=TLS)


def begin(visitor: Visitor, length: int, name: str = "a.tif", **fields: str) -> str:
    """Begin an upload; return its place."""
    told = metadata(filename=name, **fields)
    answer = tus(visitor, "POST", UPLOADS, upload_length=str(length), upload_metadata=told)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def send(visitor: Visitor, place: str, data: bytes, offset: int = 0, **headers: str) -> httpx.Response:
    """Send bytes of an upload."""
    return tus(visitor, "PATCH", place, data, upload_offset=str(offset), **BYTES, **headers)


def offset_of(visitor: Visitor, place: str) -> int:
    """Return how much of an upload the server has."""
    answer = tus(visitor, "HEAD", place)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def send_and_cut(visitor: Visitor, place: str, data: bytes, after: int, offset: int) -> None:
    """Send some of the bytes of a request, and cut its connection.

    Parameters
    ----------
    visitor : Visitor
        Who sends.
    place : str
        The upload.
    data : bytes
        What the request says that it sends.
    after : int
        Bytes after which it is cut.
    offset : int
        Where they begin.
    """
    parts = urlsplit(visitor.url)
    headers = {"host": parts.netloc, "origin": visitor.url, "x-form-token": visitor.form_token, **TUS, **BYTES}
    headers |= {"cookie": f"{COOKIE}={visitor.token}", "upload-offset": str(offset), "content-length": str(len(data))}
    head = f"PATCH {place} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(head.encode() + data[:after])


def whole(visitor: Visitor, data: bytes, name: str = "a.tif", **fields: str) -> dict[str, Any]:
    """Upload a file; return what the portal says of it once it has looked at it."""
    place = begin(visitor, len(data), name, **fields)
    assert send(visitor, place, data).status_code == 204
    return told_when(visitor, place, lambda told: told["state"] != "looked at")


def told_when(visitor: Visitor, place: str, until: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return what the portal says of an upload, once it says so."""
    for _ in range(2400):
        told: dict[str, Any] = visitor.get(place).json()
        if until(told):
            return told
        time.sleep(0.05)
    raise AssertionError(f"it stays {told}")
