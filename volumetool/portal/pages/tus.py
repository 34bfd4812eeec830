"""Uploads that go on where they were cut, by the protocol tus 1.0.0 (https://tus.io/protocols/resumable-upload).

Its core, and the extensions `creation`, `termination`, `expiration` and `checksum`. The header that gives a request another
method is not read.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import hashlib
import unicodedata
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from volumetool.portal.pages.uploads import find_upload, size_from
from volumetool.portal.problems import explain
from volumetool.portal.queries import RECEIVING
from volumetool.portal.tables import Upload
from volumetool.portal.transfer.intake import Arrival, DiskFull, Overtaken
from volumetool.portal.web import UPLOADS, Refused, Visit
from volumetool.units import show_bytes

VERSION = "1.0.0"
CHECKSUMS = ("sha1", "sha256")
BLOCK = 2**20
"""Bytes that are held in memory before they are written."""

IDLE_SECONDS = 60.0
"""A request whose next bytes do not come for so long ends; what came is kept."""

_CONTENT = "application/offset+octet-stream"
_HEADERS = {"Tus-Resumable": VERSION}
_OVERTAKEN = Refused(409, "A later request goes on with this upload.")


def _spoken(handler: Callable[[Visit], Response]) -> Callable[[Visit], Response]:
    """Return a handler that answers in the protocol alone."""

    @functools.wraps(handler)
    def answer(visit: Visit) -> Response:
        try:
            _require_version(visit)
            return handler(visit)
        except Refused as refused:
            return _refusal(refused)
        except Overtaken:
            return _refusal(_OVERTAKEN)

    return answer


def _require_version(visit: Visit) -> None:
    if visit.request.headers.get("tus-resumable") != VERSION:
        raise Refused(412, f"Uploads speak tus {VERSION}: send the header Tus-Resumable.")


def _refusal(refused: Refused) -> Response:
    version = {"Tus-Version": VERSION} if refused.status == 412 else {}
    return explain(refused.status, refused.reason, _HEADERS | version | refused.headers)


def get_protocol(visit: Visit) -> Response:
    """Tell what is spoken."""
    told = {
        "Tus-Version": VERSION,
        "Tus-Extension": "creation,termination,expiration,checksum",
        "Tus-Max-Size": str(visit.portal.settings.upload_limit),
        "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
    }
    return Response(status_code=204, headers=_HEADERS | told)


@_spoken
def begin_upload(visit: Visit) -> Response:
    """Begin an upload: its length takes room from now on."""
    length, most = visit.request.headers.get("upload-length", ""), visit.portal.settings.upload_limit
    if not length.isdecimal() or len(length) > 18 or int(length) < 1:
        raise Refused(400, "Upload-Length is missing, or no number above 0.")
    if int(length) > most:
        raise Refused(413, f"The file has {show_bytes(int(length))}; a file that is uploaded has at most {show_bytes(most)}.")
    if not visit.portal.intake.has_room(int(length)):
        raise Refused(507, "The disk of the portal has no room for it. Ask the operator.")
    told = _metadata(visit.request.headers.get("upload-metadata", ""))
    modified = told.get("modified", "0")
    upload = Upload(
        account_id=visit.who.id,
        name=shown_name(told.get("filename", "")),
        length=int(length),
        modified=int(modified) if modified.isdecimal() and len(modified) < 18 else 0,
        voxel_size=size_from(told.get("voxel_size", "")),
    )
    refused = visit.portal.intake.begin(upload)
    if refused is not None:
        missing = f"It needs {show_bytes(refused)} more than is left to you." if isinstance(refused, int) else refused
        raise Refused(413 if isinstance(refused, int) else 429, missing)
    visit.note("upload begun", f"{upload.id} {upload.name}")
    return Response(status_code=201, headers=_HEADERS | {"Location": f"{UPLOADS}/{upload.id}"} | _ends(visit, upload))


@_spoken
def get_offset(visit: Visit) -> Response:
    """Tell how many bytes of an upload are on the disk."""
    upload = find_upload(visit)
    size = visit.portal.intake.length(upload)
    told = {"Upload-Offset": str(size), "Upload-Length": str(upload.length), "Cache-Control": "no-store"}
    return Response(headers=_HEADERS | told | _ends(visit, upload))


@_spoken
def remove_upload(visit: Visit) -> Response:
    """Delete an upload."""
    upload = find_upload(visit)
    if not visit.portal.intake.remove(upload):
        raise Refused(409, "A job that waits or runs reads it. Stop that first.")
    visit.note("upload removed", f"{upload.id} {upload.name}")
    return Response(status_code=204, headers=_HEADERS)


async def receive(visit: Visit) -> Response:
    """Add the bytes of a request to an upload, as they come."""
    try:
        _require_version(visit)
        upload = await asyncio.to_thread(find_upload, visit)
        checksum = _checksum(visit.request.headers.get("upload-checksum"))
        arrival = await asyncio.to_thread(_arrival, visit, upload)
        return await _received(visit, upload, arrival, checksum)
    except Refused as refused:
        return _refusal(refused)
    except Overtaken:
        return _refusal(_OVERTAKEN)


def _arrival(visit: Visit, upload: Upload) -> Arrival:
    """Return what the bytes are written to, where they begin at the right place."""
    headers = visit.request.headers
    if headers.get("content-type") != _CONTENT:
        raise Refused(415, f"The bytes of an upload have the Content-Type {_CONTENT}.")
    told = headers.get("upload-offset", "")
    if not told.isdecimal() or len(told) > 18:
        raise Refused(400, "Upload-Offset is missing, or no number.")
    if upload.state != RECEIVING:
        raise Refused(409, f"Its {upload.length} bytes are all there.")
    arrival = visit.portal.intake.take(upload)
    if int(told) != arrival.began:
        arrival.close()
        raise Refused(409, f"It goes on at byte {arrival.began}, not {told}.")
    if arrival.began + int(headers.get("content-length", "0")) > upload.length:
        arrival.close()
        raise Refused(413, f"It has {upload.length} bytes by what was said when it began, and more were sent.")
    return arrival


async def _received(visit: Visit, upload: Upload, arrival: Arrival, checksum: tuple[Any, bytes] | None) -> Response:
    cut = wrong = False
    try:
        async for block in _blocks(visit):
            if checksum is not None:
                checksum[0].update(block)
            await asyncio.to_thread(arrival.write, block)
    except (ClientDisconnect, TimeoutError):
        cut = True
    except DiskFull:
        raise Refused(507, "The disk of the portal is full. What came is kept; go on later.") from None
    finally:
        wrong = checksum is not None and checksum[0].digest() != checksum[1]
        if wrong:
            await asyncio.to_thread(arrival.take_back)
        size = arrival.size
        await asyncio.to_thread(arrival.close)
    await asyncio.to_thread(visit.portal.intake.received, upload, size)
    if cut:
        raise Refused(408, "The connection was cut. What came is kept; go on there.")
    if wrong:
        raise Refused(460, "The bytes are not those of Upload-Checksum; send them again.")
    return Response(status_code=204, headers=_HEADERS | {"Upload-Offset": str(size)} | _ends(visit, upload))


async def _blocks(visit: Visit) -> AsyncIterator[bytes]:
    """Yield the body in blocks that are worth a write, and whatever came before it was cut."""
    held = bytearray()
    coming = visit.request.stream()
    try:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                held += await anext(coming)
            if len(held) >= BLOCK:
                yield bytes(held)
                held.clear()
    except StopAsyncIteration:
        if held:
            yield bytes(held)
    except (ClientDisconnect, TimeoutError):
        if held:
            yield bytes(held)
        raise


def _checksum(told: str | None) -> tuple[Any, bytes] | None:
    if told is None:
        return None
    name, _, digest = told.partition(" ")
    try:
        wanted = base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        wanted = b""
    if name not in CHECKSUMS or not wanted:
        raise Refused(400, f"Upload-Checksum is one of {', '.join(CHECKSUMS)}, a space, and the digest in base64.")
    return hashlib.new(name, usedforsecurity=False), wanted


def _ends(visit: Visit, upload: Upload) -> dict[str, str]:
    ends = upload.touched + timedelta(days=visit.portal.settings.upload_days)
    return {"Upload-Expires": format_datetime(ends, usegmt=True)} if upload.state == RECEIVING else {}


def _metadata(text: str) -> dict[str, str]:
    found = {}
    for pair in text.split(",") if text.strip() else ():
        name, _, value = pair.strip().partition(" ")
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            raise Refused(400, "Upload-Metadata is a list of names and values in base64.") from None
    return found


def shown_name(text: str) -> str:
    """Return what an upload is called on pages: the last part of a name, without what is not seen. No file has it."""
    last = text.replace("\\", "/").rpartition("/")[2]
    seen = "".join(sign for sign in last if unicodedata.category(sign)[0] != "C").strip()
    return seen[:200] if seen.strip(".") else "upload"
