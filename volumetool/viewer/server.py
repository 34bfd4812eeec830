"""A closed HTTP server: it gives out keys of named volumes, and nothing else.

Whatever a volume is made of, a reader answers for its keys; a path is never joined to a directory here. In front of the
readers stand four checks: the Host header (against DNS rebinding), the Origin header (against other websites in the same
browser), a random token in the path, and the method.

    http://127.0.0.1:PORT/TOKEN/NAME/KEY
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from volumetool.errors import ConfigError, InputError, OutputError, VolumetoolError
from volumetool.listening.gate import LOOPBACK, Gate
from volumetool.listening.newcomers import BACKLOG, MOST, Newcomers, pass_over_broken_connections

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_METHODS = "GET, HEAD, OPTIONS"
_BLOCK = 2**22
"""Bytes in memory per answer: a whole shard may be asked for."""
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_LEAVE_SECONDS = 2
"""How long open answers may take to end when the server stops."""

KEEP_ALIVE_SECONDS = 20
"""How long a connection without a request stays open: longer than programs keep theirs (5 s), which would meet its end else."""


class Content(Protocol):
    """The bytes behind a key."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`; called in a thread."""


KeyReader = Callable[[str], Awaitable[Content | None]]
"""Finds the content of a key; None where the volume has no such key, or nothing is stored under it."""


@dataclass(frozen=True)
class InMemory:
    """Content that is small, or was computed."""

    data: bytes

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop`."""
        return self.data[start:stop]


def build_app(volumes: Mapping[str, KeyReader], gate: Gate) -> ASGIApp:
    """Return the ASGI application that serves some volumes.

    Parameters
    ----------
    volumes : mapping of str to KeyReader
        Readers of volumes, by the name that stands in the path of a request.
    gate : Gate
        Decides which requests may be made.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        refusal = gate.refusal(request.headers.getlist("host"), request.headers.getlist("origin"))
        if refusal is not None:
            response = failure(*refusal)
        else:
            response = await _answer(request, volumes, gate)
            _allow_origin(request, response)
        if "content-length" in request.headers or "transfer-encoding" in request.headers:
            response.headers["Connection"] = "close"  # no body is ever read
        await response(scope, receive, send)

    return app


async def _answer(request: Request, volumes: Mapping[str, KeyReader], gate: Gate) -> Response:
    if request.method == "OPTIONS":
        headers = {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Allow-Headers": "range"}
        return Response(status_code=204, headers=headers | {"Access-Control-Max-Age": "600"})
    if request.method not in ("GET", "HEAD"):
        return failure(405, f"only {_METHODS}", {"Allow": _METHODS})
    asked, _, rest = request.scope["path"].removeprefix("/").partition("/")
    if not gate.knows(asked):
        return failure(404, "nothing is here")
    request.state.trust()
    return await answer_key(request, volumes, rest)


async def answer_key(request: Request, volumes: Mapping[str, KeyReader], place: str) -> Response:
    """Answer a request that may be made, by GET or HEAD, with what is stored under a key.

    Parameters
    ----------
    request : Request
        The request; of its headers Range is read.
    volumes : mapping of str to KeyReader
        Readers of volumes, by name.
    place : str
        ``NAME/KEY``.
    """
    name, _, key = place.partition("/")
    if name not in volumes:
        return failure(404, "nothing is here")
    try:
        content = await volumes[name](key)
    except VolumetoolError as error:
        # What cannot be reached may be asked for again, and clients do so on 503; what cannot be computed stays so.
        status = 503 if isinstance(error, InputError | OutputError) else 500
        return JSONResponse({"error": error.message, **error.as_dict()}, status)
    if content is None:
        return failure(404, "the volume has no such key, or nothing is stored under it")
    return _send(content, request)


def _send(content: Content, request: Request) -> Response:
    size = content.size
    wanted = parse_range(request.headers.get("range"), size)
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    if wanted is None:
        return failure(416, f"the content has {size} bytes", {"Content-Range": f"bytes */{size}"})
    start, stop, partial = wanted
    if partial:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    status, kind = 206 if partial else 200, "application/octet-stream"
    if request.method == "HEAD":
        return Response(None, status, headers, kind)
    if isinstance(content, InMemory) and stop - start <= _BLOCK:  # a thread would take longer than the answer
        return Response(content.read(start, stop), status, headers, kind)
    return StreamingResponse(_blocks(content, start, stop), status, headers, kind)


def _blocks(content: Content, start: int, stop: int) -> Iterator[bytes]:
    for begin in range(start, stop, _BLOCK):
        yield content.read(begin, min(begin + _BLOCK, stop))


def parse_range(header: str | None, size: int) -> tuple[int, int, bool] | None:
    """Return what a Range header asks of a content.

    Parameters
    ----------
    header : str or None
        ``bytes=a-b``, ``bytes=a-`` or ``bytes=-n``. Anything else, several ranges too, asks for everything, as RFC 9110
        allows.
    size : int
        Bytes of the content.

    Returns
    -------
    (start, stop, partial) or None
        None where no byte is in the range.
    """
    match = _RANGE.fullmatch((header or "").strip())
    first, last = match.groups() if match else ("", "")
    if not first and not last:
        return 0, size, False
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return 0, size, False
    return (start, stop, True) if start < stop else None


def _allow_origin(request: Request, response: Response) -> None:
    """Let the page of an accepted origin read the answer, and see what part of the content it is."""
    response.headers["Vary"] = "Origin"
    if origin := request.headers.get("origin"):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "Content-Length, Content-Range"


def failure(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that says why there is no other.

    Parameters
    ----------
    status : int
        Of HTTP.
    reason : str
        What is wrong with the request.
    headers : mapping of str to str, optional
        Headers that belong to the status.
    """
    return JSONResponse({"error": reason}, status, headers)


def bind(host: str = LOOPBACK, port: int = 0) -> socket.socket:
    """Return a socket that listens.

    Parameters
    ----------
    host : str
        An address or name of this machine.
    port : int
        0 chooses a free one.

    Raises
    ------
    ConfigError
        ``config.address``: no such address here, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            "config.address",
            f"cannot listen on {host}, port {port}: {error}",
            hint="choose another --port (0 takes a free one), or leave --host away for this machine alone",
        ) from error
    # Connections inherit it. Without it the body of each answer waits 40 ms for the client to acknowledge the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Serving:
    """An application that is served from a thread while the block runs.

    Parameters
    ----------
    app : ASGI application
        Application, as :func:`build_app` returns it.
    bound : socket
        Socket from :func:`bind`; it is closed at the end.
    newcomers : int
        Connections that may be open before they have shown that they may ask.
    """

    def __init__(self, app: ASGIApp, bound: socket.socket, newcomers: int = MOST) -> None:
        import uvicorn

        # Nothing is logged: requests hold the token.
        config = uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            backlog=BACKLOG,
            http=_protocol(Newcomers(newcomers)),
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_LEAVE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._bound = bound
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="volumetool-server", daemon=True)

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(pass_over_broken_connections)
        await self._server.serve([self._bound])

    def __enter__(self) -> Serving:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(_LEAVE_SECONDS + 1)
        self._bound.close()


def _protocol(newcomers: Newcomers) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a bound on connections that have not shown the token."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
            super().connection_made(transport)
            self.app_state = {**self.app_state, "trust": lambda: newcomers.trust(self)}
            newcomers.admit(self, transport.abort)

    return Bounded
