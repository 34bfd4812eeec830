"""Servers of libraries that are built on tornado: neuroglancer's page, dask's scheduler, workers and dashboard."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, HTTPServerRequest, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, SSLIOStream
from tornado.routing import Router
from tornado.tcpserver import TCPServer

from volumetool.listening.gate import Gate
from volumetool.listening.newcomers import Newcomers, pass_over_broken_connections


def bound_newcomers(server: TCPServer) -> Newcomers:
    """Bound the connections of a running server that have not shown yet that they may ask; TLS shows it with its handshake.

    Called in the server's event loop.
    """
    newcomers, handle = Newcomers(), server.handle_stream
    asyncio.get_running_loop().set_exception_handler(pass_over_broken_connections)

    def admit(stream: IOStream, address: Any) -> Any:
        newcomers.admit(stream, stream.close)
        return after_handshake(stream, address) if isinstance(stream, SSLIOStream) else handle(stream, address)

    async def after_handshake(stream: SSLIOStream, address: Any) -> None:
        try:
            await stream.wait_for_handshake()
        except OSError:  # a stranger, or one who went away
            return
        newcomers.trust(stream)
        if (handled := handle(stream, address)) is not None:
            await handled

    server.handle_stream = admit  # type: ignore[method-assign]  # dask sets it in the same way
    return newcomers


def close_to_strangers(server: HTTPServer, gate: Gate, *, tokens: bool, max_body: int) -> None:
    """Put a gate before the application of a running server.

    A request is refused before its body is read, and its connection closed. Called in the server's event loop.

    Parameters
    ----------
    server : tornado.httpserver.HTTPServer
        Server whose application is a tornado router.
    gate : Gate
        Decides which requests may be made.
    tokens : bool
        Whether the second or third part of every path must begin with the gate's token.
    max_body : int
        Bytes of the longest body of an accepted request.
    """
    server.conn_params.max_body_size = max_body
    server.request_callback = _Gated(server.request_callback, gate, tokens, bound_newcomers(server))


class _Gated(Router):
    def __init__(self, application: Any, gate: Gate, tokens: bool, newcomers: Newcomers) -> None:  # noqa: FBT001
        self._application, self._gate, self._tokens, self._newcomers = application, gate, tokens, newcomers

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> HTTPMessageDelegate | None:
        headers, connection = request.headers, request.connection
        refusal = self._gate.refusal(headers.get_list("Host"), headers.get_list("Origin"))
        # As in /state/TOKEN and /neuroglancer/info/TOKEN.VOLUME
        told = (part.partition(".")[0] for part in request.path.split("/")[2:4])
        if refusal is None and self._tokens and not any(map(self._gate.knows, told)):
            refusal = 404, "nothing is here"
        if refusal is not None:
            return _Refusal(connection, *refusal)
        self._newcomers.trust(connection.stream)  # type: ignore[union-attr]  # the connection of a server
        return self._application.find_handler(request, **kwargs)  # type: ignore[no-any-return]


class _Refusal(HTTPMessageDelegate):
    """Answers as soon as the head is there, and closes the connection: what is still coming is not read."""

    def __init__(self, connection: Any, status: int, reason: str) -> None:
        self._connection, self._status, self._reason = connection, status, reason

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:  # noqa: ARG002
        body = self._reason.encode("utf-8", "replace")
        answer = HTTPHeaders({"Content-Length": str(len(body)), "Content-Type": "text/plain", "Connection": "close"})
        self._connection.write_headers(ResponseStartLine("HTTP/1.1", self._status, "Refused"), answer, body)
        self._connection.finish()
