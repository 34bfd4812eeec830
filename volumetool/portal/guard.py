"""What every request meets before it is known who asks: host, method, origin, size; and the headers of every answer."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from volumetool.portal.problems import explain
from volumetool.portal.web import NO_NUL, READING, UPLOADS, Portal, shows_token

LONGEST_FORM = 2**16
"""Bytes of a form."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",  # with none at all, browsers send forms from the origin "null"
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TLS_ALONE = {"Strict-Transport-Security": "max-age=31536000; includeSubDomains"}


def guarded(portal: Portal, app: Any) -> Any:
    """Return an ASGI application behind the checks that need no login, which adds the headers of every answer."""
    headers = HEADERS | (_TLS_ALONE if (portal.settings.url or "").startswith("https:") else {})
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message = message | {"headers": [*message["headers"], *(pair for pair in raw if pair[0] not in given)]}
            await send(message)

        if (refusal := await _refusal(portal, request)) is not None:
            await explain(*refusal, {"Connection": "close"})(scope, receive, send_with_headers)
            return
        request.state.trust()
        await app(scope, _bounded(receive, _longest(portal, request)), send_with_headers)

    return checked


async def _refusal(portal: Portal, request: Request) -> tuple[int, str] | None:
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or hosts[0].lower() not in portal.hosts:
        return 421, "this server has another name"
    uploads = request.url.path.startswith(UPLOADS)
    if request.method not in ("GET", "HEAD", "POST", *(("PATCH", "DELETE", "OPTIONS") if uploads else ())):
        return 405, "only GET, HEAD, POST"
    if "\0" in request.scope["path"] or b"%00" in request.scope["query_string"]:
        return 400, NO_NUL
    if request.method not in READING:
        origins = request.headers.getlist("origin")
        needed = 0 if shows_token(request) else 1  # programs send none; a page that does is one of this server
        if not needed <= len(origins) <= 1 or any(origin.lower() not in portal.origins for origin in origins):
            return 403, "forms are sent by pages of this server alone"
        empty = "" if "transfer-encoding" in request.headers else "0"  # RFC 9112: with neither there is no body
        length, most = request.headers.get("content-length", empty), _longest(portal, request)
        if not length.isdecimal() or len(length) > 18 or int(length) > most:
            return 413, f"the body of this request has at most {most} bytes, and says how many"
    return None


def _longest(portal: Portal, request: Request) -> int:
    """Return how many bytes the body of a request may have."""
    return portal.settings.upload_limit if request.method == "PATCH" else LONGEST_FORM


def _bounded(receive: Any, most: int) -> Any:
    """Return a receiver of a body that is not longer than it may be, whatever its head says."""
    seen = 0

    async def bounded() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            return {"type": "http.disconnect"}
        return message

    return bounded
